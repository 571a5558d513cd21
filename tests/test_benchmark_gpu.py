"""The benchmark for GPU machines: it runs whole on CPU tensors, and says so where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_it_says_that_there_is_no_gpu() -> None:
    """One line, no traceback."""
    done = benchmark()
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "torch finds no GPU here; run this on a machine with one, or see that it runs with --device cpu"
    ]


def test_it_runs_whole_on_cpu_tensors() -> None:
    """Every figure is printed, the checks pass, and nothing is kept."""
    before = sorted(RESULTS.iterdir())
    done = benchmark("--device", "cpu", "--documents", "200", "--queries", "30", "--k", "7")
    assert done.returncode == 0, done.stderr
    first_words = [line.split(" ")[0] for line in done.stdout.splitlines()[-5:]]
    assert first_words == ["cpu,", "embedding", "search", "against", "checks"]
    assert "hits equal index.exact" in done.stdout
    assert sorted(RESULTS.iterdir()) == before
