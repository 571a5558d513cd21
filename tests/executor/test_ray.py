"""The Ray executor does what the local one does, and survives what a cluster does to its workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray_helpers
import toy_stages
from toy_stages import squares

from raymine.artifacts import Artifacts, Resources, Step, StepResult
from raymine.errors import InputError, ResourceError
from raymine.executor.local import LocalExecutor
from raymine.executor.ray import (
    CRASH_LIMIT,
    RayExecutor,
    WorkerCrashError,
    WorkerTracebackError,
    check_fit,
    model_cpus,
    num_fitting,
)

pytestmark = pytest.mark.timeout(120)
POOL_OR_TASKS = pytest.mark.parametrize("gpus", [1, 0], ids=["pool", "tasks"])
FACTS = {"run_id": "run", "round": 1}


def run(executor: Any, workspace: Path, step: Step) -> StepResult:
    return Artifacts(str(workspace), executor, FACTS).run(step)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """What the local executor makes of the six tasks."""
    run(LocalExecutor(), tmp_path / "local", squares())
    return toy_stages.contents(str(tmp_path / "local"))


@POOL_OR_TASKS
def test_the_same_files_and_bytes_as_the_local_executor(
    ray_executor: RayExecutor, tmp_path: Path, expected: dict[str, bytes], gpus: int
) -> None:
    """Every output has the same bytes, and the results come in the order of the step's tasks."""
    result = run(ray_executor, tmp_path / "ray", squares(gpus=gpus))
    assert toy_stages.contents(str(tmp_path / "ray")) == expected
    assert [done.info["first"] for done in result.done] == [0, 3, 6, 9, 12, 15]


def test_two_calls_of_one_worker_overlap_where_the_stage_allows_it(ray_executor: RayExecutor, tmp_path: Path) -> None:
    """A stage with two calls in flight has two tasks in its process at once, and never three."""
    log = tmp_path / "log"
    run(ray_executor, tmp_path / "ws", squares(toy_stages.Overlapping, gpus=1, log=str(log), seconds=0.2))
    assert max(path.name for path in log.glob("at-once-*")) == "at-once-2"


def test_a_worker_that_is_used_again_builds_its_stage_once_per_run(ray_executor: RayExecutor, tmp_path: Path) -> None:
    """Plain tasks of one step share a stage per process; another run of the same step does not see it."""
    for name in ("first", "second"):
        log = tmp_path / name / "log"
        run(ray_executor, tmp_path / name, squares(actors=0, log=str(log)))
        assert toy_stages.tries(log) == {f"{number:04d}": 1 for number in range(6)}


@POOL_OR_TASKS
def test_threads_are_set_before_the_stage_is_built(ray_executor: RayExecutor, tmp_path: Path, gpus: int) -> None:
    """A worker's libraries get as many threads as the worker has CPUs, whatever Ray set."""
    step = squares(toy_stages.Threads, gpus=gpus, cpus=1, num_tasks=1)
    assert [done.info for done in run(ray_executor, tmp_path, step).done] == [{"threads": 1}]


@POOL_OR_TASKS
def test_what_a_failed_run_finished_is_not_done_again(
    ray_executor: RayExecutor, tmp_path: Path, expected: dict[str, bytes], gpus: int
) -> None:
    """After an exception at the last of six tasks, the same step again does that one alone."""
    log = tmp_path / "log"
    settings: dict[str, Any] = {"at": 15, "once": str(tmp_path / "once"), "log": str(log)}
    step = squares(toy_stages.Faulty, gpus=gpus, fault="key", **settings)
    with pytest.raises(KeyError):
        run(ray_executor, tmp_path / "ws", step)
    finished = len(ray_helpers.done_markers(str(tmp_path / "ws")))
    result = run(ray_executor, tmp_path / "ws", step)
    assert result.num_reused == finished >= 4
    assert toy_stages.tries(log)["0000"] == 1
    assert toy_stages.contents(str(tmp_path / "ws")) == expected


@POOL_OR_TASKS
def test_a_users_error_crosses_as_itself(ray_executor: RayExecutor, tmp_path: Path, gpus: int) -> None:
    """An InputError of a worker is an InputError here, with its parts, and the worker's traceback as its cause."""
    with pytest.raises(InputError, match=r"corpus\.jsonl:7") as caught:
        run(ray_executor, tmp_path, squares(toy_stages.Faulty, gpus=gpus, fault="user", at=3))
    assert (caught.value.got, caught.value.fix) == ("{}", "add it")
    assert isinstance(caught.value.__cause__, WorkerTracebackError)
    assert "toy_stages.py" in str(caught.value.__cause__)


@POOL_OR_TASKS
def test_a_stage_that_cannot_be_built_says_why(ray_executor: RayExecutor, tmp_path: Path, gpus: int) -> None:
    """An exception of the stage's __init__ is raised here too, not a dead actor."""
    with pytest.raises(InputError, match="model has no tokenizer"):
        run(ray_executor, tmp_path, squares(toy_stages.FailsAtInit, gpus=gpus))


