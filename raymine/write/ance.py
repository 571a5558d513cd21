"""The TSV files of ANCE and SimANS: by ids.

`ance`: qid, positive and negatives joined by commas, one row per (query, positive); with scores two fields more, the
positive's and the negatives' joined by commas (ANCE reads the first three). `simans`: qid, query, positives and
negatives as `id score` joined by commas, one row per query.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine.write.base import (
    Companions,
    Format,
    Formatted,
    Group,
    Rows,
    Side,
    lists,
    per_query,
    short_scores,
    texts,
)

BOTH = Companions(("pid", "text"), ("qid", "text"))


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
    if scores:
        beside = lists(short_scores(group.negatives, group.pairs[1]).cast(pa.string()), per_positive[positive])
        columns["pos_score"] = short_scores(group.positives, positive)
        columns["neg_scores"] = pc.binary_join(beside, ",")
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


ANCE = Format("tsv", make_ance, needs_texts=False, companions=BOTH)
SIMANS = Format("tsv", make_simans, needs_scores=True, companions=Companions(("pid", "text"), None))
