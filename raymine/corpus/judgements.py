"""Judgements of (query, document) pairs: qrels in three spellings, or JSON Lines and Parquet with columns of ids.

A qrels file is recognised by its first line, exactly: a header that has the configured column names (as in BEIR), or
no header and four columns `query 0 document relevance` (TREC), or three `query document relevance`. Anything else is an
error that says so: a column is never guessed from its position under another name.

Cost: one streaming pass, about 3 microseconds per row in one process; memory is one batch of rows, whatever the size
of the files. Repeated judgements of a pair are kept here and joined where pairs are sorted anyway (`JoinPositives`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import PositivesConfig
from raymine.corpus import jsonl, parquet, tsv
from raymine.corpus.base import MAX_PROBLEMS, Columns, Problems, Rows, no_column
from raymine.corpus.lines import place, text_lines
from raymine.errors import InputError

BATCH_ROWS = 65536
INTEGRAL = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
MAX_RELEVANCE = 2**31 - 1
TREC_ITERATIONS = ("0", "Q0")  # what the unused second column of TREC judgements holds


@dataclass(frozen=True)
class TableFile:
    """One file of judgements, or of pairs of texts.

    Args:
        path: local or URL.
        format: tsv, jsonl or parquet.
        excluded: whether its pairs must never be mined (else they are positives).
    """

    path: str
    format: str
    excluded: bool = False


@dataclass(frozen=True)
class QrelsLayout:
    """Where a qrels file has what.

    Args:
        separator: between columns; None: any white space.
        num_columns: of every row.
        positions: of the wanted columns, by name.
        has_header: whether the first line is not a row.
    """

    separator: str | None
    num_columns: int
    positions: dict[str, int]
    has_header: bool


def table_files(path: str, format: str = "auto", excluded: bool = False) -> list[TableFile]:
    """The files of judgements or pairs under a path.

    Args:
        path: file, or folder of Parquet or JSON Lines files.
        format: auto goes by the name: .parquet, .jsonl (.gz, .zst), anything else is a TSV.
        excluded: passed on.

    Raises:
        InputError: there is no such file.
    """
    if format == "auto":
        names = storage.list_files(path) if storage.is_folder(path) else [path]
        is_parquet = any(name.endswith(parquet.SUFFIXES) for name in names)
        is_jsonl = storage.is_folder(path) or path.endswith(jsonl.SUFFIXES)
        format = "parquet" if is_parquet else "jsonl" if is_jsonl else "tsv"
    suffixes = {"parquet": parquet.SUFFIXES, "jsonl": jsonl.SUFFIXES, "tsv": tsv.SUFFIXES}[format]
    return [TableFile(file, format, excluded) for file in jsonl.data_files(path, suffixes)]


def judgement_files(positives: PositivesConfig, exclude: Sequence[str] = ()) -> list[TableFile]:
    """All files of judgements, in the order that `file` of schemas.JUDGEMENTS counts them.

    Raises:
        InputError: one does not exist.
    """
    excluded = [file for path in exclude for file in table_files(path, excluded=True)]
    return [*table_files(positives.path, positives.format), *excluded]


def integral(value: Any) -> int | None:
    """A 32-bit integer given as 1, 1.0, "1" or "1.0"; None for anything else."""
    if isinstance(value, str):
        return _integral_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_RELEVANCE:
        return None
    return int(value) if value == int(value) else None


@lru_cache(4096)  # judgements have a handful of spellings
def _integral_text(text: str) -> int | None:
    text = text.strip()
    return integral(int(text.partition(".")[0])) if INTEGRAL.fullmatch(text) else None


def id_text(value: Any) -> str | None:
    """An id as text: strings as they are, integers in decimal; None for what is no id."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def judgement_columns(config: PositivesConfig) -> tuple[str, ...]:
    """Columns of the query id, the document id and, unless every row is positive, the relevance."""
    relevance = () if config.relevance_column is None else (config.relevance_column,)
    return (config.query_id_column, config.doc_id_column, *relevance)


