"""Lines in the style of MS MARCO's hard negatives, and TREC's and Tevatron's runs: by ids.

`msmarco`: JSON lines {qid, pos: [{pid, ce-score}], neg: {raymine: [{pid, ce-score}]}}, or bare ids without scores.
`ance`: TSV of qid, positive and negatives joined by commas, one row per (query, positive). `simans`: TSV of qid, query,
positives and negatives as `id score` joined by commas. `trec`: lines `qid Q0 docid rank score tag` of the negatives.
`tevatron-run`: TSV of qid, docid and score of the negatives.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine.topk import ranks_within
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


def make_ance(group: Group, scores: bool) -> Formatted:
    """Rows by query and positive; a positive without negatives has none."""
    per_positive = group.per_positive()
    positive = np.flatnonzero(per_positive)
    negatives = lists(texts(group.negatives.doc_id, group.pairs[1]), per_positive[positive])
    columns = {
        "qid": texts(group.query_ids, group.positives.query[positive]),
        "pos": texts(group.positives.doc_id, positive),
        "neg": pc.binary_join(negatives, ","),
    }
    return Formatted(pa.table(columns), int(np.count_nonzero(per_positive == 0)))


def make_simans(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    rows = per_query(group)
    columns = {
        "qid": texts(group.query_ids, rows.query),
        "query": texts(group.queries, rows.query),
        "pos": _joined(group.positives, rows.positives, rows.lengths[0]),
        "neg": _joined(group.negatives, rows.negatives, rows.lengths[1]),
    }
    return Formatted(pa.table(columns), rows.num_left_out)


def _joined(side: Side, rows: Rows, lengths: Rows) -> pa.Array:
    pairs = pc.binary_join_element_wise(texts(side.doc_id, rows), short_scores(side, rows).cast(pa.string()), " ")
    return pc.binary_join(lists(pairs, lengths), ",")


def make_trec(group: Group, scores: bool) -> Formatted:
    """A row per negative, by query and slot; a run's scores descend, so they are the number of slots that are left."""
    run = _run(group)
    columns = [run["qid"], pa.array(["Q0"] * len(run["qid"])), run["docid"], run["rank"], run["score"]]
    line = pc.binary_join_element_wise(*(column.cast(pa.string()) for column in columns), "raymine", " ")
    return Formatted(pa.table({"line": line}), 0)


def make_run(group: Group, scores: bool) -> Formatted:
    """As make_trec, by tabs."""
    run = _run(group)
    return Formatted(pa.table({name: run[name] for name in ("qid", "docid", "score")}), 0)


def _run(group: Group) -> dict[str, pa.Array]:
    slots = ranks_within(group.negatives.query)
    return {
        "qid": texts(group.query_ids, group.negatives.query),
        "docid": group.negatives.doc_id.cast(pa.string()),
        "rank": pa.array(slots + 1),
        "score": pa.array(group.num_negatives - slots),
    }


MSMARCO = Format("jsonl", make_msmarco, needs_texts=False, companions=BOTH)
ANCE = Format("tsv", make_ance, needs_texts=False, companions=BOTH)
SIMANS = Format("tsv", make_simans, needs_scores=True, companions=Companions(("pid", "text"), None))
TREC = Format("tsv", make_trec, needs_texts=False)
TEVATRON_RUN = Format("tsv", make_run, needs_texts=False)
