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
from raymine.ledger import StepCost

PLAIN_LINE_EVERY_S = 10.0

if TYPE_CHECKING:
    from raymine.audit import Audit
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
