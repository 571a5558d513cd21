"""Makes the README's table of benchmarks from results/*.json.

    python benchmarks/table.py --write

Without --write it is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks/table.py: begin -->\n", "<!-- benchmarks/table.py: end -->\n"


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


def with_table(text: str, made: str) -> str:
    """A README's text with what stands between the two markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"the README has no lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md, between its two markers")
    arguments = parser.parse_args()
    if arguments.write:
        README.write_text(with_table(README.read_text(), table()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
