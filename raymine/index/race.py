"""The race of exact search: which documents may still be among the k best of their query.

A document stays if its product reaches its query's threshold, which follows from the k-th best product so far and the
bound on the products' errors (index.first_pass). BLOCK products are compared at once, without a branch; where the CPU
has the instructions, whole tiles are, while they are multiplied (index.int8_tile).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymine.compiled import compiled
from raymine.index import first_pass
from raymine.index.first_pass import Extent, Rounded
from raymine.index.int8_tile import DOCS, QUERIES, Panels, offer_tile, packed_queries
from raymine.vectors import Matrix

# Which of these slots are the k best for a query, best first, and their final scores.
BestOf = Callable[[int, NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.float32]]]

BLOCK = 64  # products compared before any of them is looked at by itself
# Documents in the race per query, as a multiple of k: what int8 lets through fits (first_pass.MOST_SURVIVORS).
CAPACITY = 8


threshold_below = compiled(first_pass.threshold_below)


class Standings(NamedTuple):
    """Of each query, what is in the race, and what decides it. A value is a product times its document's scale, plus
    slope x residual: a score's upper bound, but for flat.

    Args:
        k: hits wanted.
        residuals: float32 [all], of the documents.
        flats: float64 [q].
        slopes: float64 [q].
        values: float32 [q, capacity], what is in the race; capacity is 2 k + 2 BLOCK or more.
        docs: int32 [q, capacity], the documents of the values.
        sizes: int64 [q], how many of them are in use.
        thresholds: float32 [q], what a value must reach.
    """

    k: int
    residuals: NDArray[np.float32]
    flats: NDArray[np.float64]
    slopes: NDArray[np.float64]
    values: NDArray[np.float32]
    docs: NDArray[np.int32]
    sizes: NDArray[np.int64]
    thresholds: NDArray[np.float32]


@compiled
def shrink(race: Standings, query: int) -> int:
    """Raises a query's threshold to what its values allow, and drops what does not reach it.

    A score is at least its value less flat and twice slope x residual. If k scores reach a, a document whose value is
    below a - flat is not among the k best, not even by a tie.

    Returns:
        How many of its values are still in use.
    """
    values, docs, size, threshold = race.values[query], race.docs[query], race.sizes[query], race.thresholds[query]
    if size >= race.k:
        lows = np.empty(size, np.float32)
        for position in range(size):
            lows[position] = values[position] - np.float32(2.001 * race.slopes[query]) * race.residuals[docs[position]]
        kth = np.partition(lows, size - race.k)[size - race.k]
        threshold = max(threshold, np.float32(threshold_below(kth, 2 * race.flats[query])))
    kept = 0
    for position in range(size):
        if values[position] >= threshold:
            values[kept], docs[kept] = values[position], docs[position]
            kept += 1
    race.sizes[query], race.thresholds[query] = kept, threshold
    return kept


@compiled
def offer(
    race: Standings,
    rows: NDArray[np.int64],
    products: NDArray[np.int32] | NDArray[np.float32],
    scales: NDArray[np.float32],
    first_doc: int,
    row: int,
    column: int,
) -> tuple[int, int]:
    """Takes in the products of queries with consecutive documents.

    Args:
        race: of all queries.
        rows: int64 [n], which queries the products are of.
        products: int32 or float32 [n, docs].
        scales: float32 [all], of the documents.
        first_doc: index of the first document.
        row: where to begin.
        column: where to begin in that row.

    Returns:
        (n, 0) when all is taken in; else the place at which a query's values are full and cannot be told apart.
    """
    # One function without calls in its loop: an array that is handed over costs as much as comparing ten blocks.
    residuals, values, docs = race.residuals, race.values, race.docs
    num_rows, width = products.shape
    flags = np.zeros(BLOCK, np.uint8)
    eights = flags.view(np.uint64)
    for at in range(row, num_rows):
        query = rows[at]
        size, threshold, slope = race.sizes[query], race.thresholds[query], np.float32(race.slopes[query])
        begin = column
        while begin < width:
            end = min(begin + BLOCK, width)
            reached = np.uint8(0)
            for position in range(np.uint64(begin), np.uint64(end)):
                doc = np.uint64(first_doc) + position
                value = np.float32(products[at, position]) * scales[doc] + slope * residuals[doc]
                reached |= np.uint8(value >= threshold)
            if reached != 0:
                if size + BLOCK > values.shape[1]:
                    race.sizes[query] = size
                    size, threshold = shrink(race, query), race.thresholds[query]
                    if size + BLOCK > values.shape[1]:
                        return at, begin
                for position in range(np.uint64(begin), np.uint64(end)):
                    doc = np.uint64(first_doc) + position
                    value = np.float32(products[at, position]) * scales[doc] + slope * residuals[doc]
                    flags[position - np.uint64(begin)] = np.uint8(value >= threshold)
                for eighth in range(np.uint64((end - begin + 7) // 8)):
                    if eights[eighth] != 0:
                        start = np.uint64(begin) + np.uint64(8) * eighth
                        for position in range(start, min(start + np.uint64(8), np.uint64(end))):
                            doc = np.uint64(first_doc) + position
                            value = np.float32(products[at, position]) * scales[doc] + slope * residuals[doc]
                            values[query, np.uint64(size)], docs[query, np.uint64(size)] = value, doc
                            size += np.int64(value >= threshold)
            begin = end
        race.sizes[query] = size
        column = 0
    return num_rows, 0


@compiled
def offer_panels(
    race: Standings,
    wanted: NDArray[np.bool_],
    queries: NDArray[np.int8],
    starts: NDArray[np.int32],
    numbers: NDArray[np.uint8],
    scales: NDArray[np.float32],
    lists: NDArray[np.int32],
    first_slot: int,
    panel: int,
    begin: int,
) -> tuple[int, int, int]:
    """Multiplies queries with the panels of the lists they want, and takes in what reaches their thresholds.

    Args:
        race: of all queries, and a row that nothing reaches.
        wanted: bool [lists, q], whether a query looks through a list.
        queries: int8 [q + 1, dim], from packed_queries.
        starts: int32 [q + 1], likewise.
        numbers, scales, lists: of the panels.
        first_slot: of the panels, among the race's documents.
        panel: where to begin.
        begin: with which of the queries that want its list.

    Returns:
        (panels, 0, 0) when all is taken in; else the panel and place to go on with, and the query whose values are full
        and cannot be told apart.
    """
    dim, capacity, num_queries = queries.shape[1], race.values.shape[1], wanted.shape[1]
    slopes = race.slopes.astype(np.float32)
    bytes_per_panel = numbers.size // len(numbers)
    rows, num_rows, of_list = np.empty(num_queries + QUERIES, np.int64), 0, -1
    while panel < len(numbers):
        if lists[panel] != of_list:
            of_list, num_rows = lists[panel], 0
            for query in range(num_queries):
                rows[num_rows] = query
                num_rows += np.int64(wanted[of_list, query])
            rows[num_rows : num_rows + QUERIES] = num_queries
        slot = first_slot + panel * DOCS
        while begin < num_rows:
            for at in range(begin, begin + QUERIES):
                query = rows[at]
                if race.sizes[query] + DOCS > capacity and shrink(race, query) + DOCS > capacity:
                    return panel, begin, query
            offer_tile(
                np.uintp(rows.ctypes.data + 8 * begin),
                np.uintp(queries.ctypes.data),
                np.uintp(dim),
                np.uintp(starts.ctypes.data),
                np.uintp(numbers.ctypes.data + panel * bytes_per_panel),
                np.uintp(scales.ctypes.data + 4 * DOCS * panel),
                np.uintp(race.residuals.ctypes.data + 4 * slot),
                np.uintp(slopes.ctypes.data),
                np.uintp(race.thresholds.ctypes.data),
                np.uintp(race.values.ctypes.data),
                np.uintp(race.docs.ctypes.data),
                np.uintp(capacity),
                np.uintp(race.sizes.ctypes.data),
                np.uintp(slot),
            )
            begin += QUERIES
        panel, begin = panel + 1, 0
    return len(numbers), 0, 0


@compiled
def shrink_all(race: Standings) -> None:
    """Shrinks every query's values to what may be among its k best."""
    for query in range(len(race.sizes)):
        shrink(race, query)


