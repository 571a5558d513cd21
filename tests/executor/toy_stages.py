"""Toy stages that the executors run: deterministic outputs, and every way to go wrong.

A stage that misbehaves once leaves a file first, so that its second try is well.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from raymine import storage
from raymine.artifacts import Artifacts, Record, Resources, Step, Task
from raymine.errors import InputError
from raymine.executor import make_executor


class Square:
    """Writes the squares of `num_rows` numbers from `first` on, after `seconds`; logs who did it to `log`."""

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, log: str = "", seconds: float = 0) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self, task: Task) -> Record:
        self.note(task)
        time.sleep(self.seconds)
        first, num_rows = task.inputs["first"], task.inputs["num_rows"]
        table = pa.table({"square": pa.array([row * row for row in range(first, first + num_rows)], pa.int64())})
        shard = storage.write_table(f"{task.output}.parquet", table).at(first)
        return Record([shard], rows_in=num_rows, rows_out=num_rows, info={"first": first})

    def note(self, task: Task) -> None:
        """One file per call: `<key>.<process>.<time>.<temporary folder of the node>`."""
        if self.log:
            Path(self.log).mkdir(parents=True, exist_ok=True)
            node = Path(os.environ.get("TMPDIR", "")).name
            (Path(self.log) / f"{task.key}.{os.getpid()}.{time.time_ns()}.{node}").touch()


class Overlapping(Square):
    """Square that notes how many calls were running in its process at once."""

    calls_in_flight = 2

    def __init__(self, log: str = "", seconds: float = 0) -> None:
        super().__init__(log, seconds)
        self.running, self.lock = 0, threading.Lock()

    def __call__(self, task: Task) -> Record:
        with self.lock:
            self.running += 1
            seen = self.running
        record = super().__call__(task)
        with self.lock:
            seen = max(seen, self.running)
            self.running -= 1
        (Path(self.log) / f"at-once-{seen}").touch()
        return record


class Threads(Square):
    """Square whose record tells the number of threads it was given, seen before the stage was built."""

    def __init__(self, log: str = "", seconds: float = 0) -> None:
        super().__init__(log, seconds)
        self.threads = int(os.environ["OMP_NUM_THREADS"])

    def __call__(self, task: Task) -> Record:
        record = super().__call__(task)
        record.info = {"threads": self.threads}
        return record


class Faulty(Square):
    """Goes wrong, as `fault` says, at the task that begins at row `at`; where `once` names a file, only once."""

    def __init__(self, fault: str, at: int, once: str = "", log: str = "", seconds: float = 0) -> None:
        super().__init__(log, seconds)
        self.fault, self.at, self.once = fault, at, once

    def __call__(self, task: Task) -> Record:
        if task.inputs["first"] == self.at and not (self.once and Path(self.once).exists()):
            self.note(task)
            if self.once:
                Path(self.once).touch()
            if self.fault == "exit":
                os._exit(1)
            if self.fault == "user":
                raise InputError("corpus.jsonl:7: no text", got="{}", expected="a text", fix="add it")
            if self.fault == "problem":
                return Record(problems=["corpus.jsonl:7: empty", "corpus.jsonl:9: empty"])
            raise _UnpicklableError(lambda: None) if self.fault == "unpicklable" else KeyError("lost")
        return super().__call__(task)


class _UnpicklableError(Exception):
    def __init__(self, thing: Any) -> None:
        super().__init__("cannot travel")
        self.thing = thing

    def __reduce__(self) -> Any:
        return (_UnpicklableError, (self.thing,))


class DiesAtInit(Square):
    def __init__(self) -> None:
        os._exit(1)


class FailsAtInit(Square):
    def __init__(self) -> None:
        raise InputError("model has no tokenizer")


def squares(
    stage: type[Square] = Square,
    num_tasks: int = 6,
    actors: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    **settings: Any,
) -> Step:
    """A step of `num_tasks` tasks of three rows each."""
    tasks = [Task(f"{number:04d}", {"first": 3 * number, "num_rows": 3}) for number in range(num_tasks)]
    return Step("squares", stage, settings, {"kind": "toy"}, tasks, Resources(cpus, gpus, actors))


def contents(workspace: str) -> dict[str, bytes]:
    """The bytes of every output of a workspace, by path; of markers and records, which carry times, the names."""
    return {
        storage.relative(path, workspace): b"" if path.endswith(".json") else storage.read_bytes(path)
        for path in storage.list_files(workspace)
    }


def tries(log: Path) -> dict[str, int]:
    """How often each task was begun, by key."""
    keys = [path.name.split(".")[0] for path in log.iterdir() if path.name.count(".") == 3]
    return {key: keys.count(key) for key in sorted(set(keys))}


def drive(workspace: str, log: str, num_tasks: str = "8") -> None:
    """A driver in a process of its own: slow squares on Ray, wherever it finds a cluster or on a private one."""
    step = squares(num_tasks=int(num_tasks), log=log, seconds=0.3)
    with make_executor("ray") as executor:
        Artifacts(workspace, executor, {"run_id": "run", "round": 1}).run(step)
