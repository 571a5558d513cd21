"""Approximate search by inverted lists and 4-bit codes: IVF + product quantisation with fast scan (faiss).

Coarse centroids and codebooks are trained once, on a seeded sample, and shared by all parts (centroids by rounds too,
while they serve: index.centroids); queries are assigned to centroids once. A code's score then depends on the query and
the document alone, so parts merge to what one index would have found, bit for bit (Jegou et al., Product Quantization
for Nearest Neighbor Search, 2011; Andre et al., Quicker ADC, 2019, for the fast scan). Codes' scores are coarse:
over-fetched hits are re-scored from the stored vectors (retrieve.shortlist), and leave no other trace.

Half of all queries tie at their last hit, since fast scan sums 8-bit table entries: ties are decided by doc_row, and
where they reach beyond what was fetched, more is fetched.

Cost: training is k-means on the sample, O(sample nlist dim) operations for each of 10 rounds, in two levels O(sample
sqrt(nlist) dim) (index.ivfpq_train); a part is built by one assignment of its documents, held one shard at a time, and
takes dim / code_dims / 2 + 8 bytes per document; a query scans nprobe / nlist of the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.index.base import load_chunk, load_faiss, padded
from raymine.index.ivfpq_train import assigner, read_index, write_index
from raymine.topk import score_of, score_order
from raymine.vectors import VectorBlocks, read_vectors

# Hits fetched beyond k so that ties at the last place are seen whole; on 60,000 real-valued documents with k 400 they
# never were more.
TIE_SLACK = 64
# Scores and ids of one search call: 48 MB.
HITS_AT_ONCE = 1 << 22
# faiss's kernel that parallelises over queries and keeps hits in a reservoir. Its automatic choice may fall on one that
# splits a query over threads, and then which ties come out depends on their number.
RESERVOIR_KERNEL = 13
# Hits are sorted as one integer each, half of it the doc_row.
MAX_DOCUMENTS = 1 << 32
NO_HIT = np.iinfo(np.int64).max
WORST_SCORE = np.array(np.finfo(np.float32).min, np.float32)


def list_members(index: Any) -> list[NDArray[np.int64]]:
    """The doc_rows in each inverted list of an index."""
    faiss, lists = load_faiss(), index.invlists
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    none = np.empty(0, np.int64)
    return [faiss.rev_swig_ptr(lists.get_ids(n), size).copy() if size else none for n, size in enumerate(sizes)]


def clusters_of(index: Any) -> pa.Table:
    """CLUSTERS of the documents in an index, read from its inverted lists."""
    members = list_members(index)
    doc_rows = np.concatenate([np.empty(0, np.int64), *members])
    sizes = [len(ids) for ids in members]
    clusters = np.repeat(np.arange(index.nlist, dtype=np.int32), sizes)
    order = np.argsort(doc_rows)
    return pa.Table.from_arrays([pa.array(doc_rows[order]), pa.array(clusters[order])], schema=schemas.CLUSTERS)


def search(
    index: Any, queries: NDArray[np.float32], lists: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """The k best documents by their codes; ties go to the lower doc_row.

    Args:
        index: a part.
        queries: float32 [q, dim of the index].
        lists: int64 [q, nprobe], the centroids of each query.
        k: hits per query at most.

    Returns:
        int64 query indices, int64 doc_rows, int32 ranks, float32 scores of the codes, sorted by (query, rank).
    """
    index.nprobe, index.implem = lists.shape[1], RESERVOIR_KERNEL
    k = min(k, index.ntotal)
    keys = _best_keys(index, queries, lists, k, k + TIE_SLACK)
    if (keys == NO_HIT).any():
        _fill(index, lists, keys)
    query_index, ranks = np.nonzero(keys != NO_HIT)
    found = keys[query_index, ranks]
    return query_index, found % MAX_DOCUMENTS, ranks.astype(np.int32), score_of(found >> 32)


def _best_keys(
    index: Any, queries: NDArray[np.float32], lists: NDArray[np.int64], k: int, fetch: int
) -> NDArray[np.int64]:
    """Keys (score_order << 32) + doc_row of the k best of each query, ascending, int64 [q, k]; NO_HIT fills up."""
    fetch = min(fetch, index.ntotal)
    best = np.empty((len(queries), k), np.int64)
    step = max(1, HITS_AT_ONCE // max(1, fetch))
    for begin in range(0, len(queries) if k else 0, step):
        chunk = slice(begin, begin + step)
        keys = _fetched_keys(index, queries[chunk], lists[chunk], fetch)
        best[chunk] = keys[:, :k]
        is_tied = (keys[:, -1] != NO_HIT) & (keys[:, -1] >> 32 == keys[:, k - 1] >> 32)
        if fetch < index.ntotal and is_tied.any():
            tied = begin + np.flatnonzero(is_tied)
            best[tied] = _best_keys(index, queries[tied], lists[tied], k, 4 * fetch)
    return best


def _fetched_keys(index: Any, queries: NDArray[np.float32], lists: NDArray[np.int64], fetch: int) -> NDArray[np.int64]:
    from faiss.contrib.ivf_tools import search_preassigned

    scores, doc_rows = search_preassigned(index, queries, fetch, lists)
    keys = np.where(doc_rows >= 0, (score_order(scores) << 32) + doc_rows, NO_HIT)
    keys.sort(axis=1)
    return keys


def _fill(index: Any, lists: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
    """Puts the documents that fast scan cannot return behind the hits of queries that have too few.

    Fast scan passes over a document whose every code is the query's worst, which happens where there are a few distinct
    codes only (one document, many copies of one). They tie at WORST_SCORE.

    Args:
        index: a part.
        lists: int64 [q, nprobe].
        keys: int64 [q, k], changed in place.
    """
    members = list_members(index)
    sizes = np.array([len(ids) for ids in members], np.int64)
    num_found = (keys != NO_HIT).sum(axis=1)
    for row in np.flatnonzero(num_found < np.minimum(keys.shape[1], sizes[lists].sum(axis=1))):
        begin = num_found[row]
        reachable = np.concatenate([members[number] for number in lists[row]])
        left = np.setdiff1d(reachable, keys[row, :begin] % MAX_DOCUMENTS)[: keys.shape[1] - begin]
        keys[row, begin : begin + len(left)] = (score_order(WORST_SCORE) << 32) + left


def nearest_lists(queries: NDArray[np.float32], centroids: NDArray[np.float32], nprobe: int) -> NDArray[np.int32]:
    """The lists of each query's nearest centroids by inner product, ascending, int32 [q, nprobe].

    Which of them is nearest does not matter, and a partition takes a third of faiss's heaps of nprobe hits.

    Args:
        queries: float32 [q, dim].
        centroids: float32 [nlist, dim].
        nprobe: at most nlist.
    """
    nlist = len(centroids)
    lists = np.empty((len(queries), nprobe), np.int32)
    step = max(1, HITS_AT_ONCE // nlist)
    for begin in range(0, len(queries), step):
        scores = queries[begin : begin + step] @ centroids.T
        lists[begin : begin + step] = np.argpartition(scores, nlist - nprobe, axis=1)[:, nlist - nprobe :]
    lists.sort(axis=1)
    return lists


class AssignQueries:
    """Assigns the queries of one block to their nearest centroids. task.inputs: vectors, the block's embeddings file.

    Args:
        index: the trained index.
        nprobe: centroids per query; all where there are fewer.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, index: str, nprobe: int) -> None:
        trained = read_index(index)
        self.nprobe = min(nprobe, trained.nlist)
        self.centroids = trained.quantizer.reconstruct_n(0, trained.nlist)

    def __call__(self, task: Task) -> Record:
        """Writes an Arrow column `lists`, int32 [nprobe] per query, ascending."""
        vectors = padded(read_vectors(task.inputs["vectors"]).matrix, self.centroids.shape[1])
        lists = nearest_lists(vectors, self.centroids, self.nprobe)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(lists.reshape(-1)), type=pa.list_(pa.field("element", pa.int32()), self.nprobe)
        )
        shard = storage.write_arrow(f"{task.output}.arrow", pa.table({"lists": column}))
        return Record([shard], rows_in=len(vectors), rows_out=len(vectors), bytes_in=vectors.nbytes)