def test_an_exception_that_cannot_travel_arrives_as_text(ray_executor: RayExecutor, tmp_path: Path) -> None:
    """What pickle refuses becomes a RuntimeError that names it."""
    with pytest.raises(RuntimeError, match="_UnpicklableError: cannot travel"):
        run(ray_executor, tmp_path, squares(toy_stages.Faulty, fault="unpicklable", at=3))


def test_faults_of_the_input_are_gathered_and_the_other_tasks_are_done(
    ray_executor: RayExecutor, tmp_path: Path
) -> None:
    """Problems are no exceptions: the step ends with one error that lists them, and five of six tasks are kept."""
    with pytest.raises(InputError, match=r"corpus\.jsonl:7: empty\ncorpus\.jsonl:9: empty"):
        run(ray_executor, tmp_path, squares(toy_stages.Faulty, fault="problem", at=3))
    assert len(ray_helpers.done_markers(str(tmp_path))) == 5


@POOL_OR_TASKS
def test_a_worker_that_dies_once_is_replaced(
    ray_executor: RayExecutor, tmp_path: Path, expected: dict[str, bytes], gpus: int
) -> None:
    """One os._exit costs one more try of what was running, and changes no byte."""
    log = tmp_path / "log"
    settings = {"once": str(tmp_path / "once"), "log": str(log)}
    run(ray_executor, tmp_path / "ws", squares(toy_stages.Faulty, gpus=gpus, fault="exit", at=6, **settings))
    assert toy_stages.contents(str(tmp_path / "ws")) == expected
    assert toy_stages.tries(log)["0002"] == 2


@POOL_OR_TASKS
def test_a_worker_that_always_dies_fails_the_run(ray_executor: RayExecutor, tmp_path: Path, gpus: int) -> None:
    """A task that kills its worker each time is tried CRASH_LIMIT times more, then the run fails and says so."""
    log = tmp_path / "log"
    step = squares(toy_stages.Faulty, gpus=gpus, fault="exit", at=6, log=str(log), num_tasks=3)
    with pytest.raises(WorkerCrashError, match="step squares"):
        run(ray_executor, tmp_path / "ws", step)
    assert toy_stages.tries(log)["0002"] == CRASH_LIMIT + 1


@POOL_OR_TASKS
def test_a_worker_that_dies_while_it_starts_fails_the_run(ray_executor: RayExecutor, tmp_path: Path, gpus: int) -> None:
    """A process that dies in __init__ is not started for ever; afterwards the cluster is free for the next step."""
    with pytest.raises(WorkerCrashError):
        run(ray_executor, tmp_path / "ws", squares(toy_stages.DiesAtInit, gpus=gpus))
    run(ray_executor, tmp_path / "ws", squares(gpus=gpus))


@POOL_OR_TASKS
def test_a_killed_worker_process_changes_nothing(
    ray_executor: RayExecutor, tmp_path: Path, expected: dict[str, bytes], gpus: int
) -> None:
    """SIGKILL of a worker's process in the middle of a task: the run ends as if nothing had been."""
    log = tmp_path / "log"
    killer = threading.Thread(target=_kill_first_process, args=(log,))
    killer.start()
    run(ray_executor, tmp_path / "ws", squares(gpus=gpus, log=str(log), seconds=0.3))
    killer.join()
    assert toy_stages.contents(str(tmp_path / "ws")) == expected
    assert sum(toy_stages.tries(log).values()) == 7


def _kill_first_process(log: Path) -> None:
    ray_helpers.wait_until(lambda: log.exists() and len(list(log.iterdir())) >= 2, 60, "a second task")
    latest = max(log.iterdir(), key=lambda path: path.name)
    time.sleep(0.05)
    os.kill(int(latest.name.split(".")[1]), signal.SIGKILL)


def test_pools_that_hold_every_cpu_are_refused(ray_executor: RayExecutor, tmp_path: Path) -> None:
    """Two 1-CPU workers with half a GPU each on 2 CPUs are refused before anything starts, with the arithmetic."""
    with pytest.raises(ResourceError) as caught:
        run(ray_executor, tmp_path, squares(actors=2, gpus=0.5))
    assert "2 x 1 CPU = 2 CPUs, 2 x 0.5 GPU = 1 GPUs; the cluster has 2 CPUs" in caught.value.got
    assert caught.value.expected.startswith("at most 1 such workers")
    assert "set its actors to 1" in caught.value.fix
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_plan_may_ask_before_anything_runs(ray_executor: RayExecutor) -> None:
    """How many workers there are at once, whether those asked for fit, and where another program joins."""
    assert [ray_executor.num_workers(Resources(1, gpus)) for gpus in (0, 1)] == [2, 1]
    assert ray_executor.num_workers(Resources(1, 0, actors=5)) == 5
    ray_executor.check("embed", Resources(None, None))
    with pytest.raises(ResourceError, match="8 x 2 CPU = 16 CPUs"):
        ray_executor.check("embed", Resources(2, 0, actors=8))
    assert ":" in ray_executor.cluster


