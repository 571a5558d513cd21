"""Steps, and the folders of what they made.

A step is a pure function of (inputs, config, code version). It is cut into tasks, one output shard (or a few) each. Its
folder is named by its fingerprint, which covers everything that all its tasks share; a task's key covers what only this
task reads. So a task whose shard, config and model have not changed is found again, in this round or a later one,
and appending documents adds tasks and redoes none.

    artifacts/<step>-<fingerprint>/<key>.parquet ...        outputs (or elsewhere, where a step names another folder)
    artifacts/<step>-<fingerprint>/done/<key>.json          written after its outputs: rows, checksums, ledger row
    artifacts/<step>-<fingerprint>/record-<tasks>.json      all of them in one file, written last: the step is done

A run that died anywhere finds the markers and redoes only the tasks that were in flight.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from raymine import storage
from raymine.errors import InputError, too_many
from raymine.fingerprint import fingerprint
from raymine.resident import begin_peak, peak_bytes
from raymine.storage import Shard


@dataclass(frozen=True)
class Resources:
    """What one worker of a step takes, and how many workers there are. Never part of a fingerprint.

    Args:
        cpus: CPUs (and threads) of one worker; None: as many as suit a model.
        gpus: GPUs of one worker; None: one, where there is one.
        actors: number of workers, which keep a loaded stage; None: as many as fit.
        in_one_thread: a task computes in a single thread, so that a process with several CPUs runs as many tasks at
            once; others share their own work out.
    """

    cpus: int | None = 1
    gpus: float | None = 0
    actors: int | None = None
    in_one_thread: bool = False


@dataclass(frozen=True)
class Task:
    """One unit of work: paths, row ranges and numbers, never rows.

    Args:
        key: names the task inside its step; covers the content that only this task reads.
        inputs: JSON-like; what the stage needs to find its input.
        output: path prefix of the outputs, without extension (filled in by `Artifacts.run`).
        shard: ordinal, for the ledger.
    """

    key: str
    inputs: dict[str, Any]
    output: str = ""
    shard: int = 0


@dataclass
class Record:
    """What a stage did for one task.

    `problems` are faults of the user's input, one line each: the task is then not done, the others go on, and the
    step ends with one error that lists them. `info` is for small facts that later steps need (JSON-like).
    `elsewhere_s` is the part of the call's seconds that is in the ledger row of another step's task, done on the way.
    """

    outputs: list[Shard] = field(default_factory=list)
    rows_in: int = 0
    rows_out: int = 0
    tokens: int = 0
    bytes_in: int = 0
    cache_hits: int = 0
    device: str = "cpu"
    device_s: float = 0.0
    elsewhere_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


class Stage(Protocol):
    """The contract of a stage: `__init__` loads what is expensive, a call does one task.

    `calls_in_flight` calls may run at once in one worker's threads (2: one task is read while another computes).
    """

    calls_in_flight: int

    def __call__(self, task: Task) -> Record: ...


@dataclass(frozen=True)
class Step:
    """One step of a round.

    Args:
        name: e.g. embed_documents.
        stage: class of the stage; its VERSION counts in the fingerprint and is raised when its output changes.
        settings: keyword arguments of `stage.__init__`; must pickle.
        identity: JSON-like; everything that decides the outputs of all tasks: config, contents of shared inputs.
        tasks: the work.
        resources: see Resources.
        folder: where the outputs go if not into the artifact's folder.
        unit: what a row of progress is, e.g. documents.
    """

    name: str
    stage: Callable[..., Stage]
    settings: dict[str, Any]
    identity: Any
    tasks: Sequence[Task]
    resources: Resources = Resources()
    folder: str = ""
    unit: str = "rows"

    @property
    def fingerprint(self) -> str:
        version = getattr(self.stage, "VERSION", 1)
        return fingerprint({"step": self.name, "version": version, "identity": self.identity, "folder": self.folder})


@dataclass(frozen=True)
class Done:
    """One finished task: its outputs (absolute paths), info and ledger figures."""

    key: str
    outputs: list[Shard]
    info: dict[str, Any]
    ledger: dict[str, Any]


@dataclass(frozen=True)
class StepResult:
    """A finished step: its tasks' results in the order of the step's tasks."""

    step: Step
    done: list[Done]
    num_reused: int
    wall_s: float

    @property
    def shards(self) -> list[Shard]:
        """All output shards, in task order."""
        return [shard for done in self.done for shard in done.outputs]


class SharedClock:
    """Shares a worker's time out among the calls it has in flight, so that their sums are the time it was busy.

    Args:
        setup_s: what it took to get ready (a model loaded, say); falls to the first call.
    """

    def __init__(self, setup_s: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._setup_s = setup_s
        self._last = 0.0
        self._shares: dict[str, float] = {}

    def start(self, name: str) -> None:
        with self._lock:
            self._share_out()
            self._shares[name], self._setup_s = self._setup_s, 0.0

    def stop(self, name: str) -> float:
        """Seconds that fell to this call."""
        with self._lock:
            self._share_out()
            return self._shares.pop(name)

    def _share_out(self) -> None:
        now = time.perf_counter()
        for name in self._shares:
            self._shares[name] += (now - self._last) / len(self._shares)
        self._last = now


class Work:
    """One worker's share of a step: builds the stage once, then runs tasks and marks each as done.

    Both executors run exactly this.
    """

    def __init__(self, step: Step, workspace: str, run: dict[str, Any]) -> None:
        self.step, self.workspace, self.run = step, workspace, run
        begin_peak()
        begin = time.perf_counter()
        self.stage = step.stage(**step.settings)
        self.clock = SharedClock(time.perf_counter() - begin)

    def __call__(self, task: Task) -> dict[str, Any]:
        """Runs one task.

        Returns:
            The marker, as written; or, for a fault of the user's input, {"problems": [...]} and no marker.
        """
        started_at = time.time()
        self.clock.start(task.key)
        try:
            record = self.stage(task)
        finally:
            wall_s = self.clock.stop(task.key)
        if record.problems:
            return {"key": task.key, "problems": record.problems}
        outputs = [
            {**shard.to_json(), "path": storage.relative(shard.path, self.workspace)} for shard in record.outputs
        ]
        figures = asdict(record)
        for name in ("outputs", "problems", "info", "elsewhere_s"):
            del figures[name]
        ledger = {
            **self.run,
            "step": self.step.name,
            "shard": task.shard,
            "started_at": started_at,
            "wall_s": max(0.0, wall_s - record.elsewhere_s),
            "cpus": self.step.resources.cpus,
            "gpus": self.step.resources.gpus,
            "bytes_out": sum(shard.num_bytes for shard in record.outputs),
            "peak_bytes": peak_bytes(),
            **figures,
        }
        marker = {"key": task.key, "outputs": outputs, "info": record.info, "ledger": ledger}
        storage.write_json(marker_path(self.workspace, self.step, task.key), marker)
        return marker


class Executor(Protocol):
    """Runs the tasks of a step somewhere, in any order, and yields their markers as they come.

    `job_id`: submission id of the cluster's job that this program is the driver of; None where it is none.
    `cluster`: address by which another program joins the cluster; None where there is none.
    """

    name: str

    @property
    def job_id(self) -> str | None: ...

    @property
    def cluster(self) -> str | None: ...

    def resolve(self, resources: Resources, num_tasks: int) -> Resources:
        """Fills in what was left to the machine: CPUs, GPUs, number of workers."""
        ...

    def num_workers(self, resources: Resources) -> int:
        """How many workers of a step work at once, where it has tasks enough."""
        ...

    def check(self, name: str, resources: Resources) -> None:
        """Raises ResourceError where the workers that a step asks for do not fit."""
        ...

    def run(self, step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Iterator[dict[str, Any]]: ...


def step_folder(workspace: str, step: Step) -> str:
    return storage.join(workspace, "artifacts", f"{step.name}-{step.fingerprint}")


def marker_path(workspace: str, step: Step, key: str) -> str:
    return storage.join(step_folder(workspace, step), "done", f"{key}.json")


class Watcher(Protocol):
    """Is told how a step goes (progress bars, plain lines, nothing)."""

    def started(self, step: Step, num_done: int) -> None: ...
    def task_done(self, step: Step, marker: dict[str, Any]) -> None: ...
    def finished(self, result: StepResult) -> None: ...


class Silent:
    """A watcher that says nothing."""

    def started(self, step: Step, num_done: int) -> None:
        return

    def task_done(self, step: Step, marker: dict[str, Any]) -> None:
        return

    def finished(self, result: StepResult) -> None:
        return


class Artifacts:
    """The artifacts of one workspace, and the running of steps into them.

    Args:
        workspace: folder or URL.
        executor: where tasks run.
        run: what every ledger row of this run carries (run_id, round).
        watcher: is told how it goes.
        journal: folder in which each step that has work to do leaves a note (for `raymine status`).
        check: is called before each step that has work to do; raises what ends the run.
    """

    def __init__(
        self,
        workspace: str,
        executor: Executor,
        run: dict[str, Any],
        watcher: Watcher | None = None,
        journal: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.workspace, self.executor, self.run_facts = workspace, executor, run
        self.watcher: Watcher = watcher or Silent()
        self.journal, self.check = journal, check

    def run(self, step: Step) -> StepResult:
        """Finds the step's outputs or makes those that are missing.

        Raises:
            InputError: tasks found faults in the user's input; all other tasks are done and kept.
        """
        begin = time.perf_counter()
        record_path, known = self.known(step)
        missing = [task for task in step.tasks if task.key not in known]
        self.watcher.started(step, len(step.tasks) - len(missing))
        if missing:
            self.check()
            self._note(step)
            self._run_missing(step, missing, known)
            markers = [known[task.key] for task in step.tasks]
            storage.write_json(record_path, {"step": step.name, "tasks": markers})
        done = [self.to_done(known[task.key]) for task in step.tasks]
        result = StepResult(step, done, len(step.tasks) - len(missing), time.perf_counter() - begin)
        self.watcher.finished(result)
        return result

    def maker(self, shard: Shard) -> Done | None:
        """The finished task of any round that made an output of an artifact; None where it is no longer there."""
        folder, name = shard.path.rsplit("/", 1)
        marker = storage.join(folder, "done", f"{name.split('.', 1)[0]}.json")
        if not (storage.exists(marker) and storage.exists(shard.path)):
            return None
        return self.to_done(storage.read_json(marker))

    def _note(self, step: Step) -> None:
        """Leaves word of a step that has work to do, for `raymine status`."""
        if self.journal:
            facts = {"step": step.name, "folder": step_folder("", step), "tasks": [task.key for task in step.tasks]}
            storage.write_json(storage.join(self.journal, f"{step.name}.json"), {**facts, "started_at": time.time()})

    def known(self, step: Step) -> tuple[str, dict[str, dict[str, Any]]]:
        """Where the step's record lies, and the markers, by key, of tasks that are done and whose outputs are there."""
        folder = step_folder(self.workspace, step)
        record_path = storage.join(folder, f"record-{fingerprint([task.key for task in step.tasks])}.json")
        files = set(storage.list_files(folder))
        if step.folder:
            files |= set(storage.list_files(storage.join(self.workspace, step.folder)))
        if record_path in files:
            markers = storage.read_json(record_path)["tasks"]
        else:
            wanted = {marker_path(self.workspace, step, task.key) for task in step.tasks}
            markers = [storage.read_json(path) for path in sorted(wanted & files)]
        return record_path, {
            marker["key"]: marker
            for marker in markers
            if all(storage.join(self.workspace, output["path"]) in files for output in marker["outputs"])
        }

    def _run_missing(self, step: Step, missing: Sequence[Task], known: dict[str, dict[str, Any]]) -> None:
        step = replace(step, resources=self.executor.resolve(step.resources, len(missing)))
        folder = storage.join(self.workspace, step.folder) if step.folder else step_folder(self.workspace, step)
        ordinal = {task.key: number for number, task in enumerate(step.tasks)}
        tasks = [
            replace(task, output=storage.join(folder, task.key), shard=ordinal[task.key])
            for task in {task.key: task for task in missing}.values()  # shards of equal content are done once
        ]
        worker_step = replace(step, tasks=())  # a worker needs no list of all tasks
        problems: list[str] = []
        make_work = partial(Work, worker_step, self.workspace, self.run_facts)  # travels to workers: nothing else may
        for marker in self.executor.run(step, tasks, make_work):
            problems += marker.get("problems", [])
            known[marker["key"]] = marker
            self.watcher.task_done(step, marker)
        if problems:
            raise InputError(too_many(sorted(set(problems))))  # parts of one file may find the same fault

    def to_done(self, marker: dict[str, Any]) -> Done:
        """What a marker says."""
        outputs = [
            Shard(**{**output, "path": storage.join(self.workspace, output["path"])}) for output in marker["outputs"]
        ]
        return Done(marker["key"], outputs, marker["info"], marker["ledger"])


def task_key(*parts: Any) -> str:
    """A task's key from what only this task reads (JSON-like; contents as hashes)."""
    return fingerprint(json.loads(json.dumps(parts)))
