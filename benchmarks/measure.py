"""What the benchmarks share: time and memory of processes, pairs of them in turns, and where it was all measured.

Two sides are compared like this: each is a process of its own that gets ready and then works whenever it is asked
(`serve` in the child, `Side` in the parent), so that libraries, caches and memory of one do not touch the other. They
are asked in turns, raymine first in one pair and the peer first in the next, and the result is the median of the
pairs' ratios: what a busy machine does to one side it does to the other. Where start-up counts, a command is run
whole (`run`, `ask`).

Memory is the sum of PSS over the process tree (a page shared by n processes counts 1/n in each), sampled.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "ray",
    "pyarrow",
    "torch",
    "faiss-cpu",
    "sentence-transformers",
    "transformers",
    "bm25s",
    "rank-bm25",
    "numba",
    "numpy",
)
REPEATS = 5
SAMPLES_PER_S = 5
SAMPLING_SHARE = 0.02  # of one core: a tree of a dozen large processes takes a tenth of a second to add up
SAYS = "@measure "  # begins a line of a child that is meant for the parent; libraries print others
Answer = TypeVar("Answer")


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in MB; 0 for one that has ended."""
    return _memory_mb(pid, "status", "VmRSS:")


def tree_mb(pid: int) -> float:
    """Memory of a process and all its descendants, in MB: the sum of PSS."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            children.setdefault(_parent(folder), []).append(int(folder.name))
    waiting, total = [pid], 0.0
    while waiting:
        each = waiting.pop()
        total += _memory_mb(each, "smaps_rollup", "Pss:")
        waiting += children.get(each, [])
    return total


def _memory_mb(pid: int, file: str, name: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass  # it has ended
    return 0.0


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Peaks:
    """The highest memory of a process so far, sampled in a thread: `own_mb` and `tree_mb`."""

    def __init__(self, pid: int) -> None:
        self.pid, self.own_mb, self.tree_mb = pid, 0.0, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        ends, took = False, 0.0
        while not ends:
            ends = self._stop.wait(max(1 / SAMPLES_PER_S, took / SAMPLING_SHARE))
            begin = time.perf_counter()
            self.own_mb = max(self.own_mb, resident_mb(self.pid))
            self.tree_mb = max(self.tree_mb, tree_mb(self.pid))
            took = time.perf_counter() - begin

    def stop(self) -> dict[str, float]:
        """Takes a last sample: `peak_mb` of the process alone (resident), `tree_mb` of its whole tree (PSS)."""
        self._stop.set()
        self._thread.join()
        return {"peak_mb": round(self.own_mb, 1), "tree_mb": round(self.tree_mb, 1)}


def run(command: Sequence[str], stdout: Any = subprocess.DEVNULL, threads: int | None = None) -> dict[str, Any]:
    """Runs a command to its end.

    Returns:
        `peak_mb` and `tree_mb` (see Peaks), `wall_s`; and `stdout`, its text, if it was asked for with PIPE.
    """
    begin = time.perf_counter()
    with subprocess.Popen(list(command), stdout=stdout, env=environment(threads), text=True) as process:
        peaks = Peaks(process.pid)
        said, _ = process.communicate()
        wall_s = time.perf_counter() - begin
        memory = peaks.stop()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return {**memory, "wall_s": round(wall_s, 2), **({"stdout": said} if said is not None else {})}


def ask(command: Sequence[str], threads: int | None = None) -> dict[str, Any]:
    """Runs a command to its end; besides what `run` says, what the command said with `say`."""
    done = run(command, subprocess.PIPE, threads)
    told = [json.loads(line.removeprefix(SAYS)) for line in done.pop("stdout").splitlines() if line.startswith(SAYS)]
    return {**done, **{key: value for each in told for key, value in each.items()}}


def environment(threads: int | None = None) -> dict[str, str]:
    """This environment for a child: no network, and so many threads in every library."""
    names = ("OMP", "MKL", "OPENBLAS", "RAYON", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names} if threads else {}
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", **limits}


def say(**facts: Any) -> None:
    """In a child: tells the parent."""
    print(SAYS + json.dumps(facts), flush=True)


@dataclass(frozen=True)
class Timed(Generic[Answer]):
    """An answer whose seconds the work itself has counted (without the start of a pool, say)."""

    answer: Answer
    seconds: float


def serve(work: Callable[[], Answer | Timed[Answer]], save: Callable[[Answer, Path], None]) -> None:
    """In a child: does the work each time the parent asks, and saves the last answer where the parent says.

    Args:
        work: what is timed, whole unless it says `Timed`.
        save: the answer and a path; not timed.
    """
    say(ready=True)
    answer: Answer | None = None
    for line in sys.stdin:
        if line.startswith("save "):
            save(answer, Path(line.removeprefix("save ").strip()))  # type: ignore[arg-type]
            say(saved=True)
        else:
            answer = None  # not held beside the next one
            begin = time.perf_counter()
            made = work()
            seconds = time.perf_counter() - begin
            answer, seconds = (made.answer, made.seconds) if isinstance(made, Timed) else (made, seconds)
            say(seconds=seconds)


class Side:
    """In the parent: a child that `serve`s.

    Args:
        command: of the child.
        threads: of every library in it.
    """

    def __init__(self, command: Sequence[str], threads: int | None = None) -> None:
        self.command = list(command)
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(threads), text=True
        )
        self.peaks = Peaks(self.process.pid)
        self._heard()

    def work(self) -> float:
        """Seconds that the work took, once."""
        return float(self._asked("work")["seconds"])

    def save(self, path: Path) -> Path:
        """Has the last answer saved."""
        self._asked(f"save {path}")
        return path

    def close(self) -> dict[str, float]:
        """Ends the child; its memory (see Peaks)."""
        memory = self.peaks.stop()
        _pipe(self.process.stdin).close()
        if self.process.wait():
            sys.exit(f"{' '.join(self.command)} ended with {self.process.returncode}")
        return memory

    def _asked(self, line: str) -> dict[str, Any]:
        pipe = _pipe(self.process.stdin)
        pipe.write(line + "\n")
        pipe.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        for line in _pipe(self.process.stdout):
            if line.startswith(SAYS):
                said: dict[str, Any] = json.loads(line.removeprefix(SAYS))
                return said
        sys.exit(f"{' '.join(self.command)} ended with {self.process.wait()}")


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextmanager
def sides(commands: Mapping[str, Sequence[str]], threads: int | None = None) -> Iterator[dict[str, Side]]:
    """Starts a child per command, one after the other, and ends them if something goes wrong."""
    started: dict[str, Side] = {}
    try:
        for name, command in commands.items():
            started[name] = Side(command, threads)
        yield started
    finally:
        for side in started.values():
            if side.process.poll() is None:
                side.process.terminate()


def turns(runs: Mapping[str, Callable[[], float]], repeats: int = REPEATS) -> dict[str, list[float]]:
    """Runs every side `repeats` times, in turns: forwards in one round, backwards in the next.

    Args:
        runs: by name, what runs a side once and says the seconds that it took.
        repeats: rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(round(runs[name](), 4))
            print(f"{name} {seconds[name][-1]:.2f} s", end="  ", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], raymine: str = "raymine", peer: str = "peer") -> float:
    """How many times as fast raymine is: the median over the pairs of peer / raymine."""
    return statistics.median(theirs / ours for ours, theirs in zip(seconds[raymine], seconds[peer], strict=True))


