"""Training of an ivfpq index: coarse centroids and codebooks, once, on a seeded sample of stored vectors."""

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
ENOUGH_PER_CENTROID = 64
LEAST_SAMPLE = 1 << 14
KMEANS_ROUNDS = 10
# Centroids up to which k-means, and the assignment of documents, look through all of them.
FLAT_NLIST = 1024
FLAT_ASSIGN_NLIST = 4096
ASSIGN_LISTS = 8
# A 4-bit code has 16 values, and their k-means wants as many vectors.
CODE_VALUES = 16
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

    Where code_dims does not divide the dimensions, zeros fill the last code. The result depends on the bytes of the
    sample and the seed, not on the number of threads.

    Args:
        vectors: float32 [n, dim].
        nlist: coarse centroids, at most n.
        code_dims: dimensions per 4-bit code.
        seed: of the k-means.
    """
    faiss = load_faiss()
    num_codes = -(-vectors.shape[1] // code_dims)
    dim = num_codes * code_dims
    index = faiss.index_factory(dim, f"IVF{nlist},PQ{num_codes}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.seed, index.pq.cp.min_points_per_centroid = seed & 0x7FFFFFFF, 1  # says nothing about small corpora
    if len(vectors) < CODE_VALUES:
        repeats = -(-CODE_VALUES // max(1, len(vectors)))
        vectors = np.tile(vectors, (repeats, 1)) if len(vectors) else np.zeros((CODE_VALUES, dim), np.float32)
    wide = padded(vectors, dim)
    index.quantizer.add(centroids(wide, nlist, seed) if nlist <= FLAT_NLIST else two_level_centroids(wide, nlist, seed))
    index.train(wide)
    return index


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
    1.7 s against 25 s. The 512 lists nearest to a query then held 0.92 of its exact hits and 0.186 of the documents;
    with one level 0.93 and 0.200.
    """
    faiss = load_faiss()
    coarse = centroids(vectors, round(math.sqrt(count)), seed)
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


class TrainIvf:
    """Trains the index that all parts share. task.inputs: vectors, the embeddings files of all document shards.

    Args:
        config: the index.
        seed: of the sample and the k-means.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: IndexConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def __call__(self, task: Task) -> Record:
        """Writes the trained index without documents (.faiss); info says nlist and the size of the sample."""
        paths = task.inputs["vectors"]
        num_documents = sum(num_vectors(path) for path in paths)
        most = min(self.config.train_documents, num_documents)
        nlist = choose_nlist(self.config, num_documents, most)
        vectors = sample(paths, min(most, max(LEAST_SAMPLE, ENOUGH_PER_CENTROID * nlist)), self.seed)
        index = train(vectors, nlist, self.config.code_dims, self.seed)
        shard = write_index(f"{task.output}.faiss", index, 0)
        info = {"nlist": nlist, "num_sampled": len(vectors)}
        return Record([shard], rows_in=len(vectors), bytes_in=vectors.nbytes, info=info)
