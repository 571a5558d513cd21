"""The race of exact search: which products may still be among the k best of their query.

A product stays if it reaches its query's threshold, which follows from the k-th best product so far and the bound on
the products' errors (index.first_pass). The bits of floating point numbers, taken as integers with those of negative
numbers flipped, order as the numbers do: BLOCK products of bfloat16 are compared at once, without a branch. Measured
on one core: 45 GB/s, 0.09 ms for a tile of 512 x 4096 products that took 2.3 ms to compute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.index.compiled import compiled
from raymine.topk import gathered_scores
from raymine.vectors import Matrix

# How far rounding to bfloat16 takes a number, relative to it. Beside the loops that use it, which are compiled again
# only when this file changes.
RELATIVE_ERROR = 2.0**-8
BLOCK = 64  # products compared before any of them is looked at by itself


@compiled
def value_of(key: int) -> float:
    """The number whose bits, as bfloat16, made the key."""
    single = np.empty(1, np.int32)
    wide = np.int64(key) << 16
    single[0] = wide ^ ((wide >> 31) & 0x7FFFFFFF)
    return float(single.view(np.float32)[0])


@compiled
def threshold_below(value: float, error: float, relative: float) -> int:
    """The key that a product must reach, if k products or k exact scores reach `value`.

    A product x is at most e + r |x| from its exact score. So if k products reach a, k exact scores reach a - e - r |a|,
    and a document whose product is below that by another e + r |a| is not among the k best, not even by a tie. One key
    lower still, since there are two zeros.

    Args:
        value: a.
        error: e.
        relative: r.
    """
    single = np.empty(1, np.float32)
    single[0] = value - 2.01 * (error + relative * abs(value))
    low = np.int64(single.view(np.int32)[0])
    return int((low ^ ((low >> 31) & 0x7FFFFFFF)) >> 16) - 1


@compiled
def thresholds_below(values: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.int16]:
    """threshold_below of each query, int16 [q]."""
    thresholds = np.empty(len(values), np.int16)
    for query in range(len(values)):
        thresholds[query] = threshold_below(values[query], errors[query], RELATIVE_ERROR)
    return thresholds


@compiled
def shrink(
    keys: NDArray[np.int16], docs: NDArray[np.int32], size: int, k: int, threshold: int, error: float
) -> tuple[int, int]:
    """Raises a query's threshold to what its k-th best product allows, and drops what does not reach it.

    Returns:
        How many of keys and docs are still in use, and the threshold.
    """
    if size >= k:
        kth = np.partition(keys[:size], size - k)[size - k]
        threshold = max(threshold, threshold_below(value_of(kth), error, RELATIVE_ERROR))
    kept = 0
    for position in range(size):
        if keys[position] >= threshold:
            keys[kept], docs[kept] = keys[position], docs[position]
            kept += 1
    return kept, threshold


@compiled
def offer(
    products: NDArray[np.int16],
    first_doc: int,
    k: int,
    errors: NDArray[np.float64],
    keys: NDArray[np.int16],
    docs: NDArray[np.int32],
    sizes: NDArray[np.int64],
    thresholds: NDArray[np.int16],
    row: int,
    column: int,
) -> tuple[int, int]:
    """Takes in the products of queries with consecutive documents.

    Args:
        products: int16 [q, n], bits of bfloat16.
        first_doc: index of the first document.
        k: hits wanted.
        errors: float64 [q], see threshold_below.
        keys: int16 [q, capacity], what is in the race; capacity is 2 k + 2 BLOCK or more.
        docs: int32 [q, capacity], the documents of the keys.
        sizes: int64 [q], how many of them are in use.
        thresholds: int16 [q], what a product must reach.
        row: where to begin.
        column: where to begin in that row.

    Returns:
        (q, 0) when all is taken in; else the place at which a query's keys are full and cannot be told apart.
    """
    # One function without calls in its loop: an array that is handed over costs as much as comparing ten blocks.
    num_queries, width = products.shape
    for query in range(row, num_queries):
        size, threshold = sizes[query], thresholds[query]
        begin = column
        while begin < width:
            end = min(begin + BLOCK, width)
            reached = np.uint8(0)
            for position in range(np.uint64(begin), np.uint64(end)):
                bits = products[query, position]
                key = np.int16(bits ^ np.int16(np.int16(bits >> np.int16(15)) & np.int16(0x7FFF)))
                reached |= np.uint8(key >= threshold)
            if reached != 0:
                if size + BLOCK > keys.shape[1]:
                    size, threshold = shrink(keys[query], docs[query], size, k, threshold, errors[query])
                    if size + BLOCK > keys.shape[1]:
                        sizes[query], thresholds[query] = size, threshold
                        return query, begin
                for position in range(np.uint64(begin), np.uint64(end)):
                    bits = products[query, position]
                    key = np.int16(bits ^ np.int16(np.int16(bits >> np.int16(15)) & np.int16(0x7FFF)))
                    if key >= threshold:
                        keys[query, size], docs[query, size] = key, first_doc + position
                        size += 1
            begin = end
        sizes[query], thresholds[query] = size, threshold
        column = 0
    return num_queries, 0


@compiled
def shrink_all(
    k: int,
    errors: NDArray[np.float64],
    keys: NDArray[np.int16],
    docs: NDArray[np.int32],
    sizes: NDArray[np.int64],
    thresholds: NDArray[np.int16],
) -> None:
    """Shrinks every query's products to what may be among its k best. Arguments as of `offer`."""
    for query in range(len(sizes)):
        sizes[query], thresholds[query] = shrink(
            keys[query], docs[query], sizes[query], k, thresholds[query], errors[query]
        )


