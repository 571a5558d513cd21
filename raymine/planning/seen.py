"""What the steps of samples did, gathered and fitted: what a task and a unit of each take, and what its start takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from raymine.artifacts import Resources, StepResult
from raymine.pipeline.base import Tables
from raymine.planning.fit import TASKS, Point, Rate, fit, total

SEARCHES = (
    "search_exact",
    "search_part",
    "search_bm25",
    "search_shards",
    "search_sample",
    "build_part",
    "search_lists",
    "build_lists",
)


class Seen:
    """What each step did, wherever it was seen, in the order of the round.

    Args:
        num_workers: that the executor has of some resources.
    """

    def __init__(self, num_workers: Callable[[Resources], int]) -> None:
        self.num_workers = num_workers
        self.points: dict[str, list[Point]] = {}
        self.first: dict[str, Point] = {}
        self.how: dict[str, dict[str, Any]] = {}

    def add(self, result: StepResult, units: Mapping[str, float], tables: Tables, is_first: bool = False) -> None:
        """Takes in what a step did.

        Args:
            result: of the step.
            units: of the sample.
            tables: of the sample.
            is_first: its programs had just begun: only its start is told by it.
        """
        name, rows = result.step.name, [done.ledger for done in result.done]
        sums = {name: float(sum(row[name] for row in rows)) for name in ("wall_s", "tokens", "bytes_out", "rows_out")}
        found = Point({**units, TASKS: float(len(rows))}, *sums.values())
        self.points.setdefault(name, [])
        if is_first:
            self.first[name] = found
        else:
            self.points[name].append(found)
        devices = [row["device"] for row in rows if row["device"] != "cpu"]
        how = {
            "spread": _spread(name, len(rows), tables),
            "cpus": float(rows[0]["cpus"]),
            "gpus": float(rows[0]["gpus"]),
            "device": devices[0] if devices else "cpu",
            "unit": result.step.unit,
        }
        self.how.setdefault(name, how)

    def rates(self) -> dict[str, Rate]:
        """The fitted rates of every step."""
        made = {name: replace(fit(name, points), **self.how[name]) for name, points in self.points.items() if points}
        return {name: replace(rate, start_s=self._start_s(name, rate)) for name, rate in made.items()}

    def _start_s(self, name: str, rate: Rate) -> float:
        first = self.first.get(name)
        if first is None:
            return 0.0
        workers = min(self.num_workers(Resources(int(rate.cpus), rate.gpus)), first.units[TASKS])
        return max(0.0, first.seconds - total(rate.seconds, first.units)) / workers


def _spread(name: str, num_tasks: int, tables: Tables) -> str:
    """What a task of a step is, told by their number: a sample has 4 document shards and 2 query blocks."""
    if name in SEARCHES:
        return "parts"
    if num_tasks == 1:
        return "one"
    return "blocks" if num_tasks == len(tables.queries) else "shards"
