"""Filters by a candidate's score against those of the query's positives ("positive-aware" mining).

The share of NV-Retriever's TopK-PercPos (Moreira et al. 2024, section 4), made sign-safe as in sentence-transformers:
the bound is p - |p| (1 - of_positive), which lies below p for logits as well. Both bounds rise with p, so the lowest
positive of a query gives its lowest bound.

A positive whose score is unknown bounds nothing: `min` and `max` look at the known ones, `each` lets every candidate go
with it. A query without any known positive score keeps all its candidates; `unbounded_queries` counts those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raymine.lookup import cross, distinct, positions
from raymine.select.base import Candidates, Mask
from raymine.select_config import FilterConfig, Margin, MaxRelativeScore

Scores = NDArray[np.float64]
Relative = MaxRelativeScore | Margin


def bound(config: Relative, positive_score: Scores) -> Scores:
    """The highest score that a negative may have beside a positive of this score, float64 [n]."""
    if isinstance(config, Margin):
        return positive_score - config.value
    return positive_score - np.abs(positive_score) * (1 - config.of_positive)


def relative(candidates: Candidates, config: Relative) -> Mask:
    """What scores above the bound of the query's positive: the lowest, the highest, or (each) of every one of them."""
    reference = positive_scores(candidates, str(config.score), config.against)
    is_above = candidates.score(str(config.score)) > bound(config, reference)
    return np.asarray(is_above & ~candidates.spared(config))


def positive_scores(candidates: Candidates, score: str, against: str) -> Scores:
    """The score of the query's positive that counts, for every candidate.

    Args:
        candidates: the block, positives among its rows.
        score: which score.
        against: min, max, or each (the highest, or nothing if one is unknown: what passes for any positive stays).

    Returns:
        float64 [n], NaN where nothing is known.
    """
    rows = np.flatnonzero(candidates.is_positive)
    scores, queries = candidates.score(score)[rows], candidates.query_row[rows]
    if against == "each":
        scores = np.where(np.isnan(scores), np.inf, scores)
    known = ~np.isnan(scores)
    scores, queries = scores[known], queries[known]
    if len(queries) == 0:
        return np.full(len(candidates), np.nan)
    starts = np.flatnonzero(np.r_[True, queries[1:] != queries[:-1]])
    reduced = (np.minimum if against == "min" else np.maximum).reduceat(scores, starts)
    where = positions(queries[starts], candidates.query_row)
    reference = np.where(where >= 0, reduced[where], np.nan)
    return np.where(np.isinf(reference), np.nan, reference)


def unbounded_queries(candidates: Candidates, filters: Sequence[FilterConfig]) -> int:
    """Number of queries of which no positive has the score that one of the relative filters acts on."""
    without: set[int] = set()
    for score in sorted({str(config.score) for config in filters if isinstance(config, Relative)}):
        unknown = np.isnan(positive_scores(candidates, score, "min"))
        without |= set(distinct(candidates.query_row[unknown]).tolist())
    return len(without)


def forbidden(candidates: Candidates, rows: NDArray[np.int64], filters: Sequence[FilterConfig]) -> Forbidden:
    """Which of some candidates must not stand beside which positives of their query, by the filters `against: each`.

    Args:
        candidates: the block.
        rows: int64 [m], positions of the candidates in question.
        filters: of the config; those that are not `against: each` do not count.
    """
    positive_rows = np.flatnonzero(candidates.is_positive)
    index, positive = cross(candidates.query_row[rows], candidates.query_row[positive_rows])
    row, positive = rows[index], positive_rows[positive]
    is_forbidden = np.zeros(len(row), np.bool_)
    for config in each_filters(filters):
        score = candidates.score(str(config.score))
        is_forbidden |= (score[row] > bound(config, score[positive])) & ~candidates.spared(config)[row]
    num_allowed = np.bincount(index[~is_forbidden], minlength=len(rows))
    num_positives = np.bincount(index, minlength=len(rows))
    return Forbidden(row[is_forbidden], positive[is_forbidden], rows[(num_allowed == 0) & (num_positives > 0)])


class Forbidden:
    """Pairs of positions (candidate, positive) that must not stand in one training row.

    Args:
        row: int64 [p], of the candidate.
        positive: int64 [p], of the positive.
        everywhere: int64, the candidates that no positive is left for.
    """

    def __init__(self, row: NDArray[np.int64], positive: NDArray[np.int64], everywhere: NDArray[np.int64]) -> None:
        self.row, self.positive, self.everywhere = row, positive, everywhere


def each_filters(filters: Sequence[FilterConfig]) -> list[Relative]:
    """The filters that compare a candidate with each positive separately."""
    return [config for config in filters if isinstance(config, Relative) and config.against == "each"]
