"""Coarse centroids of ivfflat and ivfpq: trained on a seeded sample, or the last round's while they still serve.

A later checkpoint moves the vectors. What that does to lists made for the earlier ones is measured on a sample of the
new ones, each taken to its nearest centroid:

    imbalance   nlist sum(n_i^2) / (sum n_i)^2 over the sizes of the lists, faiss's imbalance factor: how many times the
                documents that a query scans are those of as many lists of equal size
    distance    mean squared distance of a vector's direction from its centroid: lists of equal size are of no use
                where they do not hold what is near to each other

Both are compared with what they were for the vectors that the centroids were trained on. Directions alone count, in
the assignment too (centroids have length 1), so it does not matter whether vectors are normalised. What is lost by old
centroids is time, not recall: how many lists are searched is chosen by recall measured anew (index.probes).

Measured on 8,000 vectors in 300 clusters, moved by random linear maps: where lists are 1.13 times as unequal and the
distances 1.21 times as long, the lists that hold 0.95 of a query's 20 nearest have 1.06 times as many documents as with
new centroids; 1.3 times at 1.6 and 1.5; 1.8 times at 2.7 and 2.0. All moved in one direction: 9 times, at 166 and 2.6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import IndexConfig
from raymine.index.base import load_faiss
from raymine.index.ivfpq_train import (
    ENOUGH_PER_CENTROID,
    LEAST_SAMPLE,
    choose_nlist,
    coarse_centroids,
    enough_for_codes,
    read_centroids,
    sample,
)
from raymine.vectors import num_vectors

# Vectors that are measured, per centroid: some eight pairs of them then lie in one list for each centroid, and the tens
# of thousands of pairs that many centroids have tell the imbalance to about 1 %.
MEASURED_PER_CENTROID = 4
# The number that is trained grows with the root of the documents: one is kept until they have doubled, or halved.
MOST_NLIST_RATIO = 1.42


def num_measured(nlist: int) -> int:
    """How many vectors are measured against so many centroids."""
    return max(LEAST_SAMPLE, MEASURED_PER_CENTROID * nlist)


def measured(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> dict[str, float]:
    """Imbalance and distance.

    A sample's lists are unequal by chance too; only pairs of different vectors are counted, which leaves that out.

    Args:
        vectors: float32 [n, dim], a sample.
        centroids: float32 [nlist, dim], of length 1.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    index = load_faiss().IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    cosines, lists = index.search(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), 1)
    sizes, count = np.bincount(lists[:, 0], minlength=len(centroids)).astype(np.float64), len(vectors)
    pairs = float((sizes * (sizes - 1)).sum())
    imbalance = len(centroids) * pairs / (count * (count - 1)) if count > 1 else 1.0
    return {"imbalance": imbalance, "distance": 2 - 2 * float(cosines.mean(dtype=np.float64)) if count else 0.0}


def still_serve(now: dict[str, float], trained: dict[str, float], most: float) -> bool:
    """Whether centroids are good enough for other vectors than those they were trained on.

    Args:
        now: as `measured`, for the vectors of now.
        trained: for those of then.
        most: how many times as large either may be.
    """
    return all(now[name] <= most * trained[name] for name in ("imbalance", "distance"))


def has_fitting_size(config: IndexConfig, num_documents: int, nlist: int) -> bool:
    """Whether so many centroids are as many as the config asks for, or nearly as many as would be trained."""
    wanted = choose_nlist(config, num_documents, min(config.train_documents, num_documents))
    most = 1.0 if config.nlist is not None else MOST_NLIST_RATIO
    return max(nlist, wanted) <= most * min(nlist, wanted)


class TrainCentroids:
    """Trains coarse centroids. task.inputs: vectors, the embeddings files of all document shards.

    Args:
        config: the index.
        seed: of the sample and the k-means.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, config: IndexConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def __call__(self, task: Task) -> Record:
        """Writes the centroids as embeddings; info says nlist, dim, the size of the sample and what `measured` does."""
        paths = task.inputs["vectors"]
        num_documents = sum(num_vectors(path) for path in paths)
        most = min(self.config.train_documents, num_documents)
        nlist = choose_nlist(self.config, num_documents, most)
        vectors = sample(paths, min(most, max(LEAST_SAMPLE, ENOUGH_PER_CENTROID * nlist)), self.seed)
        found = coarse_centroids(enough_for_codes(vectors), nlist, self.seed)
        shard = storage.write_arrow(f"{task.output}.arrow", schemas.vector_table(np.arange(nlist), found))
        info = {"nlist": nlist, "dim": found.shape[1], "num_sampled": len(vectors)}
        info |= measured(vectors[:: max(1, len(vectors) // num_measured(nlist))], found)
        return Record([shard], rows_in=len(vectors), rows_out=nlist, bytes_in=vectors.nbytes, info=info)


class TryCentroids:
    """Measures centroids on other vectors. task.inputs: vectors, the embeddings files of all document shards.

    Args:
        centroids: path of TrainCentroids' file, of the same dimensions.
        seed: of the sample.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, centroids: str, seed: int) -> None:
        self.centroids, self.seed = read_centroids(centroids), seed

    def __call__(self, task: Task) -> Record:
        """info says what `measured` does."""
        vectors = sample(task.inputs["vectors"], num_measured(len(self.centroids)), self.seed)
        return Record(rows_in=len(vectors), bytes_in=vectors.nbytes, info=measured(vectors, self.centroids))
