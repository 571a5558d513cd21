"""Vectors that the user brings are stored in the project's one way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.embed import StoreVectors
from raymine.embed.precomputed import stored_vectors

VECTORS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32) * 5


def test_cosine_vectors_get_length_one() -> None:
    """As dividing each by its norm does; a zero vector stays zero."""
    vectors = np.vstack([VECTORS, np.zeros((1, 6), np.float32)])
    made = stored_vectors(vectors, "cosine", "float32")
    assert made.dtype == np.float32
    expected = np.array([row / np.sqrt((row.astype(np.float64) ** 2).sum()) for row in VECTORS])
    np.testing.assert_allclose(made[:-1], expected, atol=1e-7)
    assert not made[-1].any()


def test_dot_vectors_are_only_cast() -> None:
    """Their lengths are part of the score."""
    np.testing.assert_array_equal(stored_vectors(VECTORS, "dot", "float32"), VECTORS)
    np.testing.assert_array_equal(stored_vectors(VECTORS, "dot", "float16"), VECTORS.astype(np.float16))


def store(folder: Path, vectors: np.ndarray, similarity: str, dtype: str) -> Record:
    rows = np.arange(0, 2 * len(vectors), 2)
    storage.write_table(str(folder / "in.parquet"), schemas.vector_table(rows, vectors))
    stage = StoreVectors(similarity, dtype)  # type: ignore[arg-type]
    return stage(Task("key", {"vectors": str(folder / "in.parquet")}, str(folder / "out")))


@pytest.mark.parametrize("given", ["float16", "float32"])
def test_a_shard_keeps_its_rows_and_says_what_it_holds(tmp_path: Path, given: str) -> None:
    """Rows stay where they were, and the file carries the same metadata as a model's."""
    record = store(tmp_path, VECTORS.astype(given), "cosine", "float16")
    table = storage.read_arrow(str(tmp_path / "out.arrow"))
    assert table["row"].to_pylist() == list(range(0, 40, 2))
    expected = stored_vectors(VECTORS.astype(given), "cosine", "float16")
    np.testing.assert_array_equal(schemas.vector_matrix(table["vector"]), expected)
    assert table.schema.metadata[b"normalized"] == b"true"
    assert table.schema.metadata[b"dim"] == b"6"
    assert (record.rows_in, record.rows_out) == (20, 20)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6], ids=["nan", "inf", "too-large-for-float16"])
def test_a_vector_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    """One line with the row; nothing is written."""
    vectors = VECTORS.copy()
    vectors[3, 1] = value
    record = store(tmp_path, vectors, "dot", "float16")
    assert record.problems == [f"{tmp_path}/in.parquet: vector 6 is not finite in float16"]
    assert not (tmp_path / "out.parquet").exists()
