"""Select: the teacher's scores come in, the filters that waited for them run, and negatives are sampled.

With `against: each` a candidate stays if it passes for any positive, and which positives it must not stand beside is
written as FORBIDDEN triples (usually none), so that writing training rows needs no thresholds. Sampling is per query:
a positive may then get fewer negatives than the query has.

Cost: one query block of verdicts in memory, one sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import FilterConfig, SampleConfig
from raymine.lookup import pair_positions
from raymine.select.always import ALWAYS
from raymine.select.base import Candidates, without_non_finite
from raymine.select.kinds import kinds
from raymine.select.negatives import negatives_table
from raymine.select.relative import each_filters, forbidden, unbounded_queries
from raymine.select.samplers import SAMPLERS, Draw, first_slots, query_seeds
from raymine.select.shortfall import shortfall_problems, shortfall_table
from raymine.select.verdict import (
    KEPT,
    Codes,
    apply_filters,
    counts,
    drop,
    from_column,
    needs_teacher,
    resolved,
    with_codes,
)


@dataclass(frozen=True)
class Selection:
    """How a block is selected from.

    Args:
        filters: all of the config's.
        sample: how negatives are sampled.
        seed: of the config.
        round_number: of the round.
        sources: names of the sources.
        default_score: what sampling goes by unless told; what kinds go by.
    """

    filters: Sequence[FilterConfig]
    sample: SampleConfig
    seed: int
    round_number: int
    sources: Sequence[str]
    default_score: str | None


@dataclass(frozen=True)
class Selected:
    """Tables of one query block: schemas.verdicts, negatives, SHORTFALL, FORBIDDEN and PAIRS.

    `pairs` are the negatives and positives of the queries that are emitted: the texts that writing needs.
    """

    verdicts: pa.Table
    negatives: pa.Table
    shortfall: pa.Table
    forbidden: pa.Table
    pairs: pa.Table


def select(
    verdicts: pa.Table, teacher_scores: pa.Table | None, query_ids: Sequence[str], first_row: int, how: Selection
) -> Selected:
    """Filters by the teacher and samples.

    Args:
        verdicts: schemas.verdicts(...) of Prefilter, sorted by (query_row, doc_row).
        teacher_scores: schemas.TEACHER_SCORES in any order; None without a teacher.
        query_ids: of the block's queries.
        first_row: query_row of the first of them.
        how: filters and sampling.
    """
    if teacher_scores is not None:
        verdicts = with_teacher(verdicts, teacher_scores)
    candidates = Candidates(verdicts)
    codes = teacher_verdicts(candidates, from_column(verdicts["dropped_by"]), how.filters)
    rows, slots = _sampled(candidates, codes, query_ids, first_row, how)
    found = np.bincount(candidates.query_row[rows] - first_row, minlength=len(query_ids))
    shortfall = shortfall_table(candidates, codes, found, first_row, how.sample)
    is_emitted = shortfall["is_emitted"].to_numpy()
    stays = is_emitted[candidates.query_row[rows] - first_row]
    rows, slots = rows[stays], slots[stays]
    kind = kinds(candidates, rows, how.default_score, how.sample.semi_hard_margin, how.sources)
    positives = np.flatnonzero(candidates.is_positive & is_emitted[candidates.query_row - first_row])
    return Selected(
        with_codes(verdicts, codes),
        negatives_table(candidates, rows, slots, kind, how.sources),
        shortfall,
        forbidden_table(candidates, rows, how.filters),
        verdicts.select(schemas.PAIRS.names).take(pa.array(np.sort(np.r_[rows, positives]))),
    )


def with_teacher(verdicts: pa.Table, teacher_scores: pa.Table) -> pa.Table:
    """The verdicts with their `teacher_score` filled in where there is one (non-finite ones do not count)."""
    known = (teacher_scores["query_row"].to_numpy(), teacher_scores["doc_row"].to_numpy())
    where = pair_positions(known, (verdicts["query_row"].to_numpy(), verdicts["doc_row"].to_numpy()))
    scores = teacher_scores["teacher_score"].take(pa.array(where, mask=where < 0))
    field = verdicts.schema.field("teacher_score")
    position = verdicts.schema.get_field_index("teacher_score")
    return without_non_finite(verdicts.set_column(position, field, scores))


def teacher_verdicts(candidates: Candidates, codes: Codes, filters: Sequence[FilterConfig]) -> Codes:
    """Codes after the filters that waited for the teacher.

    Where filters `against: each` go by different scores, a candidate may pass each of them for another positive and so
    fit none; it goes by the last of them.
    """
    codes = apply_filters(codes, candidates, [config for config in filters if needs_teacher(config)])
    each = sorted(each_filters(filters), key=needs_teacher)
    if len({config.score for config in each}) > 1:
        mask = np.zeros(len(candidates), np.bool_)
        mask[forbidden(candidates, np.flatnonzero(codes == KEPT), each).everywhere] = True
        codes = drop(codes, mask, each[-1].kind)
    return codes


def forbidden_table(candidates: Candidates, rows: NDArray[np.int64], filters: Sequence[FilterConfig]) -> pa.Table:
    """schemas.FORBIDDEN of the negatives at the positions `rows`."""
    found = forbidden(candidates, rows, filters)
    columns = [candidates.query_row[found.row], candidates.doc_row[found.positive], candidates.doc_row[found.row]]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=schemas.FORBIDDEN)


def _sampled(
    candidates: Candidates, codes: Codes, query_ids: Sequence[str], first_row: int, how: Selection
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and slots of the negatives, sorted by (query_row, slot)."""
    kept = np.flatnonzero(codes == KEPT)
    seeds = query_seeds(how.seed, how.round_number, query_ids)
    score = how.sample.score or how.default_score
    draw = Draw(how.sample, score, how.default_score, how.sources, seeds, first_row)
    if how.sample.pool is not None:
        rows, keys = SAMPLERS["top"](candidates, kept, draw)
        kept = np.sort(rows[first_slots(candidates.query_row[rows], keys, how.sample.pool)[0]])
    rows, keys = SAMPLERS[how.sample.strategy](candidates, kept, draw)
    positions, slots = first_slots(candidates.query_row[rows], keys, how.sample.n)
    return rows[positions], slots


