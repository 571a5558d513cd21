"""The lineage of an earlier round in the rows of this one, and the pairs that show what has become of it.

Lineage: a row per query and document that was ever among the query's negatives: in which round first, in which last,
and at which rank the embedder had it in each round since (schemas.LINEAGE).

Cost: the lineage of one query block; of a block that has changed, that of all blocks that have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lineage.moves import GONE, Moves, Span
from raymine.retrieve.base import write_pairs


def carried(lineage: pa.Table, queries: Moves, documents: Moves, block: tuple[int, int]) -> pa.Table:
    """Lineage in the rows of this round, of one query block; without what has gone.

    Args:
        lineage: schemas.LINEAGE of the earlier round.
        queries: where its queries are now.
        documents: where its documents are now.
        block: first query_row, and the one after the last.

    Returns:
        schemas.LINEAGE, sorted by (query_row, doc_row).
    """
    query_rows = queries(lineage["query_row"].to_numpy())
    doc_rows = documents(lineage["doc_row"].to_numpy())
    stays = np.flatnonzero((query_rows >= block[0]) & (query_rows < block[1]) & (doc_rows != GONE))
    stays = stays[np.lexsort((doc_rows[stays], query_rows[stays]))]
    taken = lineage.take(pa.array(stays))
    columns = [pa.array(query_rows[stays]), pa.array(doc_rows[stays]), *taken.columns[2:]]
    return pa.Table.from_arrays(columns, schema=schemas.LINEAGE)


def last_negatives(lineage: pa.Table, number: int) -> NDArray[np.bool_]:
    """Which rows were negatives in the round before `number`, bool [n]."""
    return np.asarray(lineage["last_round"].to_numpy() == number - 1)


class CarryLineage:
    """Carries the lineage of one query block over.

    Args:
        number: of this round.
        query_spans: shards of the earlier round's queries.
        document_spans: shards of its documents.
        moved: MOVED files of changed query blocks and document shards; None: none has changed.
        oldest: round from which on negatives are scored again.
        shard_starts: first doc_row of each document shard.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self,
        number: int,
        query_spans: Sequence[Span],
        document_spans: Sequence[Span],
        moved: tuple[str | None, str | None],
        oldest: int,
        shard_starts: Sequence[int],
    ) -> None:
        changed = [None if path is None else storage.read_table(path) for path in moved]
        self.queries, self.documents = Moves(query_spans, changed[0]), Moves(document_spans, changed[1])
        self.number, self.oldest, self.shard_starts = number, oldest, shard_starts

    def __call__(self, task: Task) -> Record:
        """Writes the lineage, and the pairs to be scored: negatives and positives, bucketed by document shard.

        Args:
            task: inputs lineage (paths of the earlier round's files), positives (of the block), first_row and num_rows
                (its queries).
        """
        inputs: dict[str, Any] = task.inputs
        files = [storage.read_table(path) for path in inputs["lineage"]]
        earlier = pa.concat_tables(files) if files else schemas.LINEAGE.empty_table()
        block = (inputs["first_row"], inputs["first_row"] + inputs["num_rows"])
        table = carried(earlier, self.queries, self.documents, block)
        recent = table.filter(pa.array(table["last_round"].to_numpy() >= self.oldest)).select(schemas.PAIRS.names)
        positives = storage.read_table(inputs["positives"], schemas.PAIRS.names)
        pairs = pa.concat_tables([recent.cast(schemas.PAIRS), positives.cast(schemas.PAIRS)])
        outputs = [
            storage.write_table(f"{task.output}.parquet", table),
            write_pairs(f"{task.output}.pairs.arrow", pairs, self.shard_starts),
        ]
        return Record(outputs, rows_in=earlier.num_rows, rows_out=table.num_rows)
