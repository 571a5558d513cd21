"""Candidates from a TREC run file: `query Q0 document rank score tag` per line, separated by blanks or tabs.

The score alone orders a query's lines, ties go to the earlier line, and the rank column is not looked at. A document
that a query names twice counts once, with its better score. Lines of queries that are not mined for are passed over.

The file is read once, in batches of which only the k best lines of each query go on. These wait on the local disk,
split by query range, then by the hash of the document's id, in which `ResolveIds` joins them.
Cost: 3 to 5 microseconds per line in one process. Memory: the ids of all queries, a batch of lines, one range of
queries with its best lines (about PARTITION_LINES) and one bucket of the result; temporary disk of the result's size.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.corpus.base import Problems
from raymine.corpus.ids import split_by_id
from raymine.corpus.lines import place, text_blocks
from raymine.errors import InputError
from raymine.topk import ranks_within

NUM_COLUMNS = 6
BATCH_LINES = 1 << 18  # a table over all query ids is made per batch: 1 million of them take 0.1 s, the lines 0.5 s
PARTITION_LINES = 1 << 20  # 8 million lines, k 100: peak of the process 0.45 GB (1 << 22: 1.8 GB)
MAX_PARTITIONS = 256  # files open at once
PARSED = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float32()), ("line", pa.int64())])


def parse_lines(path: str, first_line: int, text: str, problems: Problems) -> pa.Table:
    """Parses whole lines of a run; blank ones are passed over.

    Args:
        path: of the file, for messages.
        first_line: number of the text's first line.
        text: lines separated by newlines.
        problems: is told of lines without six columns or a finite score, which are left out.

    Returns:
        query_id, doc_id, score (float32) and line.
    """
    rows = [line.split() for line in text.split("\n")]
    numbers = [number for number, row in enumerate(rows, first_line) if row]
    rows = [row for row in rows if row]
    scores = _scores(rows)
    is_good = np.isfinite(scores)
    for index in np.flatnonzero(~is_good).tolist():
        problems.add(place(path, numbers[index]), _fault(rows[index]))
    good = np.flatnonzero(is_good)
    kept = rows if len(good) == len(rows) else [rows[index] for index in good]
    return pa.Table.from_arrays(
        [
            pa.array([row[0] for row in kept], pa.string()),
            pa.array([row[2] for row in kept], pa.string()),
            pa.array(scores[good]),
            pa.array(np.asarray(numbers, np.int64)[good]),
        ],
        schema=PARSED,
    )


def _scores(rows: list[list[str]]) -> NDArray[np.float32]:
    """The score of each row, NaN where it has none."""
    texts = [row[4] if len(row) == NUM_COLUMNS else "nan" for row in rows]
    try:
        scores: NDArray[np.float64] = pc.cast(pa.array(texts, pa.string()), pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        scores = np.array([_score(text) for text in texts], np.float64)
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)


def _score(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _fault(row: list[str]) -> str:
    expected = "expected `query Q0 document rank score tag`"
    if len(row) != NUM_COLUMNS:
        return f"{len(row)} columns, {expected}"
    return f"{row[4]!r} is no finite score, {expected}"


def best_lines(lines: pa.Table, k: int) -> pa.Table:
    """The k best lines of each query, each document once.

    Args:
        lines: schemas.RUN_LINES, in any order.
        k: lines to keep per query.

    Returns:
        schemas.RUN_LINES, sorted by query_row, then score descending, then line.
    """
    docs = schemas.one_array(lines["doc_id"]).dictionary_encode().indices.to_numpy()
    query_rows, numbers = lines["query_row"].to_numpy(), lines["line"].to_numpy()
    scores = lines["score"].to_numpy()
    by_pair = np.lexsort((numbers, -scores, docs, query_rows))
    is_first = np.ones(len(by_pair), bool)
    is_first[1:] = (np.diff(query_rows[by_pair]) != 0) | (np.diff(docs[by_pair]) != 0)
    unique = by_pair[is_first]
    order = unique[np.lexsort((numbers[unique], -scores[unique], query_rows[unique]))]
    return lines.take(pa.array(order[ranks_within(query_rows[order]) < k]))


class ReadRun:
    """Reads the best `k` lines per query of a TREC run: one task per file.

    Settings: `num_buckets` of document ids, `k`. Inputs: {"path": plain, .gz or .zst, "queries": all query blocks, in
    order}. Output: `{output}.arrow`, schemas.RUN_LINES, batch h = bucket h. info: num_lines,
    num_lines_of_other_queries, num_queries_without_lines.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, num_buckets: int, k: int) -> None:
        self.num_buckets, self.k = num_buckets, k

    def __call__(self, task: Task) -> Record:
        path = task.inputs["path"]
        tables = [storage.read_table(block, ["query_id"]) for block in task.inputs["queries"]]
        query_ids = schemas.one_array(pa.concat_tables(tables)["query_id"])
        counts = Counts(np.zeros(len(query_ids), bool))
        problems = Problems()
        try:
            with tempfile.TemporaryDirectory(prefix="raymine-run-") as folder:
                best = known_lines(batches(path, problems), query_ids, self.k, counts)
                per_partition = max(PARTITION_LINES // self.k, math.ceil(len(query_ids) / MAX_PARTITIONS))
                partitions = spill(best, per_partition, Path(folder))
                shard = self._bucketed(partitions, f"{task.output}.arrow")
        except InputError as error:
            problems.add_error(error)
        if not problems.lines and not counts.has_lines.any():
            problems.lines.append(f"{path}: none of its {counts.num_lines} lines is of a query that is mined for")
        if problems.lines:
            return Record(problems=problems.lines)
        info = {
            "num_lines": counts.num_lines,
            "num_lines_of_other_queries": counts.num_lines_of_other_queries,
            "num_queries_without_lines": int((~counts.has_lines).sum()),
        }
        return Record([shard], rows_in=counts.num_lines, rows_out=shard.num_rows, info=info)

    def _bucketed(self, partitions: Sequence[Path], output: str) -> storage.Shard:
        """Cuts each partition to its best lines in buckets, then puts the same buckets of all together."""
        files = []
        for partition in partitions:
            with pa.memory_map(str(partition)) as source, pa.ipc.open_stream(source) as reader:
                best = best_lines(reader.read_all(), self.k)
            files.append(f"{partition}.buckets.arrow")
            storage.write_buckets(files[-1], schemas.RUN_LINES, split_by_id(best, self.num_buckets))
            partition.unlink()
        buckets = (storage.read_buckets(files, bucket, schemas.RUN_LINES) for bucket in range(self.num_buckets))
        return storage.write_buckets(output, schemas.RUN_LINES, buckets)


@dataclass
class Counts:
    """What was met in a run: which queries (bool [num_queries]) have lines, and how many lines there are."""

    has_lines: NDArray[np.bool_]
    num_lines: int = 0
    num_lines_of_other_queries: int = 0


def batches(path: str, problems: Problems) -> Iterator[pa.Table]:
    """The parsed lines of a run, in batches of at least BATCH_LINES."""
    waiting: list[pa.Table] = []
    for first_line, text in text_blocks(path):
        waiting.append(parse_lines(path, first_line, text, problems))
        if sum(table.num_rows for table in waiting) >= BATCH_LINES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def known_lines(tables: Iterable[pa.Table], query_ids: pa.Array, k: int, counts: Counts) -> Iterator[pa.Table]:
    """The k best lines per query of each batch (schemas.RUN_LINES); those of unknown queries are only counted.

    Args:
        tables: parsed lines.
        query_ids: position = query_row.
        k: lines to keep per query.
        counts: is brought up to date.
    """
    for lines in tables:
        positions = pc.index_in(lines["query_id"], value_set=query_ids)
        is_known = pc.is_valid(positions)
        query_rows = positions.filter(is_known).to_numpy().astype(np.int64)
        counts.has_lines[query_rows] = True
        counts.num_lines += lines.num_rows
        counts.num_lines_of_other_queries += lines.num_rows - len(query_rows)
        columns = [pa.array(query_rows), *lines.filter(is_known).columns[1:]]
        yield best_lines(pa.Table.from_arrays(columns, schema=schemas.RUN_LINES), k)


def spill(tables: Iterable[pa.Table], partition_queries: int, folder: Path) -> list[Path]:
    """Writes lines to one file (Arrow stream) per range of `partition_queries` query rows.

    Returns:
        The files, by query range; ranges without lines have none.
    """
    writers: dict[int, pa.RecordBatchStreamWriter] = {}
    with ExitStack() as stack:
        for table in tables:
            partitions = table["query_row"].to_numpy() // partition_queries
            for number in np.unique(partitions).tolist():
                if number not in writers:
                    target = str(folder / f"{number:08d}.arrows")
                    writers[number] = stack.enter_context(pa.ipc.new_stream(target, schemas.RUN_LINES))
                writers[number].write_table(table.filter(pa.array(partitions == number)))
    return sorted(folder.iterdir())
