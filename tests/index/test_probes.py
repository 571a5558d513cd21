"""Probes are chosen by recall: what is said to be reached is what a search with them reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import IndexConfig
from raymine.index import exact, ivfpq, ivfpq_train
from raymine.index.centroids import TrainCentroids
from raymine.index.probes import CERTAIN, ChooseProbes, SampleQueries, clusters_of_rows, ranks_of
from raymine.topk import gathered_scores, merge_topk

K = 20


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors around 60 topics, in 32 dimensions."""
    topics = np.random.default_rng(99).standard_normal((60, 32))
    vectors = topics[rng.integers(0, 60, count)] + 0.8 * rng.standard_normal((count, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An index of 6,000 documents in one part and in three, and what exact search finds for 100 sampled queries."""
    folder = tmp_path_factory.mktemp("index")
    rng = np.random.default_rng(0)
    docs = clustered(rng, 6000)
    shards = [write(folder, f"d{begin}", docs[begin : begin + 2000]) for begin in (0, 2000, 4000)]
    starts = [0, 2000, 4000]
    config, inputs = IndexConfig(nlist=64), {"vectors": shards}
    coarse = TrainCentroids(config, 1)(Task("c", inputs, str(folder / "c"))).outputs[0].path
    trained = ivfpq_train.TrainIvf(coarse, config, 1)(Task("t", inputs, str(folder / "t")))
    index = trained.outputs[0].path
    made: dict[str, Any] = {"folder": folder, "docs": docs, "index": index, "parts": {}}
    for per_part in (1, 3):
        outputs = [
            ivfpq.BuildPart(index)(
                Task(
                    "b",
                    {"vectors": shards[i : i + per_part], "first_rows": starts[i : i + per_part]},
                    f"{folder}/{i}{per_part}",
                )
            ).outputs
            for i in range(0, 3, per_part)
        ]
        made["parts"][per_part] = {
            "parts": [each[0].path for each in outputs],
            "clusters": [each[1].path for each in outputs],
        }
    queries = [write(folder, "q", clustered(rng, 100))]
    made["sample"] = SampleQueries(3)(Task("s", {"vectors": queries}, str(folder / "sample"))).outputs[0].path
    search = exact.SearchExact([made["sample"]], [0], K, 10_000)
    inputs = {"vectors": shards, "first_rows": starts, "blocks": [0, 1]}
    made["truth"] = search(Task("e", inputs, str(folder / "truth"))).outputs[0].path
    return made


def write(folder: Path, name: str, vectors: np.ndarray) -> str:
    path = str(folder / f"{name}.parquet")
    storage.write_arrow(path, schemas.vector_table(np.arange(len(vectors)), vectors))
    return path


def chosen(built: dict[str, Any], per_part: int = 1, **config: Any) -> dict[str, Any]:
    stage = ChooseProbes(IndexConfig(**config), built["index"], built["sample"], K)
    return stage(Task("c", {"truth": [built["truth"]], **built["parts"][per_part]}, "unused")).info


def recall_of(built: dict[str, Any], nprobe: int, overfetch: int) -> float:
    """Of a whole search: codes, merging, exact scores, the k best; against all inner products in float64."""
    queries = schemas.vector_matrix(storage.read_arrow(built["sample"])["vector"])
    part = ivfpq_train.read_index(built["parts"][3]["parts"][0])
    trained = ivfpq_train.read_index(built["index"])
    lists = trained.quantizer.search(queries.astype(np.float32), nprobe)[1]
    query_index, doc_rows, _, _ = ivfpq.search(part, queries.astype(np.float32), lists, K * overfetch)
    scores = gathered_scores(queries, built["docs"], query_index, doc_rows)
    found = merge_topk(query_index, doc_rows, scores, K)
    every = queries.astype(np.float64) @ built["docs"].astype(np.float64).T
    truth = np.argsort(-every.astype(np.float32), axis=1, kind="stable")[:, :K]
    pairs = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
    return sum((query, int(doc)) in pairs for query, row in enumerate(truth) for doc in row) / truth.size


@pytest.mark.parametrize("target", [0.7, 0.9, 0.97])
def test_the_recall_that_is_said_is_the_recall_of_a_search(built: dict[str, Any], target: float) -> None:
    """It reaches the target, and a higher target never takes less."""
    info = chosen(built, recall_target=target)
    assert info["recall"] - CERTAIN * info["recall_error"] >= target
    assert info["recall"] == pytest.approx(recall_of(built, info["nprobe"], info["overfetch"]), abs=1e-9)
    assert info["num_sampled_queries"] == 100


def test_less_would_not_have_done(built: dict[str, Any]) -> None:
    """Half the lists, with any overfetch, miss the target."""
    info = chosen(built, recall_target=0.97)
    assert info["nprobe"] > 1
    assert recall_of(built, info["nprobe"] // 2, 16) < 0.97


def test_parts_do_not_change_the_choice(built: dict[str, Any]) -> None:
    """One part or three."""
    assert chosen(built, per_part=1) == chosen(built, per_part=3)


def test_given_probes_are_measured_and_not_chosen(built: dict[str, Any]) -> None:
    """Whatever recall they reach."""
    info = chosen(built, nprobe=2, overfetch=1, recall_target=0.99)
    assert (info["nprobe"], info["overfetch"]) == (2, 1)
    assert info["recall"] == pytest.approx(recall_of(built, 2, 1), abs=1e-9)
    assert info["recall"] < 0.9


def test_a_target_out_of_reach_takes_the_highest_recall(built: dict[str, Any]) -> None:
    """The one of all lists, where codes alone cannot tell the documents apart, with no more lists than it takes."""
    info = chosen(built, overfetch=1, recall_target=1.0)
    assert info["recall"] == pytest.approx(recall_of(built, info["nprobe"], 1), abs=1e-9)
    assert recall_of(built, 64, 1) - 1e-9 <= info["recall"] < 1


def test_clusters_of_rows_come_from_all_parts(built: dict[str, Any]) -> None:
    """Also for rows in the order in which hits come."""
    rows = np.array([5999, 3, 2500, 3])
    paths = built["parts"][1]["clusters"]
    known = {row: c for path in paths for row, c in zip(*storage.read_table(path).to_pydict().values(), strict=True)}
    assert clusters_of_rows(paths, rows).tolist() == [known[row] for row in rows]


def test_ranks_of_pairs() -> None:
    """Counted within each query; a pair that is not there is last of all."""
    hits = np.array([1, 1, 4, 4, 4]), np.array([9, 2, 2, 7, 1])
    ranks = ranks_of((np.array([4, 1, 4, 2]), np.array([1, 9, 9, 2])), hits)
    assert ranks.tolist() == [2, 0, np.iinfo(np.int64).max, np.iinfo(np.int64).max]
