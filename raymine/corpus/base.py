"""The reader port: rows of a file, in batches, with the place of each row.

A format is one class with two methods (see `Reader`): which files there are and how each is cut into splits, and the
rows of one split as a stream. Everything that is the same for all formats (ids, titles, vectors, shards) lies in
`raymine.corpus.read`; everything that is the same for all text files lies in `raymine.corpus.lines`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from raymine.corpus.lines import Span, place
from raymine.errors import InputError

MAX_PROBLEMS = 20  # per task; reading on would only repeat the same fault


@dataclass(frozen=True)
class Columns:
    """Which columns of a file are read.

    Args:
        required: every row must have them (their values may be null).
        optional: None in a row that lacks them.
        vector: a required column of number lists, given as an Arrow array.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    vector: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns of plain values."""
        return self.required + self.optional

    @property
    def all_required(self) -> tuple[str, ...]:
        return (*self.required, *([self.vector] if self.vector else []))


@dataclass
class Rows:
    """Consecutive rows of one file.

    Args:
        path: the file.
        lines: per row, its line (text files, from 1 in the file or span) or row number (tables, from 0 in the file).
        columns: per wanted column one list of Python values; None where null or, if optional, where there is none.
        vectors: list array of the wanted vector column.
        present: the optional columns that these rows, or some of them, do have.
        span: of the file, if it was read in spans.
    """

    path: str
    lines: Sequence[int]
    columns: dict[str, list[Any]]
    vectors: pa.Array | None = None
    present: frozenset[str] = frozenset()
    span: Span | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, index: int) -> str:
        """The place of the batch's row `index`, as error messages name it."""
        return self.span.place(self.lines[index]) if self.span else place(self.path, self.lines[index])


@dataclass
class Problems:
    """Faults found in a file's rows, one line of text each."""

    lines: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """Notes a fault.

        Raises:
            InputError: there are now MAX_PROBLEMS of them: the reading stops.
        """
        self.add_line(f"{where}: {what}")
        if len(self.lines) >= MAX_PROBLEMS:
            raise InputError(f"{where}: reading stopped here, after {MAX_PROBLEMS} problems")

    def add_line(self, line: str) -> None:
        """Notes a fault that has no one place, after the last row."""
        self.lines.append(line)

    def add_error(self, error: InputError) -> None:
        """Notes the error that ended the reading."""
        parts = [("got", error.got), ("expected", error.expected), ("fix", error.fix)]
        self.lines.append("; ".join([error.problem, *(f"{name}: {text}" for name, text in parts if text)]))


class Reader(Protocol):
    """A format."""

    def splits(self, path: str, kind: str, whole_files: bool = False) -> list[dict[str, Any]]:
        """What can be read on its own: `path` (of a file) and, where the format knows them, `num_rows` and a range.

        A large file is cut into splits of some 200 MB, so that it is the work of many tasks.

        Args:
            path: file or folder.
            kind: corpus or queries.
            whole_files: a file whose rows are not counted is one split, however large.

        Raises:
            InputError: there is nothing to read.
        """
        ...

    def rows(self, split: dict[str, Any], columns: Columns, problems: Problems) -> Iterator[Rows]:
        """The rows of a split, in order. A row that cannot be parsed is noted in `problems` and left out.

        Raises:
            InputError: the file cannot be read, or lacks a column.
        """
        ...


def no_column(where: str, missing: Sequence[str], present: Sequence[str]) -> InputError:
    """The error of a file that lacks columns; no other column is ever taken in their place."""
    names = ", ".join(f"`{name}`" for name in missing)
    return InputError(
        f"{where}: no column {names}",
        got=f"columns {', '.join(present)}" if present else "no columns",
        fix="name the column in the config, or rename it in the file",
    )
