"""The first pass of exact search: inner products in low precision, with a bound on how far they may be off.

Tiles of queries and documents are multiplied by torch, in the first of these that the CPU multiplies fast and that
tells these vectors apart (`precision_for`; measured on one core with avx512_vnni and avx512_bf16):

    int8      810 GFLOP/s   each vector in 8-bit steps of its own size
    bfloat16  400 GFLOP/s
    float32    99 GFLOP/s

The documents' mean is taken off them first: it adds the same to all scores of a query, and what embedders put into
every vector would otherwise use up the steps.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymine.threads import in_threads
from raymine.vectors import Matrix

if TYPE_CHECKING:
    import torch

# Half the distance from 1 to the next number: the largest relative error of one rounding.
FLOAT32_ROUNDOFF, BFLOAT16_ROUNDOFF = 2.0**-24, 2.0**-9
SAFETY = 1.01  # on top of bounds, for the rounding of the bounds themselves
ROWS_AT_ONCE = 4096  # that are rounded together
STEPS = 127  # of int8, to either side
SMALLEST_STEP = 1e-30  # far from what float32 cannot divide by
# What is looked at to choose a precision, and what it may let through, as a multiple of k. By the rates above int8
# saves 80 us a query and chunk of 131,072 documents of 256 dimensions; a hit too many costs some 0.3 us (its final
# score, and merging).
SAMPLE_QUERIES, SAMPLE_DOCUMENTS, MOST_SURVIVORS = 64, 1 << 14, 4.0
TRIALS = 8  # of each precision, 0.1 to 0.6 ms each, of which the first compiles
PRECISIONS = ("int8", "bfloat16", "float32")


@dataclass(frozen=True)
class Rounded:
    """Vectors, less their `mean`, in the number format of the first pass.

    Args:
        tensor: [n, dim]; times `scales` it is nearly the vectors.
        scales: float32 [n].
        norms: float32 [n], of the rounded vectors or a little more.
        residuals: float32 [n], norms of what rounding took off or a little more.
        mean: float32 [dim].
    """

    tensor: torch.Tensor
    scales: NDArray[np.float32]
    norms: NDArray[np.float32]
    residuals: NDArray[np.float32]
    mean: NDArray[np.float32]

    @property
    def extent(self) -> Extent:
        return Extent(float(self.norms.max()), float(self.residuals.max()), self.mean)

    def rows(self, begin: int, end: int) -> Rounded:
        part = slice(begin, end)
        return Rounded(self.tensor[part], self.scales[part], self.norms[part], self.residuals[part], self.mean)


@dataclass(frozen=True)
class Extent:
    """How large rounded vectors are.

    Args:
        norm: the largest.
        residual: the largest.
        mean: float32 [dim], what was taken off them.
    """

    norm: float
    residual: float
    mean: NDArray[np.float32]


def mean_of(matrix: Matrix) -> NDArray[np.float32]:
    """Mean of some of the vectors, float32 [dim]; zeros where it is not finite. Any mean will do."""
    if not len(matrix):
        return np.zeros(matrix.shape[1], np.float32)
    some = matrix[:: max(1, len(matrix) // SAMPLE_DOCUMENTS)].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        mean: NDArray[np.float32] = some.mean(axis=0)
    return mean if np.isfinite(mean).all() else np.zeros_like(mean)


def rounded(matrix: Matrix, precision: str, mean: NDArray[np.float32] | None = None) -> Rounded:
    """Vectors in a number format.

    Args:
        matrix: float16 or float32 [n, dim].
        precision: int8, bfloat16 or float32.
        mean: float32 [dim], taken off the vectors; None: zeros.
    """
    import torch

    if mean is None:
        mean = np.zeros(matrix.shape[1], np.float32)
    off = torch.from_numpy(mean)
    tensor = torch.empty(matrix.shape, dtype=getattr(torch, precision))
    scales = np.ones(len(matrix), np.float32)
    norms, residuals = np.empty_like(scales), np.empty_like(scales)
    for begin in range(0, len(matrix), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        vectors = torch.from_numpy(np.array(matrix[rows])).float().sub_(off)
        if precision == "int8":
            steps = (vectors.abs().amax(dim=1) / STEPS).clamp_(min=SMALLEST_STEP)
            kept = (vectors / steps[:, None]).round_()
            tensor[rows], scales[rows] = kept, steps.numpy()
            kept *= steps[:, None]
        else:
            tensor[rows] = vectors
            kept = tensor[rows].float()
        norms[rows] = SAFETY * torch.linalg.vector_norm(kept, dim=1).numpy()
        residuals[rows] = SAFETY * torch.linalg.vector_norm(vectors.sub_(kept), dim=1).numpy()
    # Taking off the mean and multiplying by the step were rounded themselves.
    residuals += 4 * FLOAT32_ROUNDOFF * (norms + residuals + np.linalg.norm(mean.astype(np.float64)))
    return Rounded(tensor, scales, norms, residuals, mean)


def products(
    queries: Rounded, docs: Rounded, buffers: tuple[torch.Tensor, torch.Tensor]
) -> NDArray[np.int32] | NDArray[np.float32]:
    """Inner products of the tensors: scores less queries @ mean, but for the scales of both sides.

    Args:
        queries: q of them.
        docs: n of them, in the same format.
        buffers: from make_buffers, for q x n numbers or more.

    Returns:
        int32 (of int8) or float32 [q, n], in the second buffer.
    """
    import torch

    shape = len(queries.norms), len(docs.norms)
    multiplied, returned = (buffer[: shape[0] * shape[1]].view(shape) for buffer in buffers)
    if queries.tensor.dtype == torch.int8:
        torch._int_mm(queries.tensor, docs.tensor.T, out=multiplied)
    else:
        torch.mm(queries.tensor, docs.tensor.T, out=multiplied)
    if buffers[0] is not buffers[1]:
        returned.copy_(multiplied)
    found: NDArray[np.int32] | NDArray[np.float32] = returned.numpy()
    return found


def make_buffers(precision: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Buffers for `products` of `size` numbers: as they are multiplied and as they are returned, mostly the same."""
    import torch

    returned = torch.empty(size, dtype=torch.int32 if precision == "int8" else torch.float32)
    return (torch.empty(size, dtype=torch.bfloat16) if precision == "bfloat16" else returned), returned


