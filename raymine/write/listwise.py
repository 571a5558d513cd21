"""Lists with scores, for distillation by KL divergence or another listwise loss: one row per query.

`listwise`: query, documents = [positives, then negatives ...], scores = [...], num_positives. `pylate`: the same by
ids, query_id, document_ids and scores, beside queries (query_id, text) and documents (document_id, text): PyLate's
knowledge distillation.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Companions, Format, Formatted, Group, Rows, both_sides, lists, per_query, texts


def make_texts(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    order, lengths = both_sides(group, rows)
    documents = pa.concat_arrays([group.positives.text, group.negatives.text])
    columns = {
        "query": texts(group.queries, rows.query),
        "documents": lists(texts(documents, order), lengths),
        "scores": _scores(group, order, lengths),
        "num_positives": pa.array(rows.lengths[0]),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def make_ids(group: Group, scores: bool) -> Formatted:
    """As make_texts, with ids."""
    rows = per_query(group)
    order, lengths = both_sides(group, rows)
    documents = pa.concat_arrays([group.positives.doc_id, group.negatives.doc_id])
    columns = {
        "query_id": texts(group.query_ids, rows.query),
        "document_ids": lists(texts(documents, order), lengths),
        "scores": _scores(group, order, lengths),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _scores(group: Group, order: Rows, lengths: Rows) -> pa.ListArray:
    scores = np.concatenate([group.positives.score, group.negatives.score])
    return lists(pa.array(scores[order], pa.float32()), lengths)


LISTWISE = Format("parquet", make_texts, needs_scores=True)
PYLATE = Format(
    "parquet",
    make_ids,
    needs_scores=True,
    needs_texts=False,
    companions=Companions(("document_id", "text"), ("query_id", "text")),
)
