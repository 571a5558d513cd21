"""Training of an ivfpq index on seeded samples of stored vectors: k-means for coarse centroids, and codebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymine import storage
from raymine.artifacts import Record, Task
from raymine.config import IndexConfig
from raymine.index.base import load_faiss, padded
from raymine.storage import Shard
from raymine.vectors import dim_of, num_vectors, read_vectors

# Training vectors per centroid below which k-means gets poor (faiss's own limit, Clustering.h).
VECTORS_PER_CENTROID = 39
# Training vectors per centroid beyond which it gets hardly better (faiss stops at 256, and takes as much longer).
ENOUGH_PER_CENTROID, MOST_PER_CENTROID = 64, 256
LEAST_SAMPLE = 1 << 14
KMEANS_ROUNDS = 10
# Centroids up to which k-means, and the assignment of documents, look through all of them.
FLAT_NLIST = 1024
FLAT_ASSIGN_NLIST = 4096
ASSIGN_LISTS = 8
# A 4-bit code has 16 values, and their k-means wants as many vectors.
CODE_VALUES = 16
ENOUGH_FOR_CODES = 256 * CODE_VALUES  # faiss takes no more
# Shards that are read for the sample hold at most this many times the vectors that are kept, so a corpus of 100 million
# is sampled from a few hundred shards instead of being read whole.
VECTORS_READ_PER_KEPT = 8


def choose_nlist(config: IndexConfig, num_documents: int, num_sampled: int) -> int:
    """The number of coarse centroids: the config's, else 4 sqrt(n), and not more than the sample can feed.

    Args:
        config: the index.
        num_documents: documents with a vector.
        num_sampled: of them that may be sampled for training.
    """
    if config.nlist is not None:
        return max(1, min(config.nlist, num_sampled))
    return max(1, min(int(4 * math.sqrt(num_documents)), num_sampled // VECTORS_PER_CENTROID))


def sample(paths: Sequence[str], size: int, seed: int) -> NDArray[np.float32]:
    """A seeded sample of stored vectors, in their order.

    Shards are taken in a random order until they hold VECTORS_READ_PER_KEPT times the sample; the sample is uniform
    over those.

    Args:
        paths: embeddings files.
        size: vectors wanted at most.
        seed: of the sample.

    Returns:
        float32 [min(size, n), dim].
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = np.array([num_vectors(path) for path in paths], np.int64)
    order = rng.permutation(len(paths))
    enough = int(np.searchsorted(np.cumsum(counts[order]), size * VECTORS_READ_PER_KEPT)) + 1
    chosen = np.sort(order[:enough])
    starts = np.concatenate([[0], np.cumsum(counts[chosen])])
    wanted = np.sort(rng.choice(starts[-1], min(size, int(starts[-1])), replace=False, shuffle=False))
    kept = np.empty((len(wanted), dim_of(paths[0])), np.float32)
    for number, shard in enumerate(chosen):
        begin, end = np.searchsorted(wanted, starts[number : number + 2])
        if end > begin:
            kept[begin:end] = read_vectors(paths[shard]).matrix[wanted[begin:end] - starts[number]]
    return kept


def train(vectors: NDArray[np.float32], nlist: int, code_dims: int, seed: int) -> Any:
    """A trained index without documents: nlist spherical centroids and one codebook per code_dims dimensions.

    The result depends on the bytes of the sample and the seed, not on the number of threads.

    Args:
        vectors: float32 [n, dim].
        nlist: coarse centroids, at most n.
        code_dims: dimensions per 4-bit code.
        seed: of the k-means.
    """
    vectors = enough_for_codes(vectors)
    return with_codes(coarse_centroids(vectors, nlist, seed), vectors, code_dims, seed)


def enough_for_codes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [n, dim], repeated where they are too few for the k-means of a codebook; zeros where there are none."""
    if len(vectors) >= CODE_VALUES:
        return vectors
    if not len(vectors):
        return np.zeros((CODE_VALUES, vectors.shape[1]), np.float32)
    return np.tile(vectors, (-(-CODE_VALUES // len(vectors)), 1))


def with_codes(coarse: NDArray[np.float32], vectors: NDArray[np.float32], code_dims: int, seed: int) -> Any:
    """An index of given centroids, with codebooks trained for them.

    Where code_dims does not divide the dimensions, zeros fill the last code.

    Args:
        coarse: float32 [nlist, dim].
        vectors: float32 [n, dim], CODE_VALUES at least.
        code_dims: dimensions per 4-bit code.
        seed: of the k-means.
    """
    faiss = load_faiss()
    num_codes = -(-vectors.shape[1] // code_dims)
    dim = num_codes * code_dims
    index = faiss.index_factory(dim, f"IVF{len(coarse)},PQ{num_codes}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.seed, index.pq.cp.min_points_per_centroid = seed & 0x7FFFFFFF, 1  # says nothing about small corpora
    index.quantizer.add(padded(coarse, dim))
    index.train(padded(vectors, dim))
    return index


def coarse_centroids(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Spherical k-means of all vectors [n, dim], in two levels where they are many: float32 [count, dim]."""
    if count <= FLAT_NLIST:
        return centroids(vectors, count, seed)
    return two_level_centroids(vectors, count, seed)


