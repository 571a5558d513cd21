"""Parquet: a file or a folder of files, cut into splits of whole row groups.

Only the wanted columns are read, in batches sized by the row groups' own figures, so that memory is one batch and the
compressed pages under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymine import storage
from raymine.corpus.base import Columns, Problems, Rows, no_column
from raymine.corpus.jsonl import data_files
from raymine.corpus.lines import place
from raymine.errors import InputError

SUFFIXES = (".parquet", ".pq")
SPLIT_BYTES = 200_000_000  # uncompressed; a task of some seconds: enough of them to spread, few enough to list
BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 8192


class ParquetReader:
    """Reads a Parquet file, or all those of a folder; one split per group of row groups."""

    def splits(self, path: str, kind: str, whole_files: bool = False) -> list[dict[str, Any]]:
        return [split for file in data_files(path, SUFFIXES) for split in _file_splits(file)]

    def rows(self, split: dict[str, Any], columns: Columns, problems: Problems) -> Iterator[Rows]:
        return parquet_rows(split["path"], columns, problems, split.get("row_groups"))


def parquet_rows(
    path: str, columns: Columns, problems: Problems, row_groups: tuple[int, int] | None = None
) -> Iterator[Rows]:
    """The rows of a Parquet file.

    Args:
        path: local or URL.
        columns: top-level columns.
        problems: is told of texts that are not UTF-8.
        row_groups: first one, and one past the last; None: all.

    Raises:
        InputError: not a Parquet file, or it lacks a required column.
    """
    with opened_parquet(path) as file:
        names = _wanted(path, file.schema_arrow, columns)
        begin, end = row_groups or (0, file.num_row_groups)
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        first_row = sum(group.num_rows for group in groups[:begin])
        try:
            for batch in file.iter_batches(_batch_rows(groups[begin:end]), list(range(begin, end)), names):
                yield table_rows(path, first_row, batch, columns, problems)
                first_row += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise damaged(path, first_row, error) from error


def opened_parquet(path: str) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        InputError: no such file, or not Parquet.
    """
    try:
        return storage.parquet_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", fix="correct the path") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file, or a truncated one", got=str(error)) from error


def damaged(path: str, row: int, error: Exception) -> Exception:
    """What an error in the middle of a file means: a damaged file, unless the system or the network failed."""
    if isinstance(error, OSError) and error.errno is not None:  # Arrow's own errors carry no number
        return error
    return InputError(f"{place(path, row)}: the file is damaged", got=str(error), fix="copy or make it again")


def table_rows(path: str, first_row: int, batch: pa.RecordBatch, columns: Columns, problems: Problems) -> Rows:
    """A record batch as rows numbered from `first_row`; columns are looked up by name."""
    numbers = range(first_row, first_row + batch.num_rows)
    made: dict[str, list[Any]] = {}
    for name in columns.names:
        found = batch.schema.get_field_index(name) >= 0
        made[name] = values(path, numbers, batch.column(name), problems) if found else [None] * batch.num_rows
    present = frozenset(name for name in columns.optional if name in batch.schema.names)
    return Rows(path, numbers, made, batch.column(columns.vector) if columns.vector else None, present)


def values(path: str, numbers: range, array: pa.Array, problems: Problems) -> list[Any]:
    """An Arrow array as Python values; binary is taken for UTF-8 text, as old Parquet writers leave it unmarked.

    Invalid UTF-8 is noted in `problems` (and None in the list).
    """
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        array = array.cast(pa.large_binary()).view(pa.large_string())
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [_value(place(path, number), scalar, problems) for number, scalar in zip(numbers, array, strict=True)]


def _value(where: str, scalar: pa.Scalar, problems: Problems) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        problems.add(where, f"invalid UTF-8: {error.reason}")
        return None


def _wanted(path: str, schema: pa.Schema, columns: Columns) -> list[str]:
    missing = [name for name in columns.all_required if name not in schema.names]
    if missing:
        raise no_column(path, missing, schema.names)
    optional = [name for name in columns.optional if name in schema.names]
    return list(dict.fromkeys([*columns.all_required, *optional]))


def _batch_rows(groups: list[Any]) -> int:
    num_rows = sum(group.num_rows for group in groups)
    row_bytes = sum(group.total_byte_size for group in groups) / max(num_rows, 1)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))


def _file_splits(path: str) -> list[dict[str, Any]]:
    """Neighbouring row groups up to SPLIT_BYTES each (a larger row group is a split of its own)."""
    with opened_parquet(path) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    splits: list[dict[str, Any]] = []
    num_bytes = 0
    for index, group in enumerate(groups):
        if not splits or num_bytes + group.total_byte_size > SPLIT_BYTES:
            splits.append({"path": path, "row_groups": [index, index], "num_rows": 0, "num_bytes": 0})
            num_bytes = 0
        splits[-1]["row_groups"][1] = index + 1
        splits[-1]["num_rows"] += group.num_rows
        splits[-1]["num_bytes"] += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        num_bytes += group.total_byte_size
    return [split for split in splits if split["num_rows"]]
