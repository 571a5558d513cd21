"""Reading documents and queries from their files into shards: one task per split (see `splits`).

A split is streamed: rows in batches ► ids, texts and vectors, checked ► shards of at most `shard_documents` rows.
Memory is one shard and one batch, whatever the file's size. Faults of the input are problems of the task, with file and
line; then nothing more is written.

Cost: 120,036 abstracts (164 MB of jsonl, gzipped) take 3.9 s of one core: 1.5 s to read, 2.0 s to hash, the rest to
write; the process peaks at 290 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import CorpusConfig, QueriesConfig, TextSource
from raymine.corpus.base import Problems
from raymine.corpus.batches import Batch, batches
from raymine.corpus.parse import absent, asked_columns
from raymine.corpus.splits import splits
from raymine.errors import InputError
from raymine.storage import Shard

__all__ = ["ReadDocuments", "ReadQueries", "splits"]

QUERIES_PER_SHARD = 65536  # raw ones: they are read once more, to be selected and cut into blocks
MAX_SHARD_CHARS = 256 << 20  # a shard of long documents ends early, so that memory stays flat

MakeTable = Callable[[Sequence[str], Sequence[str | None]], pa.Table]


class ReadDocuments:
    """Reads one split of the corpus.

    Task inputs: one dict of `splits`. Outputs: n corpus shards, then, with vectors, n shards of them (as given: not
    normalised; none for empty documents), then, with metadata, n shards of that. Info: num_shards (n), num_empty, dim
    (None without vectors); of a byte range also `present`, the optional columns that some row of it has: if it lacks
    one, that is no fault yet, as another part of the file may have it.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: CorpusConfig) -> None:
        self.config = config

    def __call__(self, task: Task) -> Record:
        writer = ShardWriter(task.output, self.config.shard_documents, schemas.corpus_table)
        return _read(self.config, task.inputs, writer)


class ReadQueries:
    """Reads one split of the queries; inputs, outputs and info as ReadDocuments. An empty query text is a problem."""

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: QueriesConfig) -> None:
        self.config = config

    def __call__(self, task: Task) -> Record:
        return _read(self.config, task.inputs, ShardWriter(task.output, QUERIES_PER_SHARD, schemas.query_table))


def _read(config: TextSource, split: dict[str, Any], writer: ShardWriter) -> Record:
    faults: list[str] = []
    num_rows = 0
    present: set[str] = set()
    for part in split.get("parts", [split]):
        read = _read_part(config, part, writer, is_written=not faults)
        faults += read.problems.lines
        num_rows += read.num_rows
        present |= read.present
    if not faults:
        writer.finish()
    return Record(
        outputs=writer.shards,
        rows_in=num_rows,
        rows_out=writer.num_written,
        bytes_in=split["num_bytes"],
        problems=faults,
        info={
            "num_shards": len(writer.tables),
            "num_empty": writer.num_empty,
            "dim": writer.dim,
            **({"present": sorted(present)} if "byte_range" in split else {}),
        },
    )


@dataclass
class _PartRead:
    problems: Problems = field(default_factory=Problems)
    num_rows: int = 0
    present: set[str] = field(default_factory=set)


def _read_part(config: TextSource, split: dict[str, Any], writer: ShardWriter, is_written: bool) -> _PartRead:
    """Reads one file or part of a file; its rows go to the writer until something is wrong."""
    read = _PartRead()
    problems, path = read.problems, split["path"]
    try:
        for batch in batches(config, split, problems):
            read.num_rows += len(batch.ids)
            read.present |= batch.present
            if is_written and not problems.lines:
                writer.add(batch)
        if read.num_rows and path and "byte_range" not in split:
            for column in asked_columns(config):
                if column not in read.present:
                    problems.add_line(absent(path, column))
        if config.has_vectors and writer.dim is None and read.num_rows and not problems.lines:
            problems.add(path, "no row has a vector: every text is empty")
    except InputError as error:
        problems.add_error(error)
    return read


