"""Reading of stored vectors: embedding shards and query blocks, with positions instead of ids.

An embedding file holds (row, vector), `row` being the position in its shard or block; empty documents have none. What
is read is held as stored (float16 or float32): both widen to float64 without loss, so a score does not depend on where
the widening happens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymine import schemas, storage

Matrix = NDArray[np.floating[Any]]
# Query blocks a worker keeps between tasks: every document shard asks for all of them, and a block of 8192 queries in
# 768 dimensions takes 12 MB, so this holds about 170,000 queries; beyond it they are read again for each shard.
CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Vectors:
    """Vectors of one shard or block.

    Args:
        rows: int64 [n], positions in the shard, ascending.
        matrix: float16 or float32 [n, dim].
    """

    rows: NDArray[np.int64]
    matrix: Matrix


def read_vectors(path: str) -> Vectors:
    """Reads one embeddings file (schemas.embeddings)."""
    table = storage.read_arrow(path)
    return Vectors(table["row"].to_numpy().astype(np.int64, copy=False), schemas.vector_matrix(table["vector"]))


def num_vectors(path: str) -> int:
    """Rows of an embeddings file, from its footer."""
    return storage.arrow_schema(path)[1]


def dim_of(path: str) -> int:
    """Dimensions of the vectors of an embeddings file, from its footer."""
    return int(storage.arrow_schema(path)[0].field("vector").type.list_size)


class VectorBlocks:
    """The query blocks' vectors, read when asked for; the latest are kept while they fit in `cache_bytes`.

    Args:
        paths: one embeddings file per block.
        cache_bytes: what may be kept in memory beside the block in use.
    """

    def __init__(self, paths: Sequence[str], cache_bytes: int = CACHE_BYTES) -> None:
        self.paths, self.cache_bytes = list(paths), cache_bytes
        self._kept: OrderedDict[int, Vectors] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, block: int) -> Vectors:
        vectors = self._kept.pop(block, None) or read_vectors(self.paths[block])
        self._kept[block] = vectors
        while len(self._kept) > 1 and sum(kept.matrix.nbytes for kept in self._kept.values()) > self.cache_bytes:
            self._kept.popitem(last=False)
        return vectors
