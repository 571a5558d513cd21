"""Exact search: a low-precision matrix product finds what may be among the k best, float64 decides.

Documents are taken in chunks that fit in memory, once each; queries in tiles. A tile is multiplied with the chunk by
index.first_pass, whose products are off by no more than a bound; index.race keeps those that may still belong to the k
best so far. At the end of a chunk the survivors, k per query and a few, get their final score from
topk.gathered_scores and are merged with the hits of the chunks before by topk.merge_topk; the k-th best score is where
the next chunk's threshold begins.

So the hits, their order and the bits of their scores depend neither on tiles and chunks, nor on the number of threads,
the precision of the products or the kernels of the BLAS, nor on how documents are split into shards and parts.
Identical vectors tie exactly and are told apart by doc_row; when so many tie that the survivors do not shrink, they are
decided by their final scores on the way.

Cost: 2 q n dim operations in the BLAS, one pass over the products while they are in cache, and per query and chunk some
k / (number of the chunk) final scores. Memory: a chunk as stored and as rounded, the queries as both, 12 bytes per
hit, and a tile of products per thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.index.base import hits_table, load_chunk
from raymine.index.first_pass import BFLOAT16_ROUNDOFF, Rounded, errors, fastest, make_buffers, products, rounded
from raymine.threads import in_threads, num_threads
from raymine.topk import gathered_scores, merge_topk
from raymine.vectors import Matrix, Vectors, num_vectors, read_vectors

if TYPE_CHECKING:
    import torch

QUERIES_PER_TILE = 512
DOCS_PER_TILE = 4096
NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Chunk:
    """Documents in memory.

    Args:
        doc_rows: int64 [n], ascending.
        matrix: float16 or float32 [n, dim].
        rounded: the same for the first pass.
    """

    doc_rows: NDArray[np.int64]
    matrix: Matrix
    rounded: Rounded


@dataclass
class Tile:
    """Some queries, and their k best of the chunks so far.

    Args:
        matrix: float16 or float32 [q, dim].
        rounded: the same for the first pass.
        hits: query index in the tile, doc_row, rank and final score, by (query, rank).
    """

    matrix: Matrix
    rounded: Rounded
    hits: Hits = field(default=NOTHING)

    def kth_scores(self, k: int) -> NDArray[np.float64]:
        """The k-th best score of each query, float64 [q]; -inf where there are fewer."""
        query_index, _, ranks, scores = self.hits
        kth = np.full(len(self.matrix), -np.inf)
        last = ranks == k - 1
        kth[query_index[last]] = scores[last]
        return kth


class Search:
    """The k best of chunks of documents for all queries.

    Args:
        queries: float16 or float32 [q, dim], finite.
        k: hits per query.
        precision: of the first pass, bfloat16 or float32; None: the faster one.
    """

    def __init__(self, queries: Matrix, k: int, precision: str | None = None) -> None:
        self.k, self.precision = k, precision or fastest()
        whole = rounded(queries, self.precision)
        borders = [(begin, begin + QUERIES_PER_TILE) for begin in range(0, len(queries), QUERIES_PER_TILE)]
        self.tiles = [Tile(queries[begin:end], whole.rows(begin, end)) for begin, end in borders]

    def add(self, doc_rows: NDArray[np.int64], matrix: Matrix) -> None:
        """Searches a chunk.

        Args:
            doc_rows: int64 [n], ascending, none of them seen before.
            matrix: float16 or float32 [n, dim], finite.
        """
        if not len(matrix) or not self.tiles:
            return
        chunk = Chunk(doc_rows, matrix, rounded(matrix, self.precision))
        threads = min(num_threads(), len(self.tiles))
        buffers: SimpleQueue[tuple[torch.Tensor, torch.Tensor]] = SimpleQueue()
        for _ in range(threads):
            buffers.put(make_buffers(self.precision, QUERIES_PER_TILE * min(DOCS_PER_TILE, len(matrix))))

        def search(tile: Tile) -> Hits:
            buffer = buffers.get()
            try:
                return search_tile(tile, chunk, self.k, buffer)
            finally:
                buffers.put(buffer)

        for tile, hits in zip(self.tiles, in_threads(search, self.tiles, threads), strict=True):
            tile.hits = hits

    def hits(self) -> Iterator[Hits]:
        """Of each tile: query indexes (of all queries), doc_rows, ranks and final scores, by (query, rank)."""
        for number, tile in enumerate(self.tiles):
            query_index, doc_rows, ranks, scores = tile.hits
            yield query_index + number * QUERIES_PER_TILE, doc_rows, ranks, scores


def search_tile(tile: Tile, chunk: Chunk, k: int, buffers: tuple[torch.Tensor, torch.Tensor]) -> Hits:
    """The k best of a tile's hits and a chunk."""
    race = Race(tile, chunk, k)
    for begin in range(0, len(chunk.matrix), DOCS_PER_TILE):
        docs = chunk.rounded.rows(begin, begin + DOCS_PER_TILE)
        race.offer(products(tile.rounded, docs, buffers), begin)
    query_index, doc_index = race.survivors()
    scores = gathered_scores(tile.matrix, chunk.matrix, query_index, doc_index)
    known_index, known_rows, _, known_scores = tile.hits
    return merge_topk(
        np.concatenate([known_index, query_index]),
        np.concatenate([known_rows, chunk.doc_rows[doc_index]]),
        np.concatenate([known_scores, scores]),
        k,
    )


