"""JSON lines: one object per line, plain, gzip or zstd.

Every line goes through json.loads. On 120,036 abstracts (164 MB) reading takes 0.9 s of one core (190 MB/s), and 1.4 s
when they are gzipped; hashing their texts takes longer. pyarrow.json would save half a second, but it guesses types
per block (an id may be a string in one row and a number in the next), and its errors name no line.

A plain file is read in spans of some SPLIT_BYTES, a task each, and gives the rows and messages of one reading from end
to end. A compressed file can only be read from its begin: it is one task (compress parts, not the whole).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raymine import storage
from raymine.corpus.base import Columns, Problems, Rows, no_column
from raymine.corpus.lines import Span, blocks, cut_lines, text_blocks
from raymine.errors import InputError

SUFFIXES = tuple(name + codec for name in (".jsonl", ".ndjson", ".json") for codec in ("", ".gz", ".zst"))
_decoder = json.JSONDecoder()
SPLIT_BYTES = 200_000_000  # as a Parquet split: 4 to 7 s of one core to read, hash and write (1.5M short documents)


class JsonlReader:
    """Reads a file of JSON lines, or all those of a folder; a split per file, or per span of a large plain file."""

    def splits(self, path: str, kind: str, whole_files: bool = False) -> list[dict[str, Any]]:
        files = [file for file in data_files(path, SUFFIXES) if _has_rows(file)]
        return [split for file in files for split in ([{"path": file}] if whole_files else _file_splits(file))]

    def rows(self, split: dict[str, Any], columns: Columns, problems: Problems) -> Iterator[Rows]:
        return jsonl_rows(Span(split["path"], *split.get("byte_range", ())), columns, problems)


def _file_splits(path: str) -> list[dict[str, Any]]:
    spans = cut_lines(path, SPLIT_BYTES)
    if len(spans) == 1:
        return [{"path": path}]
    return [
        {"path": path, "byte_range": [span.begin, span.end], "num_bytes": (span.end or 0) - span.begin}
        for span in spans
    ]


def data_files(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """The file itself, or the files of a folder that end in one of `suffixes`, hidden ones left out.

    Raises:
        InputError: no such file or folder, or a folder without such files.
    """
    if not storage.is_folder(path):
        if not storage.exists(path):
            raise InputError(f"{path}: no such file or folder", fix="correct the path")
        return [path]
    names = storage.list_files(path, suffixes)
    files = [name for name in names if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not files:
        raise InputError(
            f"{path}: no readable files in the folder",
            got=", ".join(storage.relative(name, path) for name in storage.list_files(path)[:5]) or "an empty folder",
            expected=f"files named *{', *'.join(suffixes)}",
        )
    return files


def _has_rows(path: str) -> bool:
    """Whether a file has a line that is not blank; reads on only while there is none."""
    try:
        return any(not block.isspace() for _, block in blocks(path))
    except InputError:
        return True  # the file's own task says what is wrong with it


def jsonl_rows(source: str | Span, columns: Columns, problems: Problems) -> Iterator[Rows]:
    """The rows of a file of JSON lines, or of a span of it; blank lines are left out.

    Args:
        source: path (plain, .gz or .zst; local or URL) or span.
        columns: keys of the objects.
        problems: is told of lines that are not JSON objects or lack a required key.

    Raises:
        InputError: as `lines.text_blocks`, or the file's first row lacks a required column.
    """
    span = source if isinstance(source, Span) else Span(source)
    is_checked = False
    for first_line, text in text_blocks(span):
        lines, objects = _objects(span, first_line, text, problems)
        if objects and not is_checked:
            _check_first(span, lines[0], objects[0], columns)
            is_checked = True
        rows = _rows(span, lines, objects, columns, problems)
        if len(rows):
            yield rows


def _objects(span: Span, first_line: int, text: str, problems: Problems) -> tuple[list[int], list[dict[str, Any]]]:
    """The objects of a block and the line of each."""
    lines, objects = [], []
    for number, line in enumerate(text.split("\n"), first_line):
        if not line or line.isspace():
            continue
        try:
            value = _parsed(line)
            if "\\ud" in line or "\\uD" in line:  # half of a surrogate pair is valid JSON, but a text that has no UTF-8
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            problems.add(span.place(number), "invalid Unicode: half of a surrogate pair (\\ud800 to \\udfff)")
        except (ValueError, RecursionError) as error:
            problems.add(span.place(number), f"invalid JSON: {error}; got {_shown(line)}")
        else:
            if type(value) is dict:
                lines.append(number)
                objects.append(value)
            else:
                what = "expected one JSON object per line (a JSON array must be written out as lines)"
                problems.add(span.place(number), f"{what}; got {_shown(line)}")
    return lines, objects


def _parsed(line: str) -> Any:
    """As json.loads, which looks for white space on both sides: 1.9 us a line of 190 bytes, and 1.1 like this."""
    try:
        value, end = _decoder.raw_decode(line)
    except ValueError:
        return json.loads(line)
    return json.loads(line) if line[end:].strip(" \t\r") else value


def _check_first(span: Span, line: int, first: dict[str, Any], columns: Columns) -> None:
    """Raises InputError where the file's first row lacks a column: then all rows do, and one message is enough.

    Args:
        span: of the file; where it is not the first, the file is looked at only if its own first row lacks one.
        line: of its first row.
        first: its first row.
        columns: that are wanted.
    """
    missing = [name for name in columns.all_required if name not in first]
    if not missing:
        return
    if not span.begin:
        raise no_column(span.place(line), missing, list(first))
    for _ in jsonl_rows(span.path, columns, Problems()):
        return


def _rows(span: Span, lines: list[int], objects: list[dict[str, Any]], columns: Columns, problems: Problems) -> Rows:
    """Objects as columns; those that lack a key are noted and left out."""
    try:
        return _columns(span, lines, objects, columns)
    except KeyError:
        whole = []
        for position, (line, value) in enumerate(zip(lines, objects, strict=True)):
            missing = [name for name in columns.all_required if name not in value]
            if missing:
                problems.add_error(no_column(span.place(line), missing, list(value)))
            else:
                whole.append(position)
        return _columns(span, [lines[i] for i in whole], [objects[i] for i in whole], columns)


def _columns(span: Span, lines: list[int], objects: list[dict[str, Any]], columns: Columns) -> Rows:
    """Raises KeyError where an object lacks a required key."""
    made = {name: [value[name] for value in objects] for name in columns.required}
    made |= {name: [value.get(name) for value in objects] for name in columns.optional}
    vectors = _vectors(span, lines, [value[columns.vector] for value in objects]) if columns.vector else None
    present = frozenset(name for name in columns.optional if any(name in value for value in objects))
    return Rows(span.path, lines, made, vectors, present, span)


def _vectors(span: Span, lines: list[int], values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.list_(pa.float32()))
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError):
        for line, value in zip(lines, values, strict=True):
            try:
                pa.array([value], pa.list_(pa.float32()))
            except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
                raise InputError(f"{span.place(line)}: the vector is not a list of numbers", got=str(error)) from error
        raise


def _shown(line: str, width: int = 60) -> str:
    line = line.strip()
    return line if len(line) <= width else line[:width] + "..."
