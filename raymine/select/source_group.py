"""The filter by metadata equal to the positive's: of the same article, the same product family.

Such documents are often answers too, or, kept on purpose, the hardest negatives there are.
"""

from __future__ import annotations

import numpy as np

from raymine.select.base import Candidates, Mask
from raymine.select.groups import shares_value
from raymine.select_config import SameSourceGroup


def same_source_group(candidates: Candidates, config: SameSourceGroup) -> Mask:
    """What has a value that a positive of the query has, or (keep: same) what has not.

    A query of whose positives none has a value keeps all its candidates.
    """
    values, known = candidates.codes(config.traits[0])
    shares = shares_value(candidates, values, known)
    if config.keep == "other":
        return shares
    has_reference = np.isin(candidates.query_row, candidates.query_row[candidates.is_positive & known])
    return np.asarray(has_reference & ~shares)
