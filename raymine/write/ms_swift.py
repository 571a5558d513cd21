"""ms-swift's JSON lines for embedders and rerankers: one per (query, positive).

Keys: messages, positive_messages (exactly one list) and negative_messages, lists of [{role, content}]; with scores also
positive_scores and negative_scores, in the same order.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, lists, objects, short_scores, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query and positive; a positive without negatives has none."""
    per_positive = group.per_positive()
    positive = np.flatnonzero(per_positive)
    one = np.ones(len(positive), np.int64)
    negatives = _messages(texts(group.negatives.text, group.pairs[1]))
    columns = {
        "messages": _messages(texts(group.queries, group.positives.query[positive])),
        "positive_messages": lists(_messages(texts(group.positives.text, positive)), one),
        "negative_messages": lists(negatives, per_positive[positive]),
    }
    if scores:
        columns["positive_scores"] = lists(short_scores(group.positives, positive), one)
        columns["negative_scores"] = lists(short_scores(group.negatives, group.pairs[1]), per_positive[positive])
    return Formatted(pa.table(columns), int(np.count_nonzero(per_positive == 0)))


def _messages(contents: pa.Array) -> pa.ListArray:
    """Each text as a list of one message of the user."""
    roles = pa.array(["user"] * len(contents), pa.string())
    return lists(objects(role=roles, content=contents), np.ones(len(contents), np.int64))


MS_SWIFT = Format("jsonl", make)
