"""NeMo Automodel's two kinds of file for retrieval, with a row per query.

`automodel`: inline JSON lines of question, pos_doc = [texts] and neg_doc = [texts], with scores also pos_scores and
neg_scores in the same order. `automodel-corpus`: JSON objects
{corpus: {path}, data: [rows]}, rows of question_id, question, corpus_id, pos_doc and neg_doc = [{id, score}], beside a
folder of Parquet with id and text, and with the corpus' id and class in merlin_metadata.json. (Its own miner adds the
arguments it was called with, which its reader passes over: the round's config has them.) Two sets that are trained on
together must not have the same corpus id.
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

CORPUS_ID = "raymine"


def make_texts(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "question": texts(group.queries, rows.query),
        "pos_doc": lists(texts(group.positives.text, rows.positives), rows.lengths[0]),
        "neg_doc": lists(texts(group.negatives.text, rows.negatives), rows.lengths[1]),
    }
    if scores:
        columns["pos_scores"] = lists(short_scores(group.positives, rows.positives), rows.lengths[0])
        columns["neg_scores"] = lists(short_scores(group.negatives, rows.negatives), rows.lengths[1])
    return Formatted(pa.table(columns), rows.num_left_out)


def make_ids(group: Group, scores: bool) -> Formatted:
    """As make_texts, with ids."""
    rows = per_query(group)
    columns = {
        "question_id": texts(group.query_ids, rows.query),
        "question": texts(group.queries, rows.query),
        "corpus_id": pa.array([CORPUS_ID] * len(rows.query), pa.string()),
        "pos_doc": lists(_documents(group.positives, rows.positives, scores), rows.lengths[0]),
        "neg_doc": lists(_documents(group.negatives, rows.negatives, scores), rows.lengths[1]),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _documents(side: Side, rows: Rows, scores: bool) -> pa.StructArray:
    ids = texts(side.doc_id, rows)
    return objects(id=ids, score=short_scores(side, rows)) if scores else objects(id=ids)


AUTOMODEL = Format("jsonl", make_texts)
AUTOMODEL_CORPUS = Format(
    "json",
    make_ids,
    companions=Companions(
        ("id", "text"),
        None,
        extension="parquet",
        about=("merlin_metadata.json", {"corpus_id": CORPUS_ID, "class": "TextQADataset"}),
    ),
    envelope={"corpus": {"path": "documents"}},
)
