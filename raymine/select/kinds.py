"""Kinds: how hard each candidate is against the lowest positive of its query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raymine import schemas
from raymine.select.base import NOT_FOUND, Candidates, Mask
from raymine.select.relative import positive_scores

Rows = NDArray[np.int64]
RANDOM, RANKING_ERROR, SEMI_HARD, HARD = (
    schemas.KINDS.index(k) for k in ("random", "ranking_error", "semi_hard", "hard")
)


def kinds(candidates: Candidates, rows: Rows, score: str | None, margin: float, sources: Sequence[str]) -> Rows:
    """How hard each negative is, against the lowest positive of its query.

    Args:
        candidates: the block.
        rows: int64 [m], positions of the negatives.
        score: which score decides; None, or unknown for the negative or for all positives: it counts as hard.
        margin: a negative that scores within this share of the positive's score is semi_hard.
        sources: names of the sources; what only `random` found is of the kind random.

    Returns:
        int64 [m], positions in schemas.KINDS.
    """
    kind = np.full(len(rows), HARD, np.int64)
    if score is not None:
        own, positive = candidates.score(score)[rows], positive_scores(candidates, score, "min")[rows]
        kind = against_positive(own, positive, margin)
    kind[_only_random(candidates, sources)[rows]] = RANDOM
    return kind


def against_positive(own: NDArray[np.float64], positive: NDArray[np.float64], margin: float) -> Rows:
    """How hard a negative is by its score and its positive's, int64 [n]: positions in schemas.KINDS.

    Args:
        own: [n].
        positive: [n]; where either is unknown (NaN), the negative counts as hard.
        margin: share of the positive's score below it, within which a negative is semi_hard.
    """
    kind = np.full(len(own), HARD, np.int64)
    kind[own > positive - np.abs(positive) * margin] = SEMI_HARD
    kind[own > positive] = RANKING_ERROR
    return kind


def _only_random(candidates: Candidates, sources: Sequence[str]) -> Mask:
    if "random" not in sources:
        return np.zeros(len(candidates), np.bool_)
    others = [source for source in sources if source != "random"]
    is_found = candidates.best_rank(others) < NOT_FOUND
    return np.asarray((candidates.rank("random") < NOT_FOUND) & ~is_found)
