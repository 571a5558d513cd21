"""Filters by the rank that a source gave: raw ranks, from 0, positives counted, before any other filter."""

from __future__ import annotations

import numpy as np

from raymine.select.base import Candidates, Mask
from raymine.select_config import RankRange, SkipTop


def skip_top(candidates: Candidates, config: SkipTop) -> Mask:
    """The first `n` ranks of the source. What the source did not find stays."""
    return np.asarray(candidates.rank(config.source) < config.n)


def rank_range(candidates: Candidates, config: RankRange) -> Mask:
    """All but the ranks start <= rank < stop of the source. What the source did not find goes."""
    rank = candidates.rank(config.source)
    return np.asarray((rank < config.start) | (rank >= config.stop))
