"""What every dense index shares: a part is a group of consecutive document shards, searched by all query blocks.

A backend is a stage that takes one part and writes its hits, bucketed by query block. Parts are independent: they are
searched anywhere and in any order, and merged per query block by merge_topk. A part is sized (by whoever makes the
tasks) to the memory of one worker: its vectors are held once, as float32.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.vectors import Matrix, read_vectors


def load_part(
    paths: Sequence[str], first_rows: Sequence[int], pad_to: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Reads the vectors of a part, one shard at a time into one matrix.

    Args:
        paths: embeddings files of the part's shards.
        first_rows: doc_row of the first row of each shard.
        pad_to: dimensions of the result; zeros are added where the vectors have fewer.

    Returns:
        int64 [n] doc_rows, ascending, and float32 [n, max(dim, pad_to)].
    """
    num_rows = [num_vectors(path) for path in paths]
    doc_rows = np.empty(sum(num_rows), np.int64)
    matrix = np.zeros((sum(num_rows), max(dim_of(paths[0]), pad_to)), np.float32)
    begin = 0
    for path, first_row, count in zip(paths, first_rows, num_rows, strict=True):
        vectors = read_vectors(path)
        doc_rows[begin : begin + count] = vectors.rows + first_row
        matrix[begin : begin + count, : vectors.matrix.shape[1]] = vectors.matrix
        begin += count
    return doc_rows, matrix


def padded(vectors: Matrix, dim: int) -> NDArray[np.float32]:
    """Vectors [n, d] as float32 [n, dim], with zeros after their d dimensions."""
    wide = np.zeros((len(vectors), dim), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide


def num_vectors(path: str) -> int:
    """Rows of an embeddings file, from its footer."""
    with storage.parquet_file(path) as file:
        return int(file.metadata.num_rows)


def dim_of(path: str) -> int:
    """Dimensions of the vectors of an embeddings file, from its footer."""
    with storage.parquet_file(path) as file:
        return int(file.schema_arrow.field("vector").type.list_size)


def hits_table(
    query_rows: NDArray[np.int64],
    doc_rows: NDArray[np.int64],
    ranks: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> pa.Table:
    """A HITS table from its columns, each [n]."""
    return pa.Table.from_arrays([pa.array(c) for c in (query_rows, doc_rows, ranks, scores)], schema=schemas.HITS)


def load_faiss() -> Any:
    """The faiss module, with this process's thread count set for the calling thread.

    faiss counts OpenMP threads per calling thread, and a worker may call from a thread that did not import it.
    """
    import faiss

    if threads := os.environ.get("OMP_NUM_THREADS"):
        faiss.omp_set_num_threads(int(threads))
    return faiss
