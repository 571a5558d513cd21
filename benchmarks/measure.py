"""What the benchmarks share: memory and time of a process, and where and with what it was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("ray", "pyarrow", "torch", "faiss-cpu", "sentence-transformers", "bm25s", "numpy")


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(command: Sequence[str]) -> dict[str, float]:
    """Runs a command to its end.

    Returns:
        `peak_mb`, of its own resident memory without its children, sampled ten times a second, and `wall_s`.
    """
    begin = time.perf_counter()
    peaks = [0.0]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(list(command), stdout=subprocess.DEVNULL, env=environment) as process:
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
    return {"peak_mb": round(max(peaks), 1), "wall_s": round(time.perf_counter() - begin, 1)}


def machine() -> dict[str, Any]:
    """The machine, the versions and the commit of a measurement."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "machine": f"{os.cpu_count()} x {model[0] if model else platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": head.stdout.strip(),
    }


def keep(name: str, result: dict[str, Any]) -> None:
    """Writes results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**result, **machine()}, indent=1) + "\n")
