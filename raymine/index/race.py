"""The race of exact search: which documents may still be among the k best of their query.

A document stays if its product reaches its query's threshold, which follows from the k-th best product so far and the
bound on the products' errors (index.first_pass). BLOCK products are compared at once, without a branch; where the CPU
has the instructions, whole tiles are, while they are multiplied (index.int8_tile).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.compiled import compiled
from raymine.index import first_pass
from raymine.index.first_pass import Rounded
from raymine.index.int8_tile import DOCS, QUERIES, Panels, offer_tile, packed_queries, padded_rows
from raymine.scores import final_scores
from raymine.vectors import Matrix

BLOCK = 64  # products compared before any of them is looked at by itself
# Documents in the race per query, as a multiple of k: what int8 lets through fits (first_pass.MOST_SURVIVORS).
CAPACITY = 8


threshold_below = compiled(first_pass.threshold_below)


@compiled
def shrink(
    values: NDArray[np.float32],
    docs: NDArray[np.int32],
    size: int,
    k: int,
    threshold: float,
    flat: float,
    slope: float,
    residuals: NDArray[np.float32],
) -> tuple[int, float]:
    """Raises a query's threshold to what its values allow, and drops what does not reach it.

    A score is at least its value less flat and twice slope x residual. If k scores reach a, a document whose value is
    below a - flat is not among the k best, not even by a tie.

    Returns:
        How many of values and docs are still in use, and the threshold.
    """
    if size >= k:
        lows = np.empty(size, np.float32)
        for position in range(size):
            lows[position] = values[position] - np.float32(2.001 * slope) * residuals[docs[position]]
        kth = np.partition(lows, size - k)[size - k]
        threshold = max(threshold, np.float32(threshold_below(kth, 2 * flat)))
    kept = 0
    for position in range(size):
        if values[position] >= threshold:
            values[kept], docs[kept] = values[position], docs[position]
            kept += 1
    return kept, threshold


@compiled
def offer(
    products: NDArray[np.int32] | NDArray[np.float32],
    scales: NDArray[np.float32],
    residuals: NDArray[np.float32],
    first_doc: int,
    k: int,
    flats: NDArray[np.float64],
    slopes: NDArray[np.float64],
    values: NDArray[np.float32],
    docs: NDArray[np.int32],
    sizes: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    row: int,
    column: int,
) -> tuple[int, int]:
    """Takes in the products of queries with consecutive documents.

    A value is a product times its document's scale, plus slope x residual: a score's upper bound, but for flat.

    Args:
        products: int32 or float32 [q, n].
        scales: float32 [all], of the chunk's documents.
        residuals: float32 [all].
        first_doc: index in the chunk of the first document.
        k: hits wanted.
        flats: float64 [q].
        slopes: float64 [q].
        values: float32 [q, capacity], what is in the race; capacity is 2 k + 2 BLOCK or more.
        docs: int32 [q, capacity], the documents of the values.
        sizes: int64 [q], how many of them are in use.
        thresholds: float32 [q], what a value must reach.
        row: where to begin.
        column: where to begin in that row.

    Returns:
        (q, 0) when all is taken in; else the place at which a query's values are full and cannot be told apart.
    """
    # One function without calls in its loop: an array that is handed over costs as much as comparing ten blocks.
    num_queries, width = products.shape
    flags = np.zeros(BLOCK, np.uint8)
    eights = flags.view(np.uint64)
    for query in range(row, num_queries):
        size, threshold, slope = sizes[query], thresholds[query], np.float32(slopes[query])
        begin = column
        while begin < width:
            end = min(begin + BLOCK, width)
            reached = np.uint8(0)
            for position in range(np.uint64(begin), np.uint64(end)):
                doc = np.uint64(first_doc) + position
                value = np.float32(products[query, position]) * scales[doc] + slope * residuals[doc]
                reached |= np.uint8(value >= threshold)
            if reached != 0:
                if size + BLOCK > values.shape[1]:
                    size, threshold = shrink(
                        values[query], docs[query], size, k, threshold, flats[query], slopes[query], residuals
                    )
                    if size + BLOCK > values.shape[1]:
                        sizes[query], thresholds[query] = size, threshold
                        return query, begin
                for position in range(np.uint64(begin), np.uint64(end)):
                    doc = np.uint64(first_doc) + position
                    value = np.float32(products[query, position]) * scales[doc] + slope * residuals[doc]
                    flags[position - np.uint64(begin)] = np.uint8(value >= threshold)
                for eighth in range(np.uint64((end - begin + 7) // 8)):
                    if eights[eighth] != 0:
                        start = np.uint64(begin) + np.uint64(8) * eighth
                        for position in range(start, min(start + np.uint64(8), np.uint64(end))):
                            doc = np.uint64(first_doc) + position
                            value = np.float32(products[query, position]) * scales[doc] + slope * residuals[doc]
                            values[query, np.uint64(size)], docs[query, np.uint64(size)] = value, doc
                            size += np.int64(value >= threshold)
            begin = end
        sizes[query], thresholds[query] = size, threshold
        column = 0
    return num_queries, 0


@compiled
def offer_panels(
    queries: NDArray[np.int8],
    starts: NDArray[np.int32],
    numbers: NDArray[np.uint8],
    scales: NDArray[np.float32],
    residuals: NDArray[np.float32],
    k: int,
    flats: NDArray[np.float64],
    slopes: NDArray[np.float64],
    values: NDArray[np.float32],
    docs: NDArray[np.int32],
    sizes: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    panel: int,
    begin: int,
) -> tuple[int, int, int]:
    """Multiplies queries with the panels of a chunk and takes in what reaches their thresholds, as `offer` does.

    Args:
        queries: int8 [rows, dim], from packed_queries.
        starts: int32 [rows], likewise.
        numbers, scales, residuals: of the panels.
        k, flats, slopes, values, docs, sizes, thresholds: as of `offer`, of all rows.
        panel: where to begin.
        begin: with which query of that panel.

    Returns:
        (panels, 0, 0) when all is taken in; else the panel and the query to go on with, and the query whose values are
        full and cannot be told apart.
    """
    dim, capacity = queries.shape[1], values.shape[1]
    as_singles = slopes.astype(np.float32)
    bytes_per_panel = numbers.size // len(numbers)
    while panel < len(numbers):
        first_doc = panel * DOCS
        while begin < len(queries):
            for query in range(begin, begin + QUERIES):
                if sizes[query] + DOCS > capacity:
                    sizes[query], thresholds[query] = shrink(
                        values[query], docs[query], sizes[query], k, thresholds[query], flats[query], slopes[query],
                        residuals,
                    )  # fmt: skip
                    if sizes[query] + DOCS > capacity:
                        return panel, begin, query
            offer_tile(
                np.uintp(queries.ctypes.data + begin * dim),
                np.uintp(dim),
                np.uintp(starts.ctypes.data + 4 * begin),
                np.uintp(numbers.ctypes.data + panel * bytes_per_panel),
                np.uintp(scales.ctypes.data + 4 * first_doc),
                np.uintp(residuals.ctypes.data + 4 * first_doc),
                np.uintp(as_singles.ctypes.data + 4 * begin),
                np.uintp(thresholds.ctypes.data + 4 * begin),
                np.uintp(values.ctypes.data + 4 * begin * capacity),
                np.uintp(docs.ctypes.data + 4 * begin * capacity),
                np.uintp(capacity),
                np.uintp(sizes.ctypes.data + 8 * begin),
                np.uintp(first_doc),
            )
            begin += QUERIES
        panel, begin = panel + 1, 0
    return len(numbers), 0, 0


@compiled
def shrink_all(
    k: int,
    residuals: NDArray[np.float32],
    flats: NDArray[np.float64],
    slopes: NDArray[np.float64],
    values: NDArray[np.float32],
    docs: NDArray[np.int32],
    sizes: NDArray[np.int64],
    thresholds: NDArray[np.float32],
) -> None:
    """Shrinks every query's values to what may be among its k best. Arguments as of `offer`."""
    for query in range(len(sizes)):
        sizes[query], thresholds[query] = shrink(
            values[query], docs[query], sizes[query], k, thresholds[query], flats[query], slopes[query], residuals
        )