def row(what: str, raymine: str, peer: str, peer_name: str, ratio: float | None, goal: str) -> dict[str, Any]:
    """One row of the README's table; every result has a list of them as `rows`.

    Args:
        what: was done, on how much of what.
        raymine: raymine's figures with units, e.g. `12.3 s, 0.8 GB`.
        peer: the peer's.
        peer_name: whose.
        ratio: how many times as fast raymine is; None where that makes no sense.
        goal: e.g. `>= 1.0x`.
    """
    rounded = None if ratio is None else float(f"{ratio:.3g}")
    return {"what": what, "raymine": raymine, "peer": peer, "peer_name": peer_name, "ratio": rounded, "goal": goal}


def figures(seconds: Sequence[float], memory: Mapping[str, float] | None = None) -> str:
    """Median seconds and peak memory of the tree, as a row shows them."""
    median = statistics.median(seconds)
    shown = f"{median:.0f} s" if median >= 100 else f"{median:.3g} s"
    return f"{shown}, {memory['tree_mb'] / 1024:.2f} GB" if memory else shown


def machine() -> dict[str, Any]:
    """The machine, the versions and the commit of a measurement."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "machine": f"{os.cpu_count()} x {model[0] if model else platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": head.stdout.strip(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def keep(name: str, result: dict[str, Any]) -> None:
    """Prints the rows of a result, if any, and writes results/<name>.json."""
    for each in result.get("rows", []):
        times = "" if each["ratio"] is None else f": {each['ratio']:g}x"
        print(f"{each['what']}: {each['raymine']}; {each['peer_name']}: {each['peer']}{times} (goal {each['goal']})")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**result, **machine()}, indent=1) + "\n")
