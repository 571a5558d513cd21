"""Cost: one row per task, priced and summed; and what was spared, because an earlier round had done it.

A task's cost is the time it held its worker's devices: wall seconds times CPUs at the CPU price, plus wall seconds
times GPUs at the GPU price. A machine rented by the hour also costs while it waits; that is not in these sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymine import schemas

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Prices:
    """US dollars per hour of one GPU and one CPU; None: not priced."""

    gpu_hour_usd: float | None = None
    cpu_hour_usd: float | None = None

    def usd(self, row: dict[str, Any]) -> float | None:
        """Price of one ledger row; None if nothing is priced or a device that it used is not."""
        parts = [(row["cpus"], self.cpu_hour_usd), (row["gpus"], self.gpu_hour_usd)]
        used = [(count, price) for count, price in parts if count]
        if any(price is None for _, price in used):
            return None
        hours = float(row["wall_s"]) / SECONDS_PER_HOUR
        return hours * float(sum(count * (price or 0.0) for count, price in used))


def ledger_table(rows: Iterable[dict[str, Any]], number: int, prices: Prices) -> pa.Table:
    """The ledger of a round from its tasks' figures, sorted by start.

    Args:
        rows: of all tasks whose outputs the round has; those that were done for another round are reused.
        number: of the round.
        prices: of devices.
    """
    counted = [_counted(row, number) for row in rows]
    priced = [{**row, "usd": prices.usd(row), "started_at": int(row["started_at"] * 1000)} for row in counted]
    priced.sort(key=lambda row: (row["started_at"], row["step"], row["shard"]))
    columns = {name: [row[name] for row in priced] for name in schemas.LEDGER.names}
    return pa.table(columns, schema=schemas.LEDGER)


def _counted(row: dict[str, Any], number: int) -> dict[str, Any]:
    if row["round"] == number:
        return {**row, "reused": False, "saved_s": 0.0}
    return {**row, "round": number, "reused": True, "saved_s": row["wall_s"], "wall_s": 0.0, "device_s": 0.0}


@dataclass(frozen=True)
class StepCost:
    """Sums over the tasks of one step: of those that were done, but for `reused` (their number) and `saved_s`.

    `peak_bytes` is no sum: the resident memory of the largest worker.
    """

    step: str
    tasks: int
    reused: int
    rows_in: int
    rows_out: int
    tokens: int
    bytes_in: int
    bytes_out: int
    peak_bytes: int
    cache_hits: int
    wall_s: float
    device_s: float
    saved_s: float
    usd: float | None


def sums(ledger: pa.Table) -> list[StepCost]:
    """Sums of a ledger per step, in the order in which the steps began; the last row is the total."""
    rows = ledger.to_pylist()
    names = list(dict.fromkeys(row["step"] for row in rows))
    groups = [(name, [row for row in rows if row["step"] == name]) for name in names]
    return [_sum(name, members) for name, members in [*groups, ("total", rows)]]


def _sum(name: str, rows: list[dict[str, Any]]) -> StepCost:
    done = [row for row in rows if not row["reused"]]

    def total(column: str) -> Any:
        return sum(row[column] for row in done)

    prices = [row["usd"] for row in rows]
    return StepCost(
        step=name,
        tasks=len(done),
        reused=len(rows) - len(done),
        rows_in=total("rows_in"),
        rows_out=total("rows_out"),
        tokens=total("tokens"),
        bytes_in=total("bytes_in"),
        bytes_out=total("bytes_out"),
        peak_bytes=max((row["peak_bytes"] for row in done), default=0),
        cache_hits=total("cache_hits"),
        wall_s=total("wall_s"),
        device_s=total("device_s"),
        saved_s=float(sum(row["saved_s"] for row in rows)),
        usd=None if None in prices else float(sum(prices)),
    )
