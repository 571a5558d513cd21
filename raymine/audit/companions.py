"""The texts beside rows that name documents and queries by id: JSON lines or Parquet in folders `documents` and
`queries`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from raymine import storage
from raymine.corpus.lines import lines

IDS = ("_id", "docid", "document_id", "DOCUMENT_ID", "query_id", "qid", "QUERY_ID", "pid", "id")
TEXTS = ("text", "TEXT", "contents")


@dataclass(frozen=True)
class Texts:
    """By id, all in memory; empty where there are none."""

    documents: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)


def texts_beside(file: str) -> Texts:
    """The texts in the folders beside a file of rows."""
    folder = file.rpartition("/")[0]
    found = Texts()
    for name, texts in vars(found).items():
        for suffix in (".jsonl", ".parquet"):
            for path in storage.list_files(storage.join(folder, name), suffix):
                texts.update(named_texts(path))
    return found


def named_texts(path: str) -> Iterator[tuple[str, str]]:
    """Ids and texts in a file of JSON lines or Parquet: the first key that names either; a text not there is empty."""
    made = (
        storage.read_table(path).to_pylist() if path.endswith(".parquet") else (json.loads(x) for _, x in lines(path))
    )
    for row in made:
        name = next(row[key] for key in IDS if key in row)
        yield str(name), next((row[key] for key in TEXTS if key in row), "")
