"""How much one worker takes at a time, from its memory budget: the only place that decides it.

Memory. The arrays of a search take a quarter of the budget (SHARE); the rest is for what stands beside them: libraries
and their code, queries, hits, the scores of one tile, buffers of reading and writing.

    exact   a chunk of documents, as stored and as multiplied: 6 bytes per dimension at most (8 if stored as float32;
            in int8, 3 and 5, and 2 more while the chunk is packed)
    ivfflat vectors of the lists that are put in order at a time: as of a chunk of exact search; a part is searched in
            int8 from a mapped file, dim + 13 bytes a document and what fills up its panels
    ivfpq   a part's codes and ids: dim / code_dims / 2 + 8 bytes a document
    bm25    a part's postings of the queries' terms: 8 bytes each, some 60 a document (arxiv abstracts have 48 distinct
            terms), and its length
    hits    of the queries of one task of exact search: 12 bytes each and 4 bytes per dimension of the query
    device  queries that stay on a GPU during exact search: a vector as stored, and k float32 scores

With the default budget of 2 GB: 131k documents of 256 dimensions in a chunk (108k of 768), parts of 12.5M documents of
256 dimensions for ivfpq (4 dimensions a code), of 1M for BM25.

Work. A search is cut into tasks: a part of the documents for a range of query blocks, of at most so many pairs of a
query and a document that a task takes a few seconds of one core, so that even a small search is shared out and a lost
task costs little. Where that would make more than MAX_TASKS, tasks are larger. A part is whole shards and a range
is whole blocks, one at least. Sizes change no result: hits of parts are merged by one rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from raymine.config import Config
from raymine.storage import Shard

SHARE = 0.25
BM25_BYTES_PER_DOCUMENT = 8 * 60 + 8
HIT_BYTES = 12
# Documents of a part of exact search: its chunks follow one another with the threshold that the last one left, so large
# parts save work; parts that are full stay as they are when documents are appended.
EXACT_PART_DOCUMENTS = 1 << 19
# Larger chunks take memory and save no time: 488,000 documents and 8,192 queries took two cores 4.3 s in one chunk,
# 4.5 s in four and 5.8 s in eight.
CHUNK_DOCUMENTS = 1 << 17
# Of the documents that ivfflat puts in order at a time: one task of several that a part has.
PIECE_DOCUMENTS = 1 << 16
# Pairs per task. Measured on one core at 256 dimensions: exact 6e8 pairs a second (in int8), BM25
# on arxiv 1e9, ivfpq 3e9 with a tenth of the documents scanned.
EXACT_OPERATIONS = 2.0e12  # multiplications; divided by the dimensions
BM25_PAIRS = 6.0e9
IVFPQ_PAIRS = 1.0e10
MAX_TASKS = 2048
# On a GPU beside the model: 3.4 million queries of 768 dimensions with k 200; the smallest in use (T4, L4) have 16 GB.
DEVICE_BYTES = 8e9


@dataclass(frozen=True)
class Limits:
    """What bounds a task of a search.

    Args:
        documents: of one part.
        pairs: of a query and a document.
        queries: of one task.
    """

    documents: int
    pairs: float
    queries: float = float("inf")


def stored_bytes(config: Config) -> int:
    """Bytes of a number of a stored vector."""
    return 4 if config.embed is not None and config.embed.store == "float32" else 2


def chunk_documents(memory_gb: float, dim: int, stored_bytes: int) -> int:
    """Documents whose vectors fit in memory, as stored (bytes a number) and as multiplied; CHUNK_DOCUMENTS at most."""
    return min(CHUNK_DOCUMENTS, int(SHARE * memory_gb * 1e9 / ((stored_bytes + 4) * dim)))


def piece_documents(memory_gb: float, dim: int, stored_bytes: int) -> int:
    """Documents that ivfflat puts in order at a time; PIECE_DOCUMENTS at most."""
    return min(PIECE_DOCUMENTS, chunk_documents(memory_gb, dim, stored_bytes))


def exact_limits(memory_gb: float, dim: int, k: int) -> Limits:
    queries = SHARE * memory_gb * 1e9 / (HIT_BYTES * k + 4 * dim)
    return Limits(EXACT_PART_DOCUMENTS, EXACT_OPERATIONS / dim, queries)


def ivfpq_limits(memory_gb: float, dim: int, code_dims: int) -> Limits:
    return Limits(int(SHARE * memory_gb * 1e9 / (-(-dim // code_dims) / 2 + 8)), IVFPQ_PAIRS)


def bm25_limits(memory_gb: float) -> Limits:
    return Limits(int(SHARE * memory_gb * 1e9 / BM25_BYTES_PER_DOCUMENT), BM25_PAIRS)


def device_query_bytes(dim: int, k: int, store: str) -> int:
    """Bytes on the device per query of exact search, its vector stored as float16 or float32."""
    return dim * (2 if store == "float16" else 4) + 4 * k


def parts(shards: Sequence[Shard], most: float) -> list[list[int]]:
    """Indexes of shards in consecutive groups of at most `most` rows, at least one shard each."""
    groups: list[list[int]] = []
    size = 0
    for number, shard in enumerate(shards):
        if not groups or size + shard.num_rows > most:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += shard.num_rows
    return groups


def block_ranges(blocks: Sequence[Shard], documents: Sequence[Shard], limits: Limits) -> list[tuple[int, int]]:
    """Ranges [first, end) of query blocks: with one part of the documents each makes a task.

    Args:
        blocks: of queries.
        documents: shards of the corpus.
        limits: of a task.
    """
    num_documents = sum(shard.num_rows for shard in documents)
    part_documents = max(1, min(num_documents, limits.documents))
    most = limits.pairs / part_documents
    num_parts = max(1, num_documents / part_documents)
    num_queries = sum(block.num_rows for block in blocks)
    groups = parts(blocks, min(limits.queries, max(most, num_queries * num_parts / MAX_TASKS)))
    ends = list(accumulate(len(group) for group in groups))
    return list(zip([0, *ends[:-1]], ends, strict=True))
