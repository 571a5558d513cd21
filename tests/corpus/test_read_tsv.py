"""Rows of tab-separated files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from raymine.corpus.base import Columns, Problems
from raymine.corpus.tsv import tsv_rows
from raymine.errors import InputError

CONTENT = 'query\textra\tpositive\r\na\t1\tx "y"\r\n\r\nb\t2\t\u2028\r\nc\t3\r\n'


def test_columns_go_by_the_header(tmp_path: Path) -> None:
    """Columns are found by name, lines keep their numbers, quotes mean nothing, and a ragged line is a problem."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(CONTENT.encode()))
    problems = Problems()
    (rows,) = tsv_rows(str(path), Columns(("positive", "query"), ("title", "extra")), problems)
    assert rows.columns == {
        "positive": ['x "y"', "\u2028"],
        "query": ["a", "b"],
        "title": [None] * 2,
        "extra": ["1", "2"],
    }
    assert rows.lines == [2, 4]
    assert rows.present == {"extra"}
    assert problems.lines == [f"{path}:5: 2 tab-separated fields, but the header has 3"]


@pytest.mark.parametrize("content", [CONTENT, ""], ids=["other-columns", "empty"])
def test_a_missing_column(content: str, tmp_path: Path) -> None:
    """The header's columns are named."""
    path = tmp_path / "a.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.tsv:1: no column `queri`\n  got: columns "):
        list(tsv_rows(str(path), Columns(("queri",)), Problems()))
