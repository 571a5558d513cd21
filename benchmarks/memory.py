"""Does the driver's memory grow with the corpus? Mines scifact (5k documents) and arxiv (120k), compares the drivers.

    python benchmarks/memory.py --data ../shared/data

Runs `raymine mine --executor ray` on each, a process of its own, and samples its resident memory ten times a second.
The workers are other processes; the driver only hands out tasks. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import models
import yaml

SETS = ("scifact", "arxiv")
LIMIT_MB = 100


def config(data: Path, model: str) -> dict[str, Any]:
    """Dense, BM25 and random candidates, filters, triplets: everything but a teacher."""
    qrels = next(path for path in (data / "qrels" / "train.tsv", data / "qrels" / "train.tsv.gz") if path.exists())
    return {
        "corpus": {"path": str(data)},
        "queries": {"path": str(data)},
        "positives": {"path": str(qrels)},
        "embed": {"model": model},
        "retrieve": {"dense": {"k": 50}, "bm25": {"k": 50}, "random": {"k": 5}},
        "select": {"filters": [{"kind": "max_relative_score"}], "sample": {"n": 5}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    arguments = parser.parse_args()
    model = arguments.model or models.train_static(
        arguments.data / "squad", Path(tempfile.gettempdir()) / "raymine-benchmarks" / "squad-static"
    )
    runs = {}
    for name in SETS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mine.yaml"
            path.write_text(yaml.safe_dump(config(arguments.data.absolute() / name, str(model.absolute()))))
            command = [sys.executable, "-m", "raymine", "mine", str(path), "--executor", "ray", "--json"]
            runs[name] = measure.run(command)
            print(name, runs[name], flush=True)
    growth = round(runs["arxiv"]["peak_mb"] - runs["scifact"]["peak_mb"], 1)
    measure.keep("memory", {"runs": runs, "driver_growth_mb": growth, "limit_mb": LIMIT_MB})
    print(f"driver: {growth} MB more for arxiv than for scifact (limit {LIMIT_MB} MB)")


if __name__ == "__main__":
    main()
