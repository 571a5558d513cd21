"""sentence-transformers' n-tuple: one row per (query, positive), with all n negatives.

Columns: anchor, positive, negative_1 .. negative_n and, with scores, `scores` = [positive's, negatives' ...]. For
MultipleNegativesRankingLoss and its kin; with scores for MarginMSELoss and DistillKLDivLoss.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, headed, lists, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query and positive; a positive with fewer than n negatives has none (columns cannot be empty)."""
    n = group.num_negatives
    is_full = group.per_positive() == n
    positive = np.flatnonzero(is_full)
    negative = group.pairs[1][is_full[group.pairs[0]]].reshape(-1, n)
    columns = {
        "anchor": texts(group.queries, group.positives.query[positive]),
        "positive": texts(group.positives.text, positive),
    } | {f"negative_{i + 1}": texts(group.negatives.text, negative[:, i]) for i in range(n)}
    if scores:
        all_scores = np.concatenate([group.positives.score, group.negatives.score])
        lengths = np.full(len(positive), n)
        order = headed(positive, negative.reshape(-1) + len(group.positives), lengths)
        columns["scores"] = lists(pa.array(all_scores[order], pa.float32()), lengths + 1)
    return Formatted(pa.table(columns), int(np.count_nonzero(~is_full)))


N_TUPLE = Format("parquet", make)
