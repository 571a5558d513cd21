"""Shards on any filesystem: local paths and fsspec URLs (s3://, gs://, memory:// ...) through one code path.

Writing: into a local temporary file, which is then renamed (local) or uploaded (remote) in one atomic act, so a file
that exists is whole. Reading: Parquet through pyarrow, local files memory-mapped, remote ones by ranges.

Two kinds of files. Parquet shards are tables that people may open. Bucketed files (Arrow IPC, zstd) carry pairs from
one pass to the next: batch i holds the rows of bucket i (a query block, or a document shard), so the reader of bucket i
takes batch i of every file and nothing else: a shuffle by files, with no process that holds all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymine.errors import InputError

CHUNK_BYTES = 8 << 20
SAVE_SHARE = 4  # hashes are saved when a quarter of them is new: thousands of files cost a few dozen writes
TEMPORARY = ".tmp-"  # begins the name of a local file that is being written, or whose writer was killed


@dataclass(frozen=True)
class Shard:
    """One finished file of rows: the unit of scheduling, retry and resume.

    `first_row` is the dense row number of its first row among all shards of its table (0 where that has no meaning).
    """

    path: str
    num_rows: int
    num_bytes: int
    sha256: str
    first_row: int = 0

    def at(self, first_row: int) -> Shard:
        """The same file, placed at another row."""
        return replace(self, first_row=first_row)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def is_url(path: str) -> bool:
    """Whether a path names a filesystem (`s3://...`) rather than a local file."""
    return "://" in path


def is_local(path: str) -> bool:
    return not is_url(path) or path.startswith("file://")


def local_path(path: str) -> Path:
    """The local path of a plain path or file:// URL."""
    return Path(path.removeprefix("file://"))


def absolute(path: str, base: str = "") -> str:
    """Makes a path absolute: relative ones are taken from `base` (a folder or URL), else from the working folder."""
    if is_url(path):
        return path.rstrip("/") if path.count("/") > 2 else path
    if Path(path).expanduser().is_absolute() or not base:
        return str(Path(path).expanduser().absolute())
    return join(base, path) if is_url(base) else os.path.normpath(Path(base) / path)


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def relative(path: str, base: str) -> str:
    """`path` as seen from the folder `base`; unchanged where it lies elsewhere."""
    prefix = base.rstrip("/") + "/"
    return path.removeprefix(prefix)


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of a path, and the path inside it."""
    from fsspec.core import url_to_fs

    fs, inner = url_to_fs(path)
    return fs, inner


def _full(path: str, inner: str) -> str:
    return path.split("://", 1)[0] + "://" + inner.lstrip("/") if not is_local(path) else inner


def exists(path: str) -> bool:
    if is_local(path):
        return local_path(path).exists()
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    return bool(fs.exists(inner))


def is_folder(path: str) -> bool:
    if is_local(path):
        return local_path(path).is_dir()
    fs, inner = filesystem(path)
    return bool(fs.isdir(inner))


def list_files(folder: str, suffix: str | tuple[str, ...] = "") -> list[str]:
    """All files below a folder whose name ends in `suffix`, sorted by path; none if the folder does not exist."""
    if is_local(folder):
        root = local_path(folder)
        found = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY))
        prefix = "file://" if folder.startswith("file://") else ""
        return sorted(prefix + str(path) for path in found if path.name.endswith(suffix))
    fs, inner = filesystem(folder)
    fs.invalidate_cache()
    return sorted(_full(folder, path) for path in fs.find(inner) if path.endswith(suffix))


def remove_folder(folder: str) -> None:
    """Deletes a folder and all below it; nothing happens if it is not there."""
    if is_local(folder):
        shutil.rmtree(local_path(folder), ignore_errors=True)
        return
    fs, inner = filesystem(folder)
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file opened for binary reading, local or remote."""
    if is_local(path):
        with local_path(path).open("rb") as file:
            yield file
        return
    fs, inner = filesystem(path)
    with fs.open(inner, "rb") as file:
        yield file


@contextmanager
def writing(path: str) -> Iterator[Path]:
    """Gives a local temporary path to write to; on success its content appears at `path` in one act.

    An exception inside leaves nothing behind, and a killed process leaves only a temporary file.
    """
    if is_local(path):
        target = local_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    else:
        target = None
        temporary = Path(tempfile.gettempdir()) / f"raymine-{uuid.uuid4().hex}"
    try:
        yield temporary
        if target is not None:
            temporary.replace(target)
        else:
            fs, inner = filesystem(path)
            fs.put_file(str(temporary), inner)
            fs.invalidate_cache()
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A local file or folder with the content of `path`: itself where local, else a temporary download."""
    if is_local(path):
        yield local_path(path)
        return
    fs, inner = filesystem(path)
    with tempfile.TemporaryDirectory(prefix="raymine-") as folder:
        target = Path(folder) / inner.rstrip("/").rsplit("/", 1)[-1]
        fs.get(inner, str(target), recursive=bool(fs.isdir(inner)))
        yield target


def write_bytes(path: str, content: bytes) -> None:
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_bytes(path: str) -> bytes:
    with opened(path) as file:
        return bytes(file.read())


def read_json(path: str) -> Any:
    return json.loads(read_bytes(path))


def sha256_of(path: str) -> str:
    """SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _as_shard(path: str, found: list[Shard], num_rows: list[int]) -> Iterator[Path]:
    with writing(path) as temporary:
        yield temporary
        found.append(Shard(path, sum(num_rows), temporary.stat().st_size, sha256_of(str(temporary))))