class Race:
    """The documents of a chunk that may still be among the k best of each query of a tile.

    Args:
        tile: the queries, and their hits so far.
        chunk: the documents.
        k: hits per query.
    """

    def __init__(self, tile: Tile, chunk: Chunk, k: int) -> None:
        from raymine.index.race import BLOCK, thresholds_below

        self.tile, self.chunk, self.k = tile, chunk, k
        self.errors = errors(tile.rounded, chunk.rounded)
        num_queries, capacity = len(tile.matrix), 2 * k + 2 * BLOCK
        self.keys = np.empty((num_queries, capacity), np.int16)
        self.docs = np.empty((num_queries, capacity), np.int32)
        self.sizes = np.zeros(num_queries, np.int64)
        self.thresholds = thresholds_below(tile.kth_scores(k), self.errors, BFLOAT16_ROUNDOFF)

    def offer(self, bits: NDArray[np.int16], first_doc: int) -> None:
        """Takes in the products of all queries with consecutive documents.

        Args:
            bits: int16 [q, n], of bfloat16.
            first_doc: index in the chunk of the first of the n documents.
        """
        from raymine.index.race import offer

        if not len(self.tile.hits[0]) and not self.sizes.any():
            self._begin(bits)
        row, column = 0, 0
        while row < len(bits):
            row, column = offer(
                bits, first_doc, self.k, self.errors, BFLOAT16_ROUNDOFF,
                self.keys, self.docs, self.sizes, self.thresholds, row, column,
            )  # fmt: skip
            if row < len(bits):
                self._decide(row)

    def _begin(self, bits: NDArray[np.int16]) -> None:
        """Sets thresholds from the first products of all, or else most of them would be taken in one by one."""
        from raymine.index.race import thresholds_below

        width = bits.shape[1]
        if width > self.k:
            keys = bits ^ ((bits >> 15) & np.int16(0x7FFF))
            kth = np.partition(keys, width - self.k, axis=1)[:, width - self.k].astype(np.int32)
            values = ((kth ^ ((kth >> 15) & 0x7FFF)) << 16).view(np.float32).astype(np.float64)
            self.thresholds = thresholds_below(values, self.errors, BFLOAT16_ROUNDOFF)

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is left: query indexes in the tile and document indexes in the chunk, int64 [n] each."""
        from raymine.index.race import shrink_all

        shrink_all(self.k, self.errors, BFLOAT16_ROUNDOFF, self.keys, self.docs, self.sizes, self.thresholds)
        in_use = np.arange(self.docs.shape[1]) < self.sizes[:, None]
        return np.nonzero(in_use)[0], self.docs[in_use].astype(np.int64)

    def _decide(self, row: int) -> None:
        """Keeps the k best of a query by their final scores: its products are too close to be told apart."""
        from raymine.index.race import thresholds_below

        docs = self.docs[row, : self.sizes[row]].astype(np.int64)
        scores = gathered_scores(self.tile.matrix, self.chunk.matrix, np.full(len(docs), row), docs)
        best = np.lexsort((docs, -scores))[: self.k]
        self.keys[row, : len(best)], self.docs[row, : len(best)] = self.keys[row, best], docs[best]
        self.sizes[row] = len(best)
        kth, error = scores[best[-1:]].astype(np.float64), self.errors[row : row + 1]
        self.thresholds[row] = max(self.thresholds[row], thresholds_below(kth, error, BFLOAT16_ROUNDOFF)[0])


def search(queries: Matrix, docs: Matrix, k: int, precision: str | None = None) -> Hits:
    """The k documents of highest inner product for each query; ties go to the lower index.

    Args:
        queries: float16 or float32 [q, dim], finite.
        docs: float16 or float32 [n, dim], finite.
        k: hits per query; all n where n < k.
        precision: of the first pass, bfloat16 or float32; None: the faster one. It does not change the result.

    Returns:
        int64 query indices, int64 document indices, int32 ranks, float32 scores, sorted by (query, rank).
    """
    found = Search(queries, k, precision)
    found.add(np.arange(len(docs)), docs)
    columns = [np.concatenate(column) for column in zip(NOTHING, *found.hits(), strict=True)]
    return columns[0], columns[1], columns[2], columns[3]


class SearchExact:
    """Searches the documents of one part for some query blocks.

    Args:
        query_vectors: embeddings file of each query block.
        block_starts: query_row of the first query of each block.
        k: hits per query.
        chunk_documents: documents in memory at a time, in whole shards, one at least.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, query_vectors: Sequence[str], block_starts: Sequence[int], k: int, chunk_documents: int) -> None:
        self.query_vectors, self.block_starts = query_vectors, block_starts
        self.k, self.chunk_documents = k, chunk_documents

    def __call__(self, task: Task) -> Record:
        """Writes the part's hits, a bucket for each of the query blocks.

        Args:
            task: inputs vectors (embeddings files of the part's shards), first_rows (doc_row where each begins) and
                blocks (first query block, and the one after the last).
        """
        numbers = range(*task.inputs["blocks"])
        blocks = [read_vectors(self.query_vectors[number]) for number in numbers]
        found = Search(np.concatenate([block.matrix for block in blocks]), self.k)
        num_documents = num_bytes = 0
        for doc_rows, matrix in self._chunks(task):
            found.add(doc_rows, matrix)
            num_documents, num_bytes = num_documents + len(doc_rows), num_bytes + matrix.nbytes
        starts = [self.block_starts[number] for number in numbers]
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, _by_block(found, blocks, starts))
        return Record([shard], rows_in=num_documents, rows_out=shard.num_rows, bytes_in=num_bytes)

    def _chunks(self, task: Task) -> Iterator[tuple[NDArray[np.int64], Matrix]]:
        paths, first_rows = task.inputs["vectors"], task.inputs["first_rows"]
        begin, size = 0, 0
        for number, path in enumerate(paths):
            count = num_vectors(path)
            if number > begin and size + count > self.chunk_documents:
                yield load_chunk(paths[begin:number], first_rows[begin:number])
                begin, size = number, 0
            size += count
        yield load_chunk(paths[begin:], first_rows[begin:])


def _by_block(found: Search, blocks: Sequence[Vectors], starts: Sequence[int]) -> Iterator[pa.Table]:
    """HITS of each query block from the hits of all their queries."""
    query_rows = np.concatenate([block.rows + start for block, start in zip(blocks, starts, strict=True)])
    hits = [np.concatenate(column) for column in zip(NOTHING, *found.hits(), strict=True)]
    ends = np.cumsum([len(block.rows) for block in blocks])
    borders = np.searchsorted(hits[0], [0, *ends])
    for begin, end in pairwise(borders):
        query_index, doc_rows, ranks, scores = (column[begin:end] for column in hits)
        yield hits_table(query_rows[query_index], doc_rows, ranks, scores)
