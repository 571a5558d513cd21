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
from raymine.lookup import pair_positions, rows_of
from raymine.select.always import Facts
from raymine.select.base import Candidates, without_non_finite
from raymine.select.relative import unbounded_queries
from raymine.select.verdict import (
    KEPT,
    apply_always,
    apply_filters,
    comes_late,
    counts,
    from_column,
    resolved,
    with_codes,
)
from raymine.select_config import FilterConfig


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
    traits: Sequence[str] = (),
    near: pa.Table | None = None,
) -> Prefiltered:
    """Drops what can be dropped without the teacher.

    Args:
        table: schemas.candidates(...) of one query block, sorted by (query_row, doc_row).
        notes: schemas.notes(...), one row per candidate, in any order.
        positives: schemas.POSITIVES of the block.
        excluded: schemas.EXCLUDED of the block.
        filters: resolved; none comes late.
        sources: names of the sources of the verdicts. `dense` may be among them without being a source of candidates:
            its ranks are then unknown and its scores are the notes'.
        traits: what the verdicts say besides, from the notes and from `near`.
        near: schemas.NEAR, in any order; a candidate that it lacks is like nothing.

    Returns:
        Verdicts: schemas.verdicts(sources, traits), the rows of `table` in their order, no score NaN or infinite.
        Pairs: what is kept, and the positives that have a text, sorted by (query_row, doc_row).

    Raises:
        ValueError: a candidate has no note.
    """
    found_by = [name.removesuffix("_rank") for name in table.column_names if name.endswith("_rank")]
    facts = Facts(Candidates(table), notes, positives, excluded, found_by)
    verdicts = without_non_finite(_widened(table, facts, schemas.verdicts(sources, traits), near))
    candidates = Candidates(verdicts)
    codes = apply_filters(apply_always(facts), candidates, filters)
    wanted = (codes == KEPT) | (candidates.is_positive & ~facts.is_empty)
    pairs = verdicts.select(schemas.PAIRS.names).filter(pa.array(wanted))
    return Prefiltered(with_codes(verdicts, codes), pairs)


def _widened(table: pa.Table, facts: Facts, schema: pa.Schema, near: pa.Table | None) -> pa.Table:
    """The candidates with all columns of verdicts: the notes' dense scores, and nulls where nothing is known yet."""
    dense = facts.notes["dense_score"]
    if "dense_score" in table.column_names:
        dense = pc.coalesce(dense, table["dense_score"])
    known = {column: facts.notes[column] for column in facts.notes.column_names}
    known |= {column: table[column] for column in table.column_names} | {"dense_score": dense}
    if near is not None:
        where = pair_positions(rows_of(near), rows_of(table))
        known |= {name: near[name].take(pa.array(where, mask=where < 0)) for name in schemas.NEAR.names[2:]}
    columns = [known[field.name] if field.name in known else pa.nulls(len(table), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class Prefilter:
    """Stage: the verdicts of one query block before the teacher.

    Args:
        notes: paths of Annotate's files, bucketed by query block.
        traits: what it and the task's `near` say of the candidates besides.
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
        traits: Sequence[str] = (),
    ) -> None:
        self.traits = traits
        self.notes, self.sources, self.shard_starts = notes, list(sources), shard_starts
        self.filters = [config for config in resolved(filters, default_score) if not comes_late(config)]
        self.has_teacher = has_teacher

    def __call__(self, task: Task) -> Record:
        """Filters block `bucket` of `candidates`, with its `positives`, `excluded` and (or None) `near`: paths.

        Returns:
            Record whose outputs are the verdicts (Parquet) and the teacher's pairs (bucketed by document shard).
        """
        inputs: dict[str, Any] = task.inputs
        table = storage.read_table(inputs["candidates"])
        given = [name for name in self.traits if name not in schemas.NEAR.names]
        notes = storage.read_buckets(self.notes, inputs["bucket"], schemas.notes(given))
        near = storage.read_table(inputs["near"]) if inputs["near"] else None
        positives, excluded = storage.read_table(inputs["positives"]), storage.read_table(inputs["excluded"])
        verdicts, pairs = prefilter(table, notes, positives, excluded, self.filters, self.sources, self.traits, near)
        if not self.has_teacher:
            pairs = schemas.PAIRS.empty_table()
        codes, num_rows, num_bytes = from_column(verdicts["dropped_by"]), table.num_rows, table.nbytes + notes.nbytes
        del table, notes  # while the verdicts are written
        return Record(
            outputs=[
                storage.write_table(f"{task.output}.parquet", verdicts),
                storage.write_buckets(
                    f"{task.output}.pairs.arrow",
                    schemas.PAIRS,
                    storage.split_by(pairs["doc_row"].to_numpy(), self.shard_starts, pairs),
                ),
            ],
            rows_in=num_rows,
            rows_out=int(np.count_nonzero(codes == KEPT)),
            bytes_in=num_bytes,
            info={
                "dropped": counts(codes),
                "num_queries_without_positive_score": unbounded_queries(Candidates(verdicts), self.filters),
            },
        )
