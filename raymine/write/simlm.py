"""SimLM's JSON lines: one per query, by ids and scores.

Keys: query_id, query, answers (none are known), positives and negatives = {doc_id: [...], score: [...]}; scores are 0
unless written.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import (
    Companions,
    Format,
    Formatted,
    Group,
    Rows,
    Side,
    lists,
    objects,
    per_query,
    short_scores,
    texts,
)


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "query_id": texts(group.query_ids, rows.query),
        "query": texts(group.queries, rows.query),
        "answers": lists(pa.array([], pa.string()), np.zeros(len(rows.query), np.int64)),
        "positives": _documents(group.positives, rows.positives, rows.lengths[0], scores),
        "negatives": _documents(group.negatives, rows.negatives, rows.lengths[1], scores),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _documents(side: Side, rows: Rows, lengths: Rows, scores: bool) -> pa.StructArray:
    values = short_scores(side, rows) if scores else pa.array(np.zeros(len(rows)))
    return objects(doc_id=lists(texts(side.doc_id, rows), lengths), score=lists(values, lengths))


SIMLM = Format("jsonl", make, companions=Companions(("id", "contents"), None))
