"""From an approximate index's hits to exact ones: merge the parts' hits, then re-score them from the stored vectors.

The index over-fetches by codes; the best of all parts form a shortlist per query; a pass over the document shards gives
each pair its exact score. Codes' scores end here. The cut to k is made by whoever merges the re-scored hits.

Cost: merging takes one query block's best hits and retrieve.base.HITS_AT_ONCE more in memory; re-scoring takes one
document shard's vectors, the pairs that meet it and the cached query vectors (vectors.CACHE_BYTES).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import rows_of
from raymine.retrieve.base import HitFiles, merged_hits, score_pairs, write_pairs
from raymine.vectors import VectorBlocks, Vectors, read_vectors


class MergeShortlist:
    """Merges the parts' hits of one query block.

    Args:
        hits: HitFiles of all query blocks.
        k: hits to keep per query.
        shard_starts: doc_row of the first row of each document shard.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, hits: Sequence[HitFiles], k: int, shard_starts: Sequence[int]) -> None:
        self.hits, self.k, self.shard_starts = hits, k, shard_starts

    def __call__(self, task: Task) -> Record:
        """Writes the shortlist as PAIRS, bucketed by document shard. task.inputs: bucket (the query block)."""
        query_rows, doc_rows, _, _ = merged_hits(self.hits, task.inputs["bucket"], self.k)
        pairs = pa.Table.from_arrays([pa.array(query_rows), pa.array(doc_rows)], schema=schemas.PAIRS)
        shard = write_pairs(f"{task.output}.arrow", pairs, self.shard_starts)
        return Record([shard], rows_in=len(query_rows), rows_out=shard.num_rows)


def rescored(pairs: pa.Table, queries: Vectors, docs: Vectors, first_query_row: int, first_doc_row: int) -> pa.Table:
    """HITS of pairs with their exact scores; ranks are 0, since only the merge of all shards can give them.

    Args:
        pairs: PAIRS of one query block and one document shard.
        queries: the block's vectors.
        docs: the shard's vectors.
        first_query_row: query_row where the block begins.
        first_doc_row: doc_row where the shard begins.
    """
    query_rows, doc_rows = rows_of(pairs)
    scores, known = score_pairs(queries, docs, query_rows - first_query_row, doc_rows - first_doc_row)
    ranks = np.zeros(int(known.sum()), np.int32)
    return schemas.hits_table(query_rows[known], doc_rows[known], ranks, scores[known])


class RescoreHits:
    """Gives the shortlisted pairs of one document shard their exact scores.

    Args:
        pairs: PAIRS file of each query block, bucketed by document shard.
        query_vectors: embeddings file of each query block.
        block_starts: query_row of the first query of each block.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], query_vectors: Sequence[str], block_starts: Sequence[int]) -> None:
        self.pairs, self.queries, self.block_starts = pairs, VectorBlocks(query_vectors), block_starts

    def __call__(self, task: Task) -> Record:
        """Writes HITS, bucketed by query block.

        Args:
            task: inputs vectors (embeddings file), first_row (doc_row where the shard begins), bucket (the shard).
        """
        docs = read_vectors(task.inputs["vectors"])
        first_row, bucket = task.inputs["first_row"], task.inputs["bucket"]

        def of_block(block: int) -> pa.Table:
            pairs = storage.read_bucket(self.pairs[block], bucket)
            if not pairs.num_rows:
                return schemas.HITS.empty_table()
            return rescored(pairs, self.queries[block], docs, self.block_starts[block], first_row)

        tables = (of_block(block) for block in range(len(self.pairs)))
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, tables)
        return Record([shard], rows_in=shard.num_rows, rows_out=shard.num_rows, bytes_in=docs.matrix.nbytes)
