"""Clusters: every document goes to its nearest centroid, the same in any cut into shards; empty ones to none."""

from __future__ import annotations

import numpy as np
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.index.clusters import AssignClusters, TrainClusters


def blobs(num=6, each=50, dim=8):
    """Unit vectors around `num` directions, and which of them each belongs to."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(num, dim))
    of = rng.integers(0, num, num * each)
    vectors = centres[of] + 0.05 * rng.normal(size=(len(of), dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), of


def run(tmp_path, vectors, cuts, clusters=6):
    """CLUSTERS of all documents; every tenth document of the corpus has no vector."""
    doc_rows = np.arange(len(vectors) * 10 // 9 + 1)
    doc_rows = doc_rows[doc_rows % 10 != 3][: len(vectors)]
    paths, firsts = [], []
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, doc_rows[-1] + 1], strict=True)):
        inside = (doc_rows >= begin) & (doc_rows < end)
        path = str(tmp_path / f"{number}.arrow")
        storage.write_arrow(path, schemas.vector_table(doc_rows[inside] - begin, vectors[inside]))
        paths.append(path)
        firsts.append(begin)
    trained = TrainClusters(clusters, 0)(Task("k", {"vectors": paths}, output=str(tmp_path / "centroids")))
    stage = AssignClusters(trained.outputs[0].path)
    tables = []
    for number, (path, first) in enumerate(zip(paths, firsts, strict=True)):
        record = stage(Task("k", {"vectors": path, "first_row": first}, output=str(tmp_path / f"out-{number}")))
        tables.append(schemas.check(storage.read_table(record.outputs[0].path), schemas.CLUSTERS))
    centroids = schemas.vector_matrix(storage.read_arrow(trained.outputs[0].path)["vector"])
    rows = np.concatenate([table["doc_row"].to_numpy() for table in tables])
    assert rows.tolist() == doc_rows.tolist()
    return np.concatenate([table["cluster"].to_numpy() for table in tables]), centroids


def test_documents_go_to_the_nearest_centroid_and_blobs_stay_together_mostly(tmp_path):
    vectors, of = blobs()
    got, centroids = run(tmp_path, vectors, [100, 240])
    assert got.tolist() == np.argmax(vectors.astype(np.float64) @ centroids.T.astype(np.float64), axis=1).tolist()
    purity = sum(np.bincount(of[got == cluster]).max() for cluster in set(got.tolist())) / len(of)
    assert purity > 0.8


@pytest.mark.parametrize("cuts", [[], [50], [50, 100, 200]])
def test_cuts_into_shards_do_not_matter(tmp_path, cuts):
    (tmp_path / "whole").mkdir()
    vectors, _ = blobs()
    whole = run(tmp_path / "whole", vectors, [])
    got = run(tmp_path, vectors, cuts)
    assert np.array_equal(got[0], whole[0]) and np.array_equal(got[1], whole[1])


def test_the_default_is_the_root_and_never_more_than_documents(tmp_path):
    vectors, _ = blobs()
    assert len(run(tmp_path, vectors, [], None)[1]) == round(len(vectors) ** 0.5)
    assert len(run(tmp_path, vectors[:3], [], 10)[1]) == 3
