"""Passes that selection makes before it samples, where the config asks for what no query block knows by itself.

CountScores    per query block      the scores that there are, for percentiles over all queries
Shortlist      per query block      candidates that are left, on their way to the documents
CapReuse       per document shard   which of a document's queries lose it
FetchVectors   per document shard   vectors of the candidates that may be drawn
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import distinct, positions, rows_of
from raymine.schemas import vector_matrix
from raymine.select.base import Candidates
from raymine.select.judged import Blocks, Judged, with_teacher
from raymine.select.reuse import overused
from raymine.select.samplers import Draw, pool_of
from raymine.select.scales import Scales, count_scores
from raymine.vectors import Vectors, dim_of, read_vectors


class CountScores:
    """Stage: counts the scores of one query block.

    Args:
        blocks: keyword arguments of Blocks.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, blocks: dict[str, Any]) -> None:
        self.blocks = Blocks(**blocks)

    def __call__(self, task: Task) -> Record:
        """Writes SCORE_COUNTS of block `bucket`, whose early verdicts lie at `verdicts`."""
        verdicts, scores = self.blocks.read(task.inputs)
        if scores is not None:
            verdicts = with_teacher(verdicts, scores)
        how = self.blocks.how
        candidates = Candidates(verdicts, Scales(how.calibrate))
        counts = [count_scores(n, candidates.counted_score(n), candidates.is_positive) for n in how.counted_scores]
        shard = storage.write_table(f"{task.output}.parquet", pa.concat_tables(counts))
        return Record([shard], rows_in=len(candidates), rows_out=shard.num_rows)


class Shortlist:
    """Stage: the candidates of one query block that no filter took, bucketed by document shard.

    Args:
        blocks: keyword arguments of Blocks.
        shard_starts: first doc_row of each document shard.
        is_pool: only those that sampling may draw.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, blocks: dict[str, Any], shard_starts: Sequence[int], is_pool: bool) -> None:
        self.blocks, self.shard_starts, self.is_pool = Blocks(**blocks), shard_starts, is_pool

    def __call__(self, task: Task) -> Record:
        """Writes RANKED_PAIRS of block `bucket`, whose early verdicts lie at `verdicts`."""
        judged = self.blocks.judged(task.inputs)
        pairs = self._pairs(judged)
        tables = storage.split_by(pairs["doc_row"].to_numpy(), self.shard_starts, pairs)
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.RANKED_PAIRS, tables)
        return Record([shard], rows_in=len(judged.candidates), rows_out=pairs.num_rows)

    def _pairs(self, judged: Judged) -> pa.Table:
        how, candidates, rows = self.blocks.how, judged.candidates, judged.kept
        if self.is_pool:
            # Ranks and scores decide what is in the pool, no draw: the seeds are not needed.
            draw = Draw(how.sample, how.sample_score, how.default_score, how.sources, np.empty(0, np.uint64), 0)
            rows = pool_of(candidates, rows, draw)
        ranks = candidates.best_rank(how.sources)[rows]
        columns = [candidates.query_row[rows], candidates.doc_row[rows], ranks]
        return pa.Table.from_arrays([pa.array(column) for column in columns], schema=schemas.RANKED_PAIRS)


class CapReuse:
    """Stage: which of the queries of a shard's documents lose them, bucketed by query block.

    Args:
        pairs: RANKED_PAIRS files, bucketed by document shard.
        block_starts: first query_row of each block.
        n: queries per document at most.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], block_starts: Sequence[int], n: int) -> None:
        self.pairs, self.block_starts, self.n = pairs, block_starts, n

    def __call__(self, task: Task) -> Record:
        """Writes PAIRS of shard number `bucket`."""
        pairs = storage.read_buckets(self.pairs, task.inputs["bucket"], schemas.RANKED_PAIRS)
        goes = overused(*rows_of(pairs), pairs["rank"].to_numpy(), self.n)
        gone = pairs.select(schemas.PAIRS.names).filter(pa.array(goes))
        tables = storage.split_by(gone["query_row"].to_numpy(), self.block_starts, gone)
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.PAIRS, tables)
        return Record([shard], rows_in=pairs.num_rows, rows_out=gone.num_rows)


def fetched_vectors(paths: Sequence[str], block: int) -> Vectors:
    """What FetchVectors brought for a query block, by doc_row."""
    tables = [storage.read_bucket(path, block) for path in paths]
    rows = np.concatenate([table["row"].to_numpy() for table in tables])
    return Vectors(rows, np.concatenate([vector_matrix(table["vector"]) for table in tables]))


class FetchVectors:
    """Stage: vectors of a shard's documents for the query blocks that ask for them, each once per block.

    Args:
        pairs: RANKED_PAIRS files, bucketed by document shard.
        block_starts: first query_row of each block.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], block_starts: Sequence[int]) -> None:
        self.pairs, self.block_starts = pairs, block_starts

    def __call__(self, task: Task) -> Record:
        """Writes schemas.embeddings of shard `bucket` (`vectors`: path), `row` being the doc_row."""
        pairs = storage.read_buckets(self.pairs, task.inputs["bucket"], schemas.RANKED_PAIRS)
        schema = schemas.embeddings(dim_of(task.inputs["vectors"]), "float32")
        shard = storage.write_buckets(f"{task.output}.arrow", schema, self._blocks(pairs, task))
        return Record([shard], rows_in=pairs.num_rows, rows_out=shard.num_rows)

    def _blocks(self, pairs: pa.Table, task: Task) -> Iterator[pa.Table]:
        vectors, first_row = read_vectors(task.inputs["vectors"]), task.inputs["first_row"]
        for block in storage.split_by(pairs["query_row"].to_numpy(), self.block_starts, pairs):
            doc_rows = distinct(block["doc_row"].to_numpy())
            where = positions(vectors.rows, doc_rows - first_row)
            found = vectors.matrix[where[where >= 0]].astype(np.float32)
            yield schemas.vector_table(doc_rows[where >= 0], found)
