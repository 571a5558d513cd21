"""Clusters of the documents' vectors, for filters: k-means on a seeded sample, then the nearest centroid of each.

For rounds whose search has no lists, or whose config asks for a number of clusters: ivfflat and ivfpq bring their own.
Cost: the k-means of ivfpq's training, and one product of each document with the centroids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.index.base import load_chunk, load_faiss
from raymine.index.ivfpq_train import (
    ENOUGH_PER_CENTROID,
    LEAST_SAMPLE,
    coarse_centroids,
    sample,
)
from raymine.vectors import num_vectors

LEAST_CLUSTERS = 2


class TrainClusters:
    """Stage: centroids of the corpus. task.inputs: `vectors`, the embeddings files of all document shards.

    Args:
        clusters: how many; None: the root of the number of documents. Never more than there are documents.
        seed: of the sample and the k-means.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, clusters: int | None, seed: int) -> None:
        self.clusters, self.seed = clusters, seed

    def __call__(self, task: Task) -> Record:
        """Writes the centroids, schemas.embeddings in float32; info says how many."""
        paths: Sequence[str] = task.inputs["vectors"]
        num_documents = sum(num_vectors(path) for path in paths)
        wanted = self.clusters or max(LEAST_CLUSTERS, round(math.sqrt(num_documents)))
        count = min(wanted, num_documents)
        vectors = sample(paths, min(num_documents, max(LEAST_SAMPLE, ENOUGH_PER_CENTROID * count)), self.seed)
        found = coarse_centroids(vectors, count, self.seed) if count else vectors
        table = schemas.vector_table(np.arange(len(found), dtype=np.int64), found)
        shard = storage.write_arrow(f"{task.output}.arrow", table)
        return Record([shard], rows_in=len(vectors), rows_out=len(found), info={"clusters": len(found)})


class AssignClusters:
    """Stage: CLUSTERS of one document shard.

    Args:
        centroids: path of TrainClusters' file.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, centroids: str) -> None:
        self.centroids = schemas.vector_matrix(storage.read_arrow(centroids)["vector"]).astype(np.float32)

    def __call__(self, task: Task) -> Record:
        """Assigns the documents of shard `vectors` (path), which begins at `first_row`; empty ones have no cluster."""
        doc_rows, matrix = load_chunk([task.inputs["vectors"]], [task.inputs["first_row"]])
        clusters = nearest(matrix.astype(np.float32), self.centroids)
        table = pa.Table.from_arrays([pa.array(doc_rows), pa.array(clusters)], schema=schemas.CLUSTERS)
        shard = storage.write_table(f"{task.output}.parquet", table)
        return Record([shard], rows_in=len(doc_rows), rows_out=len(doc_rows))


def nearest(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int32]:
    """The centroid with the highest inner product for each vector [n, dim]: int32 [n]."""
    if not len(vectors):
        return np.empty(0, np.int32)
    index = load_faiss().IndexFlatIP(centres.shape[1])
    index.add(centres)
    found: NDArray[np.int32] = index.search(vectors, 1)[1][:, 0].astype(np.int32)
    return found
