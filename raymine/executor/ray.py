"""Runs steps on Ray: Ray Data hands one task at a time to workers, which read and write their own shards.

The dataset of a step is its list of tasks, a row and a block each, as JSON; what comes back is a row per task with its
marker. Texts and vectors never enter the object store, so a small one is enough, and a lost node loses only what its
workers were doing. A step whose workers hold GPUs runs on a pool of actors. Any other runs as plain tasks in Ray's idle
worker processes, of which it takes the one that worked last: the stage stays there from task to task, and libraries
from step to step. A pool would start its processes anew and import torch in each, and keep a CPU of the cluster free.
Measured on 2 shared cores: 0.05 s a step and 17 ms a task for plain tasks, 1.1 s for a pool, 4 to 5 s for a private
cluster and 2.5 s for its first step; a fresh process takes 6.9 s to import sentence-transformers.

What goes wrong goes one of three ways. A Python exception comes back as a row and is raised here as what it was. A
worker that dies is started again and its tasks with it, `CRASH_LIMIT` times; then the run fails. A pool that does not
fit is refused before it starts, because Ray would wait for it without a word.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from raymine.artifacts import Resources, Step, Task, Work
from raymine.errors import ConfigError, ResourceError
from raymine.executor.base import set_threads, usable_cpus

CRASH_LIMIT = 3  # restarts of one worker of a pool, or of one plain task, after its process or node died
MODEL_CPUS = 8  # threads of one model at most; what more CPUs a node has go to further workers
MAX_BLOCKS = 4096  # Ray Data's driver takes 17 ms per block; above this number several tasks share one
OBJECT_STORE_BYTES = 150 << 20  # of a private cluster; it holds only task rows and markers
NO_PROGRESS_S = 6 * 3600  # longer than any single task (training centroids for 100M documents), shorter than a weekend
CLIENT_SCHEME = "ray://"
RESULT = pa.schema([("marker", pa.string()), ("error", pa.binary()), ("trace", pa.string())])

logger = logging.getLogger(__name__)


class WorkerCrashError(RuntimeError):
    """A worker process died again and again: out of memory, a signal, a fault in native code, or lost nodes."""


class WorkerTracebackError(Exception):
    """The traceback of an exception inside a worker; the cause of the exception that is raised on the driver."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class RayExecutor:
    """Runs tasks on a Ray cluster, over one connection for all steps.

    A program that is already connected (a notebook, a job's driver that called ray.init) stays so. Otherwise: the
    address given, else RAY_ADDRESS (which `ray job submit` sets), else a private cluster on this machine, which `close`
    stops. The driver must be on a node of the cluster: Ray Data does not run over Ray's client protocol (ray://), so
    from outside a round goes in as a job.

    Workers import raymine on their own node: from its environment or image, or from the working folder of `ray job
    submit --working-dir`, which they share with the driver.

    Args:
        address: `auto` (the cluster running on this machine), `host:port`, or None.
    """

    name = "ray"

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self._started = False

    def resolve(self, resources: Resources, num_tasks: int) -> Resources:
        """Fills in what was left to the cluster: a GPU each where there are any, and as many workers as fit.

        Without GPUs a model gets up to MODEL_CPUS, and the number of workers stays open: plain tasks take what is free.
        """
        self._connect()
        nodes = cluster_nodes()
        if resources.gpus is None:
            resources = replace(resources, gpus=float(any(node.get("GPU") for node in nodes)))
        if resources.cpus is None:
            resources = replace(resources, cpus=1 if resources.gpus else model_cpus(resources.actors, nodes))
        if resources.gpus and resources.actors is None:
            resources = replace(resources, actors=max(1, min(num_tasks, num_fitting(resources, nodes))))
        return resources

    def num_workers(self, resources: Resources) -> int:
        """As many as fit; resources with nothing left open."""
        self._connect()
        return max(1, resources.actors or num_fitting(resources, cluster_nodes()))

    def check(self, name: str, resources: Resources) -> None:
        """Raises ResourceError where the workers of a step, for any number of tasks, do not fit on the cluster."""
        check_fit(name, self.resolve(resources, MAX_BLOCKS), cluster_nodes())

    @property
    def cluster(self) -> str:
        """The cluster's address, by which another program on this node joins it."""
        self._connect()
        import ray

        return str(ray.get_runtime_context().gcs_address)

    def run(self, step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Iterator[dict[str, Any]]:
        """Runs the tasks of one step and yields their markers as they come.

        Raises:
            ResourceError: the step's workers do not fit on the cluster.
            WorkerCrashError: a worker kept dying.
        """
        self._connect()
        resources = self.resolve(step.resources, len(tasks))
        check_fit(step.name, resources, cluster_nodes())
        workers = f"{resources.actors} workers" if resources.actors else "idle processes"
        logger.info("step %s: %d tasks on %s", step.name, len(tasks), workers)
        batches = _dataset(replace(step, resources=resources, tasks=()), tasks, make_work).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        )
        yield from _markers(step.name, batches)

    @property
    def job_id(self) -> str | None:
        """The submission id of the Ray job that this program is the driver of; None where it is none."""
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        found: str | None = config.get("metadata", {}).get("job_submission_id")
        return found

    def close(self) -> None:
        """Disconnects, and stops a private cluster; does nothing where this executor did not connect."""
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _connect(self) -> None:
        """Connects once. The environment is read by Ray when it is first imported and when it starts."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        if address.startswith(CLIENT_SCHEME):
            raise ConfigError(
                "Ray Data does not run over Ray's client protocol",
                got=f"the address {address}",
                expected="host:port of a cluster that this machine is a node of, or `auto`",
                fix="send the round in as a job: ray job submit --address http://HOST:8265 --working-dir . "
                "-- python jobs/mine.py CONFIG.yaml --workspace URL",
            )
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            options |= {"num_cpus": usable_cpus()}  # Ray counts those of the machine, or of its container
        ray.init(address=address, **options)
        self._started = True


def cluster_nodes() -> list[dict[str, float]]:
    """CPUs and GPUs of every living node of the cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_fitting(resources: Resources, nodes: Sequence[dict[str, float]]) -> int:
    """How many workers fit on the cluster, each whole on one node.

    One CPU of the cluster stays free of pools (of workers with GPUs), for what Ray Data, a job's driver or the next
    step runs beside them: pools that hold every CPU can wait, without a word and for ever, for what cannot start.

    Args:
        resources: of one worker.
        nodes: resources of each node: {"CPU": 4.0, "GPU": 1.0}.
    """
    cpus = resources.cpus or 1
    places = sum(_places(node, cpus, resources.gpus or 0) for node in nodes)
    return min(places, (_total(nodes, "CPU") - _spare(resources, nodes)) // cpus)


def model_cpus(workers: int | None, nodes: Sequence[dict[str, float]]) -> int:
    """CPUs of a worker that runs a model on them: equal shares of the smallest node, at most MODEL_CPUS.

    At least two share a node, so that one reads and tokenises while the other computes: on 2 cores a teacher took one
    worker with both 69 s, and two with one each 60 s (benchmarks/ray_price.py's large round, means of two runs).

    Args:
        workers: how many are asked for; None: as many as fit.
        nodes: as in `num_fitting`.
    """
    own = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    smallest = min(own, default=1)
    sharing = -(-workers // len(own)) if workers and own else max(2, -(-smallest // MODEL_CPUS))
    return max(1, min(MODEL_CPUS, smallest // sharing))


def check_fit(name: str, resources: Resources, nodes: Sequence[dict[str, float]]) -> None:
    """Refuses workers that do not fit: Ray would wait for them for ever.

    Args:
        name: of the step.
        resources: of one worker, and how many there are (None: one at least must fit).
        nodes: as in `num_fitting`.

    Raises:
        ResourceError: with the arithmetic.
    """
    asked, fit = resources.actors or 1, num_fitting(resources, nodes)
    if asked <= fit:
        return
    cpus, gpus, spare = resources.cpus or 1, resources.gpus or 0, _spare(resources, nodes)
    needs = f"{asked} x {cpus} CPU = {asked * cpus} CPUs" + (
        f", {asked} x {gpus:g} GPU = {asked * gpus:g} GPUs" * bool(gpus)
    )
    has = f"{_total(nodes, 'CPU')} CPUs and {_total(nodes, 'GPU')} GPUs on {len(nodes)} nodes"
    free = f", and {spare} CPU free, without which Ray can wait for ever" if spare else ""
    raise ResourceError(
        f"step {name}: its workers do not fit on the cluster",
        got=f"{needs}; the cluster has {has}",
        expected=f"at most {fit} such workers, each whole on one node{free}",
        fix=f"under `resources`, {f'set its actors to {fit}, ' if fit else ''}lower its cpus or gpus, or add nodes",
    )


def _total(nodes: Sequence[dict[str, float]], kind: str) -> int:
    return int(sum(node.get(kind, 0) for node in nodes))


def _spare(resources: Resources, nodes: Sequence[dict[str, float]]) -> int:
    """CPUs that a pool leaves free; a cluster of one CPU has none to leave."""
    return int(bool(resources.gpus) and _total(nodes, "CPU") > 1)


def _places(node: dict[str, float], cpus: int, gpus: float) -> int:
    """How many workers fit whole on one node; a worker with part of a GPU takes it from a single one."""
    by_cpu = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpu
    num_gpus = node.get("GPU", 0)
    by_gpu = int(num_gpus // gpus) if gpus >= 1 else int(num_gpus) * int(1 / gpus)
    return min(by_cpu, by_gpu)


def _dataset(step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Any:
    """The step as a Ray dataset: a row per task, mapped to its result by a pool of actors or by plain tasks."""
    import ray.data
    from ray.data import TaskPoolStrategy
    from ray.util.annotations import RayDeprecationWarning

    rows = [json.dumps(asdict(task)) for task in tasks]
    options: dict[str, Any] = {"num_cpus": step.resources.cpus, "num_gpus": step.resources.gpus or None}
    shared = {"make_work": make_work, "cpus": step.resources.cpus}
    workers = min(step.resources.actors or len(tasks), len(tasks))
    if step.resources.gpus:
        options |= {
            "fn": ActorWorker,
            "fn_constructor_kwargs": shared,
            "compute": _pool(workers, len(tasks), getattr(step.stage, "calls_in_flight", 1)),
            "max_restarts": CRASH_LIMIT,
            "max_task_retries": -1,  # until its worker is given up: until a lost node is noticed, many tries fail
        }
    else:
        options |= {"fn": run_in_task, "fn_kwargs": {**shared, "run": uuid.uuid4().hex}, "max_retries": CRASH_LIMIT}
        options["compute"] = TaskPoolStrategy(workers)
    with ray.data.DataContext.current(_context()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # of the crash limits: Ray Data names no other way
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
        return dataset.map_batches(batch_size=1, batch_format="pyarrow", **options)


def _pool(size: int, num_tasks: int, calls_in_flight: int) -> Any:
    """A fixed pool. A task is handed out only to be run: waiting in a busy worker, it could not go to an idle one."""
    from ray.data import ActorPoolStrategy

    calls = min(calls_in_flight, -(-num_tasks // size))
    return ActorPoolStrategy(
        size=size,
        max_tasks_in_flight_per_actor=calls,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=calls > 1,
    )


def _context() -> Any:
    """A copy of Ray Data's settings with those that a step needs; the program's own stay as they are."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = False
    context.max_errored_blocks = 0
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)  # its log file has everything; what matters is raised
    return context


def _markers(name: str, batches: Any) -> Iterator[dict[str, Any]]:
    """Unpacks result rows; raises what a worker raised."""
    import ray.exceptions

    try:
        for batch in batches:
            for row in batch.to_pylist():
                if row["error"] is not None:
                    raise pickle.loads(row["error"]) from WorkerTracebackError(row["trace"])
                yield json.loads(row["marker"])
    except (ray.exceptions.ActorDiedError, ray.exceptions.WorkerCrashedError) as error:
        raise WorkerCrashError(
            f"step {name}: a worker died {CRASH_LIMIT + 1} times (out of memory, a signal, or a fault in native code); "
            f"its log is in Ray's session folder. Ray says: {error}"
        ) from error


class ActorWorker:
    """One worker of a pool: builds the stage once, then runs tasks.

    A stage that cannot be built answers its first task with that error: raised here, it would come to the
    driver as a dead actor and as text.
    """

    def __init__(self, make_work: Callable[[], Work], cpus: int) -> None:
        self._cpus = cpus
        self._threads = threading.local()
        self._limit_threads()
        self._work: Work | None = None
        self._failed: pa.Table | None = None
        try:
            self._work = make_work()
        except Exception as error:
            self._failed = _error_row(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._work is None:
            return self._failed
        self._limit_threads()
        return _result_row(self._work, batch)

    def _limit_threads(self) -> None:
        """Once in every thread that Ray calls from: some libraries count per calling thread."""
        if not hasattr(self._threads, "are_set"):
            set_threads(self._cpus)
            self._threads.are_set = True


_kept: dict[str, Work] = {}  # of this process: the stage of the run that it last worked for


def run_in_task(batch: pa.Table, make_work: Callable[[], Work], cpus: int, run: str) -> pa.Table:
    """Runs one task in whichever worker process is idle; its stage is kept there for the next task of the same run."""
    if run not in _kept:
        _kept.clear()
        set_threads(cpus)
        try:
            _kept[run] = make_work()
        except Exception as error:
            return _error_row(error)
    return _result_row(_kept[run], batch)


def _result_row(work: Work, batch: pa.Table) -> pa.Table:
    task = Task(**json.loads(batch["item"][0].as_py()))
    try:
        marker = json.dumps(work(task))
    except Exception as error:
        return _error_row(error)
    return pa.Table.from_pylist([{"marker": marker}], schema=RESULT)


def _error_row(error: Exception) -> pa.Table:
    """An exception as a row: itself where it can travel, else its text."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        content = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return pa.Table.from_pylist([{"error": content, "trace": trace}], schema=RESULT)
