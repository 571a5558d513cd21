"""The benchmarks' own arithmetic, and that the README shows what was measured."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pytest
import tiny_models

from raymine.artifacts import Record, Step, Task

ROOT = Path(__file__).parents[1]
CHILD = """
import json, measure, time
held = bytearray(100 << 20)
calls = []
def work():
    calls.append(1)
    time.sleep(0.05)
    return len(calls)
print("a library prints this")
measure.serve(work, lambda answer, path: path.write_text(str(answer)))
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """measure and table, as the scripts import them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    import measure
    import table

    return measure, table


def test_the_readme_shows_the_results(modules: Any) -> None:
    """`python benchmarks/table.py --write` has been run since the last measurement."""
    text = (ROOT / "README.md").read_text()
    assert modules[1].with_tables(text, modules[1].tables()) == text


class Remembers:
    """A stage that knows a task again."""

    VERSION = 1
    calls_in_flight = 1

    def __init__(self) -> None:
        self.known: set[str] = set()

    def __call__(self, task: Task) -> Record:
        is_known = task.key in self.known
        self.known.add(task.key)
        return Record(info={"is_known": is_known})


def test_what_a_worker_remembers_helps_no_later_repeat(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words that a worker has tokenised, say: a repeat takes as long as the first run."""
    import steps

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(steps, "check", seen.append)
    tasks = [Task("a", {}, str(tmp_path / "a")), Task("b", {}, str(tmp_path / "b"))]
    work = steps._locally(Step("step", Remembers, {}, "", ()), tmp_path, Task("first", {}), tasks)
    assert work().seconds > 0 and work().seconds > 0
    assert sorted(marker["key"] for marker in seen) == ["a", "a", "b", "b", "first", "first"]
    assert not any(marker["info"]["is_known"] for marker in seen)


def test_a_table_has_every_row_of_every_result(modules: Any, tmp_path: Path) -> None:
    """In the order of the results' names; a result without rows is left out."""
    measure, table = modules
    rows = [
        measure.row("a thing", "1 s", "2 s", "peer", 2.0004, ">= 1x"),
        measure.row("other", "3", "", "none", None, ""),
    ]
    (tmp_path / "b.json").write_text(json.dumps({"rows": rows, "machine": "2 x CPU"}))
    (tmp_path / "a.json").write_text(json.dumps({"runs": 1, "machine": "another"}))
    lines = table.speed(tmp_path).splitlines()
    assert lines[2:4] == [
        "| [a thing](benchmarks/results/b.json) | 1 s | peer: 2 s | 2x | >= 1x |",
        "| [other](benchmarks/results/b.json) | 3 | none | - |  |",
    ]
    assert "2 x CPU" in lines[-1] and "another" not in lines[-1]


def test_false_negatives_are_shown_at_their_hardness(modules: Any) -> None:
    """What reaches the goal is bold; where negatives are missing, it is said how many there are."""
    figures = {"rate": 0.5, "hardness": 0.61234, "per_query": 5.0, "full": 1.0}
    strategies = {
        "naive": {**figures, "reaches": False},
        "strict": {**figures, "rate": 0.1, "per_query": 4.9, "full": 0.96, "reaches": True},
    }
    result = {"sets": {"a set": {"strategies": strategies, "oracle": {**figures, "rate": 0.0}}}}
    assert modules[1].false_negatives(result).splitlines() == [
        "| rate at hardness | a set |",
        "|---|---|",
        "| naive | 0.500 at 0.612 |",
        "| strict | **0.100 at 0.612 (4.90 per query)** |",
        "| oracle | 0.000 at 0.612 |",
    ]
    assert "strict" not in modules[1].false_negatives(result, ["naive"])


def test_gains_are_shown_by_setting(modules: Any) -> None:
    """In bold what is above every goal; a strategy that was not measured in a setting has a dash."""
    mean = {"set": "a", "embedder": "static", "mean": {"R@10": 0.5}, "spread": {}, "strategy": "random"}
    better = {**mean, "mean": {"R@10": 0.55}, "spread": {"R@10": 0.01}, "strategy": "mined"}
    other = {**mean, "embedder": "transformer", "batch_size": 32}
    found = [{**each, "batch_size": 32} for each in (mean, better)] + [{**mean, "batch_size": 64}, other]
    result = {"strategies": found, "goals": {"random": 1.1}}
    assert modules[1].gains(result, ["static"]).splitlines() == [
        "| Recall@10 | a, static, 32 | a, static, 64 |",
        "|---|---|---|",
        "| random | 0.5000 | 0.5000 |",
        "| mined | **0.5500 ± 0.0100** | - |",
    ]
    assert modules[1].gains(result, ["static"], with_ratios=True).splitlines()[2:] == [
        "| random | 0.5000: 1.000 | 0.5000: 1.000 |",
        "| mined | **0.5500 ± 0.0100: 1.100** | - |",
    ]