class Race:
    """The documents of a chunk that may still be among the k best of each query of a tile.

    Args:
        queries: float16 or float32 [q, dim].
        docs: float16 or float32 [n, dim].
        rounded_queries: the queries as they are multiplied.
        rounded_docs: the documents likewise.
        kth_scores: float64 [q], the k-th best final score so far; -inf where there are fewer.
        k: hits per query.
    """

    def __init__(
        self,
        queries: Matrix,
        docs: Matrix,
        rounded_queries: Rounded,
        rounded_docs: Rounded,
        kth_scores: NDArray[np.float64],
        k: int,
    ) -> None:
        self.queries, self.docs, self.k = queries, docs, k
        self.rounded_queries = rounded_queries
        self.doc_scales, self.residuals = rounded_docs.scales, rounded_docs.residuals
        self.bounds = first_pass.bounds_of(queries, rounded_queries, rounded_docs)
        self.is_first = bool(np.isneginf(kth_scores).all())
        # Of whole tiles: what is not a number reaches no threshold.
        capacity, rows = CAPACITY * k + 2 * BLOCK, padded_rows(len(queries))
        self.values = np.empty((rows, capacity), np.float32)
        self.in_race = np.empty((rows, capacity), np.int32)
        self.sizes = np.zeros(rows, np.int64)
        self.thresholds = np.full(rows, np.nan, np.float32)
        self.thresholds[: len(queries)] = self.bounds.thresholds(slice(None), kth_scores)
        self.flats, self.slopes = np.zeros(rows), np.zeros(rows)
        self.flats[: len(queries)], self.slopes[: len(queries)] = self.bounds.flats, self.bounds.slopes

    def offer(self, products: NDArray[np.int32] | NDArray[np.float32], first_doc: int) -> None:
        """Takes in the products of all queries with consecutive documents.

        Args:
            products: int32 or float32 [q, n].
            first_doc: index in the chunk of the first of the n documents.
        """
        if self.is_first:
            self.begin(products, first_doc)
        row, column = 0, 0
        while row < len(products):
            row, column = offer(
                products, self.doc_scales, self.residuals, first_doc, self.k, self.flats, self.slopes,
                self.values, self.in_race, self.sizes, self.thresholds, row, column,
            )  # fmt: skip
            if row < len(products):
                self._decide(row)

    def offer_panels(self, panels: Panels) -> None:
        """Takes in all documents of the chunk, in int8."""
        queries, starts = packed_queries(self.rounded_queries.tensor)
        panel, begin = 0, 0
        while panel < len(panels.numbers):
            panel, begin, full = offer_panels(
                queries, starts, panels.numbers, panels.scales, panels.residuals, self.k, self.flats, self.slopes,
                self.values, self.in_race, self.sizes, self.thresholds, panel, begin,
            )  # fmt: skip
            if panel < len(panels.numbers):
                self._decide(full)

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is left: query indexes in the tile and document indexes in the chunk, int64 [n] each."""
        shrink_all(
            self.k, self.residuals, self.flats, self.slopes, self.values, self.in_race, self.sizes, self.thresholds
        )
        in_use = np.arange(self.in_race.shape[1]) < self.sizes[:, None]
        return np.nonzero(in_use)[0], self.in_race[in_use].astype(np.int64)

    def begin(self, products: NDArray[np.int32] | NDArray[np.float32], first_doc: int) -> None:
        """Sets thresholds from the first products of all, or else most of them would be taken in one by one."""
        self.is_first = False
        width = products.shape[1]
        if width > self.k:
            docs = slice(first_doc, first_doc + width)
            lows = products.astype(np.float32) * self.doc_scales[docs]
            lows -= (1.001 * self.bounds.slopes[:, None]).astype(np.float32) * self.residuals[docs]
            kth = np.partition(lows, width - self.k, axis=1)[:, width - self.k]
            low = first_pass.threshold_below(kth.astype(np.float64), 2 * self.bounds.flats)
            self.thresholds[: len(products)] = low.astype(np.float32)

    def _decide(self, row: int) -> None:
        """Keeps the k best of a query by their final scores: its values are too close to be told apart."""
        docs = self.in_race[row, : self.sizes[row]].astype(np.int64)
        scores = final_scores(self.queries, self.docs, np.full(len(docs), row), docs)
        best = np.lexsort((docs, -scores))[: self.k]
        self.values[row, : len(best)], self.in_race[row, : len(best)] = self.values[row, best], docs[best]
        self.sizes[row] = len(best)
        by_scores = self.bounds.thresholds(slice(row, row + 1), scores[best[-1:]].astype(np.float64))
        self.thresholds[row] = max(self.thresholds[row], by_scores[0])
