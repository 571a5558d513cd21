"""What the passes of retrieval share: pairs on their way to document shards, and their dense scores.

Pairs are written per query block, bucketed by document shard; the pass over document shards takes its bucket of every
block and writes its results bucketed by query block again. Only row numbers and scores travel.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.lookup import positions, rows_of
from raymine.storage import Shard
from raymine.topk import Hits, gathered_scores, merge_topk
from raymine.vectors import Vectors

# Hits that are read before they are cut to k: 100 MB. Without it, 800 parts with 200 hits for each of 8,192 queries
# would take 30 GB.
HITS_AT_ONCE = 1 << 22
# Pairs that are scored by numpy (20 ms) rather than have compiled code imported, which takes a second. Where a search
# has imported it, it scores all: 0.2 us a pair, and 1.2 by numpy.
FEW_PAIRS = 1 << 14


@dataclass(frozen=True)
class HitFiles:
    """Where the hits of consecutive query blocks lie: in every file a bucket of HITS for each of them.

    Args:
        first_block: the first of the blocks.
        paths: bucketed files, one per part or shard of the documents.
    """

    first_block: int
    paths: list[str]


def merged_hits(files: Sequence[HitFiles], block: int, k: int) -> Hits:
    """The k best hits of each query of a block over many files, a few files in memory at a time.

    Args:
        files: of all blocks, by first_block.
        block: the query block.
        k: hits to keep per query.

    Returns:
        query_rows, doc_rows, ranks and scores as of topk.merge_topk.
    """
    group = files[bisect_right([each.first_block for each in files], block) - 1]
    waiting: list[pa.Table] = []
    merged = _merged([schemas.HITS.empty_table()], k)
    for number, path in enumerate(group.paths, start=1):
        waiting.append(storage.read_bucket(path, block - group.first_block))
        if number == len(group.paths) or sum(table.num_rows for table in waiting) > HITS_AT_ONCE:
            merged = _merged([schemas.hits_table(*merged), *waiting], k)
            waiting = []
    return merged


def _merged(tables: Sequence[pa.Table], k: int) -> Hits:
    hits = pa.concat_tables(tables)
    return merge_topk(*rows_of(hits), hits["score"].to_numpy(), k)


def write_pairs(path: str, pairs: pa.Table, shard_starts: Sequence[int]) -> Shard:
    """Writes PAIRS or CANDIDATE_PAIRS, bucketed by document shard.

    Args:
        path: where; ends in `.arrow`.
        pairs: in any order.
        shard_starts: doc_row of the first row of each document shard.
    """
    tables = storage.split_by(pairs["doc_row"].to_numpy(), shard_starts, pairs)
    return storage.write_buckets(path, pairs.schema, tables)


def score_pairs(
    queries: Vectors, docs: Vectors, query_positions: NDArray[np.int64], doc_positions: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Exact dense scores of pairs; where a side has no vector there is no score.

    Args:
        queries: vectors of one query block.
        docs: vectors of one document shard.
        query_positions: int64 [n], positions in the block.
        doc_positions: int64 [n], positions in the shard.

    Returns:
        float32 [n] (0 where unknown) and bool [n], whether the score is known.
    """
    query_index, doc_index = positions(queries.rows, query_positions), positions(docs.rows, doc_positions)
    known = (query_index >= 0) & (doc_index >= 0)
    scores = np.zeros(len(known), np.float32)
    pairs = query_index[known], doc_index[known]
    if len(pairs[0]) <= FEW_PAIRS and "raymine.scores" not in sys.modules:
        scores[known] = gathered_scores(queries.matrix, docs.matrix, *pairs)
    else:
        from raymine.scores import final_scores

        scores[known] = final_scores(queries.matrix, docs.matrix, *pairs)
    return scores, known
