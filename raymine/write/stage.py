"""WriteShard: the training shard of one query block in one format.

Rows are made and written for GROUP_QUERIES queries at a time: a text is repeated in every row that it stands in, so a
whole block of long documents and many negatives would be several times the size of its texts. Until then a document is
the position of its text among those of the block, each of which is there once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import cross, pair_positions, positions
from raymine.storage import Shard
from raymine.write import FORMATS
from raymine.write.base import Format, Group, Side

# 512 queries with 100 negatives of 5 kB are 256 MB of rows; with 8 of 1 kB a row group is 8 MB.
GROUP_QUERIES = 512


@dataclass(frozen=True)
class Block:
    """The tables of one query block.

    Args:
        queries: schemas.QUERIES.
        first_row: query_row of the first query.
        verdicts: schemas.verdicts(...), or only its columns of rows, relevance and the score in use.
        negatives: schemas.negatives(...), sorted by (query_row, slot).
        shortfall: schemas.SHORTFALL.
        forbidden: schemas.FORBIDDEN.
        texts: schemas.TEXTS of all documents that are emitted, in any order.
    """

    queries: pa.Table
    first_row: int
    verdicts: pa.Table
    negatives: pa.Table
    shortfall: pa.Table
    forbidden: pa.Table
    texts: pa.Table


@dataclass
class Counts:
    """How many rows were made, how many could not be, and how many documents could not be part of one, and why."""

    num_rows: int = 0
    num_left_out: int = 0
    num_without_text: int = 0
    num_without_score: int = 0


def whole_group(block: Block, score: str | None, counts: Counts, needs_texts: bool = True) -> Group:
    """A block as one group: who stands where, without forbidden pairs. Its ids and texts of documents are dictionaries,
    for `groups` to cut and decode.

    Args:
        block: the tables.
        score: which score is written; None: none. Documents whose score is unknown are then left out: no trainer takes
            a missing or NaN score.
        counts: is told of what is left out.
        needs_texts: whether documents that are vectors only are left out, as those whose text is empty always are.

    Raises:
        ValueError: the text of an emitted document is not there.
    """
    documents = _Documents.of(block.texts, needs_texts)
    is_emitted = block.shortfall["is_emitted"].to_numpy()
    is_positive = pc.greater(block.verdicts["relevance"], 0).fill_null(False)
    emitted = is_emitted[block.verdicts["query_row"].to_numpy() - block.first_row]
    rows = block.verdicts.filter(pc.and_(is_positive, pa.array(emitted)))
    positives = _side(rows, block.first_row, documents, score, counts)
    emitted = is_emitted[block.negatives["query_row"].to_numpy() - block.first_row]
    negatives = _side(block.negatives.filter(pa.array(emitted)), block.first_row, documents, score, counts)
    asked = block.shortfall.slice(0, 1).select(["num_negatives", "num_missing"]).to_pylist()
    return Group(
        block.queries["query_id"].combine_chunks(),
        block.queries["text"].combine_chunks(),
        positives.side,
        negatives.side,
        _allowed(block, positives, negatives),
        sum(asked[0].values()) if asked else 0,
    )


@dataclass(frozen=True)
class _Documents:
    """Documents that a block emits, in any order.

    Args:
        doc_row: int64 [n].
        doc_id: string [n].
        text: large_string [n].
        is_wanted: bool [n], whether a document may be part of a row, by its text.
    """

    doc_row: NDArray[np.int64]
    doc_id: pa.Array
    text: pa.Array
    is_wanted: NDArray[np.bool_]

    @staticmethod
    def of(texts: pa.Table, needs_texts: bool) -> _Documents:
        is_empty = pc.or_(pc.equal(pc.binary_length(texts["text"]), 0), pc.utf8_is_space(texts["text"]))
        is_wanted = pc.fill_null(pc.invert(is_empty), not needs_texts).to_numpy()
        doc_id, text = (texts[name].combine_chunks() for name in ("doc_id", "text"))
        return _Documents(texts["doc_row"].to_numpy(), doc_id, text, is_wanted)


@dataclass(frozen=True)
class _Found:
    side: Side
    doc_row: NDArray[np.int64]


def _side(rows: pa.Table, first_row: int, documents: _Documents, score: str | None, counts: Counts) -> _Found:
    """Those of some positives or negatives that have a text (or, if it need not, a vector only) and a score."""
    doc_row = rows["doc_row"].to_numpy()
    where = positions(documents.doc_row, doc_row)
    if (where < 0).any():
        raise ValueError(f"the texts of {int((where < 0).sum())} emitted documents were not fetched")
    has_text = documents.is_wanted[where]
    known = np.zeros(len(rows), np.float32)
    if score is not None:
        known = pc.fill_null(rows[f"{score}_score"], float("nan")).to_numpy().astype(np.float32)
    has_score = np.isfinite(known)
    counts.num_without_text += int(np.count_nonzero(~has_text))
    counts.num_without_score += int(np.count_nonzero(has_text & ~has_score))
    stays = np.flatnonzero(has_text & has_score)
    query, at = rows["query_row"].to_numpy()[stays] - first_row, pa.array(where[stays])
    doc_id, text = (pa.DictionaryArray.from_arrays(at, column) for column in (documents.doc_id, documents.text))
    return _Found(Side(query, doc_id, text, known[stays]), doc_row[stays])


def _allowed(block: Block, positives: _Found, negatives: _Found) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions (positive, negative) of each query's combinations, without the forbidden ones."""
    positive, negative = cross(positives.side.query, negatives.side.query)
    if block.forbidden.num_rows:
        # A triple is looked up as the pair (position of its positive, doc_row).
        query_row, positive_row, doc_row = (block.forbidden[name].to_numpy() for name in schemas.FORBIDDEN.names)
        known = (positives.side.query + block.first_row, positives.doc_row)
        of_positive = pair_positions(known, (query_row, positive_row))
        is_allowed = pair_positions((of_positive, doc_row), (positive, negatives.doc_row[negative])) < 0
        positive, negative = positive[is_allowed], negative[is_allowed]
    return positive, negative


