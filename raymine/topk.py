"""Merging of top-k lists, and the one tie rule of the project.

Order everywhere: score descending, then doc_row ascending. With that rule the top-k of a whole equals the merged top-k
of any split of it, which is what lets parts be searched anywhere and in any order.

Cost: one lexsort over all hits of a query block, O(n log n) time and a few times the block's memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ranks_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each row inside its run of equal values.

    Args:
        groups: int64 [n], equal values adjacent.

    Returns:
        int64 [n], 0 for the first row of each run.
    """
    if len(groups) == 0:
        return np.empty(0, np.int64)
    positions = np.arange(len(groups), dtype=np.int64)
    starts = np.r_[True, groups[1:] != groups[:-1]]
    return positions - np.maximum.accumulate(np.where(starts, positions, 0))


def merge_topk(
    query_rows: NDArray[np.int64], doc_rows: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Keeps the k best hits of each query.

    Args:
        query_rows: int64 [n], in any order.
        doc_rows: int64 [n]; a (query, document) pair occurs once.
        scores: float32 [n], higher is better, finite.
        k: hits to keep per query.

    Returns:
        query_rows, doc_rows, ranks (int32, from 0) and scores of the hits kept, sorted by (query_row, rank).
    """
    order = np.lexsort((doc_rows, -scores, query_rows))
    ranks = ranks_within(query_rows[order])
    kept = ranks < k
    order = order[kept]
    return query_rows[order], doc_rows[order], ranks[kept].astype(np.int32), scores[order]
