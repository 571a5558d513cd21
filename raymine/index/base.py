"""What every dense index shares: a part is a group of consecutive document shards, searched by all query blocks.

A backend is a stage that takes one part and writes its hits, bucketed by query block. Parts are independent: they are
searched anywhere and in any order, and merged per query block by merge_topk. A part is sized (by whoever makes the
tasks) to the memory of one worker: its vectors are held once, as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.threads import num_threads
from raymine.vectors import Matrix, read_vectors


def load_chunk(paths: Sequence[str], first_rows: Sequence[int]) -> tuple[NDArray[np.int64], Matrix]:
    """Reads the vectors of consecutive shards into one matrix.

    Args:
        paths: embeddings files.
        first_rows: doc_row of the first row of each shard.

    Returns:
        int64 [n] doc_rows, ascending, and float16 or float32 [n, dim], as stored.
    """
    shards = [read_vectors(path) for path in paths]
    doc_rows = np.concatenate([shard.rows + first for shard, first in zip(shards, first_rows, strict=True)])
    return doc_rows, shards[0].matrix if len(shards) == 1 else np.concatenate([shard.matrix for shard in shards])


def padded(vectors: Matrix, dim: int) -> NDArray[np.float32]:
    """Vectors [n, d] as float32 [n, dim], with zeros after their d dimensions."""
    wide = np.zeros((len(vectors), dim), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide


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

    faiss.omp_set_num_threads(num_threads())
    return faiss
