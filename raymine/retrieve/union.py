"""Candidates: the union of what the sources found for a query block, one wide row per (query, document).

Each source's hits are merged over its parts by the one tie rule; random candidates are drawn; positives are rows too.
The union is one sort of pairs as integers, the columns are filled by binary search: no loop over queries.

Cost: memory of a few times the block's candidates and retrieve.base.HITS_AT_ONCE, O(n log n) time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import distinct, pair_positions, rows_of
from raymine.retrieve.base import merged_hits, write_pairs
from raymine.retrieve.random import draw

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What one source found for a query block.

    Args:
        query_rows: int64 [n].
        doc_rows: int64 [n]; a pair occurs once.
        ranks: int32 [n], from 0 within a query.
        scores: float32 [n], None where the source gives none.
    """

    query_rows: Rows
    doc_rows: Rows
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32] | None


def unite(sources: Mapping[str, Found], positives: pa.Table) -> pa.Table:
    """The wide table of candidates.

    Args:
        sources: what each source found, in the order of the columns.
        positives: POSITIVES of the block; each becomes a row, found or not.

    Returns:
        schemas.candidates(sources), sorted by (query_row, doc_row).
    """
    given = [rows_of(positives), *((found.query_rows, found.doc_rows) for found in sources.values())]
    pairs = _distinct_pairs(given)
    columns = [pa.array(pairs[0]), pa.array(pairs[1])]
    columns.append(_filled(positives["relevance"].to_numpy(), pair_positions(rows_of(positives), pairs), pa.int32()))
    for found in sources.values():
        at = pair_positions((found.query_rows, found.doc_rows), pairs)
        columns.append(_filled(found.ranks, at, pa.int32()))
        columns.append(
            pa.nulls(len(at), pa.float32()) if found.scores is None else _filled(found.scores, at, pa.float32())
        )
    return pa.Table.from_arrays(columns, schema=schemas.candidates(list(sources)))


def _distinct_pairs(given: Sequence[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    """All pairs of several lists once, sorted by (query_row, doc_row)."""
    query_rows, doc_rows = (np.concatenate(column) for column in zip(*given, strict=True))
    first, span = query_rows.min(initial=0), 1 + doc_rows.max(initial=0)
    keys = distinct((query_rows - first) * span + doc_rows)
    return keys // span + first, keys % span


def _filled(values: NDArray[Any], at: Rows, dtype: pa.DataType) -> pa.Array:
    """values[at] as a column, null where `at` is -1."""
    if not len(values):
        return pa.nulls(len(at), dtype)
    return pa.array(values[np.maximum(at, 0)], dtype, mask=at < 0)


def candidate_pairs(table: pa.Table) -> pa.Table:
    """CANDIDATE_PAIRS of a wide table of candidates."""
    has_score = pa.array(np.zeros(table.num_rows, np.bool_))
    if "dense_score" in table.column_names:
        has_score = pc.is_valid(table["dense_score"])
    return pa.table([table["query_row"], table["doc_row"], has_score], schema=schemas.CANDIDATE_PAIRS)


class Union:
    """Unites the sources for one query block.

    Args:
        sources: per source, in the order of the columns, its `k` and `hits`, HitFiles of all query blocks, whose
            ranks are given anew here (None for random).
        shard_starts: doc_row of the first row of each document shard.
        num_documents: in the corpus.
        seed: of the random candidates.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self, sources: Mapping[str, Mapping[str, Any]], shard_starts: Sequence[int], num_documents: int, seed: int
    ) -> None:
        self.sources, self.shard_starts, self.num_documents, self.seed = sources, shard_starts, num_documents, seed

    def __call__(self, task: Task) -> Record:
        """Writes the candidates (Parquet) and their CANDIDATE_PAIRS, bucketed by document shard.

        Args:
            task: inputs bucket (the query block), positives and queries (its files), first_row (its first query_row).
        """
        found = {name: self._found(name, task) for name in self.sources}
        table = unite(found, storage.read_table(task.inputs["positives"]))
        shard = storage.write_table(f"{task.output}.parquet", table)
        pairs = write_pairs(f"{task.output}.pairs.arrow", candidate_pairs(table), self.shard_starts)
        return Record([shard, pairs], rows_in=sum(len(f.ranks) for f in found.values()), rows_out=table.num_rows)

    def _found(self, name: str, task: Task) -> Found:
        k = self.sources[name]["k"]
        if name == "random":
            return self._random(task, k)
        return Found(*merged_hits(self.sources[name]["hits"], task.inputs["bucket"], k))

    def _random(self, task: Task, k: int) -> Found:
        query_ids = storage.read_table(task.inputs["queries"], ["query_id"])["query_id"].to_pylist()
        chosen = draw(query_ids, self.num_documents, k, self.seed)
        query_rows = np.arange(len(query_ids), dtype=np.int64) + task.inputs["first_row"]
        ranks = np.arange(chosen.shape[1], dtype=np.int32)
        return Found(np.repeat(query_rows, chosen.shape[1]), chosen.reshape(-1), np.tile(ranks, len(query_ids)), None)