def groups(group: Group, size: int = GROUP_QUERIES) -> Iterator[Group]:
    """Cuts what `whole_group` made into groups of `size` queries."""
    for start in range(0, max(len(group.query_ids), 1), size):
        stop = start + size
        positives, first_positive = _slice(group.positives, start, stop)
        negatives, first_negative = _slice(group.negatives, start, stop)
        begin, end = np.searchsorted(group.pairs[0], [first_positive, first_positive + len(positives)])
        pairs = group.pairs[0][begin:end] - first_positive, group.pairs[1][begin:end] - first_negative
        ids, queries = group.query_ids.slice(start, size), group.queries.slice(start, size)
        yield replace(group, query_ids=ids, queries=queries, positives=positives, negatives=negatives, pairs=pairs)


def _slice(side: Side, start: int, stop: int) -> tuple[Side, int]:
    """The part of a side that belongs to the queries start <= query < stop, decoded, and where it begins."""
    begin, end = (int(value) for value in np.searchsorted(side.query, [start, stop]))
    doc_id, text = (column.slice(begin, end - begin).dictionary_decode() for column in (side.doc_id, side.text))
    return Side(side.query[begin:end] - start, doc_id, text, side.score[begin:end]), begin


def training_rows(
    block: Block, form: Format, score: str | None, counts: Counts, of_positives: bool = False
) -> Iterator[pa.Table]:
    """The training rows of a block, group by group.

    Args:
        block: the tables.
        form: the format.
        score: which score is written; None: none.
        counts: is told of what is left out.
        of_positives: the rows of the positives, of a format that has them apart.

    Yields:
        At least one table, maybe empty.
    """
    for group in groups(whole_group(block, score, counts, form.needs_texts)):
        if of_positives:
            group = replace(group, negatives=group.positives)
        made = form.make(group, score is not None)
        counts.num_rows += made.table.num_rows
        counts.num_left_out += made.num_left_out
        yield made.table


def _json_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _json_items(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """What stands between the brackets of an array, a line per object."""
    return (f"{',' if number else ''}\n{json.dumps(row, ensure_ascii=False)}" for number, row in enumerate(rows))


def _tab_separated(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """White space inside a value becomes one blank, or it would be a separator."""
    return ("\t".join(" ".join(str(value).split()) for value in row.values()) + "\n" for row in rows)


LINES = {"jsonl": _json_lines, "json": _json_items, "tsv": _tab_separated}


def _around(form: Format) -> tuple[str, str]:
    """What stands before and after the rows of a file of text."""
    if form.extension != "json":
        return "", ""
    if form.envelope is None:
        return "[", "\n]\n"
    return json.dumps({**form.envelope, "data": []}).removesuffix("]}"), "\n]}\n"


def write_rows(path: str, form: Format, tables: Iterator[pa.Table]) -> Shard:
    """Writes a stream of at least one table in the format's kind of file (Parquet: a row group each)."""
    if form.extension != "parquet":
        lines = LINES[form.extension](row for table in tables for row in table.to_pylist())
        head, tail = (text.encode() for text in _around(form))
        return storage.write_file(f"{path}.{form.extension}", (line.encode() for line in lines), head, tail)
    first = next(tables)
    filled = (table for table in chain([first], tables) if table.num_rows)
    return storage.write_tables(f"{path}.parquet", first.schema, filled)


class WriteShard:
    """Stage: the training shard of one query block.

    Args:
        format: name in FORMATS.
        score: which score is written (teacher, dense, bm25, run); None: none.
        texts: paths of FetchTexts' files, bucketed by query block.
        of_positives: see training_rows.
    """

    VERSION = 4
    calls_in_flight = 1

    def __init__(self, format: str, score: str | None, texts: Sequence[str], of_positives: bool = False) -> None:
        self.form, self.score, self.texts, self.of_positives = FORMATS[format], score, texts, of_positives

    def __call__(self, task: Task) -> Record:
        """Writes block `bucket`, which begins at `first_row`, from the paths `queries`, `verdicts`, `negatives`,
        `shortfall` and `forbidden`.
        """
        inputs: dict[str, Any] = task.inputs
        columns = ["query_row", "doc_row", *([f"{self.score}_score"] if self.score else [])]
        block = Block(
            queries=storage.read_table(inputs["queries"], ["query_id", "text"]),
            first_row=inputs["first_row"],
            verdicts=storage.read_table(inputs["verdicts"], [*columns, "relevance"]),
            negatives=storage.read_table(inputs["negatives"], columns),
            shortfall=storage.read_table(inputs["shortfall"]),
            forbidden=storage.read_table(inputs["forbidden"]),
            texts=storage.read_buckets(self.texts, inputs["bucket"], schemas.TEXTS),
        )
        counts = Counts()
        rows = training_rows(block, self.form, self.score, counts, self.of_positives)
        written = write_rows(task.output, self.form, rows)
        return Record(
            [written],
            rows_in=written.num_rows if self.of_positives else block.negatives.num_rows,
            rows_out=written.num_rows,
            bytes_in=block.texts.nbytes,
            info=asdict(counts),
        )
