"""Batches of queries that resemble each other, so that a batch's other documents are hard negatives: topic-aware
sampling (TAS-B, Hofstätter et al. 2021, section 3.2).

Queries are clustered once, by k-means of their embeddings. A batch is drawn from one cluster, or is made of groups that
each are; what is left of a cluster when no whole group is goes into groups of its own, cluster after cluster, so that
each row comes once per epoch. Cost: 8 bytes per row, and a sort of the rows per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler

from raymine.errors import InputError
from raymine.index.base import load_faiss
from raymine.index.ivfpq_train import centroids
from raymine.lookup import Rows, positions
from raymine.topk import ranks_within

# TAS-B made 2,000 clusters of the 400,000 training queries of MS MARCO (section 4), for batches of 32.
QUERIES_PER_CLUSTER, GROUPS_PER_CLUSTER = 200, 5


class ClusterBatches:
    """What the training arguments take as `batch_sampler`: makes the batches of a data set by its queries' clusters.

    Clusters belong to queries, not to positions, so the data set may be shuffled, filtered or split meanwhile.

    Args:
        query_rows: int64 [n]; of a query that is there twice the first counts.
        clusters: int [n], the cluster of each.
        group_size: rows of one cluster that come into a batch together; None: the whole batch is one group. With small
            ones a batch has hard negatives of each query and documents of all kinds.

    Raises:
        InputError: groups of less than one row.
    """

    def __init__(self, query_rows: Rows, clusters: NDArray[np.integer[Any]], group_size: int | None = None) -> None:
        if group_size is not None and group_size < 1:
            fix = "give a number of rows, 1 or more, or None for batches of one cluster"
            raise InputError("groups without rows", got=f"group_size={group_size}", fix=fix)
        self.query_rows, self.clusters, self.group_size = np.asarray(query_rows), np.asarray(clusters), group_size

    @classmethod
    def of_vectors(
        cls,
        dataset: Any,
        vectors: NDArray[np.float32],
        num_clusters: int | None = None,
        seed: int = 0,
        group_size: int | None = None,
    ) -> ClusterBatches:
        """Clusters by k-means.

        Args:
            dataset: of raymine.online.training_set, n rows.
            vectors: float32 [n, dim], of the rows' anchors (or of their positives).
            num_clusters: None: one for every 200 rows, or for every 5 groups.
            seed: of the k-means.
            group_size: rows of one cluster that come into a batch together; None: the whole batch.
        """
        if num_clusters is None:
            rows = GROUPS_PER_CLUSTER * group_size if group_size else QUERIES_PER_CLUSTER
            num_clusters = max(1, len(vectors) // rows)
        return cls(query_rows_of(dataset), cluster_numbers(vectors, num_clusters, seed), group_size)

    def __call__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> ClusterBatchSampler:
        """The sampler of a data set, as a SentenceTransformerTrainer asks for it.

        Raises:
            InputError: the data set has queries without a cluster.
        """
        where = positions(self.query_rows, query_rows_of(dataset))
        if (where < 0).any():
            raise InputError(
                "rows of the data set belong to no cluster",
                got=f"{int((where < 0).sum()):,} of {len(where):,} rows with a query that was not clustered",
                fix="cluster the queries of all data sets that the trainer gets, those for evaluation too",
            )
        return ClusterBatchSampler(self.clusters[where], batch_size, drop_last, seed, self.group_size)


class ClusterBatchSampler(BatchSampler):
    """Batches of groups of one cluster each, in random order; every row once per epoch.

    Args:
        clusters: int [n], the cluster of each row.
        batch_size: rows per batch.
        drop_last: whether the last batch goes if it has fewer.
        seed: with the epoch it decides the batches.
        group_size: rows of a group; None: batch_size. Where it does not divide that, batches cut groups.
    """

    def __init__(
        self,
        clusters: NDArray[np.integer[Any]],
        batch_size: int,
        drop_last: bool,
        seed: int = 0,
        group_size: int | None = None,
    ) -> None:
        super().__init__(range(len(clusters)), batch_size, drop_last)
        self.clusters, self.seed, self.epoch = np.unique(clusters, return_inverse=True)[1], seed, 0
        self.group_size = group_size or batch_size

    def set_epoch(self, epoch: int) -> None:
        """Is told by the trainer which epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng, size = np.random.default_rng([self.seed, self.epoch]), self.group_size
        turn = rng.permutation(self.clusters.max(initial=-1) + 1)[self.clusters]
        order = rng.permutation(len(turn))
        order = order[np.argsort(turn[order], kind="stable")]
        count = np.bincount(turn)[turn[order]]
        is_whole = ranks_within(turn[order]) < count // size * size
        rest = order[~is_whole]
        end = len(rest) // size * size
        groups = np.concatenate([order[is_whole], rest[:end]]).reshape(-1, size)
        rows = np.concatenate([rng.permutation(groups).reshape(-1), rest[end:]]).tolist()
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


def query_rows_of(dataset: Any) -> Rows:
    """The query of each row of a data set of raymine.online.training_set, int64 [n]."""
    label = dataset.with_format("numpy", columns=["label"])[:]["label"]
    return np.asarray(label, np.int64).reshape(len(dataset), -1)[:, 0]


def cluster_numbers(vectors: NDArray[np.float32], num_clusters: int, seed: int = 0) -> Rows:
    """The cluster of each vector, by spherical k-means (nearest by inner product).

    Args:
        vectors: float32 [n, dim].
        num_clusters: at most n of them are made.
        seed: of the k-means.

    Returns:
        int64 [n].
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    index = load_faiss().IndexFlatIP(vectors.shape[1])
    index.add(centroids(vectors, min(num_clusters, len(vectors)), seed))
    return np.asarray(index.search(vectors, 1)[1][:, 0], np.int64)
