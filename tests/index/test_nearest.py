"""The nearest centroid, against numpy's argmax of the scaled products."""

from __future__ import annotations

import numpy as np
import pytest

from raymine.index.nearest import BLOCK, best_columns


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("width", [1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_the_best_column_is_the_first_of_the_greatest(dtype: type, width: int) -> None:
    """Few different products and scales, so that many tie, within a block and across blocks."""
    draw = np.random.default_rng(width)
    products = draw.integers(-4, 5, (300, width)).astype(dtype)
    scales = draw.choice([0.5, 1.0, 2.0], width).astype(np.float32)
    products[:20] = -7  # the greatest is below zero
    best = np.full(300, -1, np.int32)
    best_columns(products, scales, best)
    np.testing.assert_array_equal(best, (products * scales).argmax(axis=1))
