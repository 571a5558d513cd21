"""Select: negatives are sampled from what the filters left (select.judged).

With `against: each` a candidate stays if it passes for any positive, and which positives it must not stand beside is
written as FORBIDDEN triples (usually none), so that writing training rows needs no thresholds. Sampling is per query:
a positive may then get fewer negatives than the query has.

Cost: one query block of verdicts in memory, one sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.select.base import Candidates
from raymine.select.judged import Blocks, Judged, Selection
from raymine.select.kinds import kinds
from raymine.select.merge import Merge, ages, reserved
from raymine.select.negatives import negatives_table
from raymine.select.passes import fetched_vectors
from raymine.select.relative import forbidden, unbounded_queries
from raymine.select.samplers import SAMPLERS, Draw, first_slots, pool_of, query_seeds
from raymine.select.shortfall import shortfall_problems, shortfall_table
from raymine.select.verdict import counts, from_column, with_codes
from raymine.select_config import FilterConfig
from raymine.vectors import Vectors


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


@dataclass(frozen=True)
class Earlier:
    """What a block has from earlier rounds.

    Args:
        lineage: schemas.LINEAGE.
        settled: schemas.SETTLED.
        merge: how it is used.
    """

    lineage: pa.Table
    settled: pa.Table
    merge: Merge


def select(
    judged: Judged,
    query_ids: Sequence[str],
    first_row: int,
    how: Selection,
    vectors: Vectors | None = None,
    earlier: Earlier | None = None,
) -> Selected:
    """Samples one block.

    Args:
        judged: its verdicts.
        query_ids: of its queries.
        first_row: query_row of the first of them.
        how: filters and sampling.
        vectors: of what may be drawn, by doc_row; for spread.
        earlier: what it has from earlier rounds; None: nothing, or it does not matter.
    """
    candidates = judged.candidates
    rows, slots = _sampled(judged, query_ids, first_row, how, vectors, earlier)
    found = np.bincount(candidates.query_row[rows] - first_row, minlength=len(query_ids))
    shortfall = shortfall_table(candidates, judged.codes, found, first_row, how.sample)
    is_emitted = shortfall["is_emitted"].to_numpy()
    stays = is_emitted[candidates.query_row[rows] - first_row]
    rows, slots = rows[stays], slots[stays]
    kind = kinds(candidates, rows, how.default_score, how.sample.semi_hard_margin, how.sources)
    positives = np.flatnonzero(candidates.is_positive & is_emitted[candidates.query_row - first_row])
    return Selected(
        with_codes(candidates.table, judged.codes),
        negatives_table(candidates, rows, slots, kind, how.sources),
        shortfall,
        forbidden_table(candidates, rows, how.filters),
        candidates.table.select(schemas.PAIRS.names).take(pa.array(np.sort(np.r_[rows, positives]))),
    )


def forbidden_table(candidates: Candidates, rows: NDArray[np.int64], filters: Sequence[FilterConfig]) -> pa.Table:
    """schemas.FORBIDDEN of the negatives at the positions `rows`."""
    found = forbidden(candidates, rows, filters)
    columns = [candidates.query_row[found.row], candidates.doc_row[found.positive], candidates.doc_row[found.row]]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=schemas.FORBIDDEN)


def _sampled(
    judged: Judged,
    query_ids: Sequence[str],
    first_row: int,
    how: Selection,
    vectors: Vectors | None,
    earlier: Earlier | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and slots of the negatives, sorted by (query_row, slot)."""
    candidates, seeds = judged.candidates, query_seeds(how.seed, how.round_number, query_ids)
    draw = Draw(how.sample, how.sample_score, how.default_score, how.sources, seeds, first_row, vectors)
    kept = pool_of(candidates, judged.kept, draw)
    if earlier is None:
        rows, keys = SAMPLERS[how.sample.strategy](candidates, kept, draw)
    else:
        age = ages(candidates, earlier.lineage, earlier.merge.number)
        kept = np.union1d(kept, judged.kept[age[judged.kept] > 0])
        rows, keys = SAMPLERS[how.sample.strategy](candidates, kept, draw)
        order = np.lexsort([*reversed(keys), candidates.query_row[rows]])
        settled = earlier.settled["query_row"].to_numpy()
        keys = (~reserved(candidates, rows, age[rows], order, settled, earlier.merge), *keys)
    positions, slots = first_slots(candidates.query_row[rows], keys, how.sample.n)
    return rows[positions], slots


class Select:
    """Stage: verdicts, negatives and shortfalls of one query block.

    Args:
        blocks: keyword arguments of Blocks.
        shard_starts: first doc_row of each document shard.
        vectors: paths of FetchVectors' files, bucketed by query block; None where no vectors are needed.
        merge: how earlier negatives are used; None where they are not.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self,
        blocks: dict[str, Any],
        shard_starts: Sequence[int],
        vectors: Sequence[str] | None = None,
        merge: Merge | None = None,
    ) -> None:
        self.blocks, self.shard_starts, self.vectors, self.merge = Blocks(**blocks), shard_starts, vectors, merge
        self.how = self.blocks.how

    def __call__(self, task: Task) -> Record:
        """Selects from block `bucket`: paths `verdicts` (the early ones) and `queries`, and `first_row` of the block;
        with a merge, `lineage` and `settled` too.

        Returns:
            Record whose outputs lie in folders beside each other, all with the task's key as name: verdicts/,
            negatives/, queries/ (shortfalls), selected/ (pairs, bucketed by document shard), forbidden/. With
            `shortfall: error`, a problem line per query that is short.
        """
        inputs: dict[str, Any] = task.inputs
        judged = self.blocks.judged(inputs)
        query_ids = storage.read_table(inputs["queries"], ["query_id"])["query_id"].to_pylist()
        vectors = fetched_vectors(self.vectors, inputs["bucket"]) if self.vectors is not None else None
        earlier = None
        if self.merge is not None:
            lineage, settled = (storage.read_table(inputs[name]) for name in ("lineage", "settled"))
            earlier = Earlier(lineage, settled, self.merge)
        selected = select(judged, query_ids, inputs["first_row"], self.how, vectors, earlier)
        if self.how.sample.shortfall == "error" and (problems := shortfall_problems(selected.shortfall, query_ids)):
            return Record(problems=problems)
        return Record(
            outputs=self._write(selected, task.output),
            rows_in=len(judged.candidates),
            rows_out=selected.negatives.num_rows,
            bytes_in=judged.candidates.table.nbytes,
            info=self._info(selected),
        )

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
