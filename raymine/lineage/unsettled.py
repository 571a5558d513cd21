"""Vectors of the queries that are searched for, where others keep the last round's negatives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine import storage
from raymine.artifacts import Record, Task


class DropSettled:
    """Leaves the settled queries out of one block's vectors."""

    VERSION = 1
    calls_in_flight = 1

    def __call__(self, task: Task) -> Record:
        """Writes embeddings.

        Args:
            task: inputs vectors (of the block), settled (SETTLED of it), first_row (its first query_row).
        """
        table = storage.read_arrow(task.inputs["vectors"])
        settled = storage.read_table(task.inputs["settled"])["query_row"].to_numpy() - task.inputs["first_row"]
        stays = ~np.isin(table["row"].to_numpy(), settled)
        left = table.filter(pa.array(stays))
        return Record(
            [storage.write_arrow(f"{task.output}.arrow", left)], rows_in=table.num_rows, rows_out=left.num_rows
        )
