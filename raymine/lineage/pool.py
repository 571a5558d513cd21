"""The pool: documents that earlier rounds found near the top of any query, and an estimate of what it misses.

What a checkpoint ranks high, an earlier one mostly ranked high for some query too. So a later round may embed these
documents alone: those among the first `top` of a query in an earlier round, by any source but chance, and all
positives and recent negatives. A random probe of the others is embedded with them. Of the hits among the first `top`,
those that are of the probe stand for 1 / (its share) hits each that the pool misses, so

    missed = (h_probe / share) / (h_pool + h_probe / share)

Cost: a query block's verdicts; of the estimate, the probe's rows (8 bytes each) and one block's hits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lineage.moves import GONE, Moves, Span
from raymine.lookup import distinct, positions
from raymine.retrieve.base import HitFiles, merged_hits

RANKED = ("dense_rank", "bm25_rank", "run_rank")


def near_top(verdicts: pa.Table, top: int) -> NDArray[np.int64]:
    """doc_rows that a source ranks below `top` (from 0), and positives, int64, each once.

    Args:
        verdicts: columns doc_row, relevance and some of RANKED.
        top: ranks.
    """
    found = verdicts["relevance"].fill_null(0).to_numpy() > 0
    for name in RANKED:
        if name in verdicts.column_names:
            found |= verdicts[name].fill_null(top).to_numpy() < top
    return distinct(verdicts["doc_row"].to_numpy()[found])


class FindPool:
    """Documents of the pool from one file, bucketed by document shard.

    Args:
        top: ranks.
        spans: shards of the earlier round's documents.
        moved: MOVED file of those that have changed; None: none has.
        shard_starts: first doc_row of each document shard.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, top: int, spans: Sequence[Span], moved: str | None, shard_starts: Sequence[int]) -> None:
        self.top, self.shard_starts = top, shard_starts
        self.documents = Moves(spans, None if moved is None else storage.read_table(moved))

    def __call__(self, task: Task) -> Record:
        """Writes DOC_ROWS.

        Args:
            task: one of the inputs verdicts (of the earlier round), pool (a file of it) and now (a table with doc_rows
                of this round).
        """
        rows = self._rows(task)
        table = pa.table({"doc_row": pa.array(rows[rows != GONE])}, schema=schemas.DOC_ROWS)
        buckets = storage.split_by(table["doc_row"].to_numpy(), self.shard_starts, table)
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.DOC_ROWS, buckets)
        return Record([shard], rows_in=len(rows), rows_out=shard.num_rows)

    def _rows(self, task: Task) -> NDArray[np.int64]:
        inputs = task.inputs
        if "verdicts" in inputs:
            with storage.parquet_file(inputs["verdicts"]) as file:
                names = [name for name in ("doc_row", "relevance", *RANKED) if name in file.schema_arrow.names]
                return distinct(self.documents(near_top(file.read(columns=names), self.top)))
        if "pool" in inputs:
            return distinct(self.documents(storage.read_arrow(inputs["pool"])["doc_row"].to_numpy()))
        return distinct(storage.read_table(inputs["now"], ["doc_row"])["doc_row"].to_numpy())


class MergePool:
    """The pool's documents in one shard.

    Args:
        found: FindPool's files.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, found: Sequence[str]) -> None:
        self.found = found

    def __call__(self, task: Task) -> Record:
        """Writes DOC_ROWS, each once. task.inputs: bucket (the shard's number)."""
        rows = storage.read_buckets(self.found, task.inputs["bucket"], schemas.DOC_ROWS)["doc_row"].to_numpy()
        table = pa.table({"doc_row": pa.array(distinct(rows))}, schema=schemas.DOC_ROWS)
        shard = storage.write_arrow(f"{task.output}.arrow", table)
        return Record([shard], rows_in=len(rows), rows_out=shard.num_rows)


class EstimateMissed:
    """Counts the hits of the pool and of the probe in one query block.

    Args:
        hits: HitFiles of all query blocks.
        top: ranks that count.
        probe: DOC_ROWS files of the probe.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, hits: Sequence[HitFiles], top: int, probe: Sequence[str]) -> None:
        self.hits, self.top = hits, top
        self.probe = np.concatenate([storage.read_arrow(path)["doc_row"].to_numpy() for path in probe])

    def __call__(self, task: Task) -> Record:
        """No outputs; info: hits and probe_hits. task.inputs: bucket (the query block)."""
        _, doc_rows, _, _ = merged_hits(self.hits, task.inputs["bucket"], self.top)
        of_probe = int((positions(self.probe, doc_rows) >= 0).sum())
        return Record(rows_in=len(doc_rows), info={"hits": len(doc_rows), "probe_hits": of_probe})


def missed(hits: int, probe_hits: int, share: float) -> float:
    """The estimated share of the hits that the pool misses (see the module).

    Args:
        hits: in all.
        probe_hits: of them, those of the probe.
        share: of the documents outside the pool that are in the probe; 0: there are none outside.
    """
    if not probe_hits:
        return 0.0
    outside = probe_hits / share
    return outside / (hits - probe_hits + outside)
