"""Steps: what is done is found, what is not is done, and a task's fault costs no other task its work."""

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from raymine import resident, storage
from raymine.artifacts import Artifacts, Record, Resources, SharedClock, Step, Task, Work
from raymine.errors import InputError
from raymine.executor.local import LocalExecutor

CALLS: list[str] = []


class Square:
    """Writes the square of its task's number; refuses negative numbers, breaks on 13."""

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, power: int = 2) -> None:
        self.power = power

    def __call__(self, task: Task) -> Record:
        CALLS.append(task.key)
        number = task.inputs["number"]
        if number < 0:
            return Record(problems=[f"file:{-number}: negative"])
        if number == 13:
            raise RuntimeError("broken")
        shard = storage.write_table(f"{task.output}.parquet", pa.table({"n": [number**self.power]}))
        return Record(outputs=[shard], rows_out=1, info={"number": number})


class Twice(Square):
    """Two calls in flight."""

    calls_in_flight = 2


def _step(numbers: Sequence[int], stage: Callable[..., Any] = Square, power: int = 2, **more: Any) -> Step:
    tasks = [Task(f"n{number}", {"number": number}) for number in numbers]
    return Step("square", stage, {"power": power}, {"power": power}, tasks, **more)


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[Artifacts]:
    CALLS.clear()
    yield Artifacts(str(tmp_path), LocalExecutor(), {"run_id": "run", "round": 1}, journal=str(tmp_path / "journal"))


def _values(shards: Sequence[storage.Shard]) -> list[int]:
    return [storage.read_table(shard.path)["n"][0].as_py() for shard in shards]


class Meeting(Square):
    """Waits until `meet` calls run, each in a stage of its own, and says how many threads each has."""

    barrier: threading.Barrier

    def __init__(self, power: int) -> None:
        super().__init__(power)
        self.is_busy = False

    def __call__(self, task: Task) -> Record:
        assert not self.is_busy
        self.is_busy = True
        Meeting.barrier.wait(timeout=30)
        record = super().__call__(task)
        self.is_busy = False
        record.info = {"threads": int(os.environ["OMP_NUM_THREADS"])}
        return record


@pytest.mark.parametrize(("num_tasks", "at_once", "threads"), [(6, 3, 1), (2, 2, 1), (1, 1, 3)])
def test_tasks_of_one_thread_run_on_all_cpus(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, num_tasks: int, at_once: int, threads: int
) -> None:
    """As many at once as the process has CPUs; each is paid for with those that it had."""
    assert isinstance(artifacts.executor, LocalExecutor)
    artifacts.executor.cpus = 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(Meeting, "barrier", threading.Barrier(at_once), raising=False)
    light = Resources(1, 0, in_one_thread=True)
    result = artifacts.run(_step(range(num_tasks), Meeting, resources=light))
    assert _values(result.shards) == [number**2 for number in range(num_tasks)]
    assert [(each.info["threads"], each.ledger["cpus"]) for each in result.done] == [(threads, threads)] * num_tasks
    assert artifacts.executor.num_workers(Resources(threads, 0)) == 3 // threads


