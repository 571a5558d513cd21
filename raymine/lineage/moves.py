"""Where the rows of an earlier round are in this one: documents and queries are appended, changed and removed.

A shard of the same content has moved as a whole. In the others a row is found by its id; what has gone has no row.

Cost: the ids of the shards that have changed, in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import positions

Rows = NDArray[np.int64]
GONE = -1


@dataclass(frozen=True)
class Span:
    """A shard of an earlier round.

    Args:
        old: its first row then.
        num_rows: in it.
        new: its first row now; None: it has changed.
    """

    old: int
    num_rows: int
    new: int | None


class Moves:
    """Translates rows.

    Args:
        spans: all shards of the earlier round, by `old`.
        changed: schemas.MOVED of those that have changed; None: none has.
    """

    def __init__(self, spans: Sequence[Span], changed: pa.Table | None = None) -> None:
        self.starts = np.array([span.old for span in spans], np.int64)
        self.shifts = np.array([0 if span.new is None else span.new - span.old for span in spans], np.int64)
        self.is_same = np.array([span.new is not None for span in spans], np.bool_)
        self.changed = schemas.MOVED.empty_table() if changed is None else changed

    def __call__(self, rows: Rows) -> Rows:
        """Rows of now, GONE where there is none.

        Args:
            rows: int64 [n] of then.
        """
        span = np.searchsorted(self.starts, rows, side="right") - 1
        at = positions(self.changed["old_row"].to_numpy(), rows)
        by_id = np.append(self.changed["new_row"].to_numpy(), GONE)[at]
        return np.where(self.is_same[span], rows + self.shifts[span], by_id)


class MapRows:
    """Finds the rows of changed shards by their ids; one task.

    Args:
        column: of the ids.
        old: path and first row of each changed shard of the earlier round.
        new: path and first row of each shard of this one that the earlier round did not have.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, column: str, old: Sequence[tuple[str, int]], new: Sequence[tuple[str, int]]) -> None:
        self.column, self.old, self.new = column, old, new

    def __call__(self, task: Task) -> Record:
        """Writes schemas.MOVED, sorted by old_row."""
        joined = self._ids(self.old, "old_row").join(self._ids(self.new, "new_row"), "id", join_type="inner")
        moved = joined.select(["old_row", "new_row"]).sort_by("old_row").cast(schemas.MOVED)
        shard = storage.write_table(f"{task.output}.parquet", moved)
        return Record([shard], rows_in=joined.num_rows, rows_out=joined.num_rows)

    def _ids(self, shards: Sequence[tuple[str, int]], name: str) -> pa.Table:
        parts = []
        for path, first_row in shards:
            ids = storage.read_table(path, [self.column])[self.column]
            rows = pa.array(np.arange(first_row, first_row + len(ids), dtype=np.int64))
            parts.append(pa.table({"id": ids, name: rows}))
        return (
            pa.concat_tables(parts)
            if parts
            else pa.table({"id": pa.array([], pa.string()), name: pa.array([], pa.int64())})
        )
