"""The teacher's known scores: keyed by exact texts, united over files, never another teacher's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymine import schemas, storage
from raymine.errors import WorkspaceError
from raymine.rescore import cache

# Few byte values, zeros among them, so that keys collide in their beginnings and end in zeros.
HASHES = st.lists(st.binary(min_size=16, max_size=16).map(lambda b: bytes(x % 2 for x in b)), min_size=1, max_size=30)


def keys(*pairs: tuple[str, str]) -> np.ndarray:
    tables = [pa.chunked_array([[schemas.text_hash(pair[i]) for pair in pairs]], pa.binary(16)) for i in (0, 1)]
    return cache.keys_of(*(cache.hashes(table) for table in tables))


@given(queries=HASHES, docs=HASHES)
def test_keys_are_equal_where_both_hashes_are(queries: list[bytes], docs: list[bytes]) -> None:
    """A key is the two hashes' bytes, sorts as they do, and trailing zeros count."""
    count = min(len(queries), len(docs))
    columns = [pa.chunked_array([values[:count]], pa.binary(16)) for values in (queries, docs)]
    made = cache.keys_of(*(cache.hashes(column) for column in columns))
    expected = [query + doc for query, doc in zip(queries, docs, strict=False)]
    assert made.view(np.uint8).tobytes() == b"".join(expected)
    _, first, inverse = np.unique(made, return_index=True, return_inverse=True)
    assert [expected[i] for i in first] == sorted(set(expected))
    assert [sorted(set(expected))[i] for i in inverse] == expected


def test_hashes_of_a_sliced_column_are_its_own() -> None:
    """A slice of a column shares its buffer with what was cut away."""
    values = [schemas.text_hash(str(i)) for i in range(9)]
    column = pa.chunked_array([pa.array(values, pa.binary(16)).slice(2, 3), pa.array(values, pa.binary(16)).slice(7)])
    assert cache.hashes(column).tobytes() == b"".join([*values[2:5], *values[7:]])


def test_what_was_written_is_found(tmp_path: Path) -> None:
    """Over all files of a folder; what is in none is unknown."""
    first, second = keys(("q1", "a"), ("q2", "b")), keys(("q1", "b"))
    cache.write(str(tmp_path / "one.parquet"), first, np.array([0.5, -1.5], np.float32), "t1")
    cache.write(str(tmp_path / "two.parquet"), second, np.array([3.25], np.float32), "t1")
    known = cache.read(storage.list_files(str(tmp_path)), "t1")
    asked = keys(("q1", "b"), ("b", "q1"), ("q2", "b"), ("q2", "B"), ("q1", "a"))
    scores, found = cache.look_up(*known, asked)
    assert found.tolist() == [True, False, True, False, True]
    assert scores.tolist() == [3.25, 0.0, -1.5, 0.0, 0.5]


def test_files_are_sorted_tables_of_the_schema(tmp_path: Path) -> None:
    """Whatever the order in which scores were made."""
    given_keys = keys(*((f"q{i}", "d") for i in range(10)))
    path = str(tmp_path / "one.parquet")
    shard = cache.write(path, given_keys, np.arange(10, dtype=np.float32), "t1")
    table = schemas.check(storage.read_table(path), schemas.TEACHER_CACHE)
    rows = [(row["query_hash"], row["doc_hash"]) for row in table.to_pylist()]
    assert rows == sorted(rows)
    assert shard.num_rows == 10
    by_hash = {row["query_hash"]: row["teacher_score"] for row in table.to_pylist()}
    assert [by_hash[schemas.text_hash(f"q{i}")] for i in range(10)] == list(range(10))


def test_an_empty_cache_knows_nothing() -> None:
    """No files, no hits."""
    scores, found = cache.look_up(*cache.read([], "t1"), keys(("q", "d")))
    assert (scores.tolist(), found.tolist()) == ([0.0], [False])


def test_another_teachers_scores_are_refused(tmp_path: Path) -> None:
    """A folder put together by hand must not mix two models' scores."""
    path = str(tmp_path / "one.parquet")
    cache.write(path, keys(("q", "d")), np.array([1], np.float32), "t1")
    with pytest.raises(WorkspaceError, match="another teacher"):
        cache.read([path], "t2")
