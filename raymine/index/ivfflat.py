"""Search of inverted lists of whole vectors: of the documents in the lists nearest to a query, exactly the k best.

    AssignDocuments   a document shard           -> the list of each document, that of its nearest centroid
    BuildLists        a part, some of the lists  -> their vectors in int8, list after list (index.lists)
    ProbeLists        a sample of the queries    -> which lists are near enough, and the recall that they reach
    AssignQueries     a query block              -> the lists of each query
    SearchLists       a part, query blocks       -> hits

Within its lists a query is searched for as in exact search: in int8, with a bound on the error, and then to the bit. So
nothing is lost but what lies in other lists, and hits need no second pass. A query's nearest lists are its first: they
hold most of its hits, and few documents of the others then reach the k-th best score.

Cost: the centroids' training, one product of each document with the centroids, a copy of the vectors in int8, and
2 q n dim share operations, share being that of the documents in the lists that are searched: 0.26 for a recall@100 of
0.95 of 500,000 sentences under a static embedder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import IndexConfig
from raymine.index.base import load_chunk
from raymine.index.exact import hits_by_block
from raymine.index.first_pass import fastest_first, make_buffers, mean_of, products, rounded
from raymine.index.ivfpq_train import read_centroids
from raymine.index.probes import CERTAIN, clusters_of_rows, read_truth
from raymine.vectors import Matrix, read_vectors

NEAREST = 4  # lists that a query looks through first
PILOT = 20  # a query's list from which the others' lags are measured; 10 to 40 do as well
NEAREST_LAG = -2.0  # of the nearest list, which is always looked through: two vectors of length 1 are no further apart
LAGS = 2001  # limits that are tried
ROWS_AT_ONCE = 256  # vectors that are compared with all centroids


class AssignDocuments:
    """Finds the list of each document of a shard.

    Args:
        centroids: path of the centroids.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, centroids: str) -> None:
        self.centroids = read_centroids(centroids)

    def __call__(self, task: Task) -> Record:
        """Writes CLUSTERS. task.inputs: vectors, the shard's embeddings file, and first_row, where the shard begins."""
        from raymine.index.nearest import best_columns  # numba

        doc_rows, matrix = load_chunk([task.inputs["vectors"]], [task.inputs["first_row"]])
        lists = np.empty(len(matrix), np.int32)
        for begin, block, scales, _ in centroid_products(matrix, self.centroids):
            best_columns(block, scales, lists[begin : begin + len(block)])
        shard = storage.write_table(f"{task.output}.parquet", pa.table([doc_rows, lists], schema=schemas.CLUSTERS))
        return Record([shard], rows_in=len(doc_rows), rows_out=len(doc_rows), bytes_in=matrix.nbytes)


class BuildLists:
    """Puts the vectors of some lists of a part in their order."""

    VERSION = 1
    calls_in_flight = 1

    def __call__(self, task: Task) -> Record:
        """Writes the vectors in int8 as panels (index.lists.panels_table), numbered as they lie in the part's files.

        Args:
            task: inputs vectors (embeddings files of the part's shards), clusters (CLUSTERS of each) and lists (the
                first, and the one after the last).
        """
        from raymine.index.lists import panels_table  # numba

        (first, last), paths = task.inputs["lists"], task.inputs["vectors"]
        found, num_before = [], 0  # numbers, vectors and lists of each shard's documents
        for path, clusters in zip(paths, task.inputs["clusters"], strict=True):
            of_shard = storage.read_table(clusters)["cluster"].to_numpy()
            own = np.flatnonzero((of_shard >= first) & (of_shard < last))
            found.append((own + num_before, read_vectors(path).matrix[own], of_shard[own]))
            num_before += len(of_shard)
        numbers, matrix, lists = (np.concatenate(column) for column in zip(*found, strict=True))
        del found
        order = np.argsort(lists, kind="stable")
        # One mean for all lists of the part, whose products are compared with one another.
        docs = rounded(matrix[order], "int8", mean_of(read_vectors(paths[0]).matrix))
        table = panels_table(docs, numbers[order], lists[order])
        shard = storage.write_arrow(f"{task.output}.arrow", table)
        return Record([shard], rows_in=len(numbers), rows_out=len(numbers), bytes_in=matrix.nbytes)


