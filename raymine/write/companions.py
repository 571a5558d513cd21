"""Files of texts beside formats whose rows name documents and queries by id (base.Companions)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import distinct
from raymine.storage import Shard


class WriteDocuments:
    """Stage: the selected documents of one document shard. Nothing where they have no texts.

    Args:
        pairs: paths of Select's pairs, bucketed by document shard.
        keys: of a document's id and text.
        extension: jsonl or parquet.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], keys: tuple[str, str], extension: str) -> None:
        self.pairs, self.keys, self.extension = pairs, keys, extension

    def __call__(self, task: Task) -> Record:
        """Writes those of shard `corpus` (path), which is number `bucket` and begins at `first_row`."""
        inputs: dict[str, Any] = task.inputs
        pairs = storage.read_buckets(self.pairs, inputs["bucket"], schemas.PAIRS)
        rows = distinct(pairs["doc_row"].to_numpy()) - inputs["first_row"]
        corpus = storage.read_table(inputs["corpus"], ["doc_id", "text"]) if len(rows) else schemas.CORPUS.empty_table()
        path = f"{task.output}.{self.extension}"
        return _written(path, self.keys, corpus["doc_id"].take(rows), corpus["text"].take(rows))


class WriteQueries:
    """Stage: the emitted queries of one block, as JSON lines.

    Args:
        keys: of a query's id and text.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, keys: tuple[str, str]) -> None:
        self.keys = keys

    def __call__(self, task: Task) -> Record:
        """Writes those of the block, from the paths `queries` and `shortfall`."""
        queries = storage.read_table(task.inputs["queries"], ["query_id", "text"])
        rows = np.flatnonzero(storage.read_table(task.inputs["shortfall"], ["is_emitted"])["is_emitted"].to_numpy())
        return _written(f"{task.output}.jsonl", self.keys, queries["query_id"].take(rows), queries["text"].take(rows))


def _written(path: str, keys: tuple[str, str], ids: pa.ChunkedArray, texts: pa.ChunkedArray) -> Record:
    has_text = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(texts), ""), False)
    table = pa.table(dict(zip(keys, (ids, texts), strict=True))).filter(has_text)
    if path.endswith(".parquet"):
        filled = [table] if len(table) else []  # `datasets` cannot read a row group without rows
        return Record([storage.write_tables(path, table.schema, filled)], rows_in=len(ids), rows_out=len(table))
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    shard: Shard = storage.write_file(path, (line.encode() for line in lines))
    return Record([shard], rows_in=len(ids), rows_out=shard.num_rows)
