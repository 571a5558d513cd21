"""What every library says of its threads; `python thread_counts.py WHEN COUNT` sets them in a new process."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from toy_stages import Square, squares

from raymine.artifacts import Artifacts, Record, Task
from raymine.executor.base import set_threads
from raymine.executor.local import LocalExecutor


def counts() -> dict[str, int]:
    """Threads per library, as the calling thread would get them."""
    import faiss
    import numba
    import pyarrow as pa
    import threadpoolctl
    import torch

    found = {Path(pool["filepath"]).name: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return {
        **found,
        "faiss": faiss.omp_get_max_threads(),
        "numba": numba.get_num_threads(),
        "arrow": pa.cpu_count(),
        "arrow-io": pa.io_thread_count(),
        "torch": torch.get_num_threads(),
    }


def num_tokenizer_threads() -> int:
    """Threads that the tokenizers start when they are first used."""
    from tokenizers import Tokenizer, models

    before = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    Tokenizer(models.WordLevel({"a": 0}, "a")).encode_batch(["a"] * 10_000)
    return len(os.listdir("/proc/self/task")) - before  # noqa: PTH208


class Counts(Square):
    """Square that tells the thread counts of two calls that run at once."""

    calls_in_flight = 2

    def __init__(self, log: str = "", seconds: float = 0) -> None:
        super().__init__(log, seconds)
        self.both = threading.Barrier(2, timeout=60)

    def __call__(self, task: Task) -> Record:
        record = super().__call__(task)
        self.both.wait()
        record.info = {"counts": counts(), "cpus": len(os.sched_getaffinity(0))}
        self.both.wait()
        return record


def local_counts() -> list[dict[str, Any]]:
    """What two calls at once find in the local executor."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Artifacts(folder, LocalExecutor(), {"run_id": "run", "round": 1})
        return [done.info for done in artifacts.run(squares(Counts, num_tasks=2)).done]


def main(how: str, count: int) -> None:
    if how == "before":
        set_threads(count)
        shown: Any = {**counts(), "tokenizers": num_tokenizer_threads()}
    elif how == "after":
        counts()
        set_threads(count)
        import numba

        numba.njit(lambda number: number + 1)(1)  # when numba compiles, it looks at the environment
        shown = {**counts(), "tokenizers": num_tokenizer_threads()}
    else:
        counts()  # all are loaded, for all CPUs
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
        shown = local_counts()
    print(json.dumps(shown))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