def read_lists(path: str) -> NDArray[np.int64]:
    """What AssignQueries wrote: int64 [num_queries, nprobe]."""
    return schemas.vector_matrix(storage.read_arrow(path)["lists"]).astype(np.int64)


class BuildPart:
    """Encodes the documents of one part.

    Args:
        index: the trained index.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, index: str) -> None:
        self.index = read_index(index)
        self.assigner = assigner(self.index)

    def __call__(self, task: Task) -> Record:
        """Writes the part (.faiss, without centroids: they are needed no more) and its CLUSTERS.

        Args:
            task: inputs vectors (embeddings files of the part's shards) and first_rows (doc_row where each begins).
        """
        faiss = load_faiss()
        part = faiss.clone_index(self.index)
        part.own_fields, part.quantizer = False, self.assigner
        for path, first_row in zip(task.inputs["vectors"], task.inputs["first_rows"], strict=True):
            doc_rows, matrix = load_chunk([path], [first_row])
            if len(doc_rows):
                if doc_rows[-1] >= MAX_DOCUMENTS:
                    raise ValueError(f"doc_row {doc_rows[-1]} does not fit the 32 bits that search has for it")
                part.add_with_ids(padded(matrix, part.d), doc_rows)
        clusters = clusters_of(part)
        # The assignment of the queries brings the centroids' part into the search; kept in every part they would take
        # more room than its codes.
        no_centroids = faiss.IndexFlatIP(part.d)
        part.quantizer = no_centroids
        shards = [
            write_index(f"{task.output}.faiss", part, part.ntotal),
            storage.write_table(f"{task.output}.clusters.parquet", clusters),
        ]
        info = {"nlist": part.nlist}
        return Record(shards, rows_in=part.ntotal, rows_out=part.ntotal, bytes_in=part.ntotal * part.d * 4, info=info)


class SearchPart:
    """Searches one part. task.inputs: index (the part), blocks (first query block, and the one after the last).

    Args:
        assigned: AssignQueries' file of each query block.
        query_vectors: embeddings file of each query block.
        block_starts: query_row of the first query of each block.
        k: hits per query.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(
        self, assigned: Sequence[str], query_vectors: Sequence[str], block_starts: Sequence[int], k: int
    ) -> None:
        self.assigned, self.queries, self.block_starts, self.k = assigned, VectorBlocks(query_vectors), block_starts, k

    def __call__(self, task: Task) -> Record:
        """Writes HITS with the codes' scores, a bucket for each of the blocks."""
        part = read_index(task.inputs["index"])
        tables = (self._search_block(block, part) for block in range(*task.inputs["blocks"]))
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, tables)
        return Record([shard], rows_in=part.ntotal, rows_out=shard.num_rows)

    def _search_block(self, block: int, part: Any) -> pa.Table:
        queries = self.queries[block]
        lists = read_lists(self.assigned[block])
        query_index, doc_rows, ranks, scores = search(part, padded(queries.matrix, part.d), lists, self.k)
        return schemas.hits_table(queries.rows[query_index] + self.block_starts[block], doc_rows, ranks, scores)
