"""What people see: progress of steps, what a round made, tables of cost. Rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from raymine import storage
from raymine.artifacts import Step, StepResult
from raymine.errors import ConfigError
from raymine.ledger import StepCost

PLAIN_LINE_EVERY_S = 10.0

if TYPE_CHECKING:
    from raymine.audit import Audit
    from raymine.plan import Plan
    from raymine.planning.predict import StepPlan
    from raymine.rounds import Round


class ProgressWatcher:
    """Shows each step: shards done, rows per second, time left.

    Args:
        console: where to; progress goes to stderr so that stdout stays clean for --json.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows = 0
        self.begin = self.last_line = 0.0
        self.num_done = 0
        self.progress: Progress | None = None
        self.bar: Any = None

    def started(self, step: Step, num_done: int) -> None:
        self.rows, self.num_done = 0, num_done
        self.begin = self.last_line = time.perf_counter()
        if num_done == len(step.tasks):
            return
        if self.console.is_terminal:
            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.progress.start()
            self.bar = self.progress.add_task(step.name, total=len(step.tasks), completed=num_done, rate="")

    def task_done(self, step: Step, marker: dict[str, Any]) -> None:
        self.num_done += 1
        self.rows += marker.get("ledger", {}).get("rows_in", 0)
        now = time.perf_counter()
        if self.progress is not None:
            self.progress.update(self.bar, completed=self.num_done, rate=self._rate(step).removeprefix(", "))
        elif now - self.last_line > PLAIN_LINE_EVERY_S and self.num_done < len(step.tasks):
            self.last_line = now
            left = (now - self.begin) / self.num_done * (len(step.tasks) - self.num_done)
            self.console.print(
                f"{step.name}: {self.num_done}/{len(step.tasks)} shards{self._rate(step)}, {duration(left)} left"
            )

    def finished(self, result: StepResult) -> None:
        self.close()
        step = result.step
        if result.num_reused == len(step.tasks):
            self.console.print(f"[dim]{step.name}: already done[/dim]", highlight=False)
            return
        note = f", {result.num_reused} of {len(step.tasks)} shards already done" if result.num_reused else ""
        self.console.print(f"{step.name}: {duration(result.wall_s)}{self._rate(step)}{note}", highlight=False)

    def close(self) -> None:
        """Gives the terminal back; also after an error in the middle of a step."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _rate(self, step: Step) -> str:
        if not self.rows:
            return ""
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        return f", {self.rows:,} {step.unit} ({self.rows / seconds:,.0f}/s)"


def duration(seconds: float) -> str:
    """Seconds as people write them: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(number: int) -> str:
    """A whole number, shortened where it is long: 9,876, 1.2 M, 3.4 G."""
    for unit, size_of_unit in (("G", 10**9), ("M", 10**6)):
        if number >= size_of_unit:
            return f"{number / size_of_unit:.1f} {unit}"
    return f"{number:,}"


def parse_count(text: str) -> int:
    """A count as people write it: 250, 250k, 100M, 1.5G (or B).

    Raises:
        ConfigError: it is none.
    """
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
    digits = text.replace(",", "").replace("_", "")
    factor = units.get(digits[-1:].lower(), 1)
    try:
        number = round(float(digits[:-1] if factor > 1 else digits) * factor)
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise ConfigError("not a count", got=text, expected="a number above 0, as 2500000, 250k, 100M or 1.5G")
    return number


def num_bytes(number: float) -> str:
    """Bytes, shortened: 12 kB, 3.4 MB, 1.2 GB."""
    for unit, size_of_unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size_of_unit:
            return f"{number / size_of_unit:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def hours(number: float) -> str:
    return f"{number:,.2f} h" if number >= 0.1 else f"{number:.4f} h"


def usd(number: float | None) -> str:
    """A price; with more digits the less it is."""
    if number is None:
        return "-"
    return f"{number:,.2f}" if number >= 100 else f"{number:.5f}" if number < 1 else f"{number:.3f}"


