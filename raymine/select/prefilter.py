"""Prefilter: what can be dropped before the teacher is, so that the teacher scores only what may become a negative.

First the always-reasons, then those of the config's filters that do not go by the teacher's score, wherever they stand
in the config. Cost: one query block of candidates in memory (some 150 bytes each) and a few sorts of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import FilterConfig
from raymine.select.always import Facts
from raymine.select.base import Candidates, without_non_finite
from raymine.select.relative import unbounded_queries
from raymine.select.verdict import (
    KEPT,
    apply_always,
    apply_filters,
    counts,
    from_column,
    needs_teacher,
    resolved,
    with_codes,
)


class Prefiltered(NamedTuple):
    """Verdicts as far as they go without the teacher, and the pairs (schemas.PAIRS) that it may be asked for."""

    verdicts: pa.Table
    pairs: pa.Table


def prefilter(
    table: pa.Table,
    notes: pa.Table,
    positives: pa.Table,
    excluded: pa.Table,
    filters: Sequence[FilterConfig],
    sources: Sequence[str],
) -> Prefiltered:
    """Drops what can be dropped without the teacher.

    Args:
        table: schemas.candidates(...) of one query block, sorted by (query_row, doc_row).
        notes: schemas.NOTES, one row per candidate, in any order.
        positives: schemas.POSITIVES of the block.
        excluded: schemas.EXCLUDED of the block.
        filters: resolved; none needs the teacher.
        sources: names of the sources of the verdicts. `dense` may be among them without being a source of candidates:
            its ranks are then unknown and its scores are the notes'.

    Returns:
        Verdicts: schemas.verdicts(sources), the rows of `table` in their order, no score in them NaN or infinite.
        Pairs: what is kept, and the positives that have a text, sorted by (query_row, doc_row).

    Raises:
        ValueError: a candidate has no note.
    """
    found_by = [name.removesuffix("_rank") for name in table.column_names if name.endswith("_rank")]
    facts = Facts(Candidates(table), notes, positives, excluded, found_by)
    verdicts = without_non_finite(_widened(table, facts, sources))
    candidates = Candidates(verdicts)
    codes = apply_filters(apply_always(facts), candidates, filters)
    wanted = (codes == KEPT) | (candidates.is_positive & ~facts.is_empty)
    pairs = verdicts.select(schemas.PAIRS.names).filter(pa.array(wanted))
    return Prefiltered(with_codes(verdicts, codes), pairs)


def _widened(table: pa.Table, facts: Facts, sources: Sequence[str]) -> pa.Table:
    """The candidates with all columns of verdicts: the notes' dense scores, and nulls where nothing is known yet."""
    schema = schemas.verdicts(sources)
    dense = facts.notes["dense_score"]
    if "dense_score" in table.column_names:
        dense = pc.coalesce(dense, table["dense_score"])
    known = {name: table[name] for name in table.column_names} | {"dense_score": dense}
    columns = [known[field.name] if field.name in known else pa.nulls(len(table), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class Prefilter:
    """Stage: the verdicts of one query block before the teacher.

    Args:
        notes: paths of Annotate's files, bucketed by query block.
        filters: of the config; those that need the teacher are left to Select.
        sources: names of the sources, as the verdicts have them.
        shard_starts: first doc_row of each document shard.
        has_teacher: whether there is a teacher; without one the pairs' file has no rows.
        default_score: what filters without a `score` go by.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self,
        notes: Sequence[str],
        filters: Sequence[FilterConfig],
        sources: Sequence[str],
        shard_starts: Sequence[int],
        has_teacher: bool,
        default_score: str | None,
    ) -> None:
        self.notes, self.sources, self.shard_starts = notes, list(sources), shard_starts
        self.filters = [config for config in resolved(filters, default_score) if not needs_teacher(config)]
        self.has_teacher = has_teacher

    def __call__(self, task: Task) -> Record:
        """Filters block `bucket` of `candidates`, with its `positives` and `excluded` (paths).

        Returns:
            Record whose outputs are the verdicts (Parquet) and the teacher's pairs (bucketed by document shard).
        """
        inputs: dict[str, Any] = task.inputs
        table = storage.read_table(inputs["candidates"])
        notes = storage.read_buckets(self.notes, inputs["bucket"], schemas.NOTES)
        positives, excluded = storage.read_table(inputs["positives"]), storage.read_table(inputs["excluded"])
        result = prefilter(table, notes, positives, excluded, self.filters, self.sources)
        pairs = result.pairs if self.has_teacher else result.pairs.slice(0, 0)
        codes = from_column(result.verdicts["dropped_by"])
        return Record(
            outputs=[
                storage.write_table(f"{task.output}.parquet", result.verdicts),
                storage.write_buckets(
                    f"{task.output}.pairs.arrow",
                    schemas.PAIRS,
                    storage.split_by(pairs["doc_row"].to_numpy(), self.shard_starts, pairs),
                ),
            ],
            rows_in=table.num_rows,
            rows_out=int(np.count_nonzero(codes == KEPT)),
            bytes_in=table.nbytes + notes.nbytes,
            info={
                "dropped": counts(codes),
                "num_queries_without_positive_score": unbounded_queries(Candidates(result.verdicts), self.filters),
            },
        )
