"""GPL's files: hard negatives by retriever, and pseudo labels for MarginMSE.

`gpl`: JSON lines {qid, pos: [ids], neg: {raymine: [ids]}}, its hard-negatives.jsonl; with scores also pos_scores: [...]
and neg_scores: {raymine: [...]}, which GPL passes over. `gpl-margins`: TSV of qid, positive, negative and margin (the
positive's score minus the negative's), its gpl-training-data.tsv. Both refer to texts in BEIR's layout.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import (
    Companions,
    Format,
    Formatted,
    Group,
    lists,
    margins,
    objects,
    per_query,
    short_scores,
    texts,
)

BEIR = Companions(("_id", "text"), ("_id", "text"))


def make_negatives(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    negatives = lists(texts(group.negatives.doc_id, rows.negatives), rows.lengths[1])
    columns = {
        "qid": texts(group.query_ids, rows.query),
        "pos": lists(texts(group.positives.doc_id, rows.positives), rows.lengths[0]),
        "neg": objects(raymine=negatives),
    }
    if scores:
        columns["pos_scores"] = lists(short_scores(group.positives, rows.positives), rows.lengths[0])
        of_negatives = lists(short_scores(group.negatives, rows.negatives), rows.lengths[1])
        columns["neg_scores"] = objects(raymine=of_negatives)
    return Formatted(pa.table(columns), rows.num_left_out)


def make_margins(group: Group, scores: bool) -> Formatted:
    """Rows by query, positive and slot; a positive without negatives has none."""
    positive, negative = group.pairs
    columns = {
        "qid": texts(group.query_ids, group.positives.query[positive]),
        "pos": texts(group.positives.doc_id, positive),
        "neg": texts(group.negatives.doc_id, negative),
        "margin": margins(group),
    }
    return Formatted(pa.table(columns), int(np.count_nonzero(group.per_positive() == 0)))


GPL = Format("jsonl", make_negatives, needs_texts=False, companions=BEIR)
GPL_MARGINS = Format("tsv", make_margins, needs_scores=True, needs_texts=False, companions=BEIR)
