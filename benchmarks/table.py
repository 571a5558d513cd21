"""Makes the README's tables of benchmarks from results/*.json: rounds, false negatives, what training gains, speed.

    python benchmarks/table.py --write

Without --write they are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
# Rows of the README's table of false negatives; the rest are in the result.
SHOWN = (
    "naive",
    "skip_top 100",
    "positive-aware 0.95 on the embedder, first 100",
    "other_cluster",
    "positive-aware 0.95 on the teacher",
    "other_cluster, positive-aware 0.95 on the teacher",
    "other_cluster, teacher's percentile among positives <= 0.4",
    "teacher's percentile among positives <= 0.3",
)


def speed(folder: Path = RESULTS) -> str:
    """All rows of all results, by the results' names, and where they were measured."""
    results = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    measured = [(path, result) for path, result in results if result.get("rows")]
    lines = ["| what | raymine | peer | ratio | goal |", "|---|---|---|---|---|"]
    lines += [_line(path, row) for path, result in measured for row in result["rows"]]
    machines = ", ".join(sorted({result["machine"] for _, result in measured}))
    return "\n".join([*lines, "", f"Machine: {machines}. Versions, commits and every repeat are in the results.", ""])


def _line(path: Path, row: dict[str, Any]) -> str:
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:g}x"
    what = f"[{row['what']}](benchmarks/results/{path.name})"
    peer = f"{row['peer_name']}: {row['peer']}" if row["peer"] else row["peer_name"]
    return f"| {what} | {row['raymine']} | {peer} | {ratio} | {row['goal']} |"


def rounds(result: Mapping[str, Any]) -> str:
    """What each later round of benchmarks/rounds.py cost and found, a row per set and way."""
    lines = [
        "| set | a later round | cost, of the first round's | has of a full round's negatives | documents embedded "
        "| pairs scored |",
        "|---|---|---|---|---|---|",
    ]
    for name, ways in result["sets"].items():
        first = ways["first round"]
        whole = f"{first['seconds']:,.0f} s, {first['documents']:,} documents, {first['queries']:,} queries"
        lines.append(f"| {name} | the first: {whole} | | | {first['documents']:,} | {first['pairs_scored']:,} |")
        for way, later in ways.items():
            if way != "first round":
                cells = [
                    ", ".join(form(each) for each in later)
                    for form in (
                        lambda each: f"{each['share']:.0%}",
                        lambda each: f"{each['overlap']:.0%}",
                        lambda each: f"{each['documents_embedded']:,}",
                        lambda each: f"{each['pairs_scored']:,}",
                    )
                ]
                lines.append(f"| | {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def false_negatives(result: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Rate at hardness per strategy and set of benchmarks/false_negatives.py; in bold where its goal is reached.

    Args:
        result: of that benchmark.
        names: of the strategies; None: all.
    """
    sets = result["sets"]
    lines = [f"| rate at hardness | {' | '.join(sets)} |", "|---|" + "---|" * len(sets)]
    for name in names or next(iter(sets.values()))["strategies"]:
        cells = [rate_at_hardness(found["strategies"][name]) for found in sets.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"| oracle | {' | '.join(rate_at_hardness(found['oracle']) for found in sets.values())} |")
    return "\n".join([*lines, ""])


def rate_at_hardness(found: Mapping[str, Any]) -> str:
    """A cell: how many negatives a query got on average is said where some are missing."""
    text = f"{found['rate']:.3f} at {found['hardness']:.3f}"
    text = text if found["full"] == 1 else f"{text} ({found['per_query']:.2f} per query)"
    return f"**{text}**" if found.get("reaches") else text


def gains(result: Mapping[str, Any], embedders: Iterable[str], with_ratios: bool = False) -> str:
    """Recall@10 per strategy and setting of benchmarks/training_gain.py; in bold where all its goals are reached.

    Args:
        result: of benchmarks/training_gain.py.
        embedders: whose settings are shown.
        with_ratios: says how many times what each goal is for it is, in the order of the goals.
    """
    found = [each for each in result["strategies"] if each["embedder"] in embedders]
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for each in found:
        groups.setdefault(f"{each['set']}, {each['embedder']}, {each['batch_size']}", {})[each["strategy"]] = each
    lines = [f"| Recall@10 | {' | '.join(groups)} |", "|---|" + "---|" * len(groups)]
    shown = {each["strategy"] for each in found}
    for name in dict.fromkeys(each["strategy"] for each in result["strategies"] if each["strategy"] in shown):
        cells = [_gain(group, name, result["goals"], with_ratios) for group in groups.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _gain(
    group: Mapping[str, Mapping[str, Any]], name: str, goals: Mapping[str, float], with_ratios: bool = False
) -> str:
    if name not in group:
        return "-"
    mean, spread = (group[name][figure].get("R@10") for figure in ("mean", "spread"))
    text = f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"
    ratios = {other: mean / group[other]["mean"]["R@10"] for other in goals if other in group}
    if with_ratios:
        text = f"{text}: {', '.join(f'{ratio:.3f}' for ratio in ratios.values())}"
    reaches = len(ratios) == len(goals) and all(ratio >= goals[other] for other, ratio in ratios.items())
    return f"**{text}**" if reaches else text


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """All tables of the README, by what their markers call them."""

    def result(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text())

    return {
        "rounds": rounds(result("rounds")),
        "false negatives": false_negatives(result("false-negatives"), SHOWN),
        "training": gains(result("training_gain"), ("static", "transformer")),
        "further epoch": gains(result("training_gain"), ("static-further",), with_ratios=True),
        "unseen": gains(result("training_gain_dev"), ("static", "transformer")),
        "all questions": gains(result("training_gain_all"), ("static", "transformer")),
        "speed": speed(folder),
    }


def with_tables(text: str, made: Mapping[str, str]) -> str:
    """A README's text with what stands between the markers of each table replaced."""
    for name, table in made.items():
        begin, end = (f"<!-- benchmarks/table.py: {name}, {place} -->\n" for place in ("begin", "end"))
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"the README has no lines {begin.strip()} and {end.strip()}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md, between their markers")
    arguments = parser.parse_args()
    if arguments.write:
        README.write_text(with_tables(README.read_text(), tables()))
    else:
        print(*tables().values(), sep="\n", end="")


if __name__ == "__main__":
    main()
