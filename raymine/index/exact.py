"""Exact search: a low-precision matrix product finds what may be among the k best, float64 decides.

Documents are taken in chunks that fit in memory, once each; queries in tiles. A tile is multiplied with the chunk as
index.first_pass rounds both, which puts products off by no more than a bound; index.race keeps what may still belong to
the k best so far. Where the CPU can, index.int8_tile multiplies and looks at once. At the end of a chunk the survivors,
k per query and a few, get their final score from raymine.scores and are merged with the hits of the chunks before by
topk.merge_topk; the k-th best score is where the next chunk's threshold begins.

So the hits, their order and the bits of their scores depend neither on tiles and chunks, nor on the number of threads,
the precision of the products or the kernels that compute them, nor on how documents are split into shards and parts.
Identical vectors tie exactly and are told apart by doc_row; when so many tie that the survivors do not shrink, they are
decided by their final scores on the way.

Cost: 2 q n dim operations in int8 or what else the CPU multiplies fast, one pass over the products in registers or in
cache, and per query and chunk some k / (number of the chunk) final scores, twice that in int8. Memory: a chunk as
stored and as rounded, the queries as both, 12 bytes per hit, and a tile of products per thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.index.base import load_chunk
from raymine.index.first_pass import Rounded, make_buffers, mean_of, precision_for, products, rounded
from raymine.index.plain_race import PAIRS, PlainRace
from raymine.threads import in_threads, num_threads
from raymine.topk import Hits, gathered_scores, merge_topk
from raymine.vectors import Matrix, Vectors, num_vectors, read_vectors

if TYPE_CHECKING:
    import torch

    from raymine.index.int8_tile import Panels

QUERIES_PER_TILE = 256
DOCS_PER_TILE = 4096  # 4 MB of products
# Queries, documents and scores of pairs, [n] each.
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True)
class Chunk:
    """Documents in memory.

    Args:
        doc_rows: int64 [n], ascending.
        matrix: float16 or float32 [n, dim].
        rounded: the same for the first pass; of the first DOCS_PER_TILE alone if there are panels.
        panels: the same as index.int8_tile multiplies it, if it does.
    """

    doc_rows: NDArray[np.int64]
    matrix: Matrix
    rounded: Rounded
    panels: Panels | None


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
        precision: of the first pass, int8, bfloat16 or float32; None: chosen with the first chunk.
    """

    def __init__(self, queries: Matrix, k: int, precision: str | None = None) -> None:
        self.queries, self.k, self.precision = queries, k, precision
        self.tiles: list[Tile] = []

    def add(self, doc_rows: NDArray[np.int64], matrix: Matrix) -> None:
        """Searches a chunk.

        Args:
            doc_rows: int64 [n], ascending, none of them seen before.
            matrix: float16 or float32 [n, dim], finite.
        """
        if not len(matrix) or not len(self.queries):
            return
        if self.precision is None:
            self.precision = precision_for(self.queries, matrix, self.k)
        if not self.tiles:
            whole = rounded(self.queries, self.precision)
            borders = [(begin, begin + QUERIES_PER_TILE) for begin in range(0, len(self.queries), QUERIES_PER_TILE)]
            self.tiles = [Tile(self.queries[begin:end], whole.rows(begin, end)) for begin, end in borders]
        is_small = len(self.queries) * len(matrix) <= PAIRS
        chunk = made_chunk(doc_rows, matrix, self.precision, is_small)
        threads = min(num_threads(), len(self.tiles))
        buffers: SimpleQueue[tuple[torch.Tensor, torch.Tensor]] = SimpleQueue()
        for _ in range(threads):
            buffers.put(make_buffers(self.precision, QUERIES_PER_TILE * min(DOCS_PER_TILE, len(matrix))))

        def search(tile: Tile) -> Hits:
            buffer = buffers.get()
            try:
                return search_tile(tile, chunk, self.k, buffer, is_small)
            finally:
                buffers.put(buffer)

        for tile, hits in zip(self.tiles, in_threads(search, self.tiles, threads), strict=True):
            tile.hits = hits

    def hits(self) -> Hits:
        """Query indexes, doc_rows, ranks and final scores, by (query, rank)."""
        numbered = enumerate(self.tiles)
        of_all = [(tile.hits[0] + number * QUERIES_PER_TILE, *tile.hits[1:]) for number, tile in numbered]
        columns = [np.concatenate(column) for column in zip(NOTHING, *of_all, strict=True)]
        return columns[0], columns[1], columns[2], columns[3]


