"""Exact search of one part: a float32 matrix product finds what may be among the k best, float64 decides.

For tiles of queries and documents: scores by one matrix product; a document stays in the race if its score reaches the
query's threshold, which is the running k-th best score less twice the error of the product. Whenever enough has
gathered, it is compacted to what still reaches the (now higher) threshold. In the end the survivors, k per query and a
few, get their final score from topk.gathered_scores and are cut by topk.merge_topk.

So the hits, their order and the bits of their scores depend neither on the tiles, nor on the number of threads or the
kernels of the BLAS, nor on how documents are split into shards and parts. Identical vectors tie exactly and are told
apart by doc_row; when so many tie that the survivors do not shrink, they are decided by their final scores on the way.

Cost: 2 q n dim operations in the BLAS, one pass over the scores while they are in cache, and per query about
k (1 + ln(n / DOCS_PER_TILE)) survivors. Memory: the part in float32, one query block, one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.index.base import hits_table, load_part
from raymine.topk import gathered_scores, merge_topk, score_of, score_order
from raymine.vectors import Matrix, VectorBlocks

# 8 MB of scores. Of tiles between 256 x 4096 and 1024 x 8192 none was faster by more than 5 % (200,000 documents and
# 2,000 queries of 256 dimensions, k 100, one core: 2.2 s, 85 % of it in the product; faiss IndexFlatIP 1.9 s).
QUERIES_PER_TILE = 512
DOCS_PER_TILE = 4096
# Half the distance from 1 to the next float32: the largest relative error of one rounding.
UNIT_ROUNDOFF = 2.0**-24
# Survivors per query are allowed to reach 2 k and this before they are compacted.
SLACK = 64


def product_error(dim: int, query_norms: NDArray[np.float64], doc_norm: float) -> NDArray[np.float32]:
    """How far a float32 inner product may be from the rounded exact one, whatever the order of its sums.

    |fl(q.d) - q.d| <= dim u / (1 - dim u) |q| |d| (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and
    one more rounding for the exact score; 1 % on top covers the rounding of the bound itself.

    Args:
        dim: length of the vectors.
        query_norms: float64 [q].
        doc_norm: largest norm of a document.

    Returns:
        float32 [q].
    """
    relative = (dim + 1) * UNIT_ROUNDOFF / (1 - (dim + 1) * UNIT_ROUNDOFF)
    return (1.01 * relative * doc_norm * query_norms).astype(np.float32)


class Race:
    """The documents that may still be among the k best of each query of a tile.

    Args:
        queries: float32 [q, dim].
        docs: float32 [n, dim], all documents of the part.
        k: hits per query.
        error: float32 [q], how far an offered score may be from the final one.
    """

    def __init__(
        self, queries: NDArray[np.float32], docs: NDArray[np.float32], k: int, error: NDArray[np.float32]
    ) -> None:
        self.queries, self.docs, self.k, self.error = queries, docs, k, error
        self.threshold = np.full(len(queries), -np.inf, np.float32)
        self.limit = len(queries) * (2 * k + SLACK)
        self.pending: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self.num_pending = 0

    def offer(self, scores: NDArray[np.float32], first_doc: int) -> None:
        """Takes in the scores of all queries against consecutive documents.

        Args:
            scores: float32 [q, m].
            first_doc: index of the first of the m documents.
        """
        width = scores.shape[1]
        if not self.num_pending and width > self.k:
            # The first tile sets a first threshold, or else all of it would survive.
            kth = np.partition(scores, width - self.k, axis=1)[:, width - self.k]
            self._raise_threshold(kth)
        found = np.flatnonzero(scores >= self.threshold[:, None])
        query_index, doc_index = np.divmod(found, width)
        self.pending.append((query_index, doc_index + first_doc, scores.reshape(-1)[found]))
        self.num_pending += len(found)
        if self.num_pending > self.limit:
            self._compact()

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """The k best of each query: query and document indices, ranks and final scores, by (query, rank)."""
        self._compact()
        query_index, doc_index, _ = self._gathered()
        final = gathered_scores(self.queries, self.docs, query_index, doc_index)
        return merge_topk(query_index, doc_index, final, self.k)

    def _raise_threshold(self, kth: NDArray[np.float32]) -> None:
        # k documents have a final score of at least kth - error. One whose offered score is below kth - 2 error has a
        # final one below that: it is out, whatever its doc_row.
        self.threshold = np.maximum(self.threshold, np.nextafter(kth - 2 * self.error, np.float32(-np.inf)))

    def _gathered(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        columns = [np.concatenate(column) for column in zip(*self.pending, strict=True)]
        return columns[0], columns[1], columns[2]

    def _keep(self, query_index: NDArray[np.int64], doc_index: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        self.pending, self.num_pending = [(query_index, doc_index, scores)], len(scores)

    def _compact(self) -> None:
        """Raises the threshold to the k-th best pending score and drops what no longer reaches it."""
        query_index, doc_index, scores = self._gathered()
        self._raise_threshold(kth_best(query_index, scores, self.k, len(self.queries)))
        kept = scores >= self.threshold[query_index]
        query_index, doc_index, scores = query_index[kept], doc_index[kept], scores[kept]
        if len(scores) > self.limit // 2:
            # Ties, or scores closer than the error: only the final scores can tell these apart.
            scores = gathered_scores(self.queries, self.docs, query_index, doc_index)
            query_index, doc_index, _, scores = merge_topk(query_index, doc_index, scores, self.k)
        self._keep(query_index, doc_index, scores)


def kth_best(groups: NDArray[np.int64], scores: NDArray[np.float32], k: int, num_groups: int) -> NDArray[np.float32]:
    """The k-th best score of each group; -inf for groups with fewer than k.

    Args:
        groups: int64 [n], in 0 .. num_groups - 1, in any order.
        scores: float32 [n], finite.
        k: from 1.
        num_groups: length of the result.

    Returns:
        float32 [num_groups].
    """
    keys = np.sort((groups << 32) + score_order(scores))
    counts = np.bincount(groups, minlength=num_groups)
    starts = np.cumsum(counts) - counts
    full = np.flatnonzero(counts >= k)
    best = np.full(num_groups, -np.inf, np.float32)
    best[full] = score_of(keys[starts[full] + k - 1] - (full << 32))
    return best


def search(
    queries: Matrix, docs: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """The k documents of highest inner product for each query; ties go to the lower index.

    Args:
        queries: float16 or float32 [q, dim], finite.
        docs: float32 [n, dim], finite.
        k: hits per query; all n where n < k.

    Returns:
        int64 query indices, int64 document indices, int32 ranks, float32 scores, sorted by (query, rank).
    """
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    if not len(queries) or not len(docs):
        return empty
    doc_norm = max(float(np.linalg.norm(tile, axis=1).max()) for tile in _tiles(docs, DOCS_PER_TILE))
    buffer = np.empty(QUERIES_PER_TILE * min(DOCS_PER_TILE, len(docs)), np.float32)
    found = []
    for first, tile in enumerate(_tiles(queries, QUERIES_PER_TILE)):
        single = tile.astype(np.float32)
        error = product_error(docs.shape[1], np.linalg.norm(tile.astype(np.float64), axis=1), doc_norm)
        race = Race(single, docs, k, error)
        for number, doc_tile in enumerate(_tiles(docs, DOCS_PER_TILE)):
            scores = buffer[: len(single) * len(doc_tile)].reshape(len(single), len(doc_tile))
            race.offer(np.matmul(single, doc_tile.T, out=scores), number * DOCS_PER_TILE)
        query_index, *hits = race.finish()
        found.append((query_index + first * QUERIES_PER_TILE, *hits))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns[0], columns[1], columns[2], columns[3]


def _tiles(matrix: Any, size: int) -> Iterator[Any]:
    return (matrix[begin : begin + size] for begin in range(0, len(matrix), size))


class SearchExact:
    """Searches one part for all query blocks.

    Args:
        query_vectors: embeddings file of each query block.
        block_starts: query_row of the first query of each block.
        k: hits per query.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, query_vectors: list[str], block_starts: list[int], k: int) -> None:
        self.queries, self.block_starts, self.k = VectorBlocks(query_vectors), block_starts, k

    def __call__(self, task: Task) -> Record:
        """Writes the part's hits, bucketed by query block.

        Args:
            task: inputs vectors (embeddings files of the part's shards) and first_rows (doc_row where each begins).
        """
        paths = task.inputs["vectors"]
        doc_rows, docs = load_part(paths, task.inputs["first_rows"])
        tables = (self._search_block(block, doc_rows, docs) for block in range(len(self.queries)))
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, tables)
        return Record([shard], rows_in=len(doc_rows), rows_out=shard.num_rows, bytes_in=docs.nbytes)

    def _search_block(self, block: int, doc_rows: NDArray[np.int64], docs: NDArray[np.float32]) -> pa.Table:
        queries = self.queries[block]
        query_index, doc_index, ranks, scores = search(queries.matrix, docs, self.k)
        query_rows = queries.rows[query_index] + self.block_starts[block]
        return hits_table(query_rows, doc_rows[doc_index], ranks, scores)
