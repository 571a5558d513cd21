"""The filter by a score's percentile: the middle, between likely positives and what is too easy.

A candidate's percentile is the share of its query's other candidates that score lower. Positives do not count, nor do
candidates without the score; what the filters before the teacher took has no score of the teacher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.config import PercentileBand
from raymine.select.base import Candidates, Mask
from raymine.topk import ranks_within


def percentile_band(candidates: Candidates, config: PercentileBand) -> Mask:
    """What lies below `low` or above `high`. An unknown score stays."""
    percentile = query_percentiles(candidates, str(config.score))
    return np.asarray((percentile < config.low) | (percentile > config.high))


def query_percentiles(candidates: Candidates, score: str) -> NDArray[np.float64]:
    """The share of the query's other candidates that score lower, float64 [n]; NaN where the score is unknown.

    The only candidate of a query has percentile 0.5.
    """
    scores = candidates.score(score)
    rows = np.flatnonzero(~np.isnan(scores) & ~candidates.is_positive)
    rows = rows[np.lexsort((scores[rows], candidates.query_row[rows]))]
    query = candidates.query_row[rows]
    below = ranks_within(query)
    is_tied = np.r_[False, (query[1:] == query[:-1]) & (scores[rows[1:]] == scores[rows[:-1]])]
    below = below[np.maximum.accumulate(np.where(is_tied, 0, np.arange(len(rows))))]
    count = np.bincount(query - query.min(initial=0))[query - query.min(initial=0)] if len(rows) else below
    found = np.full(len(candidates), np.nan)
    found[rows] = np.where(count > 1, below / np.maximum(count - 1, 1), 0.5)
    return found
