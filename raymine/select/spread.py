"""The sampler that spreads a query's negatives: each is likeliest where it scores high and is unlike those before it.

Maximal marginal relevance (Carbonell and Goldstein 1998): the next is the candidate with the highest
(1 - diversity) relevance - diversity max cos(candidate, chosen). Relevance is the score from the lowest (0) to the
highest (1) in the query's pool, so any score will do; a candidate without one has 0, and one without a vector is unlike
all others.

Cost: n passes over [queries, pool] and the cosines of each query's pool, some hundred queries at a time. The cosines
are summed without BLAS and rounded, so that a choice depends neither on threads nor on what else is in the block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.lookup import positions
from raymine.select.scales import min_max
from raymine.topk import ranks_within
from raymine.vectors import Vectors

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
QUERIES_AT_ONCE = 256
COSINE_DECIMALS = 6


def spread_order(query_row: Rows, doc_row: Rows, score: Floats, vectors: Vectors, n: int, diversity: float) -> Rows:
    """In which turn each candidate is chosen.

    Args:
        query_row: int64 [m], ascending.
        doc_row: int64 [m].
        score: float64 [m], NaN where unknown; of equal candidates the one that comes first is chosen first.
        vectors: of documents, by doc_row.
        n: turns per query.
        diversity: weight of likeness, 0 to 1.

    Returns:
        int64 [m], from 0 within a query; n for those that are not chosen.
    """
    relevance = np.nan_to_num(min_max(score, query_row), nan=0.0)
    where = positions(vectors.rows, doc_row)
    turns = np.full(len(query_row), n, np.int64)
    starts = np.flatnonzero(np.r_[True, query_row[1:] != query_row[:-1]]) if len(query_row) else np.empty(0, np.int64)
    bounds = np.r_[starts, len(query_row)]
    for first in range(0, len(starts), QUERIES_AT_ONCE):
        part = slice(bounds[first], bounds[min(first + QUERIES_AT_ONCE, len(starts))])
        rows = np.cumsum(np.r_[0, query_row[part][1:] != query_row[part][:-1]])
        turns[part] = _turns(rows, relevance[part], _unit(vectors, where[part]), n, diversity)
    return turns


def _unit(vectors: Vectors, where: Rows) -> Floats:
    """Unit vectors float64 [m, dim]; zeros where there is none."""
    found = np.zeros((len(where), vectors.matrix.shape[1]))
    found[where >= 0] = vectors.matrix[where[where >= 0]]
    norms = np.sqrt(np.einsum("ij,ij->i", found, found))
    return np.asarray(found / np.where(norms > 0, norms, 1)[:, None])


def _turns(rows: Rows, relevance: Floats, unit: Floats, n: int, diversity: float) -> Rows:
    """Turns of the candidates of some queries, numbered by `rows` from 0."""
    slots = ranks_within(rows)
    shape = (int(rows.max()) + 1, int(slots.max()) + 1)
    padded = np.zeros((*shape, unit.shape[1]))
    padded[rows, slots] = unit
    cosines = np.round(np.einsum("qid,qjd->qij", padded, padded), COSINE_DECIMALS)
    worth = np.full(shape, -np.inf)
    worth[rows, slots] = (1 - diversity) * relevance
    likeness, turns = np.zeros(shape), np.full(shape, n, np.int64)
    queries = np.arange(shape[0])
    for turn in range(min(n, shape[1])):
        chosen = np.argmax(worth - diversity * likeness, axis=1)
        is_left = worth[queries, chosen] > -np.inf
        turns[queries[is_left], chosen[is_left]] = turn
        worth[queries, chosen] = -np.inf
        own = cosines[queries, :, chosen]
        likeness = own if turn == 0 else np.maximum(likeness, own)
    return turns[rows, slots]
