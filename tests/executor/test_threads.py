"""Every library gets the threads that a worker has: read back from each, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import thread_counts
from toy_stages import squares

from raymine.artifacts import Artifacts
from raymine.executor import base
from raymine.executor.base import MIN_IO_THREADS, local_threads, usable_cpus
from raymine.executor.ray import RayExecutor

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process is bound to CPUs on Linux only"),
]
LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


def shown(when: str, count: int, limit: int | None = None) -> Any:
    """What a new process finds that the environment gives `limit` threads, or all."""
    env = {name: value for name, value in os.environ.items() if name not in (*LIMITS, "TOKENIZERS_PARALLELISM")}
    env |= {name: str(limit) for name in LIMITS if limit}
    script = Path(thread_counts.__file__)
    env["PYTHONPATH"] = os.pathsep.join([str(script.parents[2]), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), when, str(count)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_all(counts: dict[str, int], count: int) -> None:
    """Every library has `count` threads, several BLAS and OpenMP libraries among them."""
    assert sum(name.startswith(("lib", "mkl", "vcomp")) for name in counts) >= 3
    assert counts.pop("arrow-io") == max(MIN_IO_THREADS, count)
    assert set(counts.values()) == {count}, counts


def test_libraries_that_are_loaded_already_are_told() -> None:
    """OpenBLAS reads its variable once, and numba compiles no more if its variable changes while its threads run."""
    assert_all(shown("after", 1), 1)


@pytest.mark.parametrize(("count", "limit"), [(1, None), (min(2, usable_cpus()), 1)], ids=["fewer", "more"])
def test_libraries_that_are_loaded_later_are_told(count: int, limit: int | None) -> None:
    """They need not take all cores, nor keep the single thread that Ray may have set."""
    assert_all(shown("before", count, limit), count)


def test_the_local_executor_uses_the_cpus_it_may_use() -> None:
    """Bound to one CPU of the machine, it has one thread per library in both of its calls, not one per core."""
    for info in shown("local", 1):
        assert info["cpus"] == 1
        assert_all(info["counts"], 1)


def test_a_worker_on_ray_has_as_many_threads_as_cpus(ray_executor: RayExecutor, tmp_path: Path) -> None:
    """In both threads that Ray calls it from."""
    artifacts = Artifacts(str(tmp_path), ray_executor, {"run_id": "run", "round": 1})
    for done in artifacts.run(squares(thread_counts.Counts, num_tasks=2, actors=1, gpus=1)).done:
        assert_all(done.info["counts"], 1)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "300000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
    ids=["none", "no-limit", "quota", "part-of-one", "more-than-bound", "version-1", "version-1-no-limit"],
)
def test_a_containers_quota_counts(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container sees all cores of its machine, and may use those of its quota."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(base, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus() == expected


@pytest.mark.parametrize(("asked", "expected"), [("", 8), ("2", 2), ("2,1", 2), ("64", 8), ("0", 8), ("all", 8)])
def test_the_user_may_ask_for_fewer_threads(asked: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS is what the field uses for that."""
    monkeypatch.setattr(base, "CGROUP", Path("/nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert local_threads() == expected