@dataclass(frozen=True)
class Errors:
    """How far queries @ mean + product x scales may be from the final score: flat + slope x the document's residual.

    Args:
        flat: float64 [q].
        slope: float64 [q].
    """

    flat: NDArray[np.float64]
    slope: NDArray[np.float64]


def errors(queries: Rounded, docs: Extent) -> Errors:
    """Bounds on the errors of `products`.

    With q', d' the rounded vectors, |q.d - q'.d'| <= |q - q'| |d| + |q'| |d - d'|. Summing dim products in float32, in
    any order, adds at most g |q'| |d'| with g = m u / (1 - m u) and m = dim + 2 (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1), doubled because instructions for bfloat16 round a product before they add it, and for
    the two scales. The final score is rounded to float32 once. Products of bfloat16 are rounded to bfloat16 (its
    unit is allowed for twice).
    """
    operations = 2 * (queries.tensor.shape[1] + 2) * FLOAT32_ROUNDOFF
    summing = operations / (1 - operations)
    if str(queries.tensor.dtype) == "torch.bfloat16":
        summing += 2 * BFLOAT16_ROUNDOFF
    size = docs.norm + docs.residual
    final = 2 * FLOAT32_ROUNDOFF * (size + np.linalg.norm(docs.mean.astype(np.float64)))
    flat: NDArray[np.float64] = queries.residuals.astype(np.float64) * size
    flat += queries.norms * (summing * docs.norm) + (queries.norms + queries.residuals) * final
    return Errors(SAFETY * flat, SAFETY * queries.norms.astype(np.float64))


