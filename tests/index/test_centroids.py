"""Coarse centroids: how well they serve other vectors is measured, and decides whether a later round takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import IndexConfig
from raymine.index.base import load_faiss
from raymine.index.centroids import TrainCentroids, TryCentroids, has_fitting_size, measured, still_serve

DIM = 16


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors around 30 topics of very different sizes."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(99).standard_normal((30, DIM))
    vectors = topics[np.minimum(rng.geometric(0.1, count) - 1, 29)] + 0.5 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def written(folder: Path, name: str, vectors: NDArray[np.float32]) -> list[str]:
    path = str(folder / f"{name}.arrow")
    storage.write_arrow(path, schemas.vector_table(np.arange(len(vectors)), vectors))
    return [path]


def trained(folder: Path, vectors: NDArray[np.float32], config: IndexConfig) -> tuple[str, dict[str, Any]]:
    task = Task("c", {"vectors": written(folder, "trained", vectors)}, str(folder / "centroids"))
    record = TrainCentroids(config, 0)(task)
    return record.outputs[0].path, record.info


def test_measures_are_those_of_their_definitions() -> None:
    """Imbalance over all pairs of different vectors; squared distances of directions, whatever the lengths."""
    vectors, centroids = clustered(400, 0), clustered(7, 1)
    found = measured(vectors * np.linspace(0.1, 9, 400, dtype=np.float32)[:, None], centroids)
    distances = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    lists = distances.argmin(axis=1)
    same = sum(int(lists[i] == lists[j]) for i in range(400) for j in range(i))
    assert found["imbalance"] == pytest.approx(7 * same / (400 * 399 / 2))
    assert found["distance"] == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)


def test_a_sample_tells_the_imbalance_of_all() -> None:
    """faiss's own factor of 200,000 vectors in 500 lists, from a hundredth of them, which chance makes less equal."""
    faiss = load_faiss()
    centroids = np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    angles = np.random.default_rng(1).random(200_000) * 2 * np.pi
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(2), 2, 500, faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(centroids)
    index.is_trained = True
    index.add(vectors)
    expected = index.invlists.imbalance_factor()
    assert measured(vectors[::100], centroids)["imbalance"] == pytest.approx(expected, rel=0.05)


def test_centroids_are_tried_on_other_vectors(tmp_path: Path) -> None:
    """Vectors moved a little are served; those that all lie in one direction, or in other places, are not."""
    vectors, rng = clustered(3000, 0), np.random.default_rng(3)
    path, info = trained(tmp_path, vectors, IndexConfig(nlist=32))
    others = {
        "same": vectors,
        "near": vectors + 0.1 * vectors @ rng.standard_normal((DIM, DIM)).astype(np.float32) / 4,
        "narrow": vectors + 5 * vectors[0],
        "elsewhere": rng.standard_normal((3000, DIM)).astype(np.float32),
    }
    found = {
        name: TryCentroids(path, 0)(Task("t", {"vectors": written(tmp_path, name, each)}, "")).info
        for name, each in others.items()
    }
    assert found["same"] == {name: info[name] for name in ("imbalance", "distance")}
    served = {name: still_serve(each, info, 1.25) for name, each in found.items()}
    assert served == {"same": True, "near": True, "narrow": False, "elsewhere": False}
    assert found["narrow"]["imbalance"] > 4 * info["imbalance"] and found["narrow"]["distance"] < info["distance"]
    assert found["elsewhere"]["imbalance"] < info["imbalance"] and found["elsewhere"]["distance"] > info["distance"]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_tiny_corpus_has_centroids(tmp_path: Path, count: int) -> None:
    """As many as it can feed; measures of what cannot be unequal are 1 and 0."""
    path, info = trained(tmp_path, clustered(count, 0), IndexConfig())
    assert (info["nlist"], info["dim"]) == (1, DIM)
    tried = TryCentroids(path, 0)(Task("t", {"vectors": written(tmp_path, "x", clustered(count, 0))}, "")).info
    assert tried["imbalance"] == 1 and (count or tried["distance"] == 0)


@pytest.mark.parametrize(
    ("config", "num_documents", "nlist", "fits"),
    [
        (IndexConfig(), 1_000_000, 4000, True),
        (IndexConfig(), 1_900_000, 4000, True),
        (IndexConfig(), 2_100_000, 4000, False),
        (IndexConfig(), 400_000, 4000, False),
        (IndexConfig(nlist=4000), 1_900_000, 4000, True),
        (IndexConfig(nlist=4001), 1_900_000, 4000, False),
        (IndexConfig(), 0, 1, True),
    ],
)
def test_as_many_centroids_as_the_corpus_wants(config: IndexConfig, num_documents: int, nlist: int, fits: bool) -> None:
    """A corpus may grow until it has doubled; a number that is asked for is had."""
    assert has_fitting_size(config, num_documents, nlist) == fits
