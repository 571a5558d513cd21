"""Runs: the negatives of each query as ranked lists of ids.

`trec`: lines `qid Q0 docid rank score tag`. `tevatron-run`: TSV of qid, docid and score.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from raymine.topk import ranks_within
from raymine.write.base import (
    Format,
    Formatted,
    Group,
    texts,
)


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


TREC = Format("tsv", make_trec, needs_texts=False)
TEVATRON_RUN = Format("tsv", make_run, needs_texts=False)
