"""The loop: mine, train, evaluate, re-mine, on a few hundred documents; and the measures it goes by."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from raymine import loop as loops
from raymine import online
from raymine.config_file import make_config
from raymine.errors import ConfigError
from raymine.evaluate import evaluate
from raymine.executor import make_executor
from raymine.loop import Training, loop
from raymine.rounds import rounds

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"), 400, 80)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def oracle(data: Path, model: str) -> dict[str, float]:
    """Recall, reciprocal rank and nDCG of the test queries, written out."""
    embedder = SentenceTransformer(model, device="cpu")
    documents = [row for row in lines(data / "corpus.jsonl") if f"{row['title']} {row['text']}".strip()]
    texts = {row["_id"]: row["text"] for row in lines(data / "queries.jsonl")}
    relevant: dict[str, set[str]] = {}
    for line in (data / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        relevant.setdefault(query, set()).add(document)
    vectors = embedder.encode_document(
        [f"{row['title']} {row['text']}".strip() for row in documents], normalize_embeddings=True
    )
    values = {"R@10": [], "RR@10": [], "nDCG@10": []}
    for query, wanted in relevant.items():
        scores = vectors @ embedder.encode_query(texts[query], normalize_embeddings=True)
        ranked = [documents[at]["_id"] for at in np.argsort(-scores, kind="stable")[:10]]
        gains = [document in wanted for document in ranked]
        values["R@10"].append(sum(gains) / len(wanted))
        values["RR@10"].append(next((1 / rank for rank, gain in enumerate(gains, 1) if gain), 0.0))
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(wanted)) + 1))
        values["nDCG@10"].append(sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1)) / best)
    return {name: float(np.mean(each)) for name, each in values.items()}


def config(data: Path, model: str, **sections: Any) -> Any:
    return make_config(mining.config(data, model, **sections))


def test_measures_are_those_of_the_oracle(data: Path, static_model: str, tmp_path: Path) -> None:
    """Exact search of the whole corpus; texts that are equal are twins, so a rank may differ by a tie."""
    with make_executor("local") as runner:
        found = evaluate(config(data, static_model), str(tmp_path), str(data / "qrels" / "test.tsv"), runner)
    expected = oracle(data, static_model)
    assert set(found) == {"R@10", "R@100", "nDCG@10", "RR@10", "AP@100"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.02), name
    assert 0.2 < found["R@10"] <= found["R@100"] <= 1


def test_the_loop_mines_trains_and_measures(data: Path, static_model: str, tmp_path: Path) -> None:
    """Two rounds: each is mined with the checkpoint before it; training changes the weights and helps on this data."""
    how, told = Training(steps=30, batch_size=16, learning_rate=0.05), []
    made = config(data, static_model)
    judgements = str(data / "qrels" / "test.tsv")
    with make_executor("local") as runner:
        rows = loop(made, str(tmp_path), judgements, 2, how, runner, told=told.append)
        known = rounds(str(tmp_path))
        again = loop(made, str(tmp_path), judgements, 2, how, runner)
    assert [row["round"] for row in rows] == [1, 2, None] and rows == told
    assert [row["checkpoint"] for row in rows] == [static_model, *(f"{tmp_path}/training/round-000{n}" for n in (1, 2))]
    assert [len({found.facts["embedder"] for found in known}), len(known)] == [2, 2]
    assert rows[0]["difficulty"] is None and sum(rows[1]["difficulty"].values()) > 50
    assert rows[1]["saved_s"] > 0
    assert rows[0]["R@10"] == pytest.approx(oracle(data, static_model)["R@10"], abs=0.02)
    assert rows[2]["nDCG@10"] > rows[0]["nDCG@10"]
    assert json.loads((tmp_path / "training" / "loop.json").read_text()) == rows
    assert [row["R@10"] for row in again] == [row["R@10"] for row in rows]


def test_a_loop_that_died_goes_on(
    data: Path, static_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was mined and trained before is found: the second try trains only what is missing."""
    how, trained = Training(steps=3, batch_size=16), []
    train = loops.train

    def dies_at_the_second(model: str, rows: Any, out: str, how: Training, **course: int) -> None:
        trained.append(out)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(model, rows, out, how, **course)

    monkeypatch.setattr(loops, "train", dies_at_the_second)
    arguments = config(data, static_model), str(tmp_path), str(data / "qrels" / "test.tsv"), 2, how
    with make_executor("local") as runner:
        with pytest.raises(KeyboardInterrupt):
            loop(*arguments, runner)
        assert len(loop(*arguments, runner)) == 3
    assert [Path(out).name for out in trained] == ["round-0001", "round-0002", "round-0002"]