def centroids(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Spherical k-means of all vectors [n, dim]: float32 [count, dim]."""
    faiss = load_faiss()
    clustering = faiss.Clustering(vectors.shape[1], count)
    clustering.seed, clustering.niter, clustering.spherical = seed & 0x7FFFFFFF, KMEANS_ROUNDS, True
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(vectors)
    clustering.train(vectors, faiss.IndexFlatIP(vectors.shape[1]))
    found: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids).reshape(count, -1)
    return found


def two_level_centroids(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """As `centroids`, by k-means within each of sqrt(count) clusters: n sqrt(count) products a round, not n count.

    A cluster gets centroids by its share of the vectors. Measured on 181,000 vectors and 2,828 centroids, one core:
    0.9 s against 25 s. The 512 lists nearest to a query then held 0.92 of its exact hits and 0.184 of the documents;
    with one level 0.93 and 0.200. The clusters themselves are found from MOST_PER_CENTROID vectors each: from all of
    them it is 1.8 s, for the same shares.
    """
    faiss = load_faiss()
    num_coarse = round(math.sqrt(count))
    coarse = centroids(vectors[:: max(1, len(vectors) // (MOST_PER_CENTROID * num_coarse))], num_coarse, seed)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(coarse)
    cluster = index.search(vectors, 1)[1][:, 0]
    ends = np.cumsum(np.bincount(cluster, minlength=len(coarse)))
    order = np.argsort(cluster, kind="stable")
    shares = np.diff(ends * count // len(vectors), prepend=0)
    members = np.split(order, ends[:-1])
    return np.concatenate(
        [centroids(vectors[own], int(share), seed) for own, share in zip(members, shares, strict=True) if share]
    )


def assigner(index: Any) -> Any:
    """A faiss index over the centroids that finds a document's list: exact, or, where they are many, by lists of them.

    Looking through the nearest ASSIGN_LISTS of sqrt(nlist) lists of centroids finds the nearest centroid for nine
    documents of ten and a near one for the others. Queries are assigned exactly, so only this costs recall, and what
    it costs is part of what is measured (index.probes).
    """
    if index.nlist <= FLAT_ASSIGN_NLIST:
        return index.quantizer
    faiss = load_faiss()
    lists = faiss.index_factory(index.d, f"IVF{round(math.sqrt(index.nlist))},Flat", faiss.METRIC_INNER_PRODUCT)
    lists.cp.min_points_per_centroid = 1
    found = index.quantizer.reconstruct_n(0, index.nlist)
    lists.train(found)
    lists.add(found)
    lists.nprobe = ASSIGN_LISTS
    return lists


def write_index(path: str, index: Any, num_rows: int) -> Shard:
    """Writes an index atomically."""
    content = load_faiss().serialize_index(index).tobytes()
    return replace(storage.write_file(path, [content]), num_rows=num_rows)


def read_index(path: str) -> Any:
    """Reads an index that write_index wrote."""
    return load_faiss().deserialize_index(np.frombuffer(storage.read_bytes(path), np.uint8))


def read_centroids(path: str) -> NDArray[np.float32]:
    """What TrainCentroids wrote (index.centroids): float32 [nlist, dim]."""
    return np.asarray(read_vectors(path).matrix, np.float32)


class TrainIvf:
    """Trains the index that all parts share. task.inputs: vectors, the embeddings files of all document shards.

    Args:
        centroids: path of the coarse centroids (index.centroids).
        config: the index.
        seed: of the sample and the k-means.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, centroids: str, config: IndexConfig, seed: int) -> None:
        self.centroids, self.config, self.seed = read_centroids(centroids), config, seed

    def __call__(self, task: Task) -> Record:
        """Writes the trained index without documents (.faiss)."""
        vectors = sample(task.inputs["vectors"], min(self.config.train_documents, ENOUGH_FOR_CODES), self.seed)
        index = with_codes(self.centroids, enough_for_codes(vectors), self.config.code_dims, self.seed)
        shard = write_index(f"{task.output}.faiss", index, 0)
        return Record([shard], rows_in=len(vectors), bytes_in=vectors.nbytes)