def write_table(path: str, table: pa.Table) -> Shard:
    """Writes one Parquet shard atomically."""
    return write_tables(path, table.schema, [table])


def write_tables(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> Shard:
    """Writes one Parquet shard from a stream of tables, a row group each, atomically."""
    found: list[Shard] = []
    num_rows: list[int] = []
    with (
        _as_shard(path, found, num_rows) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table)
            num_rows.append(table.num_rows)
        writer.close()
    return found[0]


def write_file(path: str, lines: Iterable[bytes]) -> Shard:
    """Writes one file from a stream of byte strings (one row each), atomically."""
    found: list[Shard] = []
    num_rows: list[int] = []
    with _as_shard(path, found, num_rows) as temporary, temporary.open("wb") as file:
        for line in lines:
            file.write(line)
            num_rows.append(1)
        file.close()
    return found[0]


def parquet_file(path: str) -> pq.ParquetFile:
    """A Parquet file opened for reading: memory-mapped where local, by ranges where remote."""
    if is_local(path):
        return pq.ParquetFile(local_path(path), memory_map=True)
    fs, inner = filesystem(path)
    return pq.ParquetFile(inner, filesystem=fs, pre_buffer=True)


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads one Parquet shard."""
    with parquet_file(path) as file:
        return file.read(columns=list(columns) if columns is not None else None)


def write_buckets(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> Shard:
    """Writes a bucketed file: table i of the stream becomes batch i; empty tables are kept as empty batches.

    Args:
        path: where; its name ends in `.arrow`.
        schema: of every table.
        tables: one per bucket, in order.
    """
    found: list[Shard] = []
    num_rows: list[int] = []
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        _as_shard(path, found, num_rows) as temporary,
        pa.ipc.new_file(str(temporary), schema, options=options) as writer,
    ):
        for table in tables:
            batches = table.cast(schema).combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema))
            num_rows.append(table.num_rows)
    return found[0]


def read_bucket(path: str, bucket: int) -> pa.Table:
    """Batch `bucket` of a bucketed file."""
    if is_local(path):
        with pa.memory_map(str(local_path(path))) as source, pa.ipc.open_file(source) as reader:
            return pa.Table.from_batches([reader.get_batch(bucket)])
    with opened(path) as source, pa.ipc.open_file(source) as reader:
        return pa.Table.from_batches([reader.get_batch(bucket)])


def read_buckets(paths: Sequence[str], bucket: int, schema: pa.Schema) -> pa.Table:
    """Batch `bucket` of several bucketed files, one after the other; an empty table where there are no files."""
    tables = [read_bucket(path, bucket) for path in paths]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def split_by(rows: Any, starts: Sequence[int], table: pa.Table) -> Iterator[pa.Table]:
    """Cuts a table into buckets by the value of an int64 column.

    Args:
        rows: int64 [n] of `table`, e.g. its doc_row column as numpy.
        starts: first row of each bucket, ascending; bucket i ends where i+1 starts.
        table: any table of n rows.

    Yields:
        One table per bucket, rows in their former order.
    """
    import numpy as np

    bucket = np.searchsorted(np.asarray(starts), rows, side="right") - 1
    order = np.argsort(bucket, kind="stable")
    ends = np.searchsorted(bucket[order], np.arange(len(starts)), side="right")
    begin = 0
    for end in ends:
        yield table.take(pa.array(order[begin:end]))
        begin = int(end)


class HashCache:
    """Content hashes of files, remembered by (path, size, time of change) or by ETag, so a re-run does not read them.

    Args:
        path: JSON file that keeps them, normally inside the workspace; None keeps them for this process only.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.known: dict[str, str] = read_json(path) if path and exists(path) else {}
        self._num_unsaved = 0

    def save(self) -> None:
        """Writes what is known; done now and then by itself, so that a killed run has hashed little in vain."""
        if self.path and self._num_unsaved:
            write_json(self.path, self.known)
            self._num_unsaved = 0

    def content_hash(self, url: str) -> str:
        """SHA-256 of a local file, or an object store's own content tag where it has one.

        Raises:
            InputError: there is no such file.
        """
        if not exists(url):
            raise InputError(f"{url}: no such file", "", "a file or URL that can be read", "correct the path")
        if is_local(url):
            stat = local_path(url).stat()
            state = f"{local_path(url)}|{stat.st_size}|{stat.st_mtime_ns}"
        else:
            fs, inner = filesystem(url)
            info = fs.info(inner)
            if tag := info.get("ETag"):
                return f"etag:{tag.strip(chr(34))}:{info['size']}"
            state = f"{url}|{info.get('size')}|{info.get('mtime', info.get('LastModified', info.get('created')))}"
        if state not in self.known:
            self.known[state] = sha256_of(url)
            self._num_unsaved += 1
            if self._num_unsaved * SAVE_SHARE >= len(self.known):
                self.save()
        return self.known[state]