class Select:
    """Stage: verdicts, negatives and shortfalls of one query block.

    Args:
        teacher_scores: paths of Rescore's files, bucketed by query block; None without a teacher.
        shard_starts: first doc_row of each document shard.
        how: filters, sampling and seeds.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, teacher_scores: Sequence[str] | None, shard_starts: Sequence[int], how: Selection) -> None:
        self.teacher_scores, self.shard_starts = teacher_scores, shard_starts
        self.how = replace(how, filters=resolved(how.filters, how.default_score))

    def __call__(self, task: Task) -> Record:
        """Selects from block `bucket`: paths `verdicts` (Prefilter's) and `queries`, and `first_row` of the block.

        Returns:
            Record whose outputs lie in folders beside each other, all with the task's key as name: verdicts/,
            negatives/, queries/ (shortfalls), selected/ (pairs, bucketed by document shard), forbidden/. With
            `shortfall: error`, a problem line per query that is short.
        """
        inputs: dict[str, Any] = task.inputs
        verdicts = self._verdicts(inputs["verdicts"])
        query_ids = storage.read_table(inputs["queries"], ["query_id"])["query_id"].to_pylist()
        scores = None
        if self.teacher_scores is not None:
            scores = storage.read_buckets(self.teacher_scores, inputs["bucket"], schemas.TEACHER_SCORES)
        selected = select(verdicts, scores, query_ids, inputs["first_row"], self.how)
        if self.how.sample.shortfall == "error" and (problems := shortfall_problems(selected.shortfall, query_ids)):
            return Record(problems=problems)
        return Record(
            outputs=self._write(selected, task.output),
            rows_in=verdicts.num_rows,
            rows_out=selected.negatives.num_rows,
            bytes_in=verdicts.nbytes,
            info=self._info(selected),
        )

    def _verdicts(self, path: str) -> pa.Table:
        return storage.read_table(path)

    def _write(self, selected: Selected, output: str) -> list[storage.Shard]:
        folder, key = output.rsplit("/", 1)
        doc_rows = selected.pairs["doc_row"].to_numpy()
        return [
            storage.write_table(f"{folder}/verdicts/{key}.parquet", selected.verdicts),
            storage.write_table(f"{folder}/negatives/{key}.parquet", selected.negatives),
            storage.write_table(f"{folder}/queries/{key}.parquet", selected.shortfall),
            storage.write_buckets(
                f"{folder}/selected/{key}.arrow",
                schemas.PAIRS,
                storage.split_by(doc_rows, self.shard_starts, selected.pairs),
            ),
            storage.write_table(f"{folder}/forbidden/{key}.parquet", selected.forbidden),
        ]

    def _info(self, selected: Selected) -> dict[str, Any]:
        shortfall = selected.shortfall
        kind_counts = pc.value_counts(selected.negatives["kind"].cast(pa.string())).to_pylist()
        return {
            "dropped": counts(from_column(selected.verdicts["dropped_by"])),
            "kinds": {row["values"]: row["counts"] for row in sorted(kind_counts, key=lambda row: row["values"])},
            "num_candidates": selected.verdicts.num_rows,
            "num_negatives": selected.negatives.num_rows,
            "num_missing": pc.sum(shortfall["num_missing"]).as_py() or 0,
            "num_queries": shortfall.num_rows,
            "num_queries_short": int(np.count_nonzero(shortfall["num_missing"].to_numpy())),
            "num_queries_left_out": int(np.count_nonzero(~shortfall["is_emitted"].to_numpy())),
            "num_without_teacher_score": self._num_unscored(selected.verdicts),
            "num_queries_without_positive_score": unbounded_queries(Candidates(selected.verdicts), self.how.filters),
        }

    def _num_unscored(self, verdicts: pa.Table) -> int:
        """Kept candidates that the teacher, where selection goes by it, has not scored."""
        if self.how.default_score != "teacher":
            return 0
        is_kept = verdicts["dropped_by"].is_null()
        return int(pc.sum(pc.and_(is_kept, verdicts["teacher_score"].is_null())).as_py() or 0)


class SelectAgain(Select):
    """Stage: as Select, from the verdicts of a finished round, with other filters or sampling. No model is asked."""

    def _verdicts(self, path: str) -> pa.Table:
        """The verdicts without those of the round's filters, and with those of the new ones that need no teacher."""
        verdicts = storage.read_table(path)
        codes = from_column(verdicts["dropped_by"])
        codes = np.where(codes < len(ALWAYS), codes, KEPT)
        filters = [config for config in self.how.filters if not needs_teacher(config)]
        return with_codes(verdicts, apply_filters(codes, Candidates(verdicts), filters))
