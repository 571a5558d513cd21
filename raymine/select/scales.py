"""Scales of a score over all queries: counts of the scores that there are, and the teacher's scores made comparable.

Counts are a histogram over the first 20 bits of a float32 (sign, exponent and 11 bits of the mantissa, so that scores
within 0.05 % of each other are one), which makes it exact in what it counts, mergeable over blocks in any order, and
a few megabytes however many scores there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import storage
from raymine.artifacts import Record, Task
from raymine.schemas import SCORE_COUNTS
from raymine.topk import score_order

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]
DROPPED_BITS = 12


@dataclass(frozen=True)
class Distribution:
    """How many scores there are of each value, ascending.

    Args:
        keys: int64 [m].
        counts: int64 [m].
    """

    keys: Counts
    counts: Counts

    def share_below(self, scores: Scores, others: bool) -> Scores:
        """The share of all scores that are lower, float64 [n], NaN for NaN.

        Args:
            scores: float64 [n].
            others: leaves the score itself out of the whole (it is one of those counted); an only one has 0.5.
        """
        return self._share(scores, "left", int(others))

    def share_up_to(self, scores: Scores) -> Scores:
        """The share of all scores that are no higher, float64 [n], NaN for NaN and where there are none."""
        return self._share(scores, "right", 0)

    def _share(self, scores: Scores, side: Any, left_out: int) -> Scores:
        total = int(self.counts.sum())
        below = np.concatenate([[0], np.cumsum(self.counts)])[np.searchsorted(self.keys, keys_of(scores), side)]
        whole = total - left_out
        share = below / whole if whole > 0 else np.full(len(scores), 0.5 if total else np.nan)
        return np.where(np.isnan(scores), np.nan, share)


def keys_of(scores: Scores) -> Counts:
    """Integers in the order of the scores, one for scores that count as equal: int64 [n]."""
    return np.asarray((-1 - score_order(scores.astype(np.float32))) >> DROPPED_BITS)


def count_scores(name: str, scores: Scores, is_positive: NDArray[np.bool_]) -> pa.Table:
    """SCORE_COUNTS of one score: of candidates and of positives apart.

    Args:
        name: of the score.
        scores: float64 [n], NaN where unknown.
        is_positive: bool [n].
    """
    tables = []
    for positive in (False, True):
        chosen = scores[(is_positive == positive) & ~np.isnan(scores)]
        keys, counts = np.unique(keys_of(chosen), return_counts=True)
        columns = [[name] * len(keys), np.full(len(keys), positive), keys, counts.astype(np.int64)]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, SCORE_COUNTS.types, strict=True)]
        tables.append(pa.Table.from_arrays(arrays, schema=SCORE_COUNTS))
    return pa.concat_tables(tables)


class SumCounts:
    """Stage: sums the counts of all query blocks. task.inputs: `files`, SCORE_COUNTS of each."""

    VERSION = 1
    calls_in_flight = 1

    def __call__(self, task: Task) -> Record:
        """Writes SCORE_COUNTS, sorted."""
        by = ["score", "is_positive", "key"]
        total = SCORE_COUNTS.empty_table()
        for path in task.inputs["files"]:
            joined = pa.concat_tables([total, storage.read_table(path)])
            summed = joined.group_by(by).aggregate([("count", "sum")])
            total = summed.rename_columns([*by, "count"]).select(SCORE_COUNTS.names).cast(SCORE_COUNTS)
        shard = storage.write_table(f"{task.output}.parquet", total.sort_by([(name, "ascending") for name in by]))
        return Record([shard], rows_out=total.num_rows)


def distribution(counts: pa.Table, name: str, of_positives: bool) -> Distribution:
    """One score's distribution, from the summed SCORE_COUNTS."""
    chosen = (np.asarray(counts["score"].to_pylist(), object) == name) & (
        counts["is_positive"].to_numpy() == of_positives
    )
    return Distribution(counts["key"].to_numpy()[chosen], counts["count"].to_numpy()[chosen])


def sigmoid(scores: Scores) -> Scores:
    """1 / (1 + exp(-s)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(scores / 2)))


def min_max(scores: Scores, query_rows: NDArray[np.int64]) -> Scores:
    """(s - lowest) / (highest - lowest) of the query's known scores; 0.5 where all are equal.

    Args:
        scores: float64 [n], NaN where unknown.
        query_rows: int64 [n], equal ones adjacent.
    """
    if not len(scores):
        return scores
    starts = np.flatnonzero(np.r_[True, query_rows[1:] != query_rows[:-1]])
    lengths = np.diff(np.r_[starts, len(scores)])
    lowest, highest = (np.repeat(reduce.reduceat(scores, starts), lengths) for reduce in (np.fmin, np.fmax))
    width = highest - lowest
    return np.asarray(np.where(width > 0, (scores - lowest) / np.where(width > 0, width, 1), scores * 0 + 0.5))


@dataclass(frozen=True)
class Scales:
    """How scores are seen.

    Args:
        calibrate: select.calibrate of the config.
        counts: summed SCORE_COUNTS of all query blocks, where something goes by them.
    """

    calibrate: str | None = None
    counts: pa.Table | None = None

    def calibrated(self, teacher_scores: Scores, query_rows: NDArray[np.int64]) -> Scores:
        """The teacher's scores on the scale that the config names.

        Args:
            teacher_scores: float64 [n], NaN where unknown.
            query_rows: int64 [n], equal ones adjacent.
        """
        if self.calibrate == "sigmoid":
            return sigmoid(teacher_scores)
        if self.calibrate == "min_max":
            return min_max(teacher_scores, query_rows)
        if self.calibrate == "percentile" and self.counts is not None:
            return distribution(self.counts, "teacher", of_positives=True).share_up_to(teacher_scores)
        return teacher_scores


AS_GIVEN = Scales()
