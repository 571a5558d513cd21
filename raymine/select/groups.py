"""Whether a document shares a value, a cluster's number or metadata, with a positive of the query.

A document without a value shares nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.lookup import pair_positions
from raymine.select.base import Candidates, Mask

Values = NDArray[np.int64]


def shares_value(candidates: Candidates, values: Values, known: Mask) -> Mask:
    """Whether the value of each candidate is that of a positive of its query, bool [n].

    Args:
        candidates: the block.
        values: int64 [n].
        known: bool [n], whether the candidate has a value.
    """
    codes = np.unique(values, return_inverse=True)[1]
    positive = candidates.is_positive & known
    of_positives = (candidates.query_row[positive], codes[positive])
    return np.asarray((pair_positions(of_positives, (candidates.query_row, codes)) >= 0) & known)
