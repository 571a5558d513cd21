"""How much of the corpus one worker takes at a time, from its memory budget: the only place that decides it.

    documents in a part = SHARE x budget / bytes per document

A part's arrays take a quarter of the budget. The rest is for what stands beside them: libraries and their code, the
block of queries being searched, scores of one tile, buffers of reading and writing.

    dense   the part's vectors as float32: 4 x dim bytes a document
    bm25    postings of the queries' terms: 8 bytes each, some 60 a document (arxiv abstracts have 48 distinct terms),
            and its length

    device  queries that stay on a GPU during exact search: a vector as stored, and k float32 scores

With the default budget of 2 GB a part is 500 MB: 488k documents of 256 dimensions, 163k of 768, 1M of BM25. A part is
whole shards, at least one. Sizes change no result: hits of parts are merged by one rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from raymine.storage import Shard

SHARE = 0.25
BM25_BYTES_PER_DOCUMENT = 8 * 60 + 8
FLOAT32_BYTES = 4
# On a GPU beside the model: 3.4 million queries of 768 dimensions with k 200; the smallest in use (T4, L4) have 16 GB.
DEVICE_BYTES = 8e9


def dense_part_documents(memory_gb: float, dim: int) -> int:
    """Documents whose float32 vectors fit in a part."""
    return int(SHARE * memory_gb * 1e9 / (FLOAT32_BYTES * dim))


def bm25_part_documents(memory_gb: float) -> int:
    """Documents whose postings fit in a part."""
    return int(SHARE * memory_gb * 1e9 / BM25_BYTES_PER_DOCUMENT)


def device_query_bytes(dim: int, k: int, store: str) -> int:
    """Bytes on the device per query of exact search, its vector stored as float16 or float32."""
    return dim * (2 if store == "float16" else FLOAT32_BYTES) + FLOAT32_BYTES * k


def parts(shards: Sequence[Shard], part_documents: int) -> list[list[int]]:
    """Indexes of shards in consecutive groups of at most `part_documents` rows, at least one shard each."""
    groups: list[list[int]] = []
    size = 0
    for number, shard in enumerate(shards):
        if not groups or size + shard.num_rows > part_documents:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += shard.num_rows
    return groups
