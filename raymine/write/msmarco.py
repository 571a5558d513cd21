"""Lines in the style of MS MARCO's hard negatives: one per query, by ids.

Keys: qid, pos [{pid, ce-score}] and neg {raymine: [{pid, ce-score}]}, or bare ids without scores.
"""

from __future__ import annotations

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

BOTH = Companions(("pid", "text"), ("qid", "text"))


def make_msmarco(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "qid": texts(group.query_ids, rows.query),
        "pos": lists(_scored(group.positives, rows.positives, scores), rows.lengths[0]),
        "neg": objects(raymine=lists(_scored(group.negatives, rows.negatives, scores), rows.lengths[1])),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _scored(side: Side, rows: Rows, scores: bool) -> pa.Array:
    ids = texts(side.doc_id, rows)
    return objects(**{"pid": ids, "ce-score": short_scores(side, rows)}) if scores else ids


MSMARCO = Format("jsonl", make_msmarco, needs_texts=False, companions=BOTH)
