"""Runs steps in this process: starts at once, for small jobs, tests and debugging.

One worker per step, with all CPUs. Where a stage takes two calls in flight, one task is read while the other computes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from raymine.artifacts import Resources, Step, Task, Work
from raymine.executor.base import local_threads, set_threads

DRIVER_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under WSL


class LocalExecutor:
    """Runs tasks one after the other, or `calls_in_flight` at a time in threads.

    It sets the thread counts of this process's libraries, to the CPUs it may use or to OMP_NUM_THREADS if that is less.
    """

    name = "local"
    job_id = None
    cluster = None

    def __init__(self) -> None:
        self.cpus = local_threads()

    def resolve(self, resources: Resources, num_tasks: int) -> Resources:
        """One worker with all CPUs, and with a GPU where the step wants one and there is one."""
        gpus = float(_has_gpu()) if resources.gpus is None else resources.gpus
        return Resources(cpus=self.cpus, gpus=gpus, actors=1)

    def num_workers(self, resources: Resources) -> int:
        """One."""
        return 1

    def check(self, name: str, resources: Resources) -> None:
        """Whatever is asked for, there is one worker with what there is."""

    def run(self, step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Iterator[dict[str, Any]]:
        set_threads(self.cpus)
        work = make_work()
        if work.stage.calls_in_flight == 1:
            yield from map(work, tasks)
            return
        waiting = iter(tasks)
        with ThreadPoolExecutor(work.stage.calls_in_flight, initializer=set_threads, initargs=(self.cpus,)) as pool:
            running: set[Future[dict[str, Any]]] = set()
            for task in waiting:
                running.add(pool.submit(work, task))
                if len(running) == work.stage.calls_in_flight:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            yield from (future.result() for future in running)


def _has_gpu() -> bool:
    """Importing torch takes two seconds; where Linux has no driver's device there is nothing to ask it for."""
    if sys.platform == "linux" and not any(Path(path).exists() for path in DRIVER_DEVICES):
        return False
    import torch

    return bool(torch.cuda.is_available())