def plan_table(found: Plan) -> Table:
    """A line per step: what it does, how long, on which devices, what it writes and costs; the sums last."""
    has_gpus = bool(found.gpu_hours)
    priced = any(step.usd is not None for step in found.steps if step.worker_s)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", no_wrap=True)
    names = ["shards", "gives", "tokens", "time", "CPU", *(["GPU"] if has_gpus else []), "writes"]
    for name in [*names, *(["USD"] if priced else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for step in found.steps:
        cells = [step.step, f"{step.tasks:,}"]
        if step.state == "reused":
            table.add_row(*cells, *["-"] * (len(table.columns) - 3), "reused", style="dim")
            continue
        cells += [count(round(each)) if each >= 1 else "-" for each in (step.rows, step.tokens)]
        cells += [duration(step.wall_s), hours(step.cpu_hours), *([hours(step.gpu_hours)] if has_gpus else [])]
        cells += [num_bytes(step.num_bytes), *([usd(step.usd)] if priced else [])]
        table.add_row(*cells, _remark(step), style="dim" if step.state == "done" else "")
    cells = ["total", "", "", "", duration(found.wall_s), hours(found.cpu_hours)]
    cells += [*([hours(found.gpu_hours)] if has_gpus else []), num_bytes(found.num_bytes)]
    table.add_row(*cells, *([usd(found.usd)] if priced else []), "", style="bold")
    return table


def _remark(step: StepPlan) -> str:
    remarks = [f"{step.num_reused:,} reused"] if step.num_reused else []
    remarks += ["read"] if step.state == "done" else []
    return ", ".join([*remarks, *(["published rate"] if step.rate == "published" else [])])


def print_plan(found: Plan, console: Console) -> None:
    """A plan: how large, how long each step, the index and why, sums, what is reused, assumed, and will not do."""
    state = "done: mining would do nothing" if found.is_done else "to be mined"
    vectors = f", vectors of {found.dim} dimensions" if found.dim else ""
    lines = [
        f"Round {found.round}: {state}",
        f"{found.num_documents:,} documents, {found.num_queries:,} queries{vectors}",
        f"{found.candidates_per_query:,} candidates per query at most"
        + (f", about {found.num_candidates:,} in all" if found.num_candidates else "")
        + (f", about {found.num_scored:,} pairs for the teacher" if found.num_scored else ""),
    ]
    for line in lines:
        console.print(line, highlight=False)
    if found.steps:
        console.print()
        console.print(plan_table(found))
        console.print()
    lines = [f"index: {found.index} ({found.index_chosen})"] if found.index else []
    if found.steps:
        money = "" if found.usd is None else f", {usd(found.usd)} USD"
        lines.append(f"the round: {duration(found.wall_s)}{money}, writes {num_bytes(found.num_bytes)}")
        if found.rounds > 1:
            money = "" if found.rounds_usd is None else f", {usd(found.rounds_usd)} USD"
            lines.append(f"{found.rounds} rounds: {duration(found.rounds_wall_s)}{money}")
        lines.append(
            f"memory of a worker: about {num_bytes(found.memory_bytes)} of {num_bytes(found.memory_budget_bytes)}"
        )
        how = found.calibration
        took = f", {duration(how['took_s'])}, kept" if how["is_new"] else ", kept from before"
        lines.append(
            f"calibrated ({found.executor}) on {how['documents']:,} documents and {how['queries']:,} queries{took}"
        )
    lines += [f"reused: {line}" for line in found.reused]
    lines += [f"cheaper: {line}" for line in found.advice]
    lines += [f"assumed: {line}" for line in found.assumptions]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for line in found.warnings:
        console.print(f"WARNING {line}", highlight=False, soft_wrap=True, markup=False, style="bold yellow")


def print_status(found: Sequence[dict[str, Any]], console: Console) -> None:
    """Rounds with their steps; with the planned worker time beside the actual one where a round was planned."""
    for item in found:
        size = f", {item['documents']:,} documents, {item['queries']:,} queries" if item["documents"] else ""
        is_planned = item["planned_s"] is not None
        planned = f" ({duration(item['planned_s'])} planned)" if is_planned else ""
        worked = f"{duration(item['worker_s'])} of work{planned}"
        console.print(f"round {item['round']}: {item['state']}{size}, {worked}", highlight=False)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("step", "done", "left", "worker time", *(["planned"] if is_planned else [])):
            table.add_column(name, justify="left" if name == "step" else "right")
        for step in item["steps"]:
            cells = [step["step"], str(step["done"]), str(step["shards"] - step["done"]), duration(step["worker_s"])]
            if is_planned:
                cells.append("-" if step["planned_s"] is None else duration(step["planned_s"]))
            table.add_row(*cells)
        console.print(table)


def audit_table(found: Audit) -> Table:
    """What was looked for, how often it was found, among how many, and whether that fails the audit."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    for name in ("found", "of", "share", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for check in found.checks:
        share = f"{check.found / check.of:.2%}" if check.of else "-"
        verdict = ("broken" if check.found else "ok") if check.is_hard else ""
        style = "bold red" if verdict == "broken" else ""
        table.add_row(check.name, f"{check.found:,}", f"{check.of:,}", share, verdict, style=style)
    return table


def cost_table(costs: Sequence[StepCost]) -> Table:
    """The ledger's sums per step that had work to do, the total last; below it, what earlier rounds had done."""
    priced = any(cost.usd is not None for cost in costs)
    table = Table(title="What it cost", title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("step", no_wrap=True)
    for name in ("shards", "rows", "tokens", "cached", "work", "device", *(["USD"] if priced else [])):
        table.add_column(name, justify="right", no_wrap=True)
    total = costs[-1]
    if total.reused:
        steps = sum(1 for cost in costs[:-1] if cost.reused)
        table.caption = (
            f"Reused from earlier rounds: {count(total.reused)} shards of {steps} steps, "
            f"{total.saved_s:,.1f} s of work saved"
        )
        table.caption_justify, table.caption_style = "left", ""
    for cost in [*(cost for cost in costs[:-1] if cost.tasks), total]:
        numbers = [cost.tasks, cost.rows_out, cost.tokens, cost.cache_hits]
        cells = [cost.step, *(count(number) if number else "-" for number in numbers)]
        cells += [f"{cost.wall_s:,.1f} s", f"{cost.device_s:,.1f} s"]
        if priced:
            cells.append("-" if cost.usd is None else f"{cost.usd:.5f}")
        table.add_row(*cells, style="bold" if cost.step == "total" else "")
    return table


def round_summary(found: Round) -> dict[str, Any]:
    """A finished round's paths and figures, for --json."""
    facts = found.facts
    shown = ["num_documents", "num_queries", "num_without_positive", "num_empty_documents", "selection", "sources"]
    shown += ["difficulty", "num_settled"]
    return {
        "round": found.number,
        "path": found.path,
        "new": found.is_new,
        "shards": {name: storage.join(found.path, "shards", name) for name in facts["formats"]},
        "rows": {name: sum(shard["num_rows"] for shard in shards) for name, shards in facts["formats"].items()},
        **{name: facts[name] for name in shown if name in facts},
        "cost": [asdict(cost) for cost in found.cost],
    }


def print_round(found: Round, console: Console, why: str) -> None:
    """What a round made and what it cost; or why there was nothing to do."""
    if not found.is_new:
        console.print(f"Nothing to do: round {found.number} is done, and {why}.", highlight=False)
    summary = round_summary(found)
    left_out = summary.get("num_without_positive")
    note = f" ({left_out:,} without a positive kept out)" if left_out else ""
    lines = [f"Round {found.number}: {summary['num_documents']:,} documents, {summary['num_queries']:,} queries{note}"]
    counts = summary["selection"]
    dropped = {name: number for name, number in counts["dropped"].items() if number}
    kept = dropped.pop("kept", 0)
    lines.append(f"{counts['num_candidates']:,} candidates: {kept:,} kept, {sum(dropped.values()):,} dropped")
    lines += [f"  {number:>9,} {name}" for name, number in sorted(dropped.items(), key=lambda item: -item[1])]
    lines.append(
        f"{counts['num_negatives']:,} negatives: " + ", ".join(f"{n:,} {k}" for k, n in counts["kinds"].items())
    )
    if counts["num_missing"]:
        lines.append(f"{counts['num_missing']:,} negatives are missing in {counts['num_queries_short']:,} queries")
    if difficulty := summary.get("difficulty"):
        in_all = max(1, sum(difficulty.values()))
        shares = ", ".join(f"{100 * n / in_all:.1f} % {name}" for name, n in difficulty.items() if n)
        lines.append(f"The last round's negatives, by this checkpoint: {shares}")
    for line in lines:
        console.print(line, highlight=False)
    for name, path in summary["shards"].items():
        console.print(f"{name}: {summary['rows'][name]:,} rows in {path}", highlight=False, soft_wrap=True)
    console.print()
    console.print(cost_table(found.cost))
