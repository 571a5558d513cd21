"""IVF-PQ: measured against exact search; parts equal one index; nothing depends on threads; tiny corpora work."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import IndexConfig
from raymine.index import exact, ivfpq, ivfpq_train
from raymine.index.base import load_faiss, padded
from raymine.index.centroids import TrainCentroids
from raymine.topk import gathered_scores, merge_topk


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Small products on many threads are slower than on one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def clustered(rng, count, dim, num_topics=60, noise=0.7):
    """Unit vectors around topics, as embeddings lie."""
    topics = np.random.default_rng(99).standard_normal((num_topics, dim))
    vectors = topics[rng.integers(0, num_topics, count)] + noise * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_vectors(folder: Path, name: str, rows, vectors) -> str:
    path = str(folder / f"{name}.parquet")
    storage.write_arrow(path, schemas.vector_table(np.asarray(rows, np.int64), vectors))
    return path


def mined(tmp_path, shards, starts, queries, config, k, shards_per_part):
    """Runs all stages over shards of (rows, vectors); returns the parts' HITS and CLUSTERS."""
    paths = [write_vectors(tmp_path, f"d{i}", *shard) for i, shard in enumerate(shards)]
    block = write_vectors(tmp_path, "q", np.arange(len(queries)), queries)
    prefix = str(tmp_path / f"by{shards_per_part}-")
    coarse = TrainCentroids(config, 5)(Task("c", {"vectors": paths}, prefix + "centroids")).outputs[0].path
    index = ivfpq_train.TrainIvf(coarse, config, 5)(Task("t", {"vectors": paths}, prefix + "index")).outputs[0].path
    lists = ivfpq.AssignQueries(index, config.nprobe)(Task("a", {"vectors": block}, prefix + "lists")).outputs[0].path
    build, search = ivfpq.BuildPart(index), ivfpq.SearchPart([lists], [block], [0], k)
    hits, clusters = [], []
    for begin in range(0, len(paths), shards_per_part):
        chosen = slice(begin, begin + shards_per_part)
        inputs = {"vectors": paths[chosen], "first_rows": starts[chosen]}
        built = build(Task("b", inputs, f"{prefix}part{begin}")).outputs
        clusters.append(schemas.check(storage.read_table(built[1].path), schemas.CLUSTERS))
        found = search(Task("s", {"index": built[0].path, "blocks": [0, 1]}, f"{prefix}hits{begin}")).outputs[0].path
        hits.append(schemas.check(storage.read_bucket(found, 0), schemas.HITS))
    return pa.concat_tables(hits), pa.concat_tables(clusters)


def best(hits, k):
    return merge_topk(hits["query_row"].to_numpy(), hits["doc_row"].to_numpy(), hits["score"].to_numpy(), k)


def test_overfetched_and_rescored_hits_recall_the_exact_ones(tmp_path):
    """recall@100 against exact search is at least 0.95 after exact scores, with a quarter of the lists probed."""
    rng = np.random.default_rng(0)
    docs, queries = clustered(rng, 12000, 64), clustered(rng, 150, 64)
    config = IndexConfig(nlist=64, nprobe=16, code_dims=4)
    hits, _ = mined(tmp_path, [(np.arange(12000), docs)], [0], queries, config, 400, 1)
    query_rows, doc_rows, _, _ = best(hits, 400)
    scores = gathered_scores(queries, docs, query_rows, doc_rows)
    query_rows, doc_rows, _, scores = merge_topk(query_rows, doc_rows, scores, 100)
    query_index, doc_index, _, exact_scores = exact.search(queries, docs, 100)
    found = dict(zip(zip(query_rows.tolist(), doc_rows.tolist(), strict=True), scores.tolist(), strict=True))
    known = dict(zip(zip(query_index.tolist(), doc_index.tolist(), strict=True), exact_scores.tolist(), strict=True))
    both = found.keys() & known.keys()
    assert len(both) / len(known) >= 0.95
    assert all(found[pair] == known[pair] for pair in both)