@pytest.mark.parametrize("number", [2, 13], ids=["done", "broken"])
def test_a_step_of_one_thread_leaves_the_process_its_cpus(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """For what comes next in it: another round, or training."""
    for library in ("OMP", "MKL", "OPENBLAS", "RAYON", "NUMBA"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "2")
    monkeypatch.setattr("raymine.executor.base.usable_cpus", lambda: 2)
    artifacts.executor = LocalExecutor()
    torch.set_num_threads(2)
    with suppress(RuntimeError):
        artifacts.run(_step([1, number], Square, resources=Resources(1, 0, in_one_thread=True)))
    assert (LocalExecutor().cpus, torch.get_num_threads()) == (2, 2)


def test_a_large_machine_runs_no_more_than_eight_at_once() -> None:
    executor = LocalExecutor()
    executor.cpus = 64
    assert executor.resolve(Resources(1, 0, in_one_thread=True), 100) == Resources(8, 0, 8, in_one_thread=True)


def test_tasks_that_share_their_work_out_run_one_by_one(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(artifacts.executor, LocalExecutor)
    artifacts.executor.cpus = 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(Meeting, "barrier", threading.Barrier(1), raising=False)
    result = artifacts.run(_step(range(4), Meeting, resources=Resources(1, 0)))
    assert [(each.info["threads"], each.ledger["cpus"]) for each in result.done] == [(3, 3)] * 4


@pytest.mark.parametrize("stage", [Square, Twice], ids=["one_call", "two_calls_in_flight"])
def test_results_come_in_task_order(artifacts: Artifacts, stage: Callable[..., Any]) -> None:
    """Whatever order the tasks end in."""
    result = artifacts.run(_step([3, 1, 2, 5, 4], stage))
    assert _values(result.shards) == [9, 1, 4, 25, 16]
    assert [done.info["number"] for done in result.done] == [3, 1, 2, 5, 4]
    assert result.num_reused == 0


def test_a_second_run_does_nothing(artifacts: Artifacts) -> None:
    """And gives the same shards, with their checksums."""
    first = artifacts.run(_step([1, 2]))
    CALLS.clear()
    second = artifacts.run(_step([1, 2]))
    assert CALLS == [] and second.num_reused == 2
    assert second.shards == first.shards
    assert [shard.sha256 for shard in second.shards] == [storage.sha256_of(shard.path) for shard in first.shards]


def test_appended_tasks_cost_only_themselves(artifacts: Artifacts) -> None:
    """The folder is named by what tasks share, so a longer corpus finds its old shards."""
    artifacts.run(_step([1, 2]))
    CALLS.clear()
    assert _values(artifacts.run(_step([1, 2, 3])).shards) == [1, 4, 9]
    assert CALLS == ["n3"]


def test_another_identity_or_version_is_another_artifact(artifacts: Artifacts) -> None:
    """Nothing is found under a changed config or code version."""

    class Newer(Square):
        VERSION = 2

    assert _values(artifacts.run(_step([2])).shards) == [4]
    assert _values(artifacts.run(_step([2], power=3)).shards) == [8]
    artifacts.run(_step([2], Newer))
    assert CALLS == ["n2"] * 3


def test_a_fault_of_the_input_stops_the_step_but_not_its_other_tasks(artifacts: Artifacts) -> None:
    """All faults come in one error; what was right is done and stays done."""
    with pytest.raises(InputError, match=r"file:7: negative\nfile:8: negative"):
        artifacts.run(_step([1, -8, 2, -7, 3]))
    CALLS.clear()
    assert _values(artifacts.run(_step([1, 2, 3])).shards) == [1, 4, 9]
    assert CALLS == []


def test_after_a_crash_only_what_was_in_flight_is_redone(artifacts: Artifacts) -> None:
    """The tasks before the crash left their markers."""
    with pytest.raises(RuntimeError, match="broken"):
        artifacts.run(_step([1, 2, 13, 4]))
    CALLS.clear()
    assert _values(artifacts.run(_step([1, 2, 4])).shards) == [1, 4, 16]
    assert CALLS == ["n4"]


def test_an_output_that_is_gone_is_made_again(artifacts: Artifacts) -> None:
    """A marker alone does not count."""
    first = artifacts.run(_step([1, 2], folder="elsewhere"))
    Path(first.shards[1].path).unlink()
    CALLS.clear()
    assert artifacts.run(_step([1, 2], folder="elsewhere")).shards == first.shards
    assert CALLS == ["n2"]


def test_shards_of_equal_content_are_done_once(artifacts: Artifacts) -> None:
    """Two tasks of one key share one output."""
    step = Step("square", Square, {}, {}, [Task("same", {"number": 3}), Task("same", {"number": 3})])
    result = artifacts.run(step)
    assert _values(result.shards) == [9, 9] and CALLS == ["same"]


def test_a_marker_carries_the_ledger_row_and_relative_paths(artifacts: Artifacts, tmp_path: Path) -> None:
    """So a workspace can be moved, and what was done before a crash is still accounted for."""
    step = _step([2], resources=Resources(cpus=1))
    (done,) = artifacts.run(step).done
    marker = storage.read_json(str(next(tmp_path.glob("artifacts/*/done/n2.json"))))
    assert marker["outputs"][0]["path"] == f"artifacts/square-{step.fingerprint}/n2.parquet"
    assert done.ledger["run_id"] == "run" and done.ledger["step"] == "square" and done.ledger["rows_out"] == 1
    assert done.ledger["bytes_out"] == done.outputs[0].num_bytes > 0
    assert done.ledger["device_s"] == 0 < done.ledger["wall_s"]


class Fills:
    """A stage that holds so many bytes for a moment."""

    calls_in_flight = 1

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def __call__(self, task: Task) -> Record:
        return Record(rows_in=len(b"x" * self.num_bytes))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there the peak begins anew with each step")
def test_a_ledger_row_has_the_memory_of_its_step(artifacts: Artifacts) -> None:
    """What a step before it held does not count."""
    sizes = [300 << 20, 1 << 20]
    steps = [Step(f"fills-{size}", Fills, {"num_bytes": size}, size, [Task("all", {})]) for size in sizes]
    large, small = (artifacts.run(step).done[0].ledger["peak_bytes"] for step in steps)
    assert large > sizes[0] and 10 << 20 < small < large - (250 << 20)


def test_a_system_that_keeps_no_peak_is_asked_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kernels' status has no such line, some systems have no status."""
    (tmp_path / "status").write_text("Name: python\nVmRSS: 100 kB\n")
    for path in (tmp_path / "status", tmp_path / "none"):
        monkeypatch.setattr(resident, "STATUS", path)
        assert resident.peak_bytes() > 20 << 20
    monkeypatch.setattr(resident, "CLEAR", tmp_path)
    resident.begin_peak()


NUM_HEAPS = """
import ctypes, sys, threading
from raymine.executor.local import LocalExecutor
LocalExecutor()
libc, begun, done = ctypes.CDLL(None), threading.Barrier(9), threading.Barrier(9)
def allocate():
    begun.wait()
    libc.malloc(5000)
    done.wait()
threads = [threading.Thread(target=allocate) for _ in range(9)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="needs glibc")
def test_the_local_executor_has_a_heap_for_each_cpu_at_most(tmp_path: Path) -> None:
    """Where nine threads ask for memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", NUM_HEAPS, str(tmp_path / "heaps.xml")], env=environment, check=True)
    assert (tmp_path / "heaps.xml").read_text().count("<heap ") in (1, 2)


def test_time_in_a_worker_is_shared_out_among_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls in flight do not count a second twice: the sums are the time that the worker was busy."""
    times = iter([0.0, 1.0, 4.0, 10.0, 20.0, 23.0])
    monkeypatch.setattr("raymine.artifacts.time.perf_counter", lambda: next(times))
    clock = SharedClock()
    clock.start("a")  # at 0
    clock.start("b")  # at 1
    assert clock.stop("a") == 1 + 1.5  # at 4
    assert clock.stop("b") == 1.5 + 6  # at 10; then idle until 20
    clock.start("c")
    assert clock.stop("c") == 3


def test_getting_ready_falls_to_a_workers_first_call() -> None:
    """Loading a model is paid for too."""
    clock = SharedClock(setup_s=100.0)
    clock.start("a")
    clock.start("b")
    assert 100 <= clock.stop("a") < 101
    assert clock.stop("b") < 1


def test_the_stage_is_built_only_where_there_is_work(artifacts: Artifacts) -> None:
    """A finished step loads no model."""

    class Counting(LocalExecutor):
        built = 0

        def run(self, step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Iterator[dict[str, Any]]:
            Counting.built += 1
            return super().run(step, tasks, make_work)

    artifacts.executor = Counting()
    artifacts.run(_step([1]))
    artifacts.run(_step([1]))
    assert Counting.built == 1


class OnTheWay(Square):
    """Says that 1000 of its seconds are in another step's row."""

    def __call__(self, task: Task) -> Record:
        record = super().__call__(task)
        record.elsewhere_s = 1000.0
        return record


def test_seconds_that_another_step_accounts_for_are_not_counted_twice(artifacts: Artifacts) -> None:
    """A task that does another step's task on its way leaves those seconds to it, and nothing of that in its row."""
    (done,) = artifacts.run(_step([2], OnTheWay)).done
    assert done.ledger["wall_s"] == 0.0 and "elsewhere_s" not in done.ledger
