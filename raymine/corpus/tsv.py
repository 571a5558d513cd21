"""Tab-separated text with a header line, plain, gzip or zstd."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from raymine.corpus.base import Columns, Problems, Rows, no_column
from raymine.corpus.lines import place, text_lines

BATCH_LINES = 65536
SUFFIXES = tuple(".tsv" + codec for codec in ("", ".gz", ".zst"))


def tsv_rows(path: str, columns: Columns, problems: Problems) -> Iterator[Rows]:
    """The rows of a TSV file as strings, without quoting rules; blank lines are left out.

    Args:
        path: plain, .gz or .zst; local or URL.
        columns: names in the header line.
        problems: is told of lines with another number of fields than the header.

    Raises:
        InputError: as `lines.text_blocks`, an empty file, or the header lacks a required column.
    """
    numbered = text_lines(path)
    _, header = next(numbered, (0, ""))
    names = header.split("\t")
    missing = [name for name in columns.required if name not in names]
    if missing:
        raise no_column(place(path, 1), missing, names)
    at = {name: names.index(name) for name in columns.names if name in names}
    while batch := list(islice(numbered, BATCH_LINES)):
        lines, fields = _fields(path, batch, len(names), problems)
        made = {
            name: [row[at[name]] for row in fields] if name in at else [None] * len(lines) for name in columns.names
        }
        if lines:
            yield Rows(path, lines, made, present=frozenset(at).intersection(columns.optional))


def _fields(
    path: str, batch: list[tuple[int, str]], num_fields: int, problems: Problems
) -> tuple[list[int], list[list[str]]]:
    lines, fields = [], []
    for number, line in batch:
        if not line or line.isspace():
            continue
        row = line.split("\t")
        if len(row) == num_fields:
            lines.append(number)
            fields.append(row)
        else:
            problems.add(place(path, number), f"{len(row)} tab-separated fields, but the header has {num_fields}")
    return lines, fields
