"""Filters by what a document shares with the query's positives: a cluster, or a value of its metadata.

Documents of a positive's cluster are the likeliest unlabelled positives; those of its own article or product family are
often answers too, or, kept on purpose, the hardest negatives there are. A document without a value shares nothing; a
query of whose positives none has a value keeps all its candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.lookup import pair_positions
from raymine.select.base import Candidates, Mask
from raymine.select_config import OtherCluster, SameSourceGroup

Values = NDArray[np.int64]


def other_cluster(candidates: Candidates, config: OtherCluster) -> Mask:
    """What lies in a cluster of a positive of the query."""
    return shares_value(candidates, *candidates.codes(config.traits[0]))


def same_source_group(candidates: Candidates, config: SameSourceGroup) -> Mask:
    """What has a value that a positive of the query has, or (keep: same) what has not."""
    values, known = candidates.codes(config.traits[0])
    shares = shares_value(candidates, values, known)
    if config.keep == "other":
        return shares
    has_reference = np.isin(candidates.query_row, candidates.query_row[candidates.is_positive & known])
    return np.asarray(has_reference & ~shares)


def shares_value(candidates: Candidates, values: Values, known: Mask) -> Mask:
    """Whether the value of each candidate is that of a positive of its query, bool [n]."""
    codes = np.unique(values, return_inverse=True)[1]
    positive = candidates.is_positive & known
    of_positives = (candidates.query_row[positive], codes[positive])
    return np.asarray((pair_positions(of_positives, (candidates.query_row, codes)) >= 0) & known)
