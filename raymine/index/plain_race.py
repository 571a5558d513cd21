"""The race of exact search over few documents, in numpy: all products are kept, and looked at once.

As index.race, without the second that compiled code takes to import: up to PAIRS this costs less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.index.first_pass import Rounded, bounds_of, threshold_below
from raymine.vectors import Matrix

PAIRS = 1 << 23  # of queries and documents; scifact has 4.2 million


class PlainRace:
    """The documents that may be among the k best of each query of a tile.

    Args:
        queries: float16 or float32 [q, dim].
        rounded_queries: the queries as they are multiplied.
        rounded_docs: the documents likewise.
        kth_scores: float64 [q], the k-th best final score so far; -inf where there are fewer.
        k: hits per query.
    """

    def __init__(
        self,
        queries: Matrix,
        rounded_queries: Rounded,
        rounded_docs: Rounded,
        kth_scores: NDArray[np.float64],
        k: int,
    ) -> None:
        self.scales, self.residuals, self.k = rounded_docs.scales, rounded_docs.residuals, k
        self.bounds = bounds_of(queries, rounded_queries, rounded_docs.extent)
        self.thresholds = self.bounds.thresholds(slice(None), kth_scores)
        self.values: list[NDArray[np.float32]] = []

    def offer(self, products: NDArray[np.int32] | NDArray[np.float32], first_doc: int) -> None:
        """Takes in the products of all queries with the next documents.

        Args:
            products: int32 or float32 [q, n].
            first_doc: index in the chunk of the first of the n documents.
        """
        self.values.append(products.astype(np.float32) * self.scales[first_doc : first_doc + products.shape[1]])

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is left: query indexes in the tile and document indexes in the chunk, int64 [n] each."""
        values = np.concatenate(self.values, axis=1)
        room = (1.001 * self.bounds.slopes[:, None]).astype(np.float32) * self.residuals
        thresholds = self.thresholds
        if values.shape[1] > self.k:
            kth = np.partition(values - room, values.shape[1] - self.k, axis=1)[:, values.shape[1] - self.k]
            by_values = threshold_below(kth.astype(np.float64), 2 * self.bounds.flats).astype(np.float32)
            thresholds = np.maximum(thresholds, by_values)
        query_index, doc_index = np.nonzero(values + room >= thresholds[:, None])
        return query_index.astype(np.int64), doc_index.astype(np.int64)
