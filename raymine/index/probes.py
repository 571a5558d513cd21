"""How much of an ivfpq index to search: chosen by measuring recall on a sample of the queries.

    SampleQueries   vectors of all queries      -> a seeded sample
    (SearchExact)   the sample, every part      -> what exact search finds
    ChooseProbes    the parts, one by one       -> nprobe, overfetch, and the recall they reach

A query's hits are the best k * overfetch by codes among the documents of its nprobe nearest lists, re-scored exactly.
So its recall is the share of its exact hits that are among those, and one search by codes with the largest overfetch
tells it for every overfetch. Which lists the exact hits lie in tells how many lists it takes at least, so only a few
sizes of nprobe are tried, from there on. Chosen is the cheapest pair whose mean recall, less CERTAIN standard errors,
reaches the target; if none does, the one of highest recall.

Cost: SAMPLE_QUERIES exact searches of the corpus, and as many by codes for each nprobe tried; one part in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import IndexConfig
from raymine.index.base import padded
from raymine.index.ivfpq import search
from raymine.index.ivfpq_train import read_index, sample
from raymine.lookup import pair_positions, positions
from raymine.topk import merge_topk, ranks_within
from raymine.vectors import read_vectors

SAMPLE_QUERIES = 512  # the standard error of a mean recall of 0.95 is then 0.002 to 0.005
CERTAIN = 1.645  # standard errors that a mean of many is off by, to one side, in one of 20 samples
NPROBES = [base << power for power in range(24) for base in (2, 3)]
OVERFETCHES = (1, 2, 3, 4, 6, 8, 12, 16)
TRIED_AT_ONCE = 3  # sizes of nprobe
# Seconds of one core, measured on 500,000 documents of 256 dimensions in 128 codes and 2,828 lists: 2.2 to 2.6 ns to
# scan a document where a fifth or more are scanned, and 0.5 us to merge a pair (0.11), re-score it (0.28) and merge it
# again.
SCAN_S, PAIR_S = 2e-9, 5e-7

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class SampleQueries:
    """Samples queries. task.inputs: vectors, the embeddings file of each query block.

    Args:
        seed: of the sample.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, task: Task) -> Record:
        """Writes the sample as embeddings, rows from 0 on."""
        vectors = sample(task.inputs["vectors"], SAMPLE_QUERIES, self.seed)
        table = schemas.vector_table(np.arange(len(vectors)), vectors)
        return Record([storage.write_arrow(f"{task.output}.arrow", table)], rows_out=len(vectors))


