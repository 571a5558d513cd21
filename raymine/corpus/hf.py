"""A Hugging Face dataset on disk (`Dataset.save_to_disk`), read as what it is: Arrow files listed in state.json.

`datasets` itself is not needed. Record batches are streamed. A large local file is cut into splits of whole record
batches: a task skips those before its own at no cost, as they are memory-mapped. The stream format has no list of its
batches, so a remote file is one split (`datasets` writes at most 500 MB into each).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa

from raymine import storage
from raymine.corpus.base import Columns, Problems, Rows, no_column
from raymine.corpus.parquet import damaged, table_rows
from raymine.errors import InputError

STATE, DICT = "state.json", "dataset_dict.json"
MAX_BATCH_ROWS = 8192
SPLIT_BYTES = 200_000_000  # as a Parquet split


class HfReader:
    """Reads a folder written by `datasets.Dataset.save_to_disk`."""

    def splits(self, path: str, kind: str, whole_files: bool = False) -> list[dict[str, Any]]:
        files = [file for file in hf_files(path) if _has_rows(file)]
        return [split for file in files for split in ([{"path": file}] if whole_files else _file_splits(file))]

    def rows(self, split: dict[str, Any], columns: Columns, problems: Problems) -> Iterator[Rows]:
        return arrow_rows(split["path"], columns, problems, split.get("batches"))


def is_hf_folder(path: str) -> bool:
    return any(storage.exists(storage.join(path, name)) for name in (STATE, DICT))


def hf_files(path: str) -> list[str]:
    """The Arrow files of a saved dataset, in order.

    Raises:
        InputError: not such a folder, a DatasetDict, a dataset with an index mapping, or a file is missing.
    """
    if storage.exists(storage.join(path, DICT)):
        names = storage.read_json(storage.join(path, DICT)).get("splits", [])
        first = names[0] if names else "train"
        raise InputError(
            f"{path}: a DatasetDict, not a Dataset",
            got=f"splits {', '.join(names)}",
            fix=f"name one of them, e.g. {storage.join(path, first)}",
        )
    if not storage.exists(storage.join(path, STATE)):
        raise InputError(
            f"{path}: not a saved dataset", got=f"no {STATE} in it", expected="Dataset.save_to_disk's folder"
        )
    state = storage.read_json(storage.join(path, STATE))
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InputError(
            f"{path}: the dataset was saved with an index mapping, not as rows",
            fix="save `dataset.flatten_indices()` instead",
        )
    files = [storage.join(path, entry["filename"]) for entry in state["_data_files"]]
    missing = [file for file in files if not storage.exists(file)]
    if missing:
        raise InputError(f"{missing[0]}: no such file, but {STATE} lists it", fix="copy the whole folder again")
    return files


def _has_rows(path: str) -> bool:
    try:
        with _opened(path) as (_, batches):
            return any(batch.num_rows for batch in batches)
    except (pa.ArrowInvalid, OSError):
        return True  # the file's own task says what is wrong with it


def _file_splits(path: str) -> list[dict[str, Any]]:
    """Neighbouring record batches up to SPLIT_BYTES each (a larger one is a split of its own)."""
    whole: list[dict[str, Any]] = [{"path": path}]
    if not storage.is_local(path) or storage.num_bytes(path) <= SPLIT_BYTES:
        return whole
    splits: list[dict[str, Any]] = []
    try:
        with _opened(path) as (_, batches):
            for index, batch in enumerate(batches):
                if not splits or splits[-1]["num_bytes"] + batch.nbytes > SPLIT_BYTES:
                    splits.append({"path": path, "batches": [index, index], "num_rows": 0, "num_bytes": 0})
                splits[-1]["batches"][1] = index + 1
                splits[-1]["num_rows"] += batch.num_rows
                splits[-1]["num_bytes"] += batch.nbytes
    except (pa.ArrowInvalid, OSError):
        return whole  # the file's own task says what is wrong with it
    return [split for split in splits if split["num_rows"]]


def arrow_rows(
    path: str, columns: Columns, problems: Problems, batch_range: tuple[int, int] | None = None
) -> Iterator[Rows]:
    """The rows of an Arrow IPC stream or file.

    Args:
        path: local or URL.
        columns: top-level columns.
        problems: is told of texts that are not UTF-8.
        batch_range: first record batch, and one past the last; None: all.

    Raises:
        InputError: damaged or truncated, or it lacks a required column.
    """
    first_row = 0
    try:
        with _opened(path) as (schema, batches):
            missing = [name for name in columns.all_required if name not in schema.names]
            if missing:
                raise no_column(path, missing, schema.names)
            begin, end = batch_range or (0, None)
            for index, batch in enumerate(islice(batches, end)):
                if index < begin:
                    first_row += batch.num_rows
                    continue
                for start in range(0, batch.num_rows, MAX_BATCH_ROWS):
                    part = batch.slice(start, MAX_BATCH_ROWS)
                    yield table_rows(path, first_row, part, columns, problems)
                    first_row += part.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, first_row, error) from error


@contextmanager
def _opened(path: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Schema and record batches; `datasets` writes the stream format, other tools the file format."""
    with storage.mapped(path, storage.CHUNK_BYTES) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            with pa.ipc.open_file(source) as reader:
                yield reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            with pa.ipc.open_stream(source) as reader:
                yield reader.schema, iter(reader)
