"""How many threads a worker has: every library that keeps a pool of its own is told the same number.

A library that is told nothing takes every core of the machine, so four workers of a 16-core node would run 64 threads
of each. On Ray a worker has as many threads as CPUs, and pools take no more CPUs than there are: pools x threads never
exceed the cores. The local executor has one worker with all CPUs that this process may use, or as many as there are,
of one each, where tasks compute in one thread. Two calls in flight are
two threads of one worker, which share them: the stages let one call at a time into the model, so the other one reads,
tokenises or writes, and half of the threads for each would leave half of the cores idle whenever one waits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

CGROUP = Path("/sys/fs/cgroup")
MIN_IO_THREADS = 2  # of Arrow, which wait and do not compute; with a single one its nested reads wait for each other


def usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, but no more than its container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, _cgroup_quota())))


def local_threads() -> int:
    """Threads of a worker that has this process to itself: its CPUs, or fewer where OMP_NUM_THREADS says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(usable_cpus(), int(asked)) if asked.isdecimal() and int(asked) else usable_cpus()


def _cgroup_quota() -> float:
    """CPU time per time that a container may take (version 2 or 1 of control groups)."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((CGROUP / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            return float(quota) / float(period)
    return float("inf")


def set_threads(count: int) -> None:
    """Gives every library `count` threads: BLAS and OpenMP (numpy, faiss), torch, numba, Arrow, tokenizers.

    Those that are not loaded yet read the environment when they are. For those that are, OpenMP, torch and numba count
    per calling thread: every thread that computes calls this. Tokenizers' pool cannot be changed once it was used.
    """
    for library in ("OMP", "MKL", "OPENBLAS", "RAYON"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)
    threadpool_limits(count)
    _set_numba(count)
    loaded: dict[str, Any] = sys.modules
    for library, setter, value in (
        ("torch", "set_num_threads", count),
        ("faiss", "omp_set_num_threads", count),
        ("pyarrow", "set_cpu_count", count),
        ("pyarrow", "set_io_thread_count", max(MIN_IO_THREADS, count)),
    ):
        if hasattr(loaded.get(library), setter):  # another thread may be in the middle of importing it
            getattr(loaded[library], setter)(value)


def _set_numba(count: int) -> None:
    """numba reads its variable when it compiles, and fails if that has changed since it started its threads."""
    name = "NUMBA_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(count)
    numba: Any = sys.modules.get("numba")
    if numba is None or not hasattr(numba, "set_num_threads"):  # not loaded, or only half
        return
    try:
        numba.config.reload_config()
    except RuntimeError:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
