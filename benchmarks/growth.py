"""What grows with the corpus? Mines 100k, 1M and 10M short documents for 100,000 queries.

    python benchmarks/growth.py --data ../shared/data --sizes 100000 1000000 10000000

Documents are real sentences, and beyond 1.3 million two halves of real sentences (benchmarks/sentences.py); static
embedder, exact search, 100 candidates per query, triplets. Each size is one `raymine mine --executor ray` with the
default budget of 2 GB per worker. Says seconds per document, for each step its workers' seconds and the resident memory
of the largest one (the ledger's), that of the driver (sampled), and the exponent of the total time between sizes. A
killed run goes on where it stopped; its total time is then that of the rest. Writes benchmarks/results/growth.json and
growth-<size>-ledger.parquet.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import models
import peer
import pyarrow.parquet as pq
import sentences
import yaml

from raymine.ledger import sums

QUERIES = 100_000
EXPONENT_GOAL, WORKER_GOAL_GB, DRIVER_GOAL_MB = 1.05, 2.0, 600


def mine(data: Path, model: str, size: int, folder: Path) -> dict[str, Any]:
    """One size: wall time, memory of the driver, and seconds and memory of each step."""
    config = folder / f"growth-{size}.yaml"
    config.write_text(yaml.safe_dump(peer.config(data, model, "exact")))
    workspace = folder / f"growth-{size}"
    command = [sys.executable, "-m", "raymine", "mine", str(config), "--workspace", str(workspace)]
    done = measure.run([*command, "--executor", "ray", "--json"])
    ledger = workspace / "rounds" / "0001" / "ledger.parquet"
    shutil.copy(ledger, measure.RESULTS / f"growth-{size}-ledger.parquet")
    *costs, total = sums(pq.read_table(ledger))
    shutil.rmtree(workspace)
    return {
        "wall_s": done["wall_s"],
        "work_s": round(total.wall_s, 1),
        "us_per_document": round(1e6 * done["wall_s"] / size, 1),
        "driver_mb": done["peak_mb"],
        "worker_gb": round(total.peak_bytes / 1e9, 3),
        "steps": {
            cost.step: {"work_s": round(cost.wall_s, 2), "worker_gb": round(cost.peak_bytes / 1e9, 3)} for cost in costs
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    arguments = parser.parse_args()
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    model = str((arguments.model or models.train_static(arguments.data / "squad", kept / "squad-static")).absolute())
    measure.RESULTS.mkdir(exist_ok=True)
    runs: dict[int, dict[str, Any]] = {}
    rows = []
    for size in arguments.sizes:
        data = sentences.write(arguments.data, kept / f"short-{size}", size, QUERIES)
        runs[size] = mine(data, model, size, kept)
        print(size, runs[size], flush=True)
        shown = f"{runs[size]['wall_s']:,.0f} s, {runs[size]['us_per_document']:.0f} us a document, "
        shown += f"{runs[size]['worker_gb']:.2f} GB the largest worker, {runs[size]['driver_mb']:.0f} MB the driver"
        goal = f"<= {WORKER_GOAL_GB:g} GB, {DRIVER_GOAL_MB} MB"
        rows.append(measure.row(f"mine {size:,} documents, {QUERIES:,} queries, on Ray", shown, "", "-", None, goal))
    pairs = list(zip(arguments.sizes, arguments.sizes[1:], strict=False))
    exponents = {
        f"{small} to {large}": round(math.log(runs[large]["wall_s"] / runs[small]["wall_s"], large / small), 3)
        for small, large in pairs
    }
    print(f"exponents of the total time: {exponents} (goal at most {EXPONENT_GOAL})")
    measure.keep("growth", {"rows": rows, "runs": runs, "exponents": exponents, "exponent_goal": EXPONENT_GOAL})


if __name__ == "__main__":
    main()
