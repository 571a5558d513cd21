"""Lists of whole vectors: exactly the best of what the probed lists hold, however it is cut; recall is what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import IndexConfig
from raymine.index import exact, first_pass, int8_tile, ivfflat, lists
from raymine.index.centroids import TrainCentroids
from raymine.index.exact import SearchExact
from raymine.index.probes import CERTAIN
from raymine.topk import gathered_scores, merge_topk


@pytest.fixture(params=["tiles", "products"], autouse=True)
def kind(request, monkeypatch):
    """All of it runs over tiles in registers and over products in memory."""
    if request.param == "tiles" and not int8_tile.is_supported():
        pytest.skip("needs a CPU with avx512_vnni")
    monkeypatch.setattr(lists, "is_supported", lambda: request.param == "tiles")


def clustered(rng, count, dim, dtype="float16"):
    """Unit vectors around 30 topics."""
    topics = np.random.default_rng(99).standard_normal((30, dim))
    vectors = topics[rng.integers(0, 30, count)] + 0.7 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def write(folder: Path, name: str, rows, vectors) -> str:
    path = str(folder / f"{name}.arrow")
    storage.write_arrow(path, schemas.vector_table(np.asarray(rows, np.int64), vectors))
    return path


class Index:
    """Shards of documents (rows, vectors), put in order in ranges of lists."""

    def __init__(self, folder, shards, starts, config, pieces=1):
        self.folder, self.starts = folder, starts
        self.paths = [write(folder, f"d{i}", *shard) for i, shard in enumerate(shards)]
        trained = TrainCentroids(config, 5)(Task("c", {"vectors": self.paths}, str(folder / "c")))
        self.centroids, self.nlist = trained.outputs[0].path, trained.info["nlist"]
        assign = ivfflat.AssignDocuments(self.centroids)
        self.clusters = [
            assign(Task("a", {"vectors": path, "first_row": start}, f"{folder}/a{i}")).outputs[0].path
            for i, (path, start) in enumerate(zip(self.paths, starts, strict=True))
        ]
        borders = [self.nlist * i // pieces for i in range(pieces + 1)]
        inputs = {"vectors": self.paths, "first_rows": starts, "clusters": self.clusters}
        tasks = [Task("b", {**inputs, "lists": borders[i : i + 2]}, f"{folder}/b{i}") for i in range(pieces)]
        built = [ivfflat.BuildLists()(task).outputs for task in tasks]
        self.part = {"vectors": self.paths, "first_rows": starts, "panels": [each[0].path for each in built]}

    def search(self, queries, nprobe, k, max_lag=0.0):
        """HITS; all lists are searched where nprobe, the pilot, is None."""
        block, assigned = write(self.folder, "q", np.arange(len(queries)), queries), None
        if nprobe is not None:
            stage = ivfflat.AssignQueries(self.centroids, nprobe, max_lag)
            self.assigned = stage(Task("q", {"vectors": block}, f"{self.folder}/lists")).outputs[0].path
            assigned = [self.assigned]
        stage = ivfflat.SearchLists(assigned, self.nlist, [block], [0], k)
        record = stage(Task("s", {**self.part, "blocks": [0, 1]}, f"{self.folder}/hits"))
        return schemas.check(storage.read_bucket(record.outputs[0].path, 0), schemas.HITS)

    def oracle(self, queries, docs, doc_rows, k):
        """Every document of the lists that the queries were assigned, scored in float64 and sorted."""
        table = storage.read_arrow(self.assigned)
        probed = np.unpackbits(schemas.vector_matrix(table["probed"]), axis=1)[:, : self.nlist]
        read = [storage.read_table(path) for path in self.clusters]
        of = dict(
            zip(*(np.concatenate([t[n].to_numpy() for t in read]).tolist() for n in read[0].column_names), strict=True)
        )
        query_index, doc_index = np.nonzero(probed[:, [of[row] for row in doc_rows.tolist()]])
        scores = gathered_scores(queries, docs, query_index, doc_index)
        return merge_topk(query_index, doc_rows[doc_index], scores, k)


def as_hits(table):
    return [table[name].to_numpy() for name in ("query_row", "doc_row", "rank", "score")]


def assert_same(table, expected):
    for got, wanted in zip(as_hits(table), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("dim", "k", "nprobe", "max_lag"), [(24, 1, 3, 0.0), (23, 10, 5, 0.1), (30, 60, 1, 0.0), (8, 5000, 6, -0.2)]
)
def test_hits_are_exactly_the_best_of_the_probed_lists(tmp_path, monkeypatch, dtype, dim, k, nprobe, max_lag):
    """Ids, ranks and score bits, for shards with gaps in them, four ranges of lists, and few queries at a time."""
    monkeypatch.setattr(lists, "QUERIES_PER_TILE", 13)
    monkeypatch.setattr(lists, "TILES_SCORED", 2)
    rng = np.random.default_rng(dim)
    sizes, starts = [900, 1, 700, 1100], [0, 1000, 1001, 1800]
    rows = [np.sort(rng.choice(size + size // 10, size, replace=False)) for size in sizes]
    shards = [(own, clustered(rng, len(own), dim, dtype)) for own in rows]
    index = Index(tmp_path, shards, starts, IndexConfig(nlist=20), pieces=4)
    queries = clustered(rng, 40, dim, dtype)
    found = index.search(queries, nprobe, k, max_lag)
    doc_rows = np.concatenate([own + start for own, start in zip(rows, starts, strict=True)])
    assert_same(found, index.oracle(queries, np.concatenate([each for _, each in shards]), doc_rows, k))


@pytest.mark.parametrize("copies", [40, 700])
def test_identical_documents_tie_and_the_lower_row_wins(tmp_path, copies):
    """More copies than the race has room for, in an order that the lists do not have."""
    rng = np.random.default_rng(copies)
    docs = clustered(rng, 5, 24)[rng.integers(0, 5, 5 * copies)]
    index = Index(tmp_path, [(np.arange(len(docs)), docs)], [0], IndexConfig(nlist=3), pieces=2)
    queries = np.concatenate([docs[:3], clustered(rng, 6, 24)])
    assert_same(index.search(queries, 2, 10), index.oracle(queries, docs, np.arange(len(docs)), 10))


def test_all_lists_are_exact_search(tmp_path):
    """Without an assignment, and with all lists assigned: the hits of SearchExact."""
    rng = np.random.default_rng(3)
    docs, queries = clustered(rng, 4000, 32), clustered(rng, 50, 32)
    index = Index(tmp_path, [(np.arange(4000), docs)], [0], IndexConfig(nlist=30), pieces=3)
    expected = exact.search(queries, docs, 25)
    assert_same(index.search(queries, None, 25), expected)
    assert_same(index.search(queries, 30, 25), expected)
    assert_same(index.search(queries, 99, 25), expected)


def test_parts_merge_to_the_whole(tmp_path):
    """Documents searched in two parts, each with its own panels, merge to what one part finds."""
    rng = np.random.default_rng(4)
    docs, queries = clustered(rng, 3000, 24), clustered(rng, 30, 24)
    index = Index(
        tmp_path, [(np.arange(1500), docs[:1500]), (np.arange(1500), docs[1500:])], [0, 1500], IndexConfig(nlist=12)
    )
    whole = as_hits(index.search(queries, 4, 20))
    parts = []
    for i in range(2):
        shard = slice(i, i + 1)
        inputs = {"vectors": index.paths[shard], "first_rows": index.starts[shard], "clusters": index.clusters[shard]}
        built = ivfflat.BuildLists()(Task("p", {**inputs, "lists": [0, 12]}, f"{tmp_path}/p{i}")).outputs
        index.part = {**inputs, "panels": [built[0].path]}
        parts.append(as_hits(index.search(queries, 4, 20)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    for got, wanted in zip(merge_topk(columns[0], columns[1], columns[3], 20), whole, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("num_documents", [0, 1, 3])
def test_few_documents_and_lists_without_any(tmp_path, num_documents):
    rng = np.random.default_rng(5)
    docs, queries = clustered(rng, num_documents, 16), clustered(rng, 4, 16)
    index = Index(tmp_path, [(np.arange(num_documents), docs)], [0], IndexConfig(nlist=8), pieces=2)
    found = index.search(queries, None, 5)
    assert len(found) == 4 * num_documents
    assert_same(found, exact.search(queries, docs, 5))


@pytest.mark.parametrize(
    ("target", "nprobe"), [(0.5, None), (0.9, None), (0.99, None), (1.0, None), (0.9, 7), (0.9, 500)]
)
def test_the_recall_that_is_said_is_that_of_a_search(tmp_path, target, nprobe):
    """Of the sample's exact hits; the least lag that reaches the target is chosen, unless the config says nprobe."""
    rng = np.random.default_rng(6)
    docs, queries = clustered(rng, 5000, 24), clustered(rng, 200, 24)
    config = IndexConfig(nlist=40, nprobe=nprobe, recall_target=target)
    index = Index(tmp_path, [(np.arange(5000), docs)], [0], config, pieces=2)
    sample = write(tmp_path, "sample", np.arange(200), queries)
    stage = SearchExact([sample], [0], 20, 10_000)
    truth = stage(
        Task("t", {"vectors": index.paths, "first_rows": [0], "blocks": [0, 1]}, f"{tmp_path}/truth")
    ).outputs[0]
    inputs = {"truth": [truth.path], "clusters": index.clusters}
    said = ivfflat.ProbeLists(config, index.centroids, sample, 20)(Task("p", inputs, f"{tmp_path}/p")).info
    known = as_hits(storage.read_bucket(truth.path, 0))

    def reached(max_lag):
        found = as_hits(index.search(queries, said["pilot"], 20, max_lag))
        shared = np.isin(known[0] * 5000 + known[1], found[0] * 5000 + found[1]).reshape(200, 20).mean(axis=1)
        return shared.mean(), shared.std() / np.sqrt(200)

    recall, error = reached(said["max_lag"])
    assert (said["recall"], said["recall_error"]) == pytest.approx((recall, error))
    if nprobe is not None:
        assert (said["pilot"], said["max_lag"]) == (min(nprobe, 40), 0.0)
    else:
        assert said["pilot"] == ivfflat.PILOT and recall - CERTAIN * error >= target
        if said["max_lag"] > ivfflat.NEAREST_LAG:
            fewer, its_error = reached(said["max_lag"] - 0.01)
            assert fewer - CERTAIN * its_error < target
    centroids = ivfflat.read_centroids(index.centroids)
    probed = np.unpackbits(ivfflat.probes_of(queries, centroids, said["pilot"], said["max_lag"])[1], axis=1)[:, :40]
    of = storage.read_table(index.clusters[0])["cluster"].to_numpy()
    assert said["mean_nprobe"] == pytest.approx(probed.sum(axis=1).mean())
    assert said["documents_share"] == pytest.approx((probed @ np.bincount(of, minlength=40)).mean() / 5000)


