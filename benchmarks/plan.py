"""Does a round take what its plan said? Plans rounds of real sets, mines them, and holds each step against its plan.

    python benchmarks/plan.py --data ../shared/data --sets squad arxiv

Each set is planned (`raymine plan` calibrates, on samples of at most a tenth of the round) and mined, in processes of
their own and in a new workspace, --repeats times: a machine that others use too is slower in one minute than in the
next, and a plan cannot know. Seconds are medians, ratios medians of pairs. Static embedder, exact search, BM25,
a positive-aware filter; on squad also a small untrained teacher (its scores say nothing, but their price is real).
Queries are a seeded sample of the training questions. Goal: for each step that takes over a second, planned within 20 %
of actual. Writes benchmarks/results/plan.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import measure
import models
import rounds
import yaml

QUERIES = {"squad": 1500, "arxiv": 30000}
TEACHER = {"layers": 2, "width": 64, "max_length": 64}
WITH_TEACHER = ("squad",)
SHOWN_S, GOAL = 1.0, 0.20


def config(folder: Path, model: str, teacher: str | None) -> dict[str, Any]:
    """Dense, BM25 and random candidates, as a config file has them."""
    made: dict[str, Any] = {
        "corpus": {"path": "corpus.jsonl"},
        "queries": {"path": "queries.jsonl"},
        "positives": {"path": "qrels.tsv"},
        "embed": {"model": model},
        "retrieve": {"dense": {"k": 50}, "bm25": {"k": 20}, "random": {"k": 5}},
        "select": {
            "filters": [{"kind": "max_relative_score", "of_positive": 0.95, "score": "dense"}],
            "sample": {"n": 8, "score": "dense"},
        },
        "write": {"formats": ["n-tuple"]},
        "cost": {"cpu_hour_usd": 0.04},
    }
    return {**made, "rescore": {"model": teacher}} if teacher else made


def raymine(command: str, folder: Path) -> dict[str, Any]:
    """Runs a command of raymine on the config in a folder; what it says as JSON, and its wall seconds."""
    target = str(folder / ("mine.yaml" if command != "status" else "workspace"))
    done = measure.run([sys.executable, "-m", "raymine", command, target, "--json"], subprocess.PIPE)
    return {"said": json.loads(done["stdout"]), "wall_s": done["wall_s"], "tree_mb": done["tree_mb"]}


def write_round(data: Path, name: str, model: str, num_queries: int, folder: Path) -> None:
    """The set and the config of its round."""
    rounds.write_set(data / name, num_queries, folder)
    teacher = None
    if name in WITH_TEACHER:
        texts = itertools.islice(models.documents(data / name).values(), 2000)
        teacher = str(models.save_cross_encoder(folder / "teacher", texts, **TEACHER))
    (folder / "mine.yaml").write_text(yaml.safe_dump(config(folder, model, teacher)))


def compare(folder: Path) -> dict[str, Any]:
    """Plans and mines a round once, in a new workspace."""
    shutil.rmtree(folder / "workspace", ignore_errors=True)
    plan, again, mine = (raymine(command, folder) for command in ("plan", "plan", "mine"))
    (found,) = raymine("status", folder)["said"]
    planned, cost = plan["said"], {step["step"]: step for step in mine["said"]["cost"]}
    lines = {step["step"]: step for step in planned["steps"]}
    return {
        "documents": planned["num_documents"],
        "queries": planned["num_queries"],
        "calibration": planned["calibration"],
        "plan_s": plan["wall_s"],
        "second_plan_s": again["wall_s"],
        "mine_s": mine["wall_s"],
        "steps": {step["step"]: _held(step) for step in (*found["steps"], {**found, "step": "total"})},
        "counts": {
            what: [round(lines[step][what]), cost[step][actual]]
            for step, what, actual in (
                ("embed_documents", "tokens", "tokens"),
                ("union_candidates", "rows", "rows_out"),
                ("rescore", "rows", "rows_out"),
            )
            if step in lines
        },
        "bytes": [round(planned["num_bytes"]), sum(step["bytes_out"] for step in mine["said"]["cost"][:-1])],
        "memory_mb": [round(planned["memory_bytes"] / 2**20), round(mine["tree_mb"])],
    }


def _held(step: Mapping[str, Any]) -> dict[str, float]:
    planned, actual = step["planned_s"], step["worker_s"]
    return {"planned_s": planned, "actual_s": actual, "ratio": planned / max(actual, 1e-9)}


def summary(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The medians of each step over all repeats, and which of those that take over a second are outside the goal."""
    steps = {
        name: {
            **{what: round(median(each["steps"][name][what] for each in repeats), 3) for what in step},
            "ratios": [round(each["steps"][name]["ratio"], 3) for each in repeats],
        }
        for name, step in repeats[0]["steps"].items()
    }
    shown = {name for name, step in steps.items() if max(step["planned_s"], step["actual_s"]) > SHOWN_S}
    outside = sorted(name for name in shown if abs(steps[name]["ratio"] - 1) > GOAL)
    return {"steps": steps, "shown": sorted(shown), "outside": outside, "repeats": list(repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sets", nargs="+", default=list(QUERIES), choices=list(QUERIES))
    parser.add_argument("--queries", type=int, help="of each set; default: squad 1500, arxiv 30000")
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    arguments = parser.parse_args()
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    model = str((arguments.model or models.train_static(arguments.data / "squad", kept / "squad-static")).absolute())
    path = measure.RESULTS / "plan.json"
    runs: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    for name in arguments.sets:
        with tempfile.TemporaryDirectory(prefix="raymine-plan-") as scratch:
            folder = Path(scratch) / name
            write_round(arguments.data, name, model, arguments.queries or QUERIES[name], folder)
            runs[name] = summary([compare(folder) for _ in range(arguments.repeats)])
        for step in runs[name]["shown"]:
            print(name, step, runs[name]["steps"][step])
        print(name, "outside", runs[name]["outside"], flush=True)
    measure.keep("plan", {"runs": runs, "goal": GOAL, "shown_s": SHOWN_S})


if __name__ == "__main__":
    main()
