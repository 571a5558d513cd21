"""Makes the README's tables of benchmarks from results/*.json: speed, and false negatives.

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
BEGIN, END = "<!-- benchmarks/table.py: begin -->\n", "<!-- benchmarks/table.py: end -->\n"
BEGIN_FALSE, END_FALSE = (line.replace(": ", ": false negatives, ") for line in (BEGIN, END))
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


def table(folder: Path = RESULTS) -> str:
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


def with_tables(text: str, folder: Path = RESULTS) -> str:
    """A README's text with both tables as the results have them."""
    result = json.loads((folder / "false-negatives.json").read_text())
    text = with_table(text, false_negatives(result, SHOWN), BEGIN_FALSE, END_FALSE)
    return with_table(text, table(folder))


def with_table(text: str, made: str, begin: str = BEGIN, end: str = END) -> str:
    """A README's text with what stands between the two markers replaced."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"the README has no lines {begin.strip()} and {end.strip()}")
    return f"{before}{begin}\n{made}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md, between their markers")
    arguments = parser.parse_args()
    if arguments.write:
        README.write_text(with_tables(README.read_text()))
    else:
        print(table(), false_negatives(json.loads((RESULTS / "false-negatives.json").read_text())), sep="\n", end="")


if __name__ == "__main__":
    main()
