"""A Hugging Face dataset on disk (`Dataset.save_to_disk`), read as what it is: Arrow files listed in state.json.

`datasets` itself is not needed. One split per Arrow file; record batches are streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from raymine import storage
from raymine.corpus.base import Columns, Problems, Rows, no_column
from raymine.corpus.parquet import damaged, table_rows
from raymine.errors import InputError

STATE, DICT = "state.json", "dataset_dict.json"
MAX_BATCH_ROWS = 8192


class HfReader:
    """Reads a folder written by `datasets.Dataset.save_to_disk`."""

    def splits(self, path: str, kind: str) -> list[dict[str, Any]]:
        return [{"path": file} for file in hf_files(path) if _has_rows(file)]

    def rows(self, split: dict[str, Any], columns: Columns, problems: Problems) -> Iterator[Rows]:
        return arrow_rows(split["path"], columns, problems)


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


def arrow_rows(path: str, columns: Columns, problems: Problems) -> Iterator[Rows]:
    """The rows of an Arrow IPC stream or file.

    Raises:
        InputError: damaged or truncated, or it lacks a required column.
    """
    first_row = 0
    try:
        with _opened(path) as (schema, batches):
            missing = [name for name in columns.all_required if name not in schema.names]
            if missing:
                raise no_column(path, missing, schema.names)
            for batch in batches:
                for start in range(0, batch.num_rows, MAX_BATCH_ROWS):
                    part = batch.slice(start, MAX_BATCH_ROWS)
                    yield table_rows(path, first_row, part, columns, problems)
                    first_row += part.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, first_row, error) from error


@contextmanager
def _opened(path: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Schema and record batches; `datasets` writes the stream format, other tools the file format."""
    with storage.opened(path) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            with pa.ipc.open_file(source) as reader:
                yield reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            with pa.ipc.open_stream(source) as reader:
                yield reader.schema, iter(reader)
