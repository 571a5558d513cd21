"""Filters by a candidate's own score."""

from __future__ import annotations

import numpy as np

from raymine.select.base import Candidates, Mask
from raymine.select_config import MaxScore, MinScore


def max_score(candidates: Candidates, config: MaxScore) -> Mask:
    """What scores above `value`: likely an unlabelled positive. An unknown score stays."""
    is_above = candidates.score(str(config.score)) > config.value
    return np.asarray(is_above & ~candidates.spared(config))


def min_score(candidates: Candidates, config: MinScore) -> Mask:
    """What scores below `value`: too easy. An unknown score goes."""
    return np.asarray(~(candidates.score(str(config.score)) >= config.value))