def test_rounds_are_shown_by_way(modules: Any) -> None:
    """The first round whole, later ones as shares of it."""
    first = {"seconds": 61.4, "documents": 2000, "queries": 50, "pairs_scored": 3000}
    later = [
        {"share": share, "overlap": 0.956, "documents_embedded": 1000, "pairs_scored": 20} for share in (0.204, 0.198)
    ]
    assert modules[1].rounds({"sets": {"a": {"first round": first, "pool": later}}}).splitlines()[2:] == [
        "| a | the first: 61 s, 2,000 documents, 50 queries | | | 2,000 | 3,000 |",
        "| | pool | 20%, 20% | 96%, 96% | 1,000, 1,000 | 20, 20 |",
    ]


def test_the_ratio_is_the_median_of_the_pairs(modules: Any) -> None:
    """Not the ratio of the medians: a slow minute slows both sides of a pair."""
    assert modules[0].ratio({"raymine": [1, 10, 2], "peer": [2, 20, 8]}) == 2


def test_sides_take_turns(modules: Any) -> None:
    """The one that is first in one round is last in the next."""
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) or 1.0 for name in "ab"}
    assert modules[0].turns(runs, 3) == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert "".join(order) == "abbaab"


def test_a_side_works_when_asked_and_is_weighed(modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds are those of the work, its answer the last one, its memory what it held, at the end if not before."""
    monkeypatch.setattr(modules[0], "SAMPLES_PER_S", 0.001)
    with modules[0].sides({"only": [sys.executable, "-c", CHILD]}) as started:
        seconds = [started["only"].work() for _ in range(8)]
        assert started["only"].save(tmp_path / "answer").read_text() == "8"
        memory = started["only"].close()
    assert all(0.05 <= each < 1 for each in seconds)
    assert 100 < memory["tree_mb"] < 300 and 100 < memory["peak_mb"] < 300


def test_memory_of_a_tree_counts_the_children(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that holds nothing and a child that holds 100 MB."""
    monkeypatch.setattr(modules[0], "SAMPLING_SHARE", 1)  # the child ends in a second, however slow the sampling is
    child = "import time; held = bytearray(100 << 20); time.sleep(1)"
    done = modules[0].ask(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]
    )
    assert done["peak_mb"] < 60 and 100 < done["tree_mb"] < 200


def cell(strategy: str, seed: int, recall: float) -> dict[str, Any]:
    """A cell of benchmarks/training_gain.py, two rounds of 45 s each."""
    measures = {"R@10": recall, "R@100": 0.9, "nDCG@10": 0.5, "RR@10": 0.4, "AP@100": 0.4}
    before, after = ({"mine_s": s, "train_s": 2 * s, **measures, "R@10": r} for s, r in ((0.0, 0.1), (15.0, recall)))
    setting = {"set": "a set", "embedder": "static", "batch_size": 32, "learning_rate": 0.1, "steps": 9}
    return {
        **setting,
        "strategy": strategy,
        "seed": seed,
        **measures,
        "seconds": 90.0,
        "usd": 0.002,
        "by_round": [before, after, after],
    }


def test_gains_are_means_over_seeds_against_their_goals(modules: Any) -> None:
    """Mean, deviation and dollars per round; a setting without all that is compared has no row."""
    import training_strategies
    import training_summary

    peers, ours = training_strategies.GOALS, training_strategies.OURS[-1]
    found = training_summary.summary([cell(ours, seed, 0.5 + 0.1 * seed) for seed in (0, 1)])
    assert training_summary.comparisons(found) == []
    found += training_summary.summary([cell(peer, 0, 0.5) for peer in peers])
    assert found[0]["mean"]["R@10"] == 0.55 and found[0]["spread"]["R@10"] == pytest.approx(0.0707, abs=1e-4)
    assert [each["usd"] for each in found[0]["by_round"]] == [0, 0.001, 0.002]
    rows = training_summary.comparisons(found)
    assert [(row["raymine"], row["peer"], row["ratio"]) for row in rows] == [("0.5500 ± 0.0707", "0.5000", 1.1)] * 2
    assert [row["goal"] for row in rows] == [">= 1.1x", ">= 1.03x"] and all(ours in row["what"] for row in rows)


