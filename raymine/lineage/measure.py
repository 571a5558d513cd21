"""What has become of the last round's negatives under the new checkpoint: the difficulty curve, and settled queries.

A negative is as hard now as a fresh one of that score would be (select.kinds): a ranking error scores above the lowest
positive of its query, a semi-hard one within a margin below it. A query is settled as long as one of its negatives is
less than a margin below its lowest positive: it still has something to teach, and need not be mined again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lineage.carry import last_negatives
from raymine.lookup import pair_positions, rows_of
from raymine.select.kinds import against_positive


@dataclass(frozen=True)
class Measured:
    """One query block.

    Args:
        kinds: last negatives by kind, and `unscored`, where they or all positives have no vector.
        settled: schemas.SETTLED.
    """

    kinds: dict[str, int]
    settled: pa.Table


def measure(
    scores: pa.Table, lineage: pa.Table, positives: pa.Table, number: int, semi_hard_margin: float, margin: float
) -> Measured:
    """Compares last negatives with the positives of their query.

    Args:
        scores: HITS with the new checkpoint's scores, of both.
        lineage: schemas.LINEAGE of the block.
        positives: POSITIVES of the block.
        number: of this round.
        semi_hard_margin: share of the positive's score below it, within which a negative is semi-hard.
        margin: a query none of whose negatives scores above its lowest positive's score less this is not settled.
    """
    last = lineage.filter(pa.array(last_negatives(lineage, number)))
    negative, positive = _scores(scores, last), _scores(scores, positives)
    query_rows = last["query_row"].to_numpy()
    lowest = _lowest(positives["query_row"].to_numpy(), positive, query_rows)
    is_known = ~np.isnan(negative) & ~np.isnan(lowest)
    kind = against_positive(negative[is_known], lowest[is_known], semi_hard_margin)
    kinds = {name: int((kind == code).sum()) for code, name in enumerate(schemas.KINDS) if name != "random"}
    kinds["unscored"] = int((~is_known).sum())
    settled = np.unique(query_rows[is_known & (negative > lowest - margin)])
    return Measured(kinds, pa.table({"query_row": pa.array(settled)}, schema=schemas.SETTLED))


def _scores(scores: pa.Table, pairs: pa.Table) -> NDArray[np.float64]:
    """The score of each pair, NaN where there is none."""
    at = pair_positions(rows_of(scores), rows_of(pairs))
    return np.append(scores["score"].to_numpy().astype(np.float64), np.nan)[at]


def _lowest(of: NDArray[np.int64], values: NDArray[np.float64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """The lowest known value of each wanted query; NaN where there is none.

    Args:
        of: int64 [n], query of each value, ascending.
        values: [n].
        wanted: int64 [m].
    """
    if not len(of):
        return np.full(len(wanted), np.nan)
    first = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    reduced, queries = np.fmin.reduceat(values, first), of[first]
    at = np.minimum(np.searchsorted(queries, wanted), len(queries) - 1)
    return np.where(queries[at] == wanted, reduced[at], np.nan)


class MeasureEarlier:
    """Measures one query block.

    Args:
        scores: HITS of RescoreHits, bucketed by query block.
        number: of this round.
        semi_hard_margin, margin: as of `measure`.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, scores: Sequence[str], number: int, semi_hard_margin: float, margin: float) -> None:
        self.scores, self.number = scores, number
        self.semi_hard_margin, self.margin = semi_hard_margin, margin

    def __call__(self, task: Task) -> Record:
        """Writes schemas.SETTLED; info: kinds.

        Args:
            task: inputs bucket (the query block), lineage and positives (its files).
        """
        scores = storage.read_buckets(self.scores, task.inputs["bucket"], schemas.HITS)
        lineage = storage.read_table(task.inputs["lineage"])
        positives = storage.read_table(task.inputs["positives"])
        found = measure(scores, lineage, positives, self.number, self.semi_hard_margin, self.margin)
        shard = storage.write_table(f"{task.output}.parquet", found.settled)
        return Record([shard], rows_in=scores.num_rows, rows_out=shard.num_rows, info=found.kinds)
