"""The port of a teacher: (query, document) pairs to tokens on the CPU, tokens to scores on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raymine.batching import Tokens


class Teacher(Protocol):
    """Scores pairs of texts, in two halves so that a shard's first can overlap with another's second.

    Both halves may be called from several threads; a score depends on its pair alone, up to float rounding that the
    other pairs of the same call may change. A higher score is a better match.

    Attributes:
        device: e.g. `cuda:0 NVIDIA H200` or `cpu`.
    """

    device: str

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        """Tokens of n >= 1 (query, document) pairs."""
        ...

    def score(self, tokens: Tokens) -> tuple[NDArray[np.float32], float]:
        """Scores float32 [n], and the seconds that the device was held."""
        ...
