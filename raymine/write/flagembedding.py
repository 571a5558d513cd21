"""FlagEmbedding's JSON lines: one per query.

Keys: query, pos [...], neg [...] and, with scores, pos_scores and neg_scores in the same order (its trainer asks for
them with knowledge distillation). The trainer draws one positive per step beside the negatives, so filters `against:
each` do not part a negative from any positive here.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine.write.base import Format, Formatted, Group, Side, lists, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query; a query without negatives, or without positives, has none."""
    num_queries = len(group.queries)
    num_positives = np.bincount(group.positives.query, minlength=num_queries)
    num_negatives = np.bincount(group.negatives.query, minlength=num_queries)
    is_whole = (num_positives > 0) & (num_negatives > 0)
    query = np.flatnonzero(is_whole)
    positive, negative = (np.flatnonzero(is_whole[side.query]) for side in (group.positives, group.negatives))
    lengths = num_positives[query], num_negatives[query]
    columns = {
        "query": texts(group.queries, query),
        "pos": lists(texts(group.positives.text, positive), lengths[0]),
        "neg": lists(texts(group.negatives.text, negative), lengths[1]),
    }
    if scores:
        columns["pos_scores"] = lists(_short(group.positives, positive), lengths[0])
        columns["neg_scores"] = lists(_short(group.negatives, negative), lengths[1])
    is_asked = (num_positives > 0) | (num_negatives > 0)
    return Formatted(pa.table(columns), int(np.count_nonzero(is_asked & ~is_whole)))


def _short(side: Side, rows: NDArray[np.int64]) -> pa.Array:
    """Scores as the float64 that prints with as few digits as the float32 needs: 0.9, not 0.8999999761581421."""
    return pc.cast(pc.cast(pa.array(side.score[rows], pa.float32()), pa.string()), pa.float64())


FLAGEMBEDDING = Format("jsonl", make)
