"""The filter by a score's percentile: the middle, between likely positives and what is too easy.

A candidate's percentile is the share of the other candidates, of its query or of all queries, that score lower.
Positives do not count, nor do candidates without the score; what the filters before the teacher took has no score of
the teacher. Over all queries scores count as equal within 0.05 % (select.scales).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.select.base import Candidates, Mask
from raymine.select.scales import distribution
from raymine.select_config import PercentileBand
from raymine.topk import ranks_within


def percentile_band(candidates: Candidates, config: PercentileBand) -> Mask:
    """What lies below `low` or above `high`. An unknown score stays."""
    of_all = over_all if config.over == "all" else query_percentiles
    percentile = of_all(candidates, str(config.score))
    return np.asarray((percentile < config.low) | (percentile > config.high))


def over_all(candidates: Candidates, score: str) -> NDArray[np.float64]:
    """The share of the other candidates of all queries that score lower, float64 [n]; NaN where the score is unknown.

    Raises:
        ValueError: the scores have not been counted.
    """
    if candidates.scales.counts is None:
        raise ValueError(f"{score} scores have not been counted")
    counted = distribution(candidates.scales.counts, score, of_positives=False)
    return counted.share_below(candidates.counted_score(score), others=True)


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
