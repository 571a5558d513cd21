"""What the benchmarks of single steps share: shards as a round makes them, and a step run by either executor.

A step runs in a child (measure.serve), again and again, each time with a new worker, for it remembers (the tokens of
words, say): locally in its process, or on Ray by one process with all cores. That it starts and loads is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import measure
from measure import Timed

from raymine.artifacts import Resources, Step, Task, Work
from raymine.config import CorpusConfig
from raymine.corpus.read import ReadDocuments, splits
from raymine.executor.local import LocalExecutor
from raymine.pipeline.base import placed
from raymine.storage import HashCache, Shard

SIDES = ("local", "ray", "peer")
NAMES = {"local": "local", "ray": "Ray, after start-up"}


def corpus_shards(texts: Sequence[str], folder: Path, shard_documents: int) -> list[Shard]:
    """Corpus shards of texts, made by the reading step from a JSONL file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "corpus.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": f"d{number}", "text": text}) + "\n" for number, text in enumerate(texts))
    config = CorpusConfig(path=str(path), shard_documents=shard_documents)
    shards: list[Shard] = []
    for number, split in enumerate(splits(config, HashCache())):
        record = ReadDocuments(config)(Task("read", split, output=str(folder / f"corpus-{number}")))
        shards += record.outputs
    return placed(shards)


def serve(side: str, step: Step, first: Task, tasks: Sequence[Task], cpus: int, save: Callable[[Path], None]) -> None:
    """In a child: runs the tasks of a step each time it is asked.

    Args:
        side: local or ray.
        step: without tasks.
        first: a small task. The seconds count from its end, when the cluster has started and the model is loaded.
        tasks: with outputs.
        cpus: of the worker.
        save: saves what the tasks' outputs hold.
    """
    folder = Path(first.output).parent
    step = replace(step, resources=Resources(cpus=cpus, gpus=0, actors=1))
    work = _locally(step, folder, first, tasks) if side == "local" else _on_ray(step, folder, first, tasks, cpus)
    measure.serve(work, lambda _, path: save(path))


def _locally(step: Step, folder: Path, first: Task, tasks: Sequence[Task]) -> Callable[[], Any]:
    def work() -> Timed[None]:
        worker = Work(step, str(folder), {})
        check(worker(first))
        begin = time.perf_counter()
        for marker in LocalExecutor().run(step, tasks, lambda: worker):
            check(marker)
        return Timed(None, time.perf_counter() - begin)

    return work


def _on_ray(step: Step, folder: Path, first: Task, tasks: Sequence[Task], cpus: int) -> Callable[[], Any]:
    import ray

    from raymine.executor.ray import OBJECT_STORE_BYTES, RayExecutor

    options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "log_to_driver": False}
    ray.init("local", num_cpus=cpus, **options)
    executor, make_work = RayExecutor(), partial(Work, step, str(folder), {})

    def work() -> Timed[None]:
        markers = executor.run(step, [first, *tasks], make_work)
        check(next(markers))
        begin = time.perf_counter()
        for marker in markers:
            check(marker)
        return Timed(None, time.perf_counter() - begin)

    return work


def check(marker: dict[str, Any]) -> None:
    """Ends if a task found a problem."""
    if marker.get("problems"):
        sys.exit("\n".join(marker["problems"]))


@dataclass(frozen=True)
class Compared:
    """What comes of a comparison.

    Args:
        seconds: of each repeat, by side.
        memory: of each side's process tree, by side.
    """

    seconds: dict[str, list[float]]
    memory: dict[str, dict[str, float]]

    def row(self, what: str, side: str, peer_name: str, goal: str, peer: str = "peer") -> dict[str, Any]:
        """A row of the README's table."""
        shown = [measure.figures(self.seconds[name], self.memory[name]) for name in (side, peer)]
        return measure.row(what, *shown, peer_name, measure.ratio(self.seconds, side, peer), goal)


def compare(
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    same: Callable[[dict[str, Path]], None],
    threads: int,
    repeats: int,
) -> Compared:
    """Runs sides in turns, after each has worked once and their answers are the same.

    Args:
        commands: of the children, by side.
        folder: for their answers.
        same: ends the benchmark if the answers at these paths are not the same.
        threads: of each child.
        repeats: rounds of turns.
    """
    with measure.sides(commands, threads) as started:
        for side in started.values():
            side.work()
        same({name: side.save(folder / f"answer-{name}.npy") for name, side in started.items()})
        seconds = measure.turns({name: side.work for name, side in started.items()}, repeats)
        return Compared(seconds, {name: side.close() for name, side in started.items()})