def test_every_document_is_a_negative_but_the_positives(modules: Any, tmp_path: Path) -> None:
    """The loss against a loop over queries and documents, whose positives but one are left out."""
    import torch
    import training_limit
    from sentence_transformers import SentenceTransformer

    from raymine.online import FalseNegatives

    model = SentenceTransformer(tiny_models.save_static(str(tmp_path)), device="cpu")
    texts = ["a river", "the bank of a river", "money in a bank", "a song", "the river"]
    asked, own, positives = ["river bank", "a song about money"], [1, 3], {0: {0, 1, 4}, 1: {3}}
    pairs = np.array([(query, document) for query, of in positives.items() for document in of])
    loss = training_limit.EveryDocument(model, texts, FalseNegatives(pairs[:, 0], pairs[:, 1]))
    features = [model.preprocess(asked), model.preprocess([texts[row] for row in own])]
    found = loss(features, torch.tensor(list(zip([0, 1], own, strict=True))))
    queries, documents = (model.encode(each, normalize_embeddings=True) for each in (asked, texts))
    expected = []
    for query, of in positives.items():
        scores = {row: 20 * float(queries[query] @ documents[row]) for row in range(len(texts))}
        others = [math.exp(scores[row]) for row in scores if row == own[query] or row not in of]
        expected.append(math.log(sum(others)) - scores[own[query]])
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    found.backward()
    assert model[0].embedding.weight.grad.abs().sum() > 0


def test_a_teacher_is_asked_of_each_query_in_one_round(modules: Any, tmp_path: Path) -> None:
    """The rounds' judgements are those of the set, each once, in parts that differ by a query at most."""
    import training_gain

    from raymine.loop import Training

    judged = [f"q{query}\td{query + document}" for query in range(23) for document in range(2)]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *(f"{each}\t1" for each in judged)])
    )
    case = training_gain.Case("tiny", tmp_path, tmp_path, tmp_path, 8)
    cell = training_gain.Cell(case, "raymine, rounds, distilled", Training(10, seed=3), tmp_path)
    parts = [cell._positives(number).read_text().splitlines()[1:] for number in range(5)]
    assert sorted(line for part in parts for line in part) == sorted(f"{each}\t1" for each in judged)
    assert {len({line.split()[0] for line in part}) for part in parts} == {4, 5}


def test_a_strategy_has_its_own_number_of_negatives_or_the_embedders(modules: Any, tmp_path: Path) -> None:
    """Two in a further epoch, but 32 where the name says so."""
    import training_gain

    case = training_gain.Case("tiny", tmp_path, tmp_path, tmp_path, 2)
    made = {
        name: training_gain.config(case, tmp_path, training_gain.STRATEGIES[name], 0).select.sample.n
        for name in ("random", "random, 32 of them")
    }
    assert made == {"random": 2, "random, 32 of them": 32}


@pytest.mark.parametrize(
    ("strategy", "embedder", "questions"),
    [
        ("raymine, rounds, masked", "static", "test"),
        ("raymine, rounds, first judged", "static", "test"),
        ("raymine, rounds, masked", "static-further", "dev"),
        ("raymine, ten rounds, pairs, drawn", "static-further", "all"),
        ("raymine, rounds, distilled", "static", "test"),
        ("raymine, judged by a teacher", "static", "dev"),
        ("every document, no choice", "static", "test"),
    ],
)
def test_a_cell_is_measured_once_and_kept(
    modules: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    strategy: str,
    embedder: str,
    questions: str,
) -> None:
    """A strategy with every piece (filters, a mask or a teacher, rounds) on a few hundred documents."""
    import training_gain

    whole = training_gain.STRATEGIES[strategy]
    few = dataclasses.replace(whole, rounds=min(2, whole.rounds))
    monkeypatch.setitem(training_gain.STRATEGIES, strategy, few)
    mining.write_beir(tmp_path / "data" / "tiny", 300, 120)
    monkeypatch.setattr(modules[0], "RESULTS", tmp_path / "results")
    command = ["training_gain.py", "--data", str(tmp_path / "data"), "--sets", "tiny", "--seeds", "3"]
    command += [
        "--strategies",
        strategy,
        "--learning-rate",
        "0.1",
        "--batch-sizes",
        "8",
        "--models",
        str(tmp_path / "kept"),
        "--embedder",
        embedder,
        "--questions",
        questions,
    ]
    monkeypatch.setattr(sys, "argv", command)
    training_gain.main()
    (kept,) = training_gain.kept_cells(questions)
    assert kept["seed"] == 3 and kept["usd"] > 0 and kept["embedder"] == embedder
    (judged,) = (tmp_path / "kept").glob("*/qrels")
    asked = {path.stem: {row.split("\t")[0] for row in path.read_text().splitlines()[1:]} for path in judged.iterdir()}
    assert bool(asked["first"]) == (embedder == "static") and bool(asked["dev"]) == (questions == "dev")
    assert not asked["dev"] & (asked["train"] | asked["first"]) and asked["test"] <= asked["all"]
    assert len(kept["by_round"]) == 1 + few.rounds and kept["by_round"][-1]["R@10"] == kept["R@10"]
    assert 0 < sum(each.get("rows", 0) for each in kept["by_round"]) <= kept["steps"] * 8 + 7
    assert "tiny" in capsys.readouterr().out
    training_gain.main()
    assert "tiny" not in capsys.readouterr().out