class Race:
    """The documents of a chunk that may still be among the k best of each query of a tile.

    Args:
        queries: float16 or float32 [q, dim].
        docs: float16 or float32 [n, dim].
        errors: float64 [q], how far a query's products may be from the exact scores before they are rounded.
        kth_scores: float64 [q], the k-th best final score so far; -inf where there are fewer.
        k: hits per query.
    """

    def __init__(
        self,
        queries: Matrix,
        docs: Matrix,
        errors: NDArray[np.float64],
        kth_scores: NDArray[np.float64],
        k: int,
    ) -> None:
        self.queries, self.docs, self.errors, self.k = queries, docs, errors, k
        self.is_first = bool(np.isneginf(kth_scores).all())
        capacity = 2 * k + 2 * BLOCK
        self.kept_keys = np.empty((len(queries), capacity), np.int16)
        self.kept_docs = np.empty((len(queries), capacity), np.int32)
        self.sizes = np.zeros(len(queries), np.int64)
        self.thresholds = thresholds_below(kth_scores, errors)

    def offer(self, bits: NDArray[np.int16], first_doc: int) -> None:
        """Takes in the products of all queries with consecutive documents.

        Args:
            bits: int16 [q, n], of bfloat16.
            first_doc: index in the chunk of the first of the n documents.
        """
        if self.is_first:
            self._begin(bits)
        row, column = 0, 0
        while row < len(bits):
            row, column = offer(
                bits, first_doc, self.k, self.errors,
                self.kept_keys, self.kept_docs, self.sizes, self.thresholds, row, column,
            )  # fmt: skip
            if row < len(bits):
                self._decide(row)

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is left: query indexes in the tile and document indexes in the chunk, int64 [n] each."""
        shrink_all(self.k, self.errors, self.kept_keys, self.kept_docs, self.sizes, self.thresholds)
        in_use = np.arange(self.kept_docs.shape[1]) < self.sizes[:, None]
        return np.nonzero(in_use)[0], self.kept_docs[in_use].astype(np.int64)

    def _begin(self, bits: NDArray[np.int16]) -> None:
        """Sets thresholds from the first products of all, or else most of them would be taken in one by one."""
        self.is_first = False
        width = bits.shape[1]
        if width > self.k:
            keys = bits ^ ((bits >> 15) & np.int16(0x7FFF))
            kth = np.partition(keys, width - self.k, axis=1)[:, width - self.k].astype(np.int32)
            values = ((kth ^ ((kth >> 15) & 0x7FFF)) << 16).view(np.float32).astype(np.float64)
            self.thresholds = thresholds_below(values, self.errors)

    def _decide(self, row: int) -> None:
        """Keeps the k best of a query by their final scores: its products are too close to be told apart."""
        docs = self.kept_docs[row, : self.sizes[row]].astype(np.int64)
        scores = gathered_scores(self.queries, self.docs, np.full(len(docs), row), docs)
        best = np.lexsort((docs, -scores))[: self.k]
        self.kept_keys[row, : len(best)], self.kept_docs[row, : len(best)] = self.kept_keys[row, best], docs[best]
        self.sizes[row] = len(best)
        kth, error = scores[best[-1:]].astype(np.float64), self.errors[row : row + 1]
        self.thresholds[row] = max(self.thresholds[row], thresholds_below(kth, error)[0])