class ProbeLists:
    """Chooses how far from a query its lists may be, unless the config says how many there are; says its recall, and
    the share of the documents that it takes.

    Args:
        config: the index.
        centroids: path of the centroids.
        sample: what SampleQueries wrote.
        k: hits per query.
    """

    VERSION = 3
    calls_in_flight = 1

    def __init__(self, config: IndexConfig, centroids: str, sample: str, k: int) -> None:
        self.config, self.k = config, k
        self.queries, self.centroids = read_vectors(sample).matrix, read_centroids(centroids)

    def __call__(self, task: Task) -> Record:
        """info says what AssignQueries takes (pilot, max_lag), the mean number of lists, recall, its standard error,
        the share of documents and the number of queries sampled.

        Chosen is the least lag, of LAGS that hits have, whose mean recall, less CERTAIN standard errors (index.probes),
        reaches the target.

        Args:
            task: inputs truth (HITS of exact search for the sample, in bucket 0) and clusters (CLUSTERS of all shards).
        """
        nlist = len(self.centroids)
        pilot = min(self.config.nprobe or PILOT, nlist)
        lags = np.empty((len(self.queries), nlist), np.float32)
        for begin, block, _ in lags_of(self.queries, self.centroids, pilot):
            lags[begin : begin + len(block)] = block
        query_index, doc_rows = read_truth(task.inputs["truth"], self.k)
        of_hits = lags[query_index, clusters_of_rows(task.inputs["clusters"], doc_rows)]
        tried = np.zeros(1, np.float32)
        if self.config.nprobe is None and len(of_hits):
            tried = np.unique(np.quantile(of_hits, np.linspace(0, 1, LAGS), method="higher"))
        means, errors = recalls(query_index, np.searchsorted(tried, of_hits), len(tried))
        enough = np.flatnonzero(means - CERTAIN * errors >= self.config.recall_target)
        chosen = int(enough[0]) if len(enough) else len(tried) - 1
        probed = lags <= tried[chosen]
        columns = (storage.read_table(path, ["cluster"])["cluster"].to_numpy() for path in task.inputs["clusters"])
        sizes = np.sum([np.bincount(column, minlength=nlist) for column in columns], axis=0)
        num_queries = max(1, len(self.queries))
        info = {
            "pilot": pilot,
            "max_lag": float(tried[chosen]),
            "mean_nprobe": float(probed.sum() / num_queries),
            "recall": float(means[chosen]),
            "recall_error": float(errors[chosen]),
            "documents_share": float((probed @ sizes).sum() / num_queries / max(1, sizes.sum())),
            "num_sampled_queries": len(self.queries),
        }
        return Record(rows_in=len(self.queries), info=info)


def recalls(
    query_index: NDArray[np.int64], needed: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean recall of queries, and its standard error, for each of so many limits, the first the narrowest.

    Args:
        query_index: int64 [n], of each exact hit.
        needed: int64 [n], the first limit with which the hit is found; count: none of them.
        count: the number of limits.

    Returns:
        float64 [count] each; 1 and 0 where there are no hits.
    """
    if not len(query_index):
        return np.ones(count), np.zeros(count)
    _, query_index, counts = np.unique(query_index, return_inverse=True, return_counts=True)
    found = np.zeros((len(counts), count + 1))
    np.add.at(found, (query_index, needed), 1.0)
    recall = np.cumsum(found[:, :count], axis=1) / counts[:, None]
    return recall.mean(axis=0), recall.std(axis=0) / np.sqrt(len(counts))


class AssignQueries:
    """Finds the lists of the queries of one block. task.inputs: vectors, the block's embeddings file.

    Args:
        centroids: path of the centroids.
        pilot, max_lag: as of probes_of.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, centroids: str, pilot: int, max_lag: float) -> None:
        self.centroids, self.pilot, self.max_lag = read_centroids(centroids), pilot, max_lag

    def __call__(self, task: Task) -> Record:
        """Writes two columns, a row per query: `nearest`, int32 [NEAREST or all], and `probed`, bits (probes_of)."""
        vectors = read_vectors(task.inputs["vectors"]).matrix
        columns = probes_of(vectors, self.centroids, self.pilot, self.max_lag)
        table = pa.table([schemas.vector_column(each) for each in columns], ["nearest", "probed"])
        shard = storage.write_arrow(f"{task.output}.arrow", table)
        return Record([shard], rows_in=len(vectors), rows_out=len(vectors), bytes_in=vectors.nbytes)


