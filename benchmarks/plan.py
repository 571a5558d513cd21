"""Does a round take what its plan said? Plans rounds of real sets, mines them, and holds each step against its plan.

    python benchmarks/plan.py --data ../shared/data --sets squad arxiv

Each set is one `raymine plan` (which calibrates, on samples of at most a tenth of the round) and one `raymine mine`, in
processes of their own; static embedder, exact search, BM25, a positive-aware filter; on squad also a small untrained
teacher (its scores say nothing, but their price is real). Queries are a seeded sample of the training questions. Goal:
for each step that takes over a second, planned within 20 % of actual. Writes benchmarks/results/plan.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
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


def compare(data: Path, name: str, model: str, num_queries: int, folder: Path) -> dict[str, Any]:
    """Plans and mines one set."""
    rounds.write_set(data / name, num_queries, folder)
    teacher = None
    if name in WITH_TEACHER:
        texts = itertools.islice(models.documents(data / name).values(), 2000)
        teacher = str(models.save_cross_encoder(folder / "teacher", texts, **TEACHER))
    (folder / "mine.yaml").write_text(yaml.safe_dump(config(folder, model, teacher)))
    plan, again, mine = (raymine(command, folder) for command in ("plan", "plan", "mine"))
    (found,) = raymine("status", folder)["said"]
    planned, cost = plan["said"], {step["step"]: step for step in mine["said"]["cost"]}
    steps = {
        step["step"]: {
            "planned_s": round(step["planned_s"], 2),
            "actual_s": round(step["worker_s"], 2),
            "ratio": round(step["planned_s"] / max(step["worker_s"], 1e-9), 3),
        }
        for step in found["steps"]
    }
    lines = {step["step"]: step for step in planned["steps"]}
    return {
        "documents": planned["num_documents"],
        "queries": planned["num_queries"],
        "calibration": planned["calibration"],
        "plan_s": plan["wall_s"],
        "second_plan_s": again["wall_s"],
        "mine_s": mine["wall_s"],
        "steps": steps,
        "total": {"planned_s": round(found["planned_s"], 1), "actual_s": round(found["worker_s"], 1)},
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
        "outside": sorted(
            name
            for name, step in steps.items()
            if max(step["planned_s"], step["actual_s"]) > SHOWN_S and abs(step["ratio"] - 1) > GOAL
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sets", nargs="+", default=list(QUERIES), choices=list(QUERIES))
    parser.add_argument("--queries", type=int, help="of each set; default: squad 1500, arxiv 30000")
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    arguments = parser.parse_args()
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    model = str((arguments.model or models.train_static(arguments.data / "squad", kept / "squad-static")).absolute())
    path = measure.RESULTS / "plan.json"
    runs: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    for name in arguments.sets:
        with tempfile.TemporaryDirectory(prefix="raymine-plan-") as folder:
            num_queries = arguments.queries or QUERIES[name]
            runs[name] = compare(arguments.data, name, model, num_queries, Path(folder) / name)
        for step, each in runs[name]["steps"].items():
            if max(each["planned_s"], each["actual_s"]) > SHOWN_S:
                print(f"{name} {step}: planned {each['planned_s']} s, actual {each['actual_s']} s, {each['ratio']:g}")
        print(name, {key: value for key, value in runs[name].items() if key != "steps"}, flush=True)
    measure.keep("plan", {"runs": runs, "goal": GOAL, "shown_s": SHOWN_S})


if __name__ == "__main__":
    main()
