"""DPR's JSON: an array of objects, one per query.

Keys: question, answers (none are known), positive_ctxs, negative_ctxs (none) and hard_negative_ctxs = [{title, text,
score, title_score, passage_id}]. Titles are part of raymine's texts; scores are 0 unless written.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, Rows, Side, lists, objects, per_query, short_scores, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    none = np.zeros(len(rows.query), np.int64)
    columns = {
        "question": texts(group.queries, rows.query),
        "answers": lists(pa.array([], pa.string()), none),
        "positive_ctxs": lists(_contexts(group.positives, rows.positives, scores), rows.lengths[0]),
        "negative_ctxs": lists(_contexts(group.negatives, none[:0], scores), none),
        "hard_negative_ctxs": lists(_contexts(group.negatives, rows.negatives, scores), rows.lengths[1]),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _contexts(side: Side, rows: Rows, scores: bool) -> pa.StructArray:
    zeros = pa.array(np.zeros(len(rows)))
    return objects(
        title=pa.array([""] * len(rows), pa.string()),
        text=texts(side.text, rows),
        score=short_scores(side, rows) if scores else zeros,
        title_score=zeros,
        passage_id=texts(side.doc_id, rows),
    )


DPR = Format("json", make)
