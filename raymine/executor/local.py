"""Runs steps in this process: starts at once, for small jobs, tests and debugging.

One worker per step, with all CPUs, or one per CPU where a task computes in a single thread. Where a stage takes two
calls in flight, one task is read while the other computes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from raymine.artifacts import Resources, Step, Task, Work
from raymine.executor.base import local_threads, set_threads
from raymine.resident import give_back, limit_heaps

MOST_AT_ONCE = 8  # tasks of one thread: they share an interpreter and the memory of one process
DRIVER_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, either under WSL


class LocalExecutor:
    """Runs tasks one after the other, or several at a time in threads.

    It sets the thread counts of this process's libraries, to the CPUs it may use or to OMP_NUM_THREADS if that is less.
    """

    name = "local"
    job_id = None
    cluster = None

    def __init__(self) -> None:
        self.cpus = local_threads()
        limit_heaps(self.cpus)

    def resolve(self, resources: Resources, num_tasks: int) -> Resources:
        """One worker with all CPUs, and with a GPU where the step wants one and there is one.

        Of tasks that compute in one thread, a worker per CPU, where there are as many, up to MOST_AT_ONCE.
        """
        gpus = float(_has_gpu()) if resources.gpus is None else resources.gpus
        workers = max(1, min(self.cpus, num_tasks, MOST_AT_ONCE)) if resources.in_one_thread else 1
        return replace(resources, cpus=self.cpus // workers, gpus=gpus, actors=workers)

    def num_workers(self, resources: Resources) -> int:
        """One with all CPUs, or as many as share them."""
        return max(1, self.cpus // (resources.cpus or self.cpus))

    def check(self, name: str, resources: Resources) -> None:
        """Whatever is asked for, there is one worker with what there is."""

    def run(self, step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Iterator[dict[str, Any]]:
        cpus = step.resources.cpus or self.cpus
        set_threads(cpus)
        works = [make_work() for _ in range(step.resources.actors or 1)]
        calls = len(works) * works[0].stage.calls_in_flight
        free: SimpleQueue[Work] = SimpleQueue()
        for work in works * works[0].stage.calls_in_flight:
            free.put(work)

        def run(task: Task) -> dict[str, Any]:
            work = free.get()
            try:
                return work(task)
            finally:
                free.put(work)
                give_back()  # all tasks run in this process: what one leaves would add to the next ones'

        try:
            if calls == 1:
                yield from map(run, tasks)
                return
            with ThreadPoolExecutor(calls, initializer=set_threads, initargs=(cpus,)) as pool:
                running: set[Future[dict[str, Any]]] = set()
                for task in tasks:
                    running.add(pool.submit(run, task))
                    if len(running) == calls:
                        finished, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in finished)
                yield from (future.result() for future in running)
        finally:
            set_threads(self.cpus)  # for whatever this process does next: train a model, or begin another round


def _has_gpu() -> bool:
    """Importing torch takes two seconds; where Linux has no driver's device there is nothing to ask it for."""
    if sys.platform == "linux" and not any(Path(path).exists() for path in DRIVER_DEVICES):
        return False
    import torch

    return bool(torch.cuda.is_available())
