"""What grows with the corpus? Mines 100k, 1M and 10M short documents for 100,000 queries.

    python benchmarks/growth.py --data ../shared/data --sizes 100000 1000000 10000000

Documents are real sentences, and beyond 1.3 million two halves of real sentences (benchmarks/sentences.py); static
embedder, exact search, 100 candidates per query, triplets. Each size is one `raymine mine` with the default budget of
2 GB, its memory sampled as the sum of PSS over its processes. Says seconds per document and per step, and the exponent
of the total time between sizes. A killed run goes on where it stopped (its seconds are then the ledger's). Writes
benchmarks/results/growth.json and growth-<size>-ledger.parquet.
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

QUERIES = 100_000
EXPONENT_GOAL, MEMORY_GOAL_MB = 1.05, 2000


def mine(data: Path, model: str, size: int, folder: Path) -> dict[str, Any]:
    """One size: wall time, memory, and the seconds of each step."""
    config = folder / f"growth-{size}.yaml"
    config.write_text(yaml.safe_dump({**peer.config(data, model), "index": {"kind": "exact"}}))
    workspace = folder / f"growth-{size}"
    done = measure.run([sys.executable, "-m", "raymine", "mine", str(config), "--workspace", str(workspace), "--json"])
    ledger = workspace / "rounds" / "0001" / "ledger.parquet"
    shutil.copy(ledger, measure.RESULTS / f"growth-{size}-ledger.parquet")
    seconds: dict[str, float] = {}
    for row in pq.read_table(ledger, columns=["step", "wall_s"]).to_pylist():
        seconds[row["step"]] = seconds.get(row["step"], 0.0) + row["wall_s"]
    work_s = round(sum(seconds.values()), 1)
    shutil.rmtree(workspace)
    steps = {name: round(value, 2) for name, value in seconds.items()}
    return {**done, "work_s": work_s, "us_per_document": round(1e6 * work_s / size, 1), "steps_s": steps}


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
        shown = f"{runs[size]['work_s']:,.0f} s, {runs[size]['us_per_document']:.0f} us a document, "
        shown += f"{runs[size]['tree_mb'] / 1024:.2f} GB"
        rows.append(measure.row(f"mine {size:,} documents, {QUERIES:,} queries", shown, "", "-", None, "<= 2 GB"))
    pairs = list(zip(arguments.sizes, arguments.sizes[1:], strict=False))
    exponents = {
        f"{small} to {large}": round(math.log(runs[large]["work_s"] / runs[small]["work_s"], large / small), 3)
        for small, large in pairs
    }
    print(f"exponents of the total time: {exponents} (goal at most {EXPONENT_GOAL})")
    measure.keep("growth", {"rows": rows, "runs": runs, "exponents": exponents, "memory_goal_mb": MEMORY_GOAL_MB})


if __name__ == "__main__":
    main()
