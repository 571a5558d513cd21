"""The filter by cluster: documents near a positive are the likeliest unlabelled positives.

A cluster is a cell of k-means over the documents' vectors, as an inverted file has them, or the value of a column.
"""

from __future__ import annotations

from raymine.select.base import Candidates, Mask
from raymine.select.groups import shares_value
from raymine.select_config import OtherCluster


def other_cluster(candidates: Candidates, config: OtherCluster) -> Mask:
    """What lies in a cluster of a positive of the query. What lies in none stays."""
    return shares_value(candidates, *candidates.codes(config.traits[0]))