@dataclass(frozen=True)
class Bounds:
    """What a product says of its score. value = product x the document's scale, in units of the query's scale, and

        score = offset + scale x (value +- (flat + slope x the document's residual))

    Args:
        scales: float64 [q].
        offsets: float64 [q], what the documents' mean adds.
        flats: float64 [q].
        slopes: float64 [q].
    """

    scales: NDArray[np.float64]
    offsets: NDArray[np.float64]
    flats: NDArray[np.float64]
    slopes: NDArray[np.float64]

    def thresholds(self, rows: slice, kth_scores: NDArray[np.float64]) -> NDArray[np.float32]:
        """What values plus slope x residual must reach if k final scores of the query do kth_scores, float32 [rows]."""
        kth_values = (kth_scores - self.offsets[rows]) / self.scales[rows]
        thresholds: NDArray[np.float32] = threshold_below(kth_values, self.flats[rows]).astype(np.float32)
        return thresholds


def bounds_of(matrix: Matrix, queries: Rounded, docs: Extent) -> Bounds:
    """Bounds for the products of queries (as stored in `matrix`) and documents."""
    scales, found = queries.scales.astype(np.float64), errors(queries, docs)
    offsets = matrix.astype(np.float64) @ docs.mean.astype(np.float64)
    return Bounds(scales, offsets, found.flat / scales, found.slope / scales)


def threshold_below(value: Any, error: Any) -> Any:
    """What float32 numbers of at least value - error reach, rounded to float32 or not; of numbers or of arrays."""
    low = value - error
    return low - 2.0**-22 * np.abs(low)


def precision_for(queries: Matrix, docs: Matrix, k: int) -> str:
    """The fastest precision that lets few more than k documents of a query through. No bit of a result depends on it.

    Args:
        queries: float16 or float32 [q, dim].
        docs: float16 or float32 [n, dim].
        k: hits per query.
    """
    order = fastest_first()
    queries = queries[:: -(-len(queries) // SAMPLE_QUERIES)]
    sample = docs[:: -(-len(docs) // SAMPLE_DOCUMENTS)]
    k = min(math.ceil(k * len(sample) / len(docs)), len(sample))
    mean = mean_of(sample)
    scores = queries.astype(np.float32) @ (sample.astype(np.float32) - mean).T
    kth = np.partition(scores, len(sample) - k, axis=1)[:, len(sample) - k]
    for precision in order[:-1]:
        kept = rounded(sample, precision, mean)
        error = errors(rounded(queries, precision), kept.extent)
        room = 2 * (error.flat[:, None] + error.slope[:, None] * kept.residuals)
        survivors = (scores + room >= kth[:, None]).sum(axis=1)
        if survivors.mean() <= MOST_SURVIVORS * k:
            return precision
    return order[-1]


@cache
def fastest_first() -> list[str]:
    """The precisions that this CPU multiplies faster than float32, fastest first, and float32: tried once."""
    seconds = dict(zip(PRECISIONS, in_threads(_seconds, PRECISIONS, 1), strict=True))
    faster = [name for name in seconds if seconds[name] < seconds["float32"]]
    return [*sorted(faster, key=lambda name: seconds[name]), "float32"]


def _is_supported(precision: str) -> bool:
    import torch

    if precision == "bfloat16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return hasattr(torch, "_int_mm")


def _seconds(precision: str) -> float:
    """The least of TRIALS."""
    if not _is_supported(precision):
        return math.inf
    # Not of constant numbers, which some cores multiply faster.
    some = np.random.default_rng(0).standard_normal((512, 256), np.float32)
    left, right = (rounded(some[:size], precision) for size in (256, 512))
    buffers = make_buffers(precision, 256 * 512)
    runs: list[float] = []
    while len(runs) < TRIALS and sum(runs) < 1:
        begin = time.perf_counter()
        try:
            products(left, right, buffers)
        except RuntimeError:  # not on this platform
            return math.inf
        runs.append(time.perf_counter() - begin)
    return min(runs)