def probes_of(
    queries: Matrix, centroids: NDArray[np.float32], pilot: int, max_lag: float
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The lists that queries look through.

    Args:
        queries: float16 or float32 [q, dim].
        centroids: float32 [nlist, dim].
        pilot: lags are those behind so many-th nearest list; the last where there are fewer.
        max_lag: the lists that lag no more are looked through. With 0 they are the `pilot` nearest, and what ties.

    Returns:
        int32 [q, NEAREST or fewer], the nearest of them, the first again where it lags too far; and of all of them one
        bit each, as numpy.packbits has them, uint8 [q, ceil(nlist / 8)].
    """
    nlist, limit = len(centroids), np.float32(max_lag)
    pilot = min(pilot, nlist)
    nearest = np.empty((len(queries), min(NEAREST, pilot)), np.int32)
    probed = np.empty((len(queries), -(-nlist // 8)), np.uint8)
    for begin, lags, near in lags_of(queries, centroids, pilot):
        rows = slice(begin, begin + len(lags))
        nearest[rows] = np.where(np.take_along_axis(lags, near, axis=1) <= limit, near, near[:, :1])
        probed[rows] = np.packbits(lags <= limit, axis=1)
    return nearest, probed


def lags_of(
    queries: Matrix, centroids: NDArray[np.float32], pilot: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
    """How far lists lie behind the `pilot`-th nearest of each query.

    A query whose nearest lists stand out has its hits in fewer lists than others. So a limit to the lag finds as many
    hits as a number of lists does, in 0.84 to 0.97 of the documents (four corpora of 20,958 to 1,000,000).

    Args:
        queries: float16 or float32 [q, dim].
        centroids: float32 [nlist, dim].
        pilot: 1 to nlist.

    Yields:
        The first query; float32 [queries, nlist], which the next one overwrites: the difference in likeness for a query
        of length 1, and for its nearest list NEAREST_LAG; and int64 [queries, NEAREST or fewer], the nearest lists.
    """
    import torch

    lags = np.empty((ROWS_AT_ONCE, len(centroids)), np.float32)
    for begin, block, scales, lengths in centroid_products(queries, centroids):
        likeness = np.multiply(block, scales, out=lags[: len(block)], casting="same_kind")
        best = torch.from_numpy(likeness).topk(pilot, dim=1)
        nearest = best.indices.numpy()[:, :NEAREST]
        np.subtract(best.values.numpy()[:, -1:], likeness, out=likeness)
        likeness /= lengths[:, None]
        likeness[np.arange(len(likeness)), nearest[:, 0]] = NEAREST_LAG
        yield begin, likeness, nearest


def centroid_products(
    vectors: Matrix, centroids: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.int32] | NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """Products of vectors with all centroids; times the centroids' scales they are nearly the inner products, times a
    factor for each vector.

    They only say which centroids are near, so they are made of int8 numbers: 0.7 % of 8,192 vectors had another nearest
    centroid than in float32, as near but for 4e-4 of a score. Where the CPU multiplies those no faster, they are summed
    as float32, which is the same up to 1,040 dimensions (sums below 2**24).

    Args:
        vectors: float16 or float32 [n, dim].
        centroids: float32 [nlist, dim].

    Yields:
        The first row; int32 or float32 [rows, nlist], which the next one overwrites; float32 [nlist], the scales; and
        float32 [rows], the lengths of the vectors, above 0, times the same factors.
    """
    import torch

    precision = "int8" if "int8" in fastest_first() else "float32"
    rows, columns = (
        replace(each, tensor=each.tensor.to(getattr(torch, precision)))
        for each in (rounded(vectors, "int8"), rounded(centroids, "int8"))
    )
    buffers = make_buffers(precision, ROWS_AT_ONCE * len(centroids))
    for begin in range(0, len(vectors), ROWS_AT_ONCE):
        own = rows.rows(begin, begin + ROWS_AT_ONCE)
        lengths = np.maximum(own.norms, np.finfo(np.float32).tiny) / own.scales
        yield begin, products(own, columns, buffers), columns.scales, lengths


class SearchLists:
    """Searches one part for some query blocks.

    Args:
        assigned: AssignQueries' file of each query block; None: all lists are searched.
        nlist: the number of lists.
        query_vectors: embeddings file of each query block.
        block_starts: query_row of the first query of each block.
        k: hits per query.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self,
        assigned: Sequence[str] | None,
        nlist: int,
        query_vectors: Sequence[str],
        block_starts: Sequence[int],
        k: int,
    ) -> None:
        self.assigned, self.nlist, self.k = assigned, nlist, k
        self.query_vectors, self.block_starts = query_vectors, block_starts

    def __call__(self, task: Task) -> Record:
        """Writes the part's hits, a bucket for each of the query blocks.

        Args:
            task: inputs vectors (embeddings files of the part's shards), first_rows (doc_row where each begins), panels
                (of BuildLists, for all lists) and blocks (first query block, and the one after the last).
        """
        from raymine.index.lists import Part, search  # numba

        numbers = range(*task.inputs["blocks"])
        blocks = [read_vectors(self.query_vectors[number]) for number in numbers]
        queries = np.concatenate([block.matrix for block in blocks])
        part = Part(task.inputs["panels"], task.inputs["vectors"], task.inputs["first_rows"])
        hits = search(part, queries, *self._probes(numbers, len(queries)), self.k)
        starts = [self.block_starts[number] for number in numbers]
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, hits_by_block(hits, blocks, starts))
        return Record([shard], rows_in=int(part.first_docs[-1]), rows_out=shard.num_rows)

    def _probes(self, numbers: Sequence[int], num_queries: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """As of `probes_of`."""
        if self.assigned is None:
            everything = np.full((num_queries, -(-self.nlist // 8)), 255, np.uint8)
            return np.empty((num_queries, 0), np.int32), everything
        tables = [storage.read_arrow(self.assigned[number]) for number in numbers]
        nearest, probed = (
            np.concatenate([schemas.vector_matrix(table[name]) for table in tables]) for name in ("nearest", "probed")
        )
        return nearest, probed