def test_parts_equal_one_index_bit_for_bit(tmp_path):
    """Merged hits and clusters of 1, 2 and 5 parts are the same, though codes' scores tie everywhere."""
    rng = np.random.default_rng(1)
    sizes, starts = [900, 700, 1, 800, 600], [0, 1000, 1800, 1900, 2800]
    shards = [(np.sort(rng.choice(size + 50, size, replace=False)), clustered(rng, size, 24)) for size in sizes]
    queries = clustered(rng, 60, 24)
    results = [
        mined(tmp_path, shards, starts, queries, IndexConfig(nlist=20, nprobe=6, code_dims=4), 40, per_part)
        for per_part in (5, 3, 1)
    ]
    whole, clusters = best(results[0][0], 40), results[0][1]
    assert (
        clusters["doc_row"].to_pylist()
        == np.concatenate([r + s for (r, _), s in zip(shards, starts, strict=True)]).tolist()
    )
    assert (np.diff(whole[3].reshape(60, 40)) == 0).any(), "the test wants ties"
    for hits, part_clusters in results[1:]:
        for got, expected in zip(best(hits, 40), whole, strict=True):
            np.testing.assert_array_equal(got, expected)
        assert part_clusters.equals(clusters)


@pytest.mark.parametrize("copies", [1, 700, 2100], ids=["few ties", "mass ties", "all tie"])
def test_hits_are_all_codes_of_the_probed_lists_in_order(copies):
    """Equals sorting everything that the probed lists hold, also where more documents tie than are fetched at once."""
    rng = np.random.default_rng(2)
    docs = np.repeat(clustered(rng, 2100 // copies, 16), copies, axis=0).astype(np.float32)
    queries = clustered(rng, 5, 16).astype(np.float32)
    index = ivfpq_train.train(docs, 8, 4, 0)
    _, lists = index.quantizer.search(queries, 3)
    index.add_with_ids(docs, np.arange(len(docs))[::-1] + 7)
    everything = ivfpq.search(index, queries, lists, len(docs))
    expected = merge_topk(everything[0], everything[1], everything[3], 20)
    for got, wanted in zip(ivfpq.search(index, queries, lists, 20), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    clusters = ivfpq.clusters_of(index)
    cluster_of = dict(zip(clusters["doc_row"].to_pylist(), clusters["cluster"].to_pylist(), strict=True))
    probed = {(q, doc) for q, row in enumerate(lists.tolist()) for doc, c in cluster_of.items() if c in row}
    assert set(zip(everything[0].tolist(), everything[1].tolist(), strict=True)) == probed


@pytest.mark.parametrize("is_large", [False, True], ids=["one level", "two levels"])
def test_training_building_and_searching_do_not_depend_on_threads(monkeypatch, is_large):
    """The trained index, a built part and its hits have the same bytes with one thread and with two."""
    if is_large:
        monkeypatch.setattr(ivfpq_train, "FLAT_NLIST", 8)
        monkeypatch.setattr(ivfpq_train, "FLAT_ASSIGN_NLIST", 8)
    rng = np.random.default_rng(3)
    docs, queries = clustered(rng, 3000, 32), clustered(rng, 30, 32).astype(np.float32)
    digests = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        faiss = load_faiss()
        index = ivfpq_train.train(docs.astype(np.float32), 40, 4, 11)
        trained = faiss.serialize_index(index).tobytes()
        _, lists = index.quantizer.search(queries, 8)
        index.own_fields, index.quantizer = False, ivfpq_train.assigner(index)
        index.add_with_ids(docs.astype(np.float32), np.arange(3000))
        hits = ivfpq.search(index, queries, lists, 50)
        parts = [trained, faiss.serialize_index(index).tobytes(), *(column.tobytes() for column in hits)]
        digests.append([hashlib.sha256(part).hexdigest() for part in parts])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("nprobe", [1, 7, 40])
def test_lists_of_a_query_are_those_of_its_nearest_centroids(monkeypatch, nprobe):
    """As an exact search of the centroids finds them, some queries at a time."""
    monkeypatch.setattr(ivfpq, "HITS_AT_ONCE", 100)
    rng = np.random.default_rng(0)
    queries, centroids = (clustered(rng, count, 24).astype(np.float32) for count in (30, 40))
    expected = np.argsort(-(queries @ centroids.T), axis=1)[:, :nprobe]
    assert (ivfpq.nearest_lists(queries, centroids, nprobe) == np.sort(expected, axis=1)).all()


def test_two_levels_give_as_many_centroids_that_serve_as_well():
    """Each on the unit sphere; documents are about as near to theirs as with k-means in one level."""
    docs = clustered(np.random.default_rng(5), 6000, 32).astype(np.float32)
    nearest = []
    for found in (ivfpq_train.centroids(docs, 90, 3), ivfpq_train.two_level_centroids(docs, 90, 3)):
        assert found.shape == (90, 32)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        nearest.append((docs @ found.T).max(axis=1).mean())
    assert nearest[1] > 0.97 * nearest[0]


def test_many_centroids_are_searched_by_lists(monkeypatch):
    """Documents are assigned to their nearest centroid, or for a few to a near one."""
    docs = clustered(np.random.default_rng(6), 4000, 32).astype(np.float32)
    index = ivfpq_train.train(docs, 100, 4, 0)
    exactly = ivfpq_train.assigner(index).search(docs, 1)
    monkeypatch.setattr(ivfpq_train, "FLAT_ASSIGN_NLIST", 50)
    nearly = ivfpq_train.assigner(index).search(docs, 1)
    assert (exactly[1] == nearly[1]).mean() > 0.9
    assert (nearly[0] > 0.8 * exactly[0]).mean() > 0.99


def test_the_seed_decides_the_training():
    """Same seed, same bytes; another seed, other centroids."""
    docs = clustered(np.random.default_rng(4), 1000, 16).astype(np.float32)
    faiss = load_faiss()
    first, again, other = (faiss.serialize_index(ivfpq_train.train(docs, 10, 4, seed)).tobytes() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("num_documents", [0, 1, 15, 40, 200])
@pytest.mark.parametrize(("dim", "code_dims"), [(8, 4), (10, 4), (3, 8), (7, 1)])
def test_tiny_corpora_and_odd_dimensions(tmp_path, capfd, num_documents, dim, code_dims):
    """With all lists probed and k of the corpus, every document is found; faiss stays silent."""
    rng = np.random.default_rng(num_documents)
    shards = [(np.arange(num_documents), clustered(rng, num_documents, dim))]
    config = IndexConfig(code_dims=code_dims, nprobe=64)
    hits, clusters = mined(tmp_path, shards, [0], clustered(rng, 3, dim), config, 1000, 1)
    assert clusters.num_rows == num_documents
    pairs = set(zip(hits["query_row"].to_pylist(), hits["doc_row"].to_pylist(), strict=True))
    assert pairs == {(query, doc) for query in range(3) for doc in range(num_documents)}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("nlist", "num_documents", "num_sampled", "expected"),
    [
        (None, 1_000_000, 500_000, 4000),
        (None, 100_000_000, 500_000, 12820),
        (None, 1000, 1000, 25),
        (None, 10, 10, 1),
        (None, 0, 0, 1),
        (300, 1000, 1000, 300),
        (300, 50, 50, 50),
        (300, 0, 0, 1),
    ],
)
def test_nlist_follows_the_corpus_and_the_sample(nlist, num_documents, num_sampled, expected):
    """4 sqrt(n), capped at 39 sampled vectors per centroid; a given one at the sample."""
    assert ivfpq_train.choose_nlist(IndexConfig(nlist=nlist), num_documents, num_sampled) == expected


def test_sample_is_bounded_seeded_and_in_order(tmp_path, monkeypatch):
    """Distinct stored vectors, from as many shards as hold enough of them."""
    paths = [
        write_vectors(
            tmp_path, str(i), np.arange(50), np.arange(i * 50, i * 50 + 50).repeat(2).reshape(50, 2).astype("f4")
        )
        for i in range(20)
    ]
    taken = ivfpq_train.sample(paths, 30, 1)[:, 0]
    np.testing.assert_array_equal(ivfpq_train.sample(paths, 30, 1)[:, 0], taken)
    assert (np.diff(taken) > 0).all() and len(taken) == 30
    assert ivfpq_train.sample(paths, 30, 2)[:, 0].tolist() != taken.tolist()
    assert ivfpq_train.sample(paths, 5000, 1)[:, 0].tolist() == list(range(1000))
    read = []
    real = ivfpq_train.read_vectors
    monkeypatch.setattr(ivfpq_train, "read_vectors", lambda path: read.append(path) or real(path))
    ivfpq_train.sample(paths, 30, 1)
    assert len(read) <= 5


def test_padding_keeps_inner_products():
    """Zeros after the dimensions add nothing."""
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert padded(vectors, 5).tolist() == [[0, 1, 2, 0, 0], [3, 4, 5, 0, 0]]
