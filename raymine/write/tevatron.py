"""Tevatron's JSON lines, both kinds: one per query.

`tevatron` (version 1): query_id, query, positive_passages and negative_passages = [{docid, text}]. Titles are part of
raymine's texts; an empty one would have the reader put a blank before the text. `tevatron-v2`: query_id, query_text,
positive_document_ids and negative_document_ids, beside a corpus of docid and text (its reader takes `text`, whatever
its README says). With scores a passage has `score`, and ids have positive_document_scores and negative_document_scores
beside them, in the same order; tevatron's readers pass over both.
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


def make_passages(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "query_id": texts(group.query_ids, rows.query),
        "query": texts(group.queries, rows.query),
        "positive_passages": lists(_passages(group.positives, rows.positives, scores), rows.lengths[0]),
        "negative_passages": lists(_passages(group.negatives, rows.negatives, scores), rows.lengths[1]),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _passages(side: Side, rows: Rows, scores: bool) -> pa.StructArray:
    more = {"score": short_scores(side, rows)} if scores else {}
    return objects(docid=texts(side.doc_id, rows), text=texts(side.text, rows), **more)


def make_ids(group: Group, scores: bool) -> Formatted:
    """As make_passages, with ids."""
    rows = per_query(group)
    columns = {
        "query_id": texts(group.query_ids, rows.query),
        "query_text": texts(group.queries, rows.query),
        "positive_document_ids": lists(texts(group.positives.doc_id, rows.positives), rows.lengths[0]),
        "negative_document_ids": lists(texts(group.negatives.doc_id, rows.negatives), rows.lengths[1]),
    }
    if scores:
        columns["positive_document_scores"] = lists(short_scores(group.positives, rows.positives), rows.lengths[0])
        columns["negative_document_scores"] = lists(short_scores(group.negatives, rows.negatives), rows.lengths[1])
    return Formatted(pa.table(columns), rows.num_left_out)


TEVATRON = Format("jsonl", make_passages)
TEVATRON_V2 = Format("jsonl", make_ids, companions=Companions(("docid", "text"), None))
