"""One query's story: its positives, its candidates with every score, what became of each, its negatives."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from raymine import storage
from raymine.errors import WorkspaceError
from raymine.rounds import Round
from raymine.storage import Shard

SNIPPET_LETTERS = 100


@dataclass(frozen=True)
class Story:
    """What `raymine inspect` prints. Candidates are in order: positives, negatives by slot, then by score."""

    query_id: str
    text: str | None
    round: int
    sources: list[str]
    candidates: list[dict[str, Any]]
    num_missing: int
    top_reason: str | None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def inspect(found: Round, query_id: str) -> Story:
    """Reads one query's verdicts and negatives, and the texts of its candidates.

    Raises:
        WorkspaceError: the round has no such query, or is not finished.
    """
    if found.facts["state"] != "done":
        raise WorkspaceError(f"round {found.number} is not finished", fix="run the same `raymine mine` again")
    tables = found.tables()
    block, query_row, text = _find_query(tables.queries, query_id, found)
    name = f"part-{block:05d}.parquet"
    rows = _rows_of(storage.join(found.path, "verdicts", name), query_row)
    slots = {row["doc_row"]: row for row in _rows_of(storage.join(found.path, "negatives", name), query_row)}
    (shortfall,) = _rows_of(storage.join(found.path, "queries", name), query_row)
    lineage = {row["doc_row"]: row for row in _rows_of(storage.join(found.path, "lineage", name), query_row)}
    texts = _texts(tables.corpus, [row["doc_row"] for row in rows])
    score = found.facts["default_score"]
    for row in rows:
        negative = slots.get(row["doc_row"])
        row.update(zip(("doc_id", "text"), texts[row["doc_row"]], strict=True))
        row["slot"], row["kind"] = (negative["slot"], negative["kind"]) if negative else (None, None)
        past = lineage.get(row["doc_row"], {})
        row.update({key: past.get(key) for key in ("first_round", "last_round", "ranks")})
    rows.sort(key=lambda row: _reading_order(row, score))
    return Story(
        query_id, text, found.number, found.facts["sources"], rows, shortfall["num_missing"], shortfall["top_reason"]
    )


def _reading_order(row: dict[str, Any], score: str | None) -> tuple[Any, ...]:
    by_score = row.get(f"{score}_score")
    ranks = [value for name, value in row.items() if name.endswith("_rank") and value is not None]
    best_rank = min(ranks, default=1 << 31)
    return (
        not row["relevance"],
        -by_score if by_score is not None else float("inf"),
        best_rank,
        row["doc_row"],
    )


def _find_query(blocks: list[Shard], query_id: str, found: Round) -> tuple[int, int, str | None]:
    for number, block in enumerate(blocks):
        table = storage.read_table(block.path)
        position = pc.index(table["query_id"], query_id).as_py()
        if position >= 0:
            return number, block.first_row + position, table["text"][position].as_py()
    example = storage.read_table(blocks[0].path, ["query_id"])["query_id"][0].as_py() if blocks else ""
    raise WorkspaceError(
        f"round {found.number} has no query {query_id!r}",
        got=query_id,
        expected=f"the id of a query with a positive, e.g. {example!r}",
        fix="a query without a positive is kept out of the round",
    )


def _rows_of(path: str, query_row: int) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if storage.is_local(path):
        table = pq.read_table(storage.local_path(path), filters=[("query_row", "=", query_row)])
    else:
        fs, inner = storage.filesystem(path)
        table = pq.read_table(inner, filesystem=fs, filters=[("query_row", "=", query_row)])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _texts(corpus: list[Shard], doc_rows: list[int]) -> dict[int, tuple[str, str | None]]:
    starts = [shard.first_row for shard in corpus]
    found: dict[int, tuple[str, str | None]] = {}
    for number in sorted({bisect_right(starts, row) - 1 for row in doc_rows}):
        table = storage.read_table(corpus[number].path, ["doc_id", "text"])
        for row in doc_rows:
            position = row - starts[number]
            if 0 <= position < table.num_rows:
                found[row] = (table["doc_id"][position].as_py(), table["text"][position].as_py())
    return found


def show(story: Story, console: Console) -> None:
    """Prints a story the way a person wants to read it."""
    console.print(Text.assemble(("query ", "bold"), (story.query_id, "bold cyan"), f"  (round {story.round})"))
    console.print(Text(story.text or "(no text)"))
    console.print()
    positives = [row for row in story.candidates if row["relevance"]]
    for row in positives:
        console.print(Text.assemble(("positive ", "bold green"), row["doc_id"], "  ", _numbers(row, story)))
        console.print(Text(snippet(row["text"], 3 * SNIPPET_LETTERS), style="green"))
    console.print()
    for row in story.candidates:
        if not row["relevance"]:
            _show_candidate(row, story, console)
    console.print()
    dropped = sum(1 for row in story.candidates if row["dropped_by"] and not row["relevance"])
    taken = sum(1 for row in story.candidates if row["slot"] is not None)
    total = len(story.candidates) - len(positives)
    line = f"{total} candidates: {dropped} dropped, {total - dropped} kept, {taken} taken as negatives"
    if story.num_missing:
        line += f"; {story.num_missing} missing" + (f" (most went by {story.top_reason})" if story.top_reason else "")
    console.print(line, highlight=False)


def _numbers(row: dict[str, Any], story: Story) -> str:
    names = [*story.sources, "teacher"]
    scores = [(name, row.get(f"{name}_rank"), row.get(f"{name}_score")) for name in names]
    parts = []
    for name, rank, score in scores:
        if rank is not None or score is not None:
            at = "" if rank is None else f" #{rank}"
            parts.append(f"{name}{at}" + ("" if score is None else f" {score:.3f}"))
    return "  ".join(parts)


def _show_candidate(row: dict[str, Any], story: Story, console: Console) -> None:
    verdict, style = _verdict(row)
    past = _past(row) if story.round > 1 else ""
    line = Text.assemble((f"{verdict:<30}", style), (row["doc_id"], "cyan"), "  ", _numbers(row, story), past)
    console.print(line, no_wrap=True, overflow="ellipsis")
    console.print(Text("    " + snippet(row["text"], 4 * SNIPPET_LETTERS), "dim"), no_wrap=True, overflow="ellipsis")


def _past(row: dict[str, Any]) -> str:
    """Since when it has been a negative, and its dense ranks since."""
    if row["first_round"] is None:
        return ""
    ranks = " ".join("-" if rank is None else f"#{rank}" for rank in row["ranks"])
    return f"  since round {row['first_round']}: {ranks}"


def _verdict(row: dict[str, Any]) -> tuple[str, str]:
    if row["slot"] is not None:
        return f"negative {row['slot']}: {row['kind']}", "bold yellow"
    if row["dropped_by"]:
        return f"dropped: {row['dropped_by']}", "dim"
    return "kept", ""


def snippet(text: str | None, letters: int = SNIPPET_LETTERS) -> str:
    """A text on one line, cut."""
    line = " ".join((text or "").split())
    return line if len(line) <= letters else line[: letters - 1] + "…"
