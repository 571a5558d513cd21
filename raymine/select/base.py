"""The port of filters: a pure function from the wide table of candidates to a mask of those that go.

All queries of a block are filtered at once, with numpy on columns: no loop over queries. A candidate's reason is the
kind of the first filter that takes it; so candidates = kept + dropped, with one reason each, and because no filter
looks at what another one left, tightening any filter never brings a candidate back. (Two exceptions: what goes before
the teacher is asked gets no score of the teacher, and so does not count in its percentiles; and max_reuse goes last.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine.select.scales import AS_GIVEN, Scales
from raymine.select_config import Sparing

Mask = NDArray[np.bool_]

NOT_FOUND = np.int64(1) << 40  # rank of what a source did not find: behind every real one
RANDOM_OFFSET = np.int64(1) << 32  # random ranks are an order of draws, not of merit: behind those of all other sources


class Filter(Protocol):
    """Says which candidates go. An unknown score counts as below every value.

    Args:
        candidates: the block.
        config: the filter's own section, with its `score` filled in.

    Returns:
        bool [n], True where the candidate goes.
    """

    def __call__(self, candidates: Candidates, config: Any) -> Mask: ...


class Candidates:
    """The wide table of one query block, as numpy columns.

    Args:
        table: schemas.candidates(...) or schemas.verdicts(...), sorted by (query_row, doc_row).
        scales: how scores are seen.
        overused: bool [n], what max_reuse takes; None: nothing.
    """

    def __init__(self, table: pa.Table, scales: Scales = AS_GIVEN, overused: Mask | None = None) -> None:
        self.table, self.scales = table, scales
        self.overused: Mask = np.zeros(len(table), np.bool_) if overused is None else overused

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def query_row(self) -> NDArray[np.int64]:
        return np.asarray(self.table["query_row"].to_numpy())

    @cached_property
    def doc_row(self) -> NDArray[np.int64]:
        return np.asarray(self.table["doc_row"].to_numpy())

    @cached_property
    def is_positive(self) -> Mask:
        return np.asarray(pc.fill_null(pc.greater(self.table["relevance"], 0), False).to_numpy())

    def score(self, name: str) -> NDArray[np.float64]:
        """A score of every candidate, float64 [n], NaN where it is unknown; the teacher's on the config's scale.

        Args:
            name: teacher, dense, bm25 or run.
        """
        return self._calibrated_teacher if name == "teacher" else self.trait(f"{name}_score")

    @cached_property
    def _calibrated_teacher(self) -> NDArray[np.float64]:
        return self.scales.calibrated(self.trait("teacher_score"), self.query_row)

    def counted_score(self, name: str) -> NDArray[np.float64]:
        """The score that counts over all queries: before a calibration by such counts, which leaves the order."""
        return (
            self.trait("teacher_score")
            if (name, self.scales.calibrate) == ("teacher", "percentile")
            else self.score(name)
        )

    def trait(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, float64 [n], NaN where it is unknown."""
        column = pc.cast(self.table[name], pa.float64())
        return np.asarray(pc.fill_null(column, float("nan")).to_numpy())

    def codes(self, name: str) -> tuple[NDArray[np.int64], Mask]:
        """A column of codes, int64 [n], and whether each is known."""
        column = self.table[name]
        return np.asarray(pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy()), np.asarray(column.is_valid())

    def rank(self, source: str) -> NDArray[np.int64]:
        """Rank of every candidate in a source, int64 [n], NOT_FOUND where the source did not find it."""
        column = pc.cast(self.table[f"{source}_rank"], pa.int64())
        return np.asarray(pc.fill_null(column, int(NOT_FOUND)).to_numpy())

    @cached_property
    def found_rank(self) -> NDArray[np.int64]:
        """Best rank over all sources but chance, int64 [n], NOT_FOUND where none of them found it."""
        ranks = [name.removesuffix("_rank") for name in self.table.column_names if name.endswith("_rank")]
        return self.best_rank([source for source in ranks if source != "random"])

    def spared(self, config: Sparing) -> Mask:
        """What a filter lets stay whatever it scores, bool [n]."""
        if config.spare_beyond is not None:
            return np.asarray(self.found_rank >= config.spare_beyond)
        if config.spare_random and "random_rank" in self.table.column_names:
            return np.asarray(self.table["random_rank"].is_valid() & (self.found_rank == NOT_FOUND))
        return np.zeros(len(self), np.bool_)

    def best_rank(self, sources: Sequence[str]) -> NDArray[np.int64]:
        """Best rank over the sources, int64 [n]; what only the random source found comes behind all else."""
        best = np.full(len(self), NOT_FOUND)
        for source in sources:
            rank = self.rank(source)
            best = np.minimum(best, rank + RANDOM_OFFSET if source == "random" else rank)
        return best


def without_non_finite(table: pa.Table) -> pa.Table:
    """The same table with every NaN or infinite score made null: such a score says nothing, and breaks trainers."""
    for number, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(number)
            is_finite = pc.is_finite(column)
            if pc.all(is_finite).as_py() is False:
                table = table.set_column(number, field, pc.if_else(is_finite, column, pa.scalar(None, field.type)))
    return table
