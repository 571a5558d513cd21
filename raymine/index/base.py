"""What every dense index shares: a part is a group of consecutive document shards.

A backend is a stage that takes one part and a range of query blocks, and writes their hits, a bucket per block. Parts
are independent: they are searched anywhere and in any order, and merged per query block by merge_topk. How large a
part is, and how much of it is in memory at a time, is decided by whoever makes the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def load_faiss() -> Any:
    """The faiss module, with this process's thread count set for the calling thread.

    faiss counts OpenMP threads per calling thread, and a worker may call from a thread that did not import it.
    """
    import faiss

    faiss.omp_set_num_threads(num_threads())
    return faiss
