"""FlagEmbedding's JSON lines: one per query.

Keys: query, pos [...], neg [...] and, with scores, pos_scores and neg_scores in the same order (its trainer asks for
them with knowledge distillation). The trainer draws one positive per step beside the negatives.
"""

from __future__ import annotations

import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, lists, per_query, short_scores, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "query": texts(group.queries, rows.query),
        "pos": lists(texts(group.positives.text, rows.positives), rows.lengths[0]),
        "neg": lists(texts(group.negatives.text, rows.negatives), rows.lengths[1]),
    }
    if scores:
        columns["pos_scores"] = lists(short_scores(group.positives, rows.positives), rows.lengths[0])
        columns["neg_scores"] = lists(short_scores(group.negatives, rows.negatives), rows.lengths[1])
    return Formatted(pa.table(columns), rows.num_left_out)


FLAGEMBEDDING = Format("jsonl", make)