@pytest.mark.parametrize("max_lag", [-2.0, -0.3, 0.0, 0.2, 2.5])
def test_lists_are_probed_by_how_far_they_lag(max_lag):
    """Whatever the length of a query; the nearest always."""
    rng = np.random.default_rng(8)
    queries, centroids = clustered(rng, 300, 48, "float32"), clustered(rng, 50, 48, "float32")
    products = np.sort(queries.astype(np.float64) @ centroids.T, axis=1)[:, ::-1]
    counts = ((products[:, 9:10] - products) <= max_lag).sum(axis=1).clip(1)
    for factor in (1, 7.5):
        nearest, bits = ivfflat.probes_of(queries * np.float32(factor), centroids, 10, max_lag)
        probed = np.unpackbits(bits, axis=1)[:, :50].astype(bool)
        assert np.abs(probed.sum(axis=1) - counts).mean() < 0.3
        assert np.take_along_axis(probed, nearest, axis=1).all()


@pytest.mark.parametrize("fastest", [["int8", "float32"], ["bfloat16", "float32"]])
def test_documents_and_queries_go_to_near_centroids(tmp_path, monkeypatch, fastest):
    """To the nearest of them, but for what int8 cannot tell apart; to the same ones on every CPU."""
    monkeypatch.setattr(ivfflat, "fastest_first", lambda: fastest)
    rng = np.random.default_rng(7)
    docs, centroids = clustered(rng, 3000, 48), clustered(rng, 50, 48, "float32")
    products = docs.astype(np.float64) @ centroids.T
    stage = ivfflat.AssignDocuments(write(tmp_path, "c", np.arange(50), centroids))
    record = stage(
        Task("a", {"vectors": write(tmp_path, "d", np.arange(3000) * 2, docs), "first_row": 10}, f"{tmp_path}/a")
    )
    table = schemas.check(storage.read_table(record.outputs[0].path), schemas.CLUSTERS)
    assert table["doc_row"].to_pylist() == (np.arange(3000) * 2 + 10).tolist()
    chosen = products[np.arange(3000), table["cluster"].to_numpy()]
    assert (chosen >= products.max(axis=1) - 0.01).all()
    assert (chosen == products.max(axis=1)).mean() > 0.98
    numbers = [first_pass.rounded(each, "int8") for each in (docs, centroids)]
    left, right = (each.tensor.numpy().astype(np.int64) for each in numbers)
    whole = (left @ right.T).astype(np.float32) * numbers[1].scales
    assert table["cluster"].to_pylist() == whole.argmax(axis=1).tolist()
    for count in (1, 9, 50):
        nearest, bits = ivfflat.probes_of(docs, centroids, count, 0.0)
        is_near = np.unpackbits(bits, axis=1)[:, :50].astype(bool)
        assert (is_near.sum(axis=1) >= count).all() and is_near.sum(axis=1).mean() < count + 0.2
        assert (np.where(is_near, whole, np.inf).min(axis=1) == np.sort(whole, axis=1)[:, 50 - count]).all()
        best = np.sort(whole, axis=1)[:, ::-1][:, : min(count, 4)]
        np.testing.assert_array_equal(np.take_along_axis(whole, nearest, axis=1), best)
