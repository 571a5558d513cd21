"""An auditor of training shards that shares no code with the engine: plain Python over output and input files."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def _lines(path: Path) -> list[str]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [line for line in text.split("\n") if line]


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


class Auditor:
    """Reads a BEIR folder with its own few lines, then checks what was mined from it.

    Args:
        data: folder with corpus.jsonl(.gz), queries.jsonl(.gz).
        positives: qrels file that was mined.
        exclude: qrels files whose judgements must never come out.
    """

    def __init__(self, data: Path, positives: Path, exclude: list[Path]) -> None:
        rows = [json.loads(line) for line in self._file(data, "corpus")]
        self.documents = {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}
        self.queries = {row["_id"]: row["text"] for row in map(json.loads, self._file(data, "queries"))}
        banned = {pair for path in exclude for pair, _ in self._judgements(path)}
        judged = [(pair, score) for pair, score in self._judgements(positives) if pair not in banned]
        self.positives: dict[str, set[str]] = defaultdict(set)
        for (query, document), score in judged:
            if score > 0:
                self.positives[query].add(document)
        self.banned: dict[str, set[str]] = defaultdict(set)
        for query, document in banned:
            self.banned[query].add(document)
        self.ids_by_text: dict[str, set[str]] = defaultdict(set)
        for name, text in self.documents.items():
            self.ids_by_text[text].add(name)
        self.queries_by_text: dict[str, set[str]] = defaultdict(set)
        for name in self.positives:
            self.queries_by_text[self.queries[name]].add(name)

    @staticmethod
    def _file(data: Path, name: str) -> list[str]:
        return _lines(next(path for path in (data / f"{name}.jsonl", data / f"{name}.jsonl.gz") if path.exists()))

    @staticmethod
    def _judgements(path: Path) -> list[tuple[tuple[str, str], int]]:
        rows = csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
        return [((row["query-id"], row["corpus-id"]), int(row["score"])) for row in rows]

    def check_negative(self, query_text: str, positive: str, negatives: list[str]) -> None:
        """One training row: the positive is one, no negative is a positive, its twin, empty, excluded or repeated."""
        queries = self.queries_by_text[query_text]
        assert queries, f"not a query with a positive: {query_text!r}"
        assert any(self.documents[doc] == positive for query in queries for doc in self.positives[query])
        for negative in negatives:
            assert negative.strip() and self.ids_by_text[negative], f"not a document: {negative!r}"
        assert len({folded(text) for text in negatives}) == len(negatives), "a negative twice in one row"
        assert any(self._is_clean(query, negatives) for query in queries), (query_text, negatives)

    def check_pair(self, query_text: str, text: str, label: int | None) -> None:
        """One (query, text) row: it is a positive of the query or a clean negative, and the label says which."""
        queries = self.queries_by_text[query_text]
        is_positive = any(self.documents[doc] == text for query in queries for doc in self.positives[query])
        assert label in (None, int(is_positive))
        assert is_positive or any(self._is_clean(query, [text]) for query in queries), (query_text, text)

    def _is_clean(self, query: str, negatives: list[str]) -> bool:
        twins = {folded(self.documents[doc]) for doc in self.positives[query]}
        return all(
            folded(text) not in twins and self.ids_by_text[text] - self.positives[query] - self.banned[query]
            for text in negatives
        )

    def check_format(self, folder: Path, name: str, scores: bool) -> dict[str, int]:
        """Checks every row of one written format.

        Returns:
            Number of rows, and of negatives in them.
        """
        rows = self.rows(folder)
        assert rows
        negatives = 0
        for row in rows:
            positive, texts, numbers = _parts(row, name, scores)
            query = row["query"] if name == "flagembedding" else row["anchor"]
            if name == "labeled-pair":
                self.check_pair(query, row["positive"], row.get("label"))
            for given in positive:
                self.check_negative(query, given, texts)
            assert all(math.isfinite(number) for number in numbers)
            negatives += len(texts)
        return {"rows": len(rows), "negatives": negatives}

    @staticmethod
    def rows(folder: Path) -> list[dict[str, Any]]:
        """All rows of a folder of Parquet or JSONL shards."""
        found: list[dict[str, Any]] = []
        for path in sorted(folder.iterdir()):
            if path.suffix == ".parquet":
                found += pq.read_table(path).to_pylist()
            elif path.suffix == ".jsonl":
                found += [json.loads(line) for line in _lines(path)]
        return found

    def check_tables(self, round_folder: Path, workspace: Path) -> dict[str, int]:
        """Checks verdicts and negatives by id: each candidate has one fate, each negative is a kept candidate.

        Returns:
            Counts of candidates, kept, dropped and negatives.
        """
        facts = json.loads((round_folder / "round.json").read_text())
        doc_ids = self._ids(workspace, facts["tables"]["corpus"], "doc_id")
        query_ids = self._ids(workspace, facts["tables"]["queries"], "query_id")
        assert len(doc_ids) == len(self.documents)
        assert set(query_ids) == set(self.positives)
        kept: dict[int, set[int]] = defaultdict(set)
        counts = {"candidates": 0, "kept": 0, "dropped": 0, "negatives": 0}
        seen = set()
        for row in self.rows(round_folder / "verdicts"):
            query, document = query_ids[row["query_row"]], doc_ids[row["doc_row"]]
            assert (row["query_row"], row["doc_row"]) not in seen
            seen.add((row["query_row"], row["doc_row"]))
            assert (row["dropped_by"] == "positive") == (document in self.positives[query]), row
            assert bool(row["relevance"]) == (document in self.positives[query])
            if document in self.banned[query]:
                assert row["dropped_by"] == "excluded", row
            counts["candidates"] += 1
            counts["kept" if row["dropped_by"] is None else "dropped"] += 1
            if row["dropped_by"] is None:
                kept[row["query_row"]].add(row["doc_row"])
        taken = set()
        for row in self.rows(round_folder / "negatives"):
            assert row["doc_row"] in kept[row["query_row"]], row
            assert (row["query_row"], row["doc_row"]) not in taken
            taken.add((row["query_row"], row["doc_row"]))
            assert row["kind"] in ("ranking_error", "semi_hard", "hard", "random")
            counts["negatives"] += 1
        assert counts["kept"] + counts["dropped"] == counts["candidates"]
        return counts

    @staticmethod
    def _ids(workspace: Path, shards: list[dict[str, Any]], column: str) -> list[str]:
        return [name for shard in shards for name in pq.read_table(workspace / shard["path"])[column].to_pylist()]


def _parts(row: dict[str, Any], name: str, scores: bool) -> tuple[list[str], list[str], list[float]]:
    """Positives, negatives and numbers of one row of a format, as its trainers read it (a pair: only the number)."""
    if name == "triplet":
        assert set(row) == {"anchor", "positive", "negative"} | ({"scores"} if scores else set())
        assert not scores or len(row["scores"]) == 2
        return [row["positive"]], [row["negative"]], row.get("scores", [])
    if name == "n-tuple":
        columns = [key for key in row if key.startswith("negative_")]
        assert columns == [f"negative_{number}" for number in range(1, len(columns) + 1)]
        assert not scores or len(row["scores"]) == 1 + len(columns)
        return [row["positive"]], [row[column] for column in columns], row.get("scores", [])
    if name == "labeled-pair":
        assert set(row) == {"anchor", "positive", "score" if scores else "label"}
        return [], [], [row["score" if scores else "label"]]
    if name == "labeled-list":
        values = row["scores" if scores else "labels"]
        assert len(values) == len(row["positive"])
        return [row["positive"][0]], row["positive"][1:], values
    assert name == "flagembedding"
    numbers = [*row["pos_scores"], *row["neg_scores"]] if scores else []
    assert not scores or len(numbers) == len(row["pos"]) + len(row["neg"])
    return row["pos"], row["neg"], numbers
