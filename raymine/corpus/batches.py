"""The rows of a split as checked batches: ids, texts, and the vectors that lie beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.config import CorpusConfig, TextSource
from raymine.corpus import READERS
from raymine.corpus.base import Columns, Problems, Rows
from raymine.corpus.lines import place
from raymine.corpus.parse import check_query_texts, codes_of, columns_of, ids_of, metadata_of, texts_of
from raymine.corpus.splits import check_num_vectors
from raymine.corpus.vectors import Matrix, check_vectors, column_matrix, first_length, npy_rows

VECTOR_BATCH_ROWS = 8192
RANGES = ("byte_range", "row_groups", "batches")  # what says which part of a file a split is


@dataclass(frozen=True)
class Batch:
    """Consecutive rows, checked.

    Args:
        ids: n ids.
        texts: n texts; None where there are only vectors.
        has_text: bool [n]; False for the empty documents, which have no vector.
        vectors: one per True in `has_text`, float16 or float32 [m, dim]; None where the source has none.
        present: the optional columns that these rows, or some of them, do have.
        metadata: schemas.metadata, a row per row; None where the config asks for none.
    """

    ids: list[str]
    texts: list[str | None]
    has_text: NDArray[np.bool_]
    vectors: Matrix | None = None
    present: frozenset[str] = frozenset()
    metadata: pa.Table | None = None


def batches(config: TextSource, split: dict[str, Any], problems: Problems) -> Iterator[Batch]:
    """Reads a split.

    Args:
        config: which columns hold what.
        split: one dict of `splits`.
        problems: is told what is wrong with single rows; vectors are not looked at any more once there is something.

    Raises:
        InputError: reading cannot go on.
    """
    begin, end = split.get("vector_rows", (0, 0))
    if split["path"] is None:
        yield from _vector_batches(split["vectors"], begin, end, problems)
        return
    num_rows, dim = 0, _dim_of_file(config, split)
    with ExitStack() as stack:
        take = stack.enter_context(npy_rows(split["vectors"], begin, end)) if "vectors" in split else None
        for rows in READERS[split["format"]].rows(split, columns_of(config), problems):
            ids, texts, has_text = _parsed(config, rows, problems)
            vectors = None
            if take is not None and not problems.lines and num_rows + len(rows) <= end - begin:
                vectors = _beside(take(len(rows)), split["vectors"], begin + num_rows, has_text, problems)
            elif rows.vectors is not None and not problems.lines:
                vectors = _of_column(rows, rows.vectors, has_text, dim, problems)
                dim = dim or vectors.shape[1] or None
            num_rows += len(rows)
            yield Batch(ids, texts, has_text, vectors, rows.present, _metadata(config, rows, problems))
    if take is not None and not problems.lines:
        check_num_vectors(split["vectors"], end - begin, split["path"], num_rows)


def _dim_of_file(config: TextSource, split: dict[str, Any]) -> int | None:
    """Length of the vectors of a file of which the split is a later part: that of its first one.

    None: it is left to the split's own first vector.
    """
    if config.vector_column is None or not any(name in split and split[name][0] for name in RANGES):
        return None
    whole = {"path": split["path"]}
    columns = Columns((), vector=config.vector_column)
    for rows in READERS[split["format"]].rows(whole, columns, Problems()):
        if rows.vectors is not None and (dim := first_length(rows.vectors, rows.place)):
            return dim
    return None


def _parsed(
    config: TextSource, rows: Rows, problems: Problems
) -> tuple[list[str], list[str | None], NDArray[np.bool_]]:
    """Ids, texts, and which rows have a text (or need none)."""
    ids, texts = ids_of(rows, config, problems), texts_of(rows, config, problems)
    if not isinstance(config, CorpusConfig):
        check_query_texts(rows, texts, problems)
    return (
        ids,
        texts,
        np.fromiter((text is None or not (not text or text.isspace()) for text in texts), bool, len(rows)),
    )


def _metadata(config: TextSource, rows: Rows, problems: Problems) -> pa.Table | None:
    names = metadata_of(config)
    if not names:
        return None
    codes = [codes_of(rows, name, problems) for name in names]
    return pa.Table.from_arrays([pa.array(each, mask=each == 0) for each in codes], schema=schemas.metadata(names))


def _vector_batches(path: str, begin: int, end: int, problems: Problems) -> Iterator[Batch]:
    """Rows of a .npy file without texts; a row's id is its number."""
    with npy_rows(path, begin, end) as take:
        for first in range(begin, end, VECTOR_BATCH_ROWS):
            count = min(VECTOR_BATCH_ROWS, end - first)
            has_text = np.ones(count, bool)
            ids = [str(row) for row in range(first, first + count)]
            yield Batch(ids, [None] * count, has_text, _beside(take(count), path, first, has_text, problems))


def _beside(vectors: Matrix, path: str, first_row: int, has_text: NDArray[np.bool_], problems: Problems) -> Matrix:
    """The vectors of the rows that have a text, from a .npy file."""
    kept = np.flatnonzero(has_text)
    vectors = vectors[kept]
    check_vectors(vectors, lambda row: place(path, first_row + int(kept[row])), problems)
    return vectors


def _of_column(
    rows: Rows, column: pa.Array, has_text: NDArray[np.bool_], dim: int | None, problems: Problems
) -> Matrix:
    """The vectors of the rows that have a text, from a list column."""
    kept = np.flatnonzero(has_text)
    # An empty document's vector is not checked, but tells the length where no other row does.
    dim = dim or first_length(column, rows.place)
    where: Callable[[int], str] = lambda row: rows.place(int(kept[row]))  # noqa: E731
    vectors = column_matrix(column.take(pa.array(kept)), where, dim, problems)
    check_vectors(vectors, where, problems)
    return vectors