class ChooseProbes:
    """Chooses nprobe and overfetch, unless the config gives them; says what recall they reach.

    Args:
        config: the index.
        index: the trained index.
        sample: what SampleQueries wrote.
        k: hits per query.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, config: IndexConfig, index: str, sample: str, k: int) -> None:
        self.config, self.k = config, k
        trained = read_index(index)
        self.nlist = trained.nlist
        self.queries = padded(read_vectors(sample).matrix, trained.d)
        self.nearest = trained.quantizer.search(self.queries, self.nlist)[1]

    def __call__(self, task: Task) -> Record:
        """info says nprobe, overfetch, recall, its standard error and the number of queries sampled.

        Args:
            task: inputs truth (HITS of exact search for the sample, in bucket 0), parts and clusters (of BuildPart).
        """
        truth = read_truth(task.inputs["truth"], self.k)
        found: dict[tuple[int, int], tuple[float, float]] = {}
        waiting = self._nprobes(truth, task.inputs["clusters"])
        while waiting and not self._good(found):
            tried, waiting = waiting[:TRIED_AT_ONCE], waiting[TRIED_AT_ONCE:]
            found |= self._recalls(tried, truth, task.inputs["parts"])
        nprobe, overfetch = min(self._good(found) or self._best(found), key=self._cost(task.inputs["clusters"]))
        recall, error = found[nprobe, overfetch]
        info = {"nprobe": nprobe, "overfetch": overfetch, "recall": recall, "recall_error": error}
        return Record(rows_in=len(self.queries), info={**info, "num_sampled_queries": len(self.queries)})

    def _good(self, found: dict[tuple[int, int], tuple[float, float]]) -> list[tuple[int, int]]:
        return [
            pair for pair, (recall, error) in found.items() if recall - CERTAIN * error >= self.config.recall_target
        ]

    def _best(self, found: dict[tuple[int, int], tuple[float, float]]) -> list[tuple[int, int]]:
        highest = max(recall for recall, _ in found.values())
        return [pair for pair, (recall, _) in found.items() if recall == highest]

    def _nprobes(self, truth: Pairs, clusters: Sequence[str]) -> list[int]:
        """What to try, ascending: from where enough of the exact hits lie in the lists searched."""
        if self.config.nprobe is not None:
            return [min(self.config.nprobe, self.nlist)]
        ladder = [*(nprobe for nprobe in sorted(NPROBES) if nprobe < self.nlist), self.nlist]
        order = np.empty_like(self.nearest)
        np.put_along_axis(order, self.nearest, np.arange(self.nlist)[None, :], axis=1)
        distance = order[truth[0], clusters_of_rows(clusters, truth[1])]
        enough = [nprobe for nprobe in ladder if (distance < nprobe).mean() >= self.config.recall_target]
        return enough or [self.nlist]

    def _recalls(
        self, nprobes: Sequence[int], truth: Pairs, parts: Sequence[str]
    ) -> dict[tuple[int, int], tuple[float, float]]:
        """Mean recall and its standard error of each nprobe and overfetch."""
        overfetches = OVERFETCHES if self.config.overfetch is None else (self.config.overfetch,)
        fetch = self.k * max(overfetches)
        best: dict[int, tuple[NDArray[Any], ...]] = {}
        for path in parts:
            part = read_index(path)
            for nprobe in nprobes:
                query_index, doc_rows, _, scores = search(part, self.queries, self.nearest[:, :nprobe].copy(), fetch)
                pieces = [(query_index, doc_rows, scores), *([best[nprobe]] if nprobe in best else [])]
                columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
                query_index, doc_rows, _, scores = merge_topk(columns[0], columns[1], columns[2], fetch)
                best[nprobe] = query_index, doc_rows, scores
        ranks = {nprobe: ranks_of(truth, (hits[0], hits[1])) for nprobe, hits in best.items()}
        return {
            (nprobe, overfetch): self._mean_recall(truth[0], ranks[nprobe] < self.k * overfetch)
            for nprobe in nprobes
            for overfetch in overfetches
        }

    def _mean_recall(self, query_index: NDArray[np.int64], is_found: NDArray[np.bool_]) -> tuple[float, float]:
        count = np.bincount(query_index, minlength=len(self.queries))
        recall = np.bincount(query_index, is_found, len(self.queries))[count > 0] / count[count > 0]
        if not len(recall):
            return 1.0, 0.0
        return float(recall.mean()), float(recall.std() / np.sqrt(len(recall)))

    def _cost(self, clusters: Sequence[str]) -> Callable[[tuple[int, int]], float]:
        """Seconds per query of a pair (nprobe, overfetch), by the sizes of the lists."""
        columns = (storage.read_table(path, ["cluster"])["cluster"].to_numpy() for path in clusters)
        sizes = np.sum([np.bincount(column, minlength=self.nlist) for column in columns], axis=0)
        scanned = np.cumsum(sizes[self.nearest].mean(axis=0))

        def cost(pair: tuple[int, int]) -> float:
            return float(scanned[pair[0] - 1]) * SCAN_S + self.k * pair[1] * PAIR_S

        return cost


def read_truth(paths: Sequence[str], k: int) -> Pairs:
    """The k best of each query in HITS of exact search, each file's in its bucket 0."""
    hits = [storage.read_bucket(path, 0) for path in paths]
    columns = [np.concatenate([table[name].to_numpy() for table in hits]) for name in ("query_row", "doc_row", "score")]
    query_index, doc_rows, _, _ = merge_topk(columns[0], columns[1], columns[2], k)
    return query_index, doc_rows


def clusters_of_rows(paths: Sequence[str], doc_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cluster of each document, from the CLUSTERS of all parts, one in memory at a time."""
    clusters = np.zeros(len(doc_rows), np.int64)
    for path in paths:
        table = storage.read_table(path)
        at = positions(table["doc_row"].to_numpy(), doc_rows)
        clusters[at >= 0] = table["cluster"].to_numpy()[at[at >= 0]]
    return clusters


def ranks_of(wanted: Pairs, hits: Pairs) -> NDArray[np.int64]:
    """The rank of each wanted (query, document) pair among hits that are sorted by (query, rank); where none, the most.

    Args:
        wanted: int64 [n] each.
        hits: int64 [m] each.

    Returns:
        int64 [n].
    """
    ranks = np.full(len(wanted[0]), np.iinfo(np.int64).max)
    at = pair_positions(hits, wanted)
    ranks[at >= 0] = ranks_within(hits[0])[at[at >= 0]]
    return ranks