def qrels_layout(first_line: str, where: str, names: tuple[str, ...]) -> QrelsLayout:
    """Recognises a qrels file by its first line.

    Args:
        first_line: without its end.
        where: file and line, for the error.
        names: columns of the query id, the document id and perhaps the relevance.

    Raises:
        InputError: it is none of the spellings; lists the columns there are and all that would have been right.
    """
    for separator in ("\t", None):
        columns = [column.strip() for column in first_line.split(separator)]
        if layout := _headed(columns, separator, where, names) or _headless(columns, separator, names):
            return layout
    columns = first_line.split("\t" if "\t" in first_line else None)
    raise InputError(
        f"{where}: not judgements",
        got=f"a first line of {len(columns)} columns: {', '.join(columns)[:200]}",
        expected=f"a header with the columns {', '.join(f'`{name}`' for name in names)}; or no header and rows "
        "`query 0 document relevance` (TREC) or `query document relevance`, where relevance is an integer",
        fix="name the header's columns in `positives` (query_id_column, doc_id_column, relevance_column)",
    )


def _headed(columns: list[str], separator: str | None, where: str, names: tuple[str, ...]) -> QrelsLayout | None:
    if not set(names[:2]) <= set(columns):
        return None
    if missing := [name for name in names if name not in columns]:
        raise no_column(where, missing, columns)
    return QrelsLayout(separator, len(columns), {name: columns.index(name) for name in names}, has_header=True)


def _headless(columns: list[str], separator: str | None, names: tuple[str, ...]) -> QrelsLayout | None:
    if len(columns) not in (3, 4) or integral(columns[-1]) is None:
        return None
    if len(columns) == 4 and columns[1] not in TREC_ITERATIONS:
        return None
    places = (0, len(columns) - 2, len(columns) - 1)
    return QrelsLayout(separator, len(columns), dict(zip(names, places, strict=False)), has_header=False)


def qrels_rows(path: str, names: tuple[str, ...], problems: Problems) -> Iterator[Rows]:
    """The rows of a qrels file with the columns `names`; blank lines are passed over.

    Args:
        path: plain, .gz or .zst; local or URL.
        names: columns of the query id, the document id and perhaps the relevance.
        problems: is told of rows with another number of columns, which are left out.

    Raises:
        InputError: unreadable, or no spelling of judgements.
    """
    numbered = ((number, line) for number, line in text_lines(path) if line and not line.isspace())
    first = next(numbered, None)
    if first is None:
        return
    layout = qrels_layout(first[1], place(path, first[0]), names)
    batch = [] if layout.has_header else [first]
    while batch := [*batch, *islice(numbered, BATCH_ROWS)]:
        yield _qrels_batch(path, batch, layout, problems)
        batch = []


def _qrels_batch(path: str, batch: list[tuple[int, str]], layout: QrelsLayout, problems: Problems) -> Rows:
    numbers, rows = [], []
    for number, line in batch:
        columns = line.split(layout.separator)
        if len(columns) == layout.num_columns:
            numbers.append(number)
            rows.append(columns)
        else:
            what = f"{len(columns)} columns, expected {layout.num_columns} as in the file's first line"
            problems.add(place(path, number), what)
    return Rows(path, numbers, {name: [row[at] for row in rows] for name, at in layout.positions.items()})


def judgement_rows(file: TableFile, names: tuple[str, ...], problems: Problems) -> Iterator[Rows]:
    """The rows of a file of judgements with the columns `names`.

    Raises:
        InputError: unreadable, a column is missing, or no spelling of judgements.
    """
    if file.format == "parquet":
        return parquet.parquet_rows(file.path, Columns(names), problems)
    if file.format == "jsonl":
        return jsonl.jsonl_rows(file.path, Columns(names), problems)
    return qrels_rows(file.path, names, problems)


