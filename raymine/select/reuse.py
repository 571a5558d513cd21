"""The filter of documents that serve many queries: hubs, and what is nobody's negative in particular.

It goes last: each document stays for the queries in which it ranks best, of those that kept it so far. So it is the one
filter that looks at what others left, and tightening another may bring a candidate back here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine.select.base import Candidates, Mask
from raymine.select_config import MaxReuse
from raymine.topk import ranks_within

Rows = NDArray[np.int64]


def max_reuse(candidates: Candidates, config: MaxReuse) -> Mask:
    """What other queries have a better claim to (Candidates.overused: found in a pass over all queries)."""
    return candidates.overused


def overused(query_rows: Rows, doc_rows: Rows, ranks: Rows, n: int) -> Mask:
    """Which pairs go so that each document is left with n queries: those in which it ranks best, then the first ones.

    Args:
        query_rows: int64 [m].
        doc_rows: int64 [m].
        ranks: int64 [m], of the document in the query, best over the sources.
        n: queries per document at most.

    Returns:
        bool [m].
    """
    order = np.lexsort((query_rows, ranks, doc_rows))
    goes = np.empty(len(order), np.bool_)
    goes[order] = ranks_within(doc_rows[order]) >= n
    return goes
