"""Random candidates: documents drawn uniformly without replacement, the same for a query whatever else is mined.

Each query has a random stream of its own, keyed by a hash of (seed, query id): Philox (Salmon et al., Parallel Random
Numbers: As Easy as 1, 2, 3, SC 2011), whose raw bits numpy keeps stable, unlike the results of Generator.choice. From
there on all queries are drawn at once: a draw is a number below num_documents, one already drawn is passed over; when k
is a good part of the corpus, the documents are shuffled instead.

Cost: 8,192 queries with k 10 in 0.2 s, most of it keying the streams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Queries drawn together: bounds the memory (k 1000: 16 MB of raw numbers).
QUERIES_AT_ONCE = 1024
# Up to this many documents per document drawn, shuffling all is cheaper than drawing and passing over.
SHUFFLE_BELOW = 4


def draw(query_ids: Sequence[str], num_documents: int, k: int, seed: int) -> NDArray[np.int64]:
    """Draws documents for each query.

    Args:
        query_ids: ids of the users; a query's draw depends on its id, not on its row.
        num_documents: documents are 0 .. num_documents - 1.
        k: documents per query; all of them where there are no more.
        seed: of the run.

    Returns:
        int64 [num_queries, min(k, num_documents)], distinct within a row, in the order in which they were drawn.
    """
    k = min(k, num_documents)
    chosen = np.empty((len(query_ids), k), np.int64)
    for begin in range(0, len(query_ids) if k else 0, QUERIES_AT_ONCE):
        ids = query_ids[begin : begin + QUERIES_AT_ONCE]
        shuffle = num_documents <= SHUFFLE_BELOW * k
        chosen[begin : begin + len(ids)] = (_shuffled if shuffle else _drawn)(ids, num_documents, k, seed)
    return chosen


def _raw(query_ids: Sequence[str], count: int, seed: int) -> NDArray[np.uint64]:
    """The first `count` raw 64-bit numbers of each query's stream."""
    raw = np.empty((len(query_ids), count), np.uint64)
    for row, query_id in enumerate(query_ids):
        key = hashlib.blake2b(f"{seed}\n{query_id}".encode(), digest_size=16).digest()
        raw[row] = np.random.Philox(key=np.frombuffer(key, "<u8")).random_raw(count)
    return raw


def _shuffled(query_ids: Sequence[str], num_documents: int, k: int, seed: int) -> NDArray[np.int64]:
    order = np.argsort(_raw(query_ids, num_documents, seed), axis=1, kind="stable")
    return order[:, :k]


def _drawn(query_ids: Sequence[str], num_documents: int, k: int, seed: int) -> NDArray[np.int64]:
    count = 2 * k + 16  # with 4 k documents or more, k distinct ones are among them but for one chance in a million
    while True:
        # 53 bits make a fraction below 1 whose product with num_documents cannot round up to it.
        fractions = (_raw(query_ids, count, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        draws = (fractions * num_documents).astype(np.int64)
        is_new = _first_occurrences(draws)
        if (is_new.sum(axis=1) >= k).all():
            break
        count *= 2
    taken = is_new & (np.cumsum(is_new, axis=1) <= k)
    distinct: NDArray[np.int64] = draws[taken].reshape(len(query_ids), k)
    return distinct


def _first_occurrences(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is the first of its kind in its row."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    first = np.ones(values.shape, np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty(values.shape, np.bool_)
    np.put_along_axis(result, order, first, axis=1)
    return result