def judgement_table(rows: Rows, names: Sequence[str], file: int, excluded: bool, problems: Problems) -> pa.Table:
    """Checks a batch of rows and makes judgements of them.

    Args:
        rows: as read.
        names: columns of the query id, the document id and, where there is one, the relevance.
        file: ordinal of the file.
        excluded: whether the pairs are to be excluded.
        problems: takes a line for each row without an id, or whose relevance is no integer; such rows are left out.

    Returns:
        schemas.JUDGEMENTS; without a relevance column all have relevance 1.
    """
    query_ids = [id_text(value) for value in rows.columns[names[0]]]
    doc_ids = [id_text(value) for value in rows.columns[names[1]]]
    relevances: list[int | None] = [1] * len(rows)
    if len(names) == 3:
        relevances = [integral(value) for value in rows.columns[names[2]]]
    kept = []
    for index, (query_id, doc_id, relevance) in enumerate(zip(query_ids, doc_ids, relevances, strict=True)):
        if query_id is None or doc_id is None or relevance is None:
            problems.add(rows.place(index), _row_fault(rows, names, index))
        else:
            kept.append(index)
    arrays = [query_ids, doc_ids, relevances, [excluded] * len(rows), [file] * len(rows), rows.lines]
    columns = [pa.array(values, kind) for values, kind in zip(arrays, schemas.JUDGEMENTS.types, strict=True)]
    table = pa.Table.from_arrays(columns, names=schemas.JUDGEMENTS.names)
    return table.take(pa.array(kept, pa.int64())).cast(schemas.JUDGEMENTS)


def _row_fault(rows: Rows, names: Sequence[str], index: int) -> str:
    for what, name in zip(("query id", "document id"), names[:2], strict=True):
        value = rows.columns[name][index]
        if id_text(value) is None:
            return f"{value!r} is no {what}, expected a string or an integer"
    return f"{rows.columns[names[2]][index]!r} is no relevance, expected an integer"


def judgement_faults(judgements: pa.Table, paths: Sequence[str], id_column: str, what: str) -> list[str]:
    """One line for each judgement, the first ones in full and the rest as a count.

    Args:
        judgements: with the columns `file` and `line`.
        paths: of the files that `file` counts.
        id_column: which id is at fault.
        what: is said of it.
    """
    shown = judgements.slice(0, MAX_PROBLEMS).select(["file", "line", id_column]).to_pylist()
    lines = [f"{place(paths[row['file']], row['line'])}: {row[id_column]!r} {what}" for row in shown]
    num_more = judgements.num_rows - len(shown)
    return [*lines, *([f"{paths[shown[0]['file']]}: {num_more} more such judgements"] if num_more else [])]


class ReadJudgements:
    """Reads all judgements into one table, in the order of their files: one task.

    Settings: `positives`, and `exclude`, the paths of judgements whose pairs must never be mined (read with the same
    column names, their formats by their names). Output: `{output}.parquet`, schemas.JUDGEMENTS.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, positives: PositivesConfig, exclude: Sequence[str] = ()) -> None:
        self.positives, self.exclude = positives, exclude

    def __call__(self, task: Task) -> Record:
        problems = Problems()
        shard = None
        try:
            files = judgement_files(self.positives, self.exclude)
            shard = storage.write_tables(f"{task.output}.parquet", schemas.JUDGEMENTS, self._tables(files, problems))
        except InputError as error:
            problems.add_error(error)
        if shard is None or problems.lines:
            return Record(problems=problems.lines)
        return Record([shard], rows_in=shard.num_rows, rows_out=shard.num_rows)

    def _tables(self, files: Sequence[TableFile], problems: Problems) -> Iterator[pa.Table]:
        names = judgement_columns(self.positives)
        for ordinal, file in enumerate(files):
            num_rows = 0
            for rows in judgement_rows(file, names, problems):
                yield judgement_table(rows, names, ordinal, file.excluded, problems)
                num_rows += len(rows)
            if not num_rows and not problems.lines:
                problems.add(file.path, "no judgements in the file")
