"""The filter of near duplicates: texts that share most of their shingles with a positive, or with a better candidate.

The similarities are found before (retrieve/near.py); here is only the threshold, so it can be raised afterwards.
"""

from __future__ import annotations

import numpy as np

from raymine.select.base import Candidates, Mask
from raymine.select_config import NearDuplicate


def near_duplicate(candidates: Candidates, config: NearDuplicate) -> Mask:
    """What is as similar as the threshold, or more, to a positive of the query or to a better candidate of it.

    Better is what ranks higher in any source, whatever becomes of it: of near-equal texts one at most is left.
    """
    near = [np.float32(config.threshold) <= candidates.trait(name) for name in config.traits]
    return np.asarray(near[0] | near[1])