def test_rounds_are_one_training(static_model: str, tmp_path: Path) -> None:
    """Two rounds of three steps give the weights of six: the optimizer and the learning rate go on."""
    texts = [f"word{n} question" for n in range(16)]
    rows = Dataset.from_dict({"anchor": texts, "positive": [f"{text} answered" for text in texts]})
    whole, half = (Training(steps, batch_size=len(texts), learning_rate=0.05) for steps in (6, 3))
    train, paths = loops.train, [str(tmp_path / name) for name in ("whole", "first", "second")]
    train(static_model, rows, paths[0], whole)
    train(static_model, rows, paths[1], half, in_all=6)
    train(paths[1], rows, paths[2], half, taken=3, in_all=6)
    once, first, twice = (SentenceTransformer(path, device="cpu")[0].embedding.weight.detach() for path in paths)
    np.testing.assert_allclose(once, twice, atol=1e-5)
    assert abs(once - first).max() > 0.01


@pytest.mark.parametrize("is_masked", [False, True])
def test_batches_are_made_as_told(static_model: str, tmp_path: Path, is_masked: bool) -> None:
    """Groups of one cluster each, of a data set whose label tells its queries, whichever loss there is."""
    texts, made = [f"word{n} question" for n in range(32)], []
    columns = {"anchor": texts, "positive": [f"{text} answered" for text in texts]}
    rows = Dataset.from_dict({**columns, "label": [[n, n] for n in range(32)]})
    batches = online.ClusterBatches(np.arange(32), np.arange(32) % 4, group_size=4)

    def recorded(*given: Any, **named: Any) -> Any:
        made.append(batches(*given, **named))
        return made[-1]

    nothing = online.FalseNegatives(np.empty(0, np.int64), np.empty(0, np.int64))
    loss = (lambda model: online.MaskedInBatchLoss(model, nothing)) if is_masked else None
    loops.train(static_model, rows, str(tmp_path / "out"), Training(2, batch_size=16), loss, batches=recorded)
    (sampler,) = made
    groups = np.concatenate(list(sampler)).reshape(-1, 4) % 4
    assert (sampler.batch_size, len(groups)) == (16, 8) and (groups == groups[:, :1]).all()


def test_the_job_runs(data: Path, static_model: str, tmp_path: Path) -> None:
    """jobs/loop.py as its first lines say."""
    path = mining.write_config(tmp_path / "mine.yaml", mining.config(data, static_model))
    command = [sys.executable, "jobs/loop.py", str(path), "--workspace", str(tmp_path / "ws")]
    command += ["--judgements", str(data / "qrels" / "test.tsv"), "--rounds", "1", "--steps", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nDCG@10") == 2 and "s of work" in done.stdout


def test_what_cannot_be_evaluated_is_said(data: Path, static_model: str, tmp_path: Path) -> None:
    """A config without an embedder."""
    values = mining.config(data, static_model, retrieve={"bm25": {"k": 5}}, select={"sample": {"n": 2}})
    del values["embed"]
    with make_executor("local") as runner, pytest.raises(ConfigError, match="cannot be evaluated"):
        evaluate(make_config(values), str(tmp_path), str(data / "qrels" / "test.tsv"), runner)