class ShardWriter:
    """Gathers batches and writes shards of ids and texts, and shards of vectors and of metadata beside them.

    Args:
        output: path prefix.
        max_rows: rows per shard; fewer where texts are long.
        make_table: from ids and texts.
    """

    def __init__(self, output: str, max_rows: int, make_table: MakeTable) -> None:
        self.output, self.max_rows, self.make_table = output, max_rows, make_table
        self.tables: list[Shard] = []
        self.vector_shards: dict[int, Shard] = {}
        self.metadata_shards: list[Shard] = []
        self.num_empty = self.num_written = 0
        self.dim: int | None = None
        self.dtype = "float32"
        self._waiting: list[Batch] = []
        self._num_waiting = self._num_chars = 0

    @property
    def shards(self) -> list[Shard]:
        """All that was written: tables, then vectors, then metadata."""
        vectors = [self.vector_shards[number] for number in sorted(self.vector_shards)]
        return [*self.tables, *vectors, *self.metadata_shards]

    def add(self, batch: Batch) -> None:
        """Takes in a batch and writes the shards that it fills."""
        if batch.vectors is not None and batch.vectors.shape[1]:
            self.dim, self.dtype = batch.vectors.shape[1], batch.vectors.dtype.name
        self.num_empty += int((~batch.has_text).sum())
        self._waiting.append(batch)
        self._num_waiting += len(batch.ids)
        self._num_chars += sum(len(text) for text in batch.texts if text)
        if self._num_waiting >= self.max_rows or self._num_chars >= MAX_SHARD_CHARS:
            self._flush(keep_rest=self._num_chars < MAX_SHARD_CHARS)

    def finish(self) -> None:
        """Writes what is left."""
        self._flush(keep_rest=False)
        if self.dim is None:
            return
        empty = np.empty((0, self.dim), self.dtype)
        for number in range(len(self.tables)):
            if number not in self.vector_shards:  # all its documents are empty, and its dim was not known yet
                self._write_vectors(number, np.empty(0, np.int64), empty)

    def _flush(self, keep_rest: bool) -> None:
        """Writes full shards; a rest smaller than a shard is kept waiting or written too."""
        batch = _joined(self._waiting)
        begin, num_rows = 0, len(batch.ids)
        while num_rows - begin >= self.max_rows or (begin < num_rows and not keep_rest):
            end = min(begin + self.max_rows, num_rows)
            self._write(_cut(batch, begin, end))
            begin = end
        rest = _cut(batch, begin, num_rows)
        self._waiting, self._num_waiting = [rest], num_rows - begin
        self._num_chars = sum(len(text) for text in rest.texts if text)

    def _write(self, batch: Batch) -> None:
        number = len(self.tables)
        table = self.make_table(batch.ids, batch.texts)
        self.tables.append(storage.write_table(f"{self.output}-{number:05d}.parquet", table))
        self.num_written += len(batch.ids)
        if batch.vectors is not None and batch.vectors.shape[1]:
            self._write_vectors(number, np.flatnonzero(batch.has_text), batch.vectors)
        if batch.metadata is not None:
            path = f"{self.output}-{number:05d}.metadata.parquet"
            self.metadata_shards.append(storage.write_table(path, batch.metadata.combine_chunks()))

    def _write_vectors(self, number: int, rows: NDArray[np.int64], vectors: NDArray[np.floating[Any]]) -> None:
        path = f"{self.output}-{number:05d}.vectors.parquet"
        self.vector_shards[number] = storage.write_table(path, schemas.vector_table(rows, vectors))


def _joined(parts: Sequence[Batch]) -> Batch:
    """Batches one after the other; those without any vector say nothing of the dim."""
    vectors = [part.vectors for part in parts if part.vectors is not None]
    known = [matrix for matrix in vectors if matrix.shape[1]] or vectors[:1]
    metadata = [part.metadata for part in parts if part.metadata is not None]
    return Batch(
        [doc_id for part in parts for doc_id in part.ids],
        [text for part in parts for text in part.texts],
        np.concatenate([part.has_text for part in parts]) if parts else np.empty(0, bool),
        np.concatenate(known) if known else None,
        metadata=pa.concat_tables(metadata) if metadata else None,
    )


def _cut(batch: Batch, begin: int, end: int) -> Batch:
    """Rows `begin` to `end` of a batch."""
    vectors = batch.vectors
    if vectors is not None:
        first = int(batch.has_text[:begin].sum())
        vectors = vectors[first : first + int(batch.has_text[begin:end].sum())]
    metadata = batch.metadata.slice(begin, end - begin) if batch.metadata is not None else None
    return Batch(batch.ids[begin:end], batch.texts[begin:end], batch.has_text[begin:end], vectors, metadata=metadata)
