"""Runs: the negatives of each query as ranked lists of ids.

`trec`: lines `qid Q0 docid rank score tag`. `tevatron-run`: TSV of qid, docid and score. With scores, the positives and
their scores are a run of their own, in the folder `positives` beside: in the same one, they would be negatives.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine.topk import ranks_within
from raymine.write.base import (
    Format,
    Formatted,
    Group,
    short_scores,
    texts,
)


def make_trec(group: Group, scores: bool) -> Formatted:
    """A row per negative: with scores by query and score, without by query and slot, with as score how many slots are
    left (a run's scores descend).
    """
    run = _run(group, scores)
    columns = [run["qid"], pa.array(["Q0"] * len(run["qid"])), run["docid"], run["rank"], run["score"]]
    line = pc.binary_join_element_wise(*(column.cast(pa.string()) for column in columns), "raymine", " ")
    return Formatted(pa.table({"line": line}), 0)


def make_run(group: Group, scores: bool) -> Formatted:
    """As make_trec, by tabs."""
    run = _run(group, scores)
    return Formatted(pa.table({name: run[name] for name in ("qid", "docid", "score")}), 0)


def _run(group: Group, scores: bool) -> dict[str, pa.Array]:
    side = group.negatives
    ranks = ranks_within(side.query)
    order = np.lexsort((-side.score, side.query)) if scores else np.arange(len(side))
    return {
        "qid": texts(group.query_ids, side.query),
        "docid": texts(side.doc_id, order),
        "rank": pa.array(ranks + 1),
        "score": short_scores(side, order) if scores else pa.array(group.num_negatives - ranks),
    }


TREC = Format("tsv", make_trec, needs_texts=False, positives_apart=True)
TEVATRON_RUN = Format("tsv", make_run, needs_texts=False, positives_apart=True)
