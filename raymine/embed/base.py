"""The port of an embedder: texts to tokens on the CPU, tokens to vectors on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine.batching import Tokens


class Encoder(Protocol):
    """Turns texts into vectors, in two halves so that a shard's first can overlap with another's second.

    Both halves may be called from several threads; a vector depends on its text alone, up to float rounding that
    the other texts of the same call may change.

    Attributes:
        dim: length of a vector.
        device: e.g. `cuda:0 NVIDIA H200` or `cpu`.
        max_length: tokens per text beyond which it is cut; None: never.
        normalized: whether vectors have length 1.
        prompt: what is put before each text.
    """

    dim: int
    device: str
    max_length: int | None
    normalized: bool
    prompt: str

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens of n >= 1 texts, prompt included."""
        ...

    def restored(self, table: pa.Table) -> Tokens:
        """Tokens from a table of raymine.stored_tokens."""
        ...

    def encode(self, tokens: Tokens) -> tuple[NDArray[np.float32], float]:
        """Vectors float32 [n, dim], and the seconds that the device was held."""
        ...
