"""What does Ray itself cost on one machine? The same round by the local executor and on Ray, both whole processes.

    python benchmarks/ray_price.py --data ../shared/data

A small round (200 arxiv abstracts, one shard), the same cut into as many shards as a large round has, and that large
one, each by both executors in turns; dense, BM25 and random candidates and a small untrained teacher. What the small
round takes longer on Ray is the fixed price: the private cluster, its processes, the imports of a worker. What the cut
one adds to it is what every further worker costs: its imports. What a step takes longer on Ray in the large round than
in the cut one, which has as many tasks and workers, is the price by work, given for steps of at least 5 s. Both
executors give the same bytes, which is checked. Writes benchmarks/results/ray_price.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import models

import raymine
from raymine import rounds, storage
from raymine.artifacts import Silent, StepResult
from raymine.executor import make_executor

SIZES = {"small": 200, "cut": 200, "large": 60_000}
QUERIES = {"small": 20, "cut": 20, "large": 2000}
SHARDS = {"small": 1, "cut": 8, "large": 8}
TEACHER = {"layers": 2, "width": 64, "max_length": 64}
EXECUTORS = ("local", "ray")
LONG_S = 5.0
FIXED_GOAL_S, WORK_GOAL = 8, 0.05


def write_set(data: Path, size: str, folder: Path) -> None:
    """The first documents of arxiv, and queries whose positives are among them, in BEIR layout."""
    documents = dict(itertools.islice(models.documents(data / "arxiv").items(), SIZES[size]))
    asked = models.queries(data / "arxiv")
    pairs = [pair for pair in models.judgements(data / "arxiv", "train") if pair[1] in documents]
    pairs = pairs[: QUERIES[size]]
    folder.mkdir()
    models.write_texts(folder / "corpus.jsonl", documents)
    models.write_texts(folder / "queries.jsonl", {query: asked[query] for query, _ in pairs})
    models.write_judgements(folder / "qrels.tsv", pairs)


def config(folder: Path, model: str, teacher: str) -> raymine.Config:
    """Everything that a round can have: a dense search, BM25, random candidates, a teacher."""
    return raymine.Config.model_validate(
        {
            "corpus": {
                "path": str(folder / "corpus.jsonl"),
                "shard_documents": SIZES[folder.name] // SHARDS[folder.name],
            },
            "queries": {"path": str(folder / "queries.jsonl")},
            "positives": {"path": str(folder / "qrels.tsv")},
            "embed": {"model": model},
            "retrieve": {"dense": {"k": 20}, "bm25": {"k": 20}, "random": {"k": 5}},
            "rescore": {"model": teacher},
            "select": {"filters": [{"kind": "max_relative_score"}], "sample": {"n": 5}},
        }
    )


class Steps(Silent):
    """Keeps the seconds of every step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def finished(self, result: StepResult) -> None:
        self.seconds[result.step.name] = round(result.wall_s, 3)


def child(folder: Path, executor: str, model: str, teacher: str) -> None:
    """One round in this process, from nothing."""
    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        watcher = Steps()
        begin = time.perf_counter()
        with make_executor(executor) as runner:
            found = rounds.mine(config(folder, model, teacher), workspace, runner, watcher)
            seconds = time.perf_counter() - begin
        shards = [
            Path(path).name + storage.sha256_of(path) for path in storage.list_files(f"{found.path}/shards/triplet")
        ]
        measure.say(steps=watcher.seconds, round_s=seconds, shards=sorted(shards))


def work_price(cut: dict[str, list[Any]], large: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Of each long step: its seconds by both executors, and by how much Ray is slower beyond the cut round's."""
    priced = {}
    for name in large["local"][0]["steps"]:
        beyond = {
            executor: statistics.median(
                big["steps"][name] - little["steps"][name]
                for big, little in zip(large[executor], cut[executor], strict=True)
            )
            for executor in EXECUTORS
        }
        if beyond["local"] >= LONG_S:
            priced[name] = {**beyond, "price": beyond["ray"] / beyond["local"] - 1}
    return priced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    parser.add_argument("--documents", type=int, default=SIZES["large"])
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--executor", choices=EXECUTORS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--teacher", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    SIZES["large"] = arguments.documents
    if arguments.executor:
        child(arguments.folder, arguments.executor, str(arguments.model), arguments.teacher)
        return
    with tempfile.TemporaryDirectory() as made:
        compare(arguments, Path(made))


def compare(arguments: argparse.Namespace, made: Path) -> None:
    """Runs both rounds by both executors in turns and keeps the result."""
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks" / "squad-static"
    model = arguments.model or models.train_static(arguments.data / "squad", kept)
    for size in SIZES:
        write_set(arguments.data, size, made / size)
    texts = itertools.islice(models.documents(arguments.data / "arxiv").values(), 2000)
    teacher = models.save_cross_encoder(made / "teacher", texts, **TEACHER)
    command = [sys.executable, __file__, "--model", str(model.absolute()), "--teacher", str(teacher)]
    command += ["--documents", str(arguments.documents)]
    runs: dict[str, dict[str, list[Any]]] = {size: {executor: [] for executor in EXECUTORS} for size in SIZES}

    def one(size: str, executor: str) -> float:
        given = ["--folder", str(made / size), "--executor", executor]
        done = measure.ask([*command, *given], os.cpu_count())
        runs[size][executor].append(done)
        return float(done["wall_s"])

    for size in SIZES:
        measure.turns(
            {executor: lambda size=size, executor=executor: one(size, executor) for executor in EXECUTORS},
            arguments.repeats,
        )
        shards = [done.pop("shards") for executor in EXECUTORS for done in runs[size][executor]]
        if any(each != shards[0] for each in shards):
            sys.exit(f"the {size} rounds' shards differ")
    keep(runs, arguments.documents)


def keep(runs: dict[str, dict[str, list[Any]]], documents: int) -> None:
    """Rows of the table, and every run."""
    seconds = {size: {name: [run["wall_s"] for run in runs[size][name]] for name in EXECUTORS} for size in SIZES}
    memory = {
        size: {name: {"tree_mb": max(run["tree_mb"] for run in runs[size][name])} for name in EXECUTORS}
        for size in SIZES
    }
    added_s = {
        size: statistics.median(ray - local for ray, local in zip(of["ray"], of["local"], strict=True))
        for size, of in seconds.items()
    }
    priced = work_price(runs["cut"], runs["large"])

    def row(what: str, size: str, goal: str) -> dict[str, Any]:
        figures = [measure.figures(seconds[size][name], memory[size][name]) for name in ("ray", "local")]
        return measure.row(
            what, f"Ray: {figures[0]}", figures[1], "raymine, local", measure.ratio(seconds[size], "ray", "local"), goal
        )

    rows = [
        row(f"round of {SIZES['small']} documents: Ray adds {added_s['small']:.1f} s", "small", f"<= {FIXED_GOAL_S} s"),
        row(f"the same in {SHARDS['cut']} shards: Ray adds {added_s['cut']:.1f} s", "cut", "-"),
        row(f"round of {documents:,} documents", "large", "-"),
    ]
    rows += [
        measure.row(
            f"step {name} of that round: Ray adds {100 * price['price']:.0f} %",
            f"Ray: {price['ray']:.1f} s",
            f"{price['local']:.1f} s",
            "raymine, local",
            price["local"] / price["ray"],
            f"<= {100 * WORK_GOAL:.0f} %",
        )
        for name, price in priced.items()
    ]
    measure.keep("ray_price", {"rows": rows, "added_s": added_s, "long_steps": priced, "runs": runs})


if __name__ == "__main__":
    main()
