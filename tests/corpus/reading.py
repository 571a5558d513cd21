"""What the reading tests share: writers of every format, and one call that reads a source as the pipeline does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import CorpusConfig, QueriesConfig
from raymine.corpus.read import ReadDocuments, ReadQueries, splits

Row = dict[str, Any]


def jsonl_bytes(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_jsonl(path: Path, rows: Sequence[Row]) -> str:
    """Compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = jsonl_bytes(rows)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return str(path)


def arrow_table(rows: Sequence[Row]) -> pa.Table:
    """Strings as strings, whatever is null; a column that no row has is left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


def write_parquet(path: Path, table: pa.Table, row_group_size: int = 1000) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def write_hf(folder: Path, table: pa.Table) -> str:
    """The layout of `Dataset.save_to_disk`, in two files."""
    folder.mkdir(parents=True, exist_ok=True)
    half = (table.num_rows + 1) // 2
    names = []
    for number, part in enumerate([table.slice(0, half), table.slice(half)]):
        names.append({"filename": f"data-{number:05d}-of-00002.arrow"})
        with pa.ipc.new_stream(str(folder / names[-1]["filename"]), table.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_indices_files": None}))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


@dataclass
class Source:
    """All that was read of a source."""

    records: list[Record]
    tables: list[pa.Table]
    vectors: list[pa.Table]

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.tables)

    @property
    def problems(self) -> list[str]:
        return [problem for record in self.records for problem in record.problems]


def read(config: CorpusConfig | QueriesConfig, output: Path) -> Source:
    """Reads every split of a source; tables are checked against their schemas."""
    is_corpus = isinstance(config, CorpusConfig)
    stage = ReadDocuments(config) if isinstance(config, CorpusConfig) else ReadQueries(config)
    source = Source([], [], [])
    for number, split in enumerate(splits(config, storage.HashCache())):
        json.dumps(split)
        record = stage(Task("key", split, f"{output}/{number}"))
        source.records.append(record)
        if record.problems:
            continue
        count = record.info["num_shards"]
        assert len(record.outputs) == count * (2 if config.has_vectors else 1)
        tables = [storage.read_table(shard.path) for shard in record.outputs]
        assert [shard.num_rows for shard in record.outputs] == [table.num_rows for table in tables]
        source.tables += [
            schemas.check(table, schemas.CORPUS if is_corpus else schemas.QUERIES) for table in tables[:count]
        ]
        source.vectors += tables[count:]
    return source


def problems_of(config: CorpusConfig | QueriesConfig, output: Path) -> list[str]:
    """What is wrong with a source; nothing may have been left as if it were whole."""
    return read(config, output).problems