class Race:
    """The documents that may still be among the k best of each query of a tile.

    Documents are known by slots: their indexes, or where panels have them.

    Args:
        queries: float16 or float32 [q, dim].
        rounded_queries: the queries as they are multiplied.
        extent: of the documents as they are multiplied.
        residuals: float32 [slots], of the documents; not a number where a slot has none.
        kth_scores: float64 [q], the k-th best final score so far; -inf where there are fewer.
        k: hits per query.
        best_of: the k best of these slots for a query of the tile, best first, and their final scores.
    """

    def __init__(
        self,
        queries: Matrix,
        rounded_queries: Rounded,
        extent: Extent,
        residuals: NDArray[np.float32],
        kth_scores: NDArray[np.float64],
        k: int,
        best_of: BestOf,
    ) -> None:
        self.rounded_queries, self.best_of = rounded_queries, best_of
        self.bounds = first_pass.bounds_of(queries, rounded_queries, extent)
        self.is_first = bool(np.isneginf(kth_scores).all())
        # One row more, to fill up tiles with: what is not a number reaches no threshold.
        rows, capacity = len(queries) + 1, CAPACITY * k + 2 * BLOCK
        self.standings = Standings(
            k,
            residuals,
            np.append(self.bounds.flats, 0.0),
            np.append(self.bounds.slopes, 0.0),
            np.empty((rows, capacity), np.float32),
            np.empty((rows, capacity), np.int32),
            np.zeros(rows, np.int64),
            np.append(self.bounds.thresholds(slice(None), kth_scores), np.float32(np.nan)),
        )

    def offer(
        self,
        products: NDArray[np.int32] | NDArray[np.float32],
        scales: NDArray[np.float32],
        first_slot: int,
        rows: NDArray[np.int64],
    ) -> None:
        """Takes in the products of queries with consecutive documents.

        Args:
            products: int32 or float32 [n, docs].
            scales: float32 [slots], of all documents.
            first_slot: of the documents.
            rows: int64 [n], the queries' indexes in the tile.
        """
        row, column = 0, 0
        while row < len(products):
            row, column = offer(self.standings, rows, products, scales, first_slot, row, column)
            if row < len(products):
                self._decide(rows[row])

    def offer_panels(self, panels: Panels, first_slot: int, wanted: NDArray[np.bool_]) -> None:
        """Takes in documents of lists.

        Args:
            panels: the documents.
            first_slot: of them.
            wanted: bool [lists, q], whether a query looks through a list.
        """
        queries, starts = self.packed_queries
        numbers, scales, lists = panels.numbers, panels.scales, panels.lists
        panel, begin = 0, 0
        while panel < len(numbers):
            panel, begin, full = offer_panels(
                self.standings, wanted, queries, starts, numbers, scales, lists, first_slot, panel, begin
            )
            if panel < len(numbers):
                self._decide(full)

    @cached_property
    def packed_queries(self) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Of the tile, if it is in int8."""
        return packed_queries(self.rounded_queries.tensor)

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is left: query indexes in the tile and slots, int64 [n] each."""
        shrink_all(self.standings)
        in_use = np.arange(self.standings.docs.shape[1]) < self.standings.sizes[:, None]
        return np.nonzero(in_use)[0], self.standings.docs[in_use].astype(np.int64)

    def begin(self, products: NDArray[np.int32] | NDArray[np.float32], scales: NDArray[np.float32]) -> None:
        """Sets thresholds from the products of all queries with the first documents: or else most would be taken in."""
        k, width = self.standings.k, products.shape[1]
        if width > k:
            lows = products.astype(np.float32) * scales[:width]
            lows -= (1.001 * self.bounds.slopes[:, None]).astype(np.float32) * self.standings.residuals[:width]
            kth = np.partition(lows, width - k, axis=1)[:, width - k]
            low = first_pass.threshold_below(kth.astype(np.float64), 2 * self.bounds.flats)
            self.standings.thresholds[: len(products)] = low.astype(np.float32)

    def _decide(self, row: int) -> None:
        """Keeps the k best of a query by their final scores: its values are too close to be told apart."""
        race = self.standings
        slots = race.docs[row, : race.sizes[row]].astype(np.int64)
        best, scores = self.best_of(row, slots)
        race.values[row, : len(best)], race.docs[row, : len(best)] = race.values[row, best], slots[best]
        race.sizes[row] = len(best)
        by_scores = self.bounds.thresholds(slice(row, row + 1), scores[-1:].astype(np.float64))
        race.thresholds[row] = max(race.thresholds[row], by_scores[0])