def made_chunk(doc_rows: NDArray[np.int64], matrix: Matrix, precision: str, is_small: bool) -> Chunk:
    """A chunk as it is searched: by plain numpy where the search is small."""
    whole = rounded(matrix, precision, mean_of(matrix))
    if is_small or precision != "int8":
        return Chunk(doc_rows, matrix, whole, None)
    from raymine.index import int8_tile  # numba

    if not int8_tile.is_supported():
        return Chunk(doc_rows, matrix, whole, None)
    begin = whole.tensor[:DOCS_PER_TILE].clone()
    return Chunk(doc_rows, matrix, replace(whole, tensor=begin), int8_tile.panels_of(whole, np.array([0, len(matrix)])))


def search_tile(tile: Tile, chunk: Chunk, k: int, buffers: tuple[torch.Tensor, torch.Tensor], is_small: bool) -> Hits:
    """The k best of a tile's hits and a chunk, by plain numpy where the search is small."""
    run = raced_plainly if is_small else raced
    query_index, doc_index, scores = run(tile, chunk, k, buffers)
    known_index, known_rows, _, known_scores = tile.hits
    return merge_topk(
        np.concatenate([known_index, query_index]),
        np.concatenate([known_rows, chunk.doc_rows[doc_index]]),
        np.concatenate([known_scores, scores]),
        k,
    )


def raced_plainly(tile: Tile, chunk: Chunk, k: int, buffers: tuple[torch.Tensor, torch.Tensor]) -> Pairs:
    """Query indexes, document indexes and final scores of what may be among the k best, by plain numpy."""
    race = PlainRace(tile.matrix, tile.rounded, chunk.rounded, tile.kth_scores(k), k)
    for begin, docs in in_tiles(chunk):
        race.offer(products(tile.rounded, docs, buffers), begin)
    query_index, doc_index = race.survivors()
    return query_index, doc_index, gathered_scores(tile.matrix, chunk.matrix, query_index, doc_index)


def raced(tile: Tile, chunk: Chunk, k: int, buffers: tuple[torch.Tensor, torch.Tensor]) -> Pairs:
    """As raced_plainly, compiled."""
    from raymine.index.race import Race  # compiled: importing it takes a second
    from raymine.scores import final_scores

    def best_of(row: int, docs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        scores = final_scores(tile.matrix, chunk.matrix, np.full(len(docs), row), docs)
        best = np.lexsort((docs, -scores))[:k]
        return best, scores[best]

    panels, docs = chunk.panels, chunk.rounded
    residuals = docs.residuals if panels is None else panels.residuals
    race = Race(tile.matrix, tile.rounded, docs.extent, residuals, tile.kth_scores(k), k, best_of)
    if race.is_first:
        race.begin(products(tile.rounded, docs.rows(0, DOCS_PER_TILE), buffers), docs.scales)
    if panels is not None:
        race.offer_panels(panels, 0, np.ones((1, len(tile.matrix)), np.bool_))
    else:
        for begin, part in in_tiles(chunk):
            race.offer(products(tile.rounded, part, buffers), docs.scales, begin, np.arange(len(tile.matrix)))
    query_index, doc_index = race.survivors()
    return query_index, doc_index, final_scores(tile.matrix, chunk.matrix, query_index, doc_index)


def in_tiles(chunk: Chunk) -> Iterator[tuple[int, Rounded]]:
    """The documents of a chunk, DOCS_PER_TILE at a time, and where they begin."""
    for begin in range(0, len(chunk.matrix), DOCS_PER_TILE):
        yield begin, chunk.rounded.rows(begin, begin + DOCS_PER_TILE)


def search(queries: Matrix, docs: Matrix, k: int, precision: str | None = None) -> Hits:
    """The k documents of highest inner product for each query; ties go to the lower index.

    Args:
        queries: float16 or float32 [q, dim], finite.
        docs: float16 or float32 [n, dim], finite.
        k: hits per query; all n where n < k.
        precision: of the first pass, int8, bfloat16 or float32; None: chosen. It does not change the result.

    Returns:
        int64 query indices, int64 document indices, int32 ranks, float32 scores, sorted by (query, rank).
    """
    found = Search(queries, k, precision)
    found.add(np.arange(len(docs)), docs)
    return found.hits()


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
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, hits_by_block(found.hits(), blocks, starts))
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


def hits_by_block(hits: Hits, blocks: Sequence[Vectors], starts: Sequence[int]) -> Iterator[pa.Table]:
    """HITS of each query block from the hits of all their queries together."""
    query_rows = np.concatenate([block.rows + start for block, start in zip(blocks, starts, strict=True)])
    query_index, doc_rows, ranks, scores = hits
    ends = np.cumsum([len(block.rows) for block in blocks])
    borders = np.searchsorted(query_index, [0, *ends])
    for begin, end in pairwise(borders):
        part = slice(begin, end)
        yield schemas.hits_table(query_rows[query_index[part]], doc_rows[part], ranks[part], scores[part])
