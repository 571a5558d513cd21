"""Which centroid has the greatest product with a vector, compiled: products are read once, and not scaled in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.compiled import compiled

BLOCK = 64  # products compared before any of them is looked at by itself


@compiled
def best_columns(
    products: NDArray[np.int32] | NDArray[np.float32], scales: NDArray[np.float32], best: NDArray[np.int32]
) -> None:
    """The column of the greatest product times scale of each row, the first of those that tie.

    Args:
        products: int32 or float32 [n, columns].
        scales: float32 [columns], above 0.
        best: int32 [n], written to.
    """
    width = products.shape[1]
    for row in range(products.shape[0]):
        highest, at = np.float32(products[row, 0]) * scales[0], 0
        for begin in range(0, width, BLOCK):
            end = min(begin + BLOCK, width)
            is_higher = np.uint8(0)
            for column in range(np.uint64(begin), np.uint64(end)):
                is_higher |= np.uint8(np.float32(products[row, column]) * scales[column] > highest)
            if is_higher != 0:
                for column in range(begin, end):
                    value = np.float32(products[row, column]) * scales[column]
                    if value > highest:
                        highest, at = value, column
        best[row] = at