def test_what_is_left_to_the_cluster_is_chosen(ray_executor: RayExecutor) -> None:
    """A GPU each where there are any, and then as many workers as fit beside one free CPU, at most one a task."""
    chosen = ray_executor.resolve(Resources(cpus=1, gpus=None, actors=None), num_tasks=9)
    assert chosen == Resources(cpus=1, gpus=1.0, actors=1)
    assert ray_executor.resolve(Resources(), num_tasks=9) == Resources()
    assert ray_executor.resolve(Resources(cpus=None), num_tasks=9) == Resources(cpus=1)


@pytest.mark.parametrize("actors", [1, 2])
def test_plain_tasks_keep_to_the_number_asked_for(ray_executor: RayExecutor, tmp_path: Path, actors: int) -> None:
    """One worker of two that would fit: never two tasks at once, and one process builds the stage once."""
    log = tmp_path / "log"
    run(ray_executor, tmp_path / "ws", squares(toy_stages.Overlapping, actors=actors, log=str(log), seconds=0.2))
    processes = {path.name.split(".")[1] for path in log.glob("0*")}
    assert len(processes) == actors
    assert [path.name for path in log.glob("at-once-*")] == ["at-once-1"]


def test_a_gpu_worker_gets_its_gpu(ray_executor: RayExecutor, tmp_path: Path, expected: dict[str, bytes]) -> None:
    """A step that asks for a GPU runs where there is one, and two workers for one GPU are refused."""
    step = squares()
    on_gpu = Step(step.name, step.stage, step.settings, step.identity, step.tasks, Resources(gpus=1, actors=1))
    run(ray_executor, tmp_path / "ws", on_gpu)
    assert toy_stages.contents(str(tmp_path / "ws")) == expected


def test_a_connection_that_was_there_before_stays(ray_executor: RayExecutor) -> None:
    """`close` disconnects only what this executor connected."""
    import ray

    ray_executor.close()
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("workers", "cpus_of_nodes", "cpus"),
    [
        pytest.param(None, [2], 1, id="two share a small node"),
        pytest.param(None, [1], 1, id="a node of one CPU"),
        pytest.param(None, [8, 64], 4, id="the smallest node decides"),
        pytest.param(None, [20], 6, id="equal shares of at most eight"),
        pytest.param(4, [16], 4, id="as many as are asked for"),
        pytest.param(3, [4, 4], 2, id="two on one of the nodes"),
        pytest.param(1, [64], 8, id="no more than one model can use"),
        pytest.param(5, [2], 1, id="more than fit, which is refused later"),
        pytest.param(None, [0, 4], 2, id="a head without CPUs"),
    ],
)
def test_a_model_without_a_gpu_shares_a_node(workers: int | None, cpus_of_nodes: list[int], cpus: int) -> None:
    """CPUs of each worker, written out."""
    assert model_cpus(workers, [{"CPU": float(number)} for number in cpus_of_nodes]) == cpus


@pytest.mark.parametrize(
    ("resources", "nodes", "fit"),
    [
        pytest.param(Resources(gpus=1), [{"CPU": 2.0, "GPU": 2.0}], 1, id="one CPU stays free of a pool"),
        pytest.param(Resources(gpus=1), [{"CPU": 1.0, "GPU": 1.0}], 1, id="a cluster of one CPU has none to spare"),
        pytest.param(Resources(), [{"CPU": 2.0}], 2, id="plain tasks leave none free"),
        pytest.param(Resources(cpus=3), [{"CPU": 4.0}, {"CPU": 4.0}], 2, id="whole on one node"),
        pytest.param(Resources(4, 1), [{"CPU": 4.0, "GPU": 1.0}] * 2, 1, id="whole on one node, one CPU free"),
        pytest.param(Resources(cpus=4), [{"CPU": 2.0}, {"CPU": 2.0}], 0, id="too wide for every node"),
        pytest.param(Resources(gpus=1), [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0}], 2, id="as many as GPUs"),
        pytest.param(Resources(gpus=0.5), [{"CPU": 16.0, "GPU": 2.0}], 4, id="two to a GPU"),
        pytest.param(Resources(gpus=0.4), [{"CPU": 16.0, "GPU": 2.0}], 4, id="a share lies on one GPU"),
        pytest.param(Resources(gpus=2), [{"CPU": 16.0, "GPU": 1.0}] * 4, 0, id="two GPUs of one node"),
        pytest.param(Resources(gpus=1), [{"CPU": 8.0}], 0, id="no GPU"),
    ],
)
def test_how_many_workers_fit(resources: Resources, nodes: list[dict[str, float]], fit: int) -> None:
    """Workers lie whole on a node, and pools leave one CPU of the cluster free."""
    assert num_fitting(resources, nodes) == fit
    refused = Resources(resources.cpus, resources.gpus, fit + 1)
    with pytest.raises(ResourceError, match="step embed: its workers do not fit"):
        check_fit("embed", refused, nodes)
