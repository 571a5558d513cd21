"""sentence-transformers' triplet: one row per (query, positive, negative).

Columns: anchor, positive, negative and, with scores, `scores` = [positive's, negative's]. For
MultipleNegativesRankingLoss, TripletLoss and their kin; with scores for MarginMSELoss.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, lists, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query, positive and slot; a positive without negatives has none."""
    positive, negative = group.pairs
    columns = {
        "anchor": texts(group.queries, group.positives.query[positive]),
        "positive": texts(group.positives.text, positive),
        "negative": texts(group.negatives.text, negative),
    }
    if scores:
        both = np.stack([group.positives.score[positive], group.negatives.score[negative]], axis=1)
        columns["scores"] = lists(pa.array(both.reshape(-1), pa.float32()), np.full(len(positive), 2))
    return Formatted(pa.table(columns), int(np.count_nonzero(group.per_positive() == 0)))


TRIPLET = Format("parquet", make)
