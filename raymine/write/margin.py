"""Triplets with the margin between their scores: one row per (query, positive, negative).

Columns: anchor, positive, negative and `label`, the positive's score minus the negative's. For MarginMSELoss, which
takes a margin as well as the scores of `triplet`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, margins, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query, positive and slot; a positive without negatives has none."""
    positive, negative = group.pairs
    columns = {
        "anchor": texts(group.queries, group.positives.query[positive]),
        "positive": texts(group.positives.text, positive),
        "negative": texts(group.negatives.text, negative),
        "label": margins(group).cast(pa.float32()),
    }
    return Formatted(pa.table(columns), int(np.count_nonzero(group.per_positive() == 0)))


MARGIN = Format("parquet", make, needs_scores=True)
