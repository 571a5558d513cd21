"""What must not be trained on, and which documents there are, from BEIR folders and files of JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from raymine import storage
from raymine.audit.companions import named_texts
from raymine.corpus.lines import lines
from raymine.errors import InputError


def texts_of(folders: Sequence[str]) -> tuple[set[str], set[str]]:
    """Ids and texts of the test queries of BEIR folders, and of the documents relevant to them.

    Raises:
        InputError: a folder has no corpus.jsonl, queries.jsonl or qrels/test.tsv.
    """
    queries: set[str] = set()
    documents: set[str] = set()
    for folder in map(storage.absolute, folders):
        names = ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv")
        paths = {name: storage.join(folder, name) for name in names}
        for name, path in paths.items():
            if not storage.exists(path):
                raise InputError(f"{folder}: no {name}", expected=f"a BEIR folder with {', '.join(names)}")
        judged = csv.reader(io.StringIO(storage.read_bytes(paths["qrels/test.tsv"]).decode()), delimiter="\t")
        relevant = [row for row in judged if len(row) > 2 and row[2].lstrip("-").isdigit() and int(row[2]) > 0]
        for wanted, name, found in (
            ({row[0] for row in relevant}, "queries.jsonl", queries),
            ({row[1] for row in relevant}, "corpus.jsonl", documents),
        ):
            for _, line in lines(paths[name]):
                row = json.loads(line)
                if row["_id"] in wanted:
                    title = f"{row['title']} " if row.get("title") else ""
                    found |= {row["_id"], row["text"], title + row["text"]} - {""}
    return queries, documents


def ids_of(path: str) -> set[str]:
    """The ids in a file of JSON lines."""
    return {name for name, _ in named_texts(storage.absolute(path))}
