"""Words that no text before had: counted as the embedder meets them, and what a step takes goes by them."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from raymine import storage
from raymine.planning.fit import Point, Rate
from raymine.planning.words import rate_by_words, words_per_text


def test_tokenising_goes_by_words_where_they_recur() -> None:
    """A text takes 2 s, a word 0.5, a task 3; a round has fewer new words for each of its texts."""
    samples = [(10.0, 40.0, 4.0), (100.0, 20.0, 4.0), (1000.0, 10.0, 8.0)]  # texts, words for each, tasks
    points = [
        Point({"documents": texts, "tasks": tasks}, 2 * texts + 0.5 * texts * words + 3 * tasks)
        for texts, words, tasks in samples
    ]
    rate = Rate({"documents": 9.0, "tasks": 9.0}, {"documents": 7.0}, {}, {}, start_s=7.0)
    made, share = rate_by_words("embed_documents", rate, points, [words for _, words, _ in samples], 4.0)
    assert made == replace(rate, seconds={"documents": pytest.approx(4.0), "tasks": pytest.approx(3.0)})
    assert share == pytest.approx(4.0 / 7.0)
    nothing = [replace(point, seconds=0.0) for point in points]
    assert rate_by_words("embed_documents", rate, nothing, [1.0] * 3, 1.0)[1] == 1.0


def test_words_of_a_text_are_those_not_met_before(tmp_path: Path) -> None:
    """Two shards, four texts, one of them none at all: a, b and c."""
    texts = [pa.array(each, pa.large_string()) for each in (["a b", "a"], ["c b", None])]
    shards = [
        storage.write_table(str(tmp_path / f"{at}.parquet"), pa.table({"text": one})) for at, one in enumerate(texts)
    ]
    assert words_per_text(shards) == 3 / 4
