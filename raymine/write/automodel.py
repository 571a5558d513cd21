"""NeMo Automodel's inline JSON lines: one per query, with question, pos_doc = [texts] and neg_doc = [texts]."""

from __future__ import annotations

import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, lists, per_query, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "question": texts(group.queries, rows.query),
        "pos_doc": lists(texts(group.positives.text, rows.positives), rows.lengths[0]),
        "neg_doc": lists(texts(group.negatives.text, rows.negatives), rows.lengths[1]),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


AUTOMODEL = Format("jsonl", make)
