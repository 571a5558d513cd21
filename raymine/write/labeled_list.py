"""sentence-transformers' labeled-list: a query with its documents as a list, a row per positive or one for all.

Columns: anchor, positive = [positives, negatives ...] and `labels` = [1, 0 ...] or `scores`. For a CrossEncoder with
LambdaLoss, ListNetLoss, ListMLELoss, PListMLELoss, RankNetLoss. `labeled-list` has a row per (query, positive), as
sentence-transformers' own mining; `labeled-list-all` one per query with all its positives in the list, which a listwise
loss then ranks above the negatives together.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, Rows, both_sides, headed, lists, per_query, texts


def make_each(group: Group, scores: bool) -> Formatted:
    """Rows by query and positive; a positive without negatives has none."""
    per_positive = group.per_positive()
    positive = np.flatnonzero(per_positive)
    lengths = per_positive[positive]
    order = headed(positive, group.pairs[1] + len(group.positives), lengths)
    table = _rows(group, group.positives.query[positive], order, lengths + 1, scores)
    return Formatted(table, int(np.count_nonzero(per_positive == 0)))


def make_all(group: Group, scores: bool) -> Formatted:
    """Rows by query, positives first; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    order, lengths = both_sides(group, rows)
    return Formatted(_rows(group, rows.query, order, lengths, scores), rows.num_left_out)


def _rows(group: Group, query: Rows, order: Rows, lengths: Rows, scores: bool) -> pa.Table:
    """A row per query given, with documents at positions among positives and then negatives, list after list."""
    documents = pa.concat_arrays([group.positives.text, group.negatives.text])
    columns = {"anchor": texts(group.queries, query), "positive": lists(texts(documents, order), lengths)}
    if scores:
        all_scores = np.concatenate([group.positives.score, group.negatives.score])
        columns["scores"] = lists(pa.array(all_scores[order], pa.float32()), lengths)
    else:
        columns["labels"] = lists(pa.array((order < len(group.positives)).astype(np.int64)), lengths)
    return pa.table(columns)


LABELED_LIST = Format("parquet", make_each)
LABELED_LIST_ALL = Format("parquet", make_all)
