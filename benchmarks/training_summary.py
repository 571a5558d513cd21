"""Sums of the cells of benchmarks/training_gain.py over seeds, comparisons with its goals, and plots."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
from training_strategies import GOALS, OURS, ROUNDS, STRATEGIES

from raymine.evaluate import MEASURES

USD_PER_HOUR = 0.08  # two cores at 0.04
MEASURE = "R@10"
ACROSS = 3  # panels beside each other
SETTING = ("set", "embedder", "batch_size", "learning_rate", "steps")


def dollars(seconds: float) -> float:
    return round(seconds / 3600 * USD_PER_HOUR, 6)


def key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a cell is: a second one of the same is not measured."""
    return tuple(cell[name] for name in (*SETTING, "strategy", "seed"))


def summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per setting (set, embedder, batch size, learning rate) and strategy: mean and deviation over the seeds."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[key(cell)[:-1]].append(cell)
    return [_summed(members) for members in groups.values()]


def _summed(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    figures = {name: [cell[name] for cell in cells] for name in (*MEASURES, "seconds", "usd")}
    return {
        **{name: cells[0][name] for name in (*SETTING, "strategy")},
        "seeds": sorted(cell["seed"] for cell in cells),
        "mean": {name: round(statistics.fmean(each), 6) for name, each in figures.items()},
        "spread": {name: round(statistics.stdev(each), 6) for name, each in figures.items() if len(each) > 1},
        "by_round": [
            {
                "usd": dollars(statistics.fmean(_seconds_until(cell, number) for cell in cells)),
                MEASURE: round(statistics.fmean(cell["by_round"][number][MEASURE] for cell in cells), 4),
            }
            for number in range(len(cells[0]["by_round"]))
        ],
    }


def _seconds_until(cell: Mapping[str, Any], number: int) -> float:
    return float(sum(each["mine_s"] + each["train_s"] for each in cell["by_round"][: number + 1]))


def settings(found: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], dict[str, Mapping[str, Any]]]:
    """The rows of a summary by setting and strategy, where every strategy that is compared is there.

    A learning rate that was only tried with some is left out.
    """
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for each in found:
        groups[tuple(each[name] for name in SETTING)][each["strategy"]] = each
    return {
        setting: group
        for setting, group in groups.items()
        if set(GOALS) <= set(group) and not set(OURS).isdisjoint(group)
    }


def comparisons(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """raymine against random negatives and against the peer's margin."""
    rows = []
    for (name, embedder, batch_size, _, steps), group in settings(found).items():
        what = f"{name}, {embedder} embedder, {MEASURE} after {steps} steps of {batch_size} pairs"
        for ours, (peer, goal) in itertools.product(OURS, GOALS.items()):
            if ours in group:
                ratio = group[ours]["mean"][MEASURE] / group[peer]["mean"][MEASURE]
                mine, other = _figure(group[ours]), _figure(group[peer])
                rows.append(measure.row(f"{what}, {ours}", mine, other, peer, ratio, f">= {goal:g}x"))
    return rows


def _figure(found: Mapping[str, Any]) -> str:
    spread = f" ± {found['spread'][MEASURE]:.4f}" if found["spread"] else ""
    return f"{found['mean'][MEASURE]:.4f}{spread}"


def plot(found: Sequence[Mapping[str, Any]], x: str, path: Path) -> None:
    """R@10 against rounds or dollars: a panel per setting, a line per strategy."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = settings(found)
    if not panels:
        return
    across, down = min(ACROSS, len(panels)), -(-len(panels) // ACROSS)
    figure, grid = pyplot.subplots(down, across, figsize=(5 * across, 4 * down), layout="constrained", squeeze=False)
    axes = list(grid.flat)
    colors = dict(zip(STRATEGIES, pyplot.get_cmap("tab20").colors, strict=False))
    for axis, ((name, embedder, batch_size, _, steps), group) in zip(axes, panels.items(), strict=False):
        for strategy, each in group.items():
            _draw(axis, each, x, colors[strategy])
        label = "hundredths of a dollar" if x == "usd" else f"of {ROUNDS} rounds, {steps} steps in all"
        axis.set(title=f"{name}, {embedder}, batches of {batch_size}", xlabel=label, ylabel=MEASURE)
        axis.locator_params(axis="x", nbins=ROUNDS + 2, integer=x != "usd")
    for axis in axes[len(panels) :]:
        axis.remove()
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def _draw(axis: Any, found: Mapping[str, Any], x: str, color: Any) -> None:
    """A strategy that mines once is a line from the first embedder to the last."""
    by_round = found["by_round"]
    num_rounds = len(by_round) - 1
    across = [100 * each["usd"] if x == "usd" else ROUNDS * number / num_rounds for number, each in enumerate(by_round)]
    heights = [each[MEASURE] for each in by_round]
    axis.plot(across, heights, marker="o", markersize=3, color=color, label=found["strategy"])
    axis.errorbar(across[-1], heights[-1], yerr=found["spread"].get(MEASURE, 0.0), color=color, capsize=3)
