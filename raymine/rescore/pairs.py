"""The pairs of one document shard: rows, texts, and which pairs are the same texts.

Cost: 100 bytes per pair; the queries' texts are read by block, only where some pair needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.rescore.cache import hashes, keys_of

# Columns of query blocks kept in memory: hashes and texts of 128 blocks of 8,192 queries, a million in 0.1 GB.
KEPT_COLUMNS = 256


class QueryBlocks:
    """Columns of queries by row, read from their blocks as they are needed.

    Args:
        paths: one file per block.
        starts: first row of each block.
    """

    def __init__(self, paths: Sequence[str], starts: Sequence[int]) -> None:
        self.paths, self.starts = paths, np.asarray(starts, dtype=np.int64)
        self._read = lru_cache(KEPT_COLUMNS)(lambda block, column: storage.read_table(self.paths[block], [column]))

    def take(self, rows: NDArray[np.int64], column: str) -> pa.ChunkedArray:
        """A column's values at ascending query rows."""
        block = np.searchsorted(self.starts, rows, side="right") - 1
        parts = [
            self._read(int(each), column).column(0).take(pa.array(rows[block == each] - self.starts[each]))
            for each in np.unique(block)
        ]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], None if parts else pa.null())


@dataclass(frozen=True)
class ShardPairs:
    """The pairs of one document shard, sorted by (query_row, doc_row), and which of them are the same texts.

    Args:
        query_rows: int64 [n].
        doc_rows: int64 [n].
        keys: [m <= n] keys of the pairs of texts, sorted and unique.
        example: int64 [m], the first pair with each key.
        key_of: int64 [n], position of each pair's key.
    """

    query_rows: NDArray[np.int64]
    doc_rows: NDArray[np.int64]
    keys: NDArray[np.bytes_]
    example: NDArray[np.int64]
    key_of: NDArray[np.int64]

    def table(self, scores: NDArray[np.float32]) -> pa.Table:
        """The pairs with their scores (float32 [m], by key)."""
        columns = [pa.array(self.query_rows), pa.array(self.doc_rows), pa.array(scores[self.key_of])]
        return pa.Table.from_arrays(columns, schema=schemas.TEACHER_SCORES)


def shard_pairs(table: pa.Table, queries: QueryBlocks, corpus: str, first_row: int) -> ShardPairs:
    """Orders the pairs of a shard and finds the keys of their texts.

    Args:
        table: schemas.PAIRS.
        queries: all queries.
        corpus: path of the document shard.
        first_row: document row at which it begins.
    """
    order = np.lexsort((table["doc_row"].to_numpy(), table["query_row"].to_numpy()))
    query_rows, doc_rows = table["query_row"].to_numpy()[order], table["doc_row"].to_numpy()[order]
    rows, query_of = np.unique(query_rows, return_inverse=True)
    query_hashes = hashes(queries.take(rows, "text_hash"))
    doc_hashes = hashes(storage.read_table(corpus, ["text_hash"])["text_hash"])
    keys = keys_of(query_hashes[query_of], doc_hashes[doc_rows - first_row])
    return ShardPairs(query_rows, doc_rows, *np.unique(keys, return_index=True, return_inverse=True))
