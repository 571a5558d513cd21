"""Does the driver's memory grow with the corpus? Mines scifact (5k documents) and arxiv (120k), compares the drivers.

    python benchmarks/memory.py --data ../shared/data

Runs `raymine mine --executor ray` on each, a process of its own, and samples its resident memory ten times a second.
The workers are other processes; the driver only hands out tasks. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import models
import yaml

SETS = ("scifact", "arxiv")
LIMIT_MB = 100
RESULTS = Path(__file__).parent / "results" / "memory.json"


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


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(command: list[str]) -> dict[str, float]:
    """Runs a command and gives the peak of its own resident memory, without its children, and its time."""
    begin = time.perf_counter()
    peaks = [0.0]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.1) and process.poll() is None:
                try:
                    peaks.append(resident_mb(process.pid))
                except FileNotFoundError:
                    return

        sampler = threading.Thread(target=sample)
        sampler.start()
        code = process.wait()
        stop.set()
        sampler.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return {"driver_peak_mb": round(max(peaks), 1), "wall_s": round(time.perf_counter() - begin, 1)}


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
            runs[name] = measure(command)
            print(name, runs[name], flush=True)
    growth = round(runs["arxiv"]["driver_peak_mb"] - runs["scifact"]["driver_peak_mb"], 1)
    packages = ("ray", "pyarrow", "torch", "faiss-cpu", "sentence-transformers")
    result = {
        "runs": runs,
        "driver_growth_mb": growth,
        "limit_mb": LIMIT_MB,
        "within_limit": growth <= LIMIT_MB,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"driver: {growth} MB more for arxiv than for scifact (limit {LIMIT_MB} MB)")


if __name__ == "__main__":
    main()
