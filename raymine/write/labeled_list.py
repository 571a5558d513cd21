"""sentence-transformers' labeled-list: one row per (query, positive), with the documents as a list.

Columns: anchor, positive = [positive, negatives ...] and `labels` = [1, 0 ...] or `scores`. For a CrossEncoder with
LambdaLoss, ListNetLoss, ListMLELoss, PListMLELoss, RankNetLoss.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, headed, lists, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query and positive; a positive without negatives has none."""
    per_positive = group.per_positive()
    positive = np.flatnonzero(per_positive)
    lengths = per_positive[positive]
    order = headed(positive, group.pairs[1] + len(group.positives), lengths)
    documents = pa.concat_arrays([group.positives.text, group.negatives.text])
    columns = {
        "anchor": texts(group.queries, group.positives.query[positive]),
        "positive": lists(texts(documents, order), lengths + 1),
    }
    if scores:
        all_scores = np.concatenate([group.positives.score, group.negatives.score])
        columns["scores"] = lists(pa.array(all_scores[order], pa.float32()), lengths + 1)
    else:
        columns["labels"] = lists(pa.array((order < len(group.positives)).astype(np.int64)), lengths + 1)
    return Formatted(pa.table(columns), int(np.count_nonzero(per_positive == 0)))


LABELED_LIST = Format("parquet", make)
