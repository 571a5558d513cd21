"""Which negatives of a batch count: all, those just below the positive, or the hardest.

Each choice is a function of the batch's scores. It sees them before scale and without gradients; what is masked has a
score of minus infinity and is never chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Negatives(Protocol):
    """Chooses negatives.

    Args:
        scores: float [b, m], of each query and document; -inf where the document is no negative of the query.
        positive: float [b], of each query and its positive.

    Returns:
        bool [b, m], True where the document counts.
    """

    def __call__(self, scores: Tensor, positive: Tensor) -> Tensor: ...


def all_negatives(scores: Tensor, positive: Tensor) -> Tensor:
    """All that are not masked."""
    return scores > -math.inf


@dataclass(frozen=True)
class SemiHard:
    """Those that score below the positive, by less than `margin` (FaceNet, Schroff et al. 2015, section 3.2).

    Args:
        margin: in the unit of the similarity; infinite: however far below.
    """

    margin: float = math.inf

    def __call__(self, scores: Tensor, positive: Tensor) -> Tensor:
        below = positive[:, None] - scores
        return (below > 0) & (below < self.margin)


@dataclass(frozen=True)
class Hardest:
    """The n that score highest, for each query; of equal scores the first column's.

    Args:
        n: per query.
    """

    n: int

    def __call__(self, scores: Tensor, positive: Tensor) -> Tensor:
        best = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, : self.n]
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
        return chosen & (scores > -math.inf)
