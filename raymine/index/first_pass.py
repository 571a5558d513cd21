"""The first pass of exact search: inner products in low precision, with a bound on how far they may be off.

Tiles of queries and documents are multiplied by torch, in bfloat16 where the CPU does that natively (measured on one
core with avx512_bf16: 465 GFLOP/s, against 99 in float32), else in float32. Either way the products are stored as
bfloat16, so that the scan over them (index.race) reads two bytes each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raymine.vectors import Matrix

if TYPE_CHECKING:
    import torch

# Half the distance from 1 to the next number: the largest relative error of one rounding.
FLOAT32_ROUNDOFF = 2.0**-24
SAFETY = 1.01  # on top of bounds, for the rounding of the bounds themselves
ROWS_AT_ONCE = 4096  # whose norms are taken together


@dataclass(frozen=True)
class Rounded:
    """Vectors in the number format of the first pass.

    Args:
        tensor: [n, dim].
        norms: float64 [n], of the rounded vectors.
        residuals: float64 [n], norms of what rounding took off.
    """

    tensor: torch.Tensor
    norms: NDArray[np.float64]
    residuals: NDArray[np.float64]

    def rows(self, begin: int, end: int) -> Rounded:
        return Rounded(self.tensor[begin:end], self.norms[begin:end], self.residuals[begin:end])


def rounded(matrix: Matrix, precision: str) -> Rounded:
    """Vectors float16 or float32 [n, dim] in a number format (bfloat16 or float32)."""
    import torch

    tensor = torch.empty(matrix.shape, dtype=getattr(torch, precision))
    norms, residuals = np.empty(len(matrix)), np.empty(len(matrix))
    for begin in range(0, len(matrix), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        exact = torch.from_numpy(np.array(matrix[rows])).float()
        tensor[rows] = exact
        kept = tensor[rows].float()
        norms[rows] = SAFETY * torch.linalg.vector_norm(kept, dim=1).numpy()
        residuals[rows] = SAFETY * torch.linalg.vector_norm(exact - kept, dim=1).numpy()
    return Rounded(tensor, norms, residuals)


def products(queries: Rounded, docs: Rounded, buffers: tuple[torch.Tensor, torch.Tensor]) -> NDArray[np.int16]:
    """The bits of the inner products as bfloat16.

    Args:
        queries: q of them.
        docs: n of them, in the same format.
        buffers: of q x n numbers or more, in that format and in bfloat16 (one and the same where that is the format).

    Returns:
        int16 [q, n], in the second buffer.
    """
    import torch

    shape = len(queries.norms), len(docs.norms)
    multiplied, stored = (buffer[: shape[0] * shape[1]].view(shape) for buffer in buffers)
    torch.mm(queries.tensor, docs.tensor.T, out=multiplied)
    if buffers[0] is not buffers[1]:
        stored.copy_(multiplied)
    bits: NDArray[np.int16] = stored.view(torch.int16).numpy()
    return bits


def make_buffers(precision: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Buffers for `products` of `size` numbers."""
    import torch

    stored = torch.empty(size, dtype=torch.bfloat16)
    return (stored if precision == "bfloat16" else torch.empty(size, dtype=getattr(torch, precision))), stored


def errors(queries: Rounded, docs: Rounded) -> NDArray[np.float64]:
    """How far a product may be from the exact score before it is rounded to bfloat16, per query, float64 [q].

    With q', d' the rounded vectors, |q.d - q'.d'| <= |q - q'| |d| + |q'| |d - d'|. Summing dim products in float32, in
    any order, adds at most g |q'| |d'| with g = m u / (1 - m u) and m = dim + 2 (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1), doubled because instructions for bfloat16 round a product before they add it. The
    exact score is rounded to float32 once, which m allows for.
    """
    operations = 2 * (queries.tensor.shape[1] + 2) * FLOAT32_ROUNDOFF
    norm, residual = docs.norms.max(), docs.residuals.max()
    summing = operations / (1 - operations) * norm
    bound: NDArray[np.float64] = SAFETY * (queries.residuals * (norm + residual) + queries.norms * (residual + summing))
    return bound


@cache
def fastest() -> str:
    """bfloat16 or float32, whichever this CPU multiplies faster: tried once. No bit of a result depends on it."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # emulated, many times slower than float32
        return "float32"
    seconds = {}
    for name in ("bfloat16", "float32"):
        left, right = (torch.zeros(size, 256, dtype=getattr(torch, name)) for size in (256, 2048))
        runs = []
        for _ in range(4):
            begin = time.perf_counter()
            torch.mm(left, right.T)
            runs.append(time.perf_counter() - begin)
        seconds[name] = min(runs)
    return min(seconds, key=lambda name: seconds[name])
