"""The port of formats, and what they are made from: the selected negatives of some queries, as index arrays.

A format turns a `Group` into a table of training rows by `take`: no loop over rows. `pairs` lists the (positive,
negative) combinations that may stand in one row, so no format has to know of thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """The positives, or the negatives, of a group: sorted by query, the negatives then by slot.

    Args:
        query: int64 [n], position of the query in the group.
        doc_id: string [n].
        text: large_string [n].
        score: float32 [n], finite where scores are written.
    """

    query: Rows
    doc_id: pa.Array
    text: pa.Array
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True)
class Group:
    """Some consecutive queries with all that training rows are made from.

    Args:
        query_ids: string [q].
        queries: large_string [q], texts.
        positives: of the queries that are emitted.
        negatives: likewise.
        pairs: positions (positive, negative), int64 [p] each, sorted; combinations that may stand in one row.
        num_negatives: negatives asked for per query.
    """

    query_ids: pa.Array
    queries: pa.Array
    positives: Side
    negatives: Side
    pairs: tuple[Rows, Rows]
    num_negatives: int

    def per_positive(self) -> Rows:
        """Number of negatives that may stand beside each positive, int64 [positives]."""
        return np.bincount(self.pairs[0], minlength=len(self.positives))


class Formatted(NamedTuple):
    """Training rows, and how many could not be made for want of negatives (or, per query, of positives)."""

    table: pa.Table
    num_left_out: int


@dataclass(frozen=True)
class Companions:
    """Files of texts beside rows that name documents and queries by id, each text once.

    Args:
        documents: keys of a document's id and text.
        queries: keys of a query's id and text; None where the rows have the queries' texts.
        extension: jsonl (an object a line) or parquet.
        about: name and content of a JSON file beside the documents.
    """

    documents: tuple[str, str]
    queries: tuple[str, str] | None
    extension: str = "jsonl"
    about: tuple[str, Mapping[str, str]] | None = None


@dataclass(frozen=True)
class Format:
    """One trainer's format.

    Args:
        extension: parquet, jsonl (an object a line), json (an array of objects) or tsv (without a header).
        make: gives the rows of a group, with scores or without.
        needs_scores: whether it is nothing without scores.
        needs_texts: whether documents that are vectors only are left out, as those whose text is empty always are.
        companions: files that its rows refer to.
        positives_apart: whether its rows are of negatives only, so that with scores the positives' are written too, in
            the folder `positives` beside.
        envelope: what the object of a `json` file has beside `data`, its rows; None: the file is the array of rows.
    """

    extension: str
    make: Callable[[Group, bool], Formatted]
    needs_scores: bool = False
    needs_texts: bool = True
    companions: Companions | None = None
    positives_apart: bool = False
    envelope: Mapping[str, Any] | None = None


class PerQuery(NamedTuple):
    """The queries that have positives and negatives, and theirs.

    Args:
        query: int64 [r], positions of the queries.
        positives: int64, positions of their positives, query after query.
        negatives: likewise.
        lengths: int64 [r] each, how many positives and negatives.
        num_left_out: queries that have only the one or the other.
    """

    query: Rows
    positives: Rows
    negatives: Rows
    lengths: tuple[Rows, Rows]
    num_left_out: int


def per_query(group: Group) -> PerQuery:
    """What formats with a row per query are made from. Filters `against: each` do not part a negative from any positive
    here: it is a negative of the query.
    """
    sides = group.positives, group.negatives
    counts = [np.bincount(side.query, minlength=len(group.query_ids)) for side in sides]
    is_whole = (counts[0] > 0) & (counts[1] > 0)
    query = np.flatnonzero(is_whole)
    positives, negatives = (np.flatnonzero(is_whole[side.query]) for side in sides)
    num_left_out = int(np.count_nonzero((counts[0] > 0) | (counts[1] > 0))) - len(query)
    return PerQuery(query, positives, negatives, (counts[0][query], counts[1][query]), num_left_out)


def both_sides(group: Group, rows: PerQuery) -> tuple[Rows, Rows]:
    """Positions among positives and then negatives, each query's positives first, and the length of each list."""
    order = np.concatenate([rows.positives, rows.negatives + len(group.positives)])
    query = np.concatenate([np.repeat(np.arange(len(rows.query)), lengths) for lengths in rows.lengths])
    return order[np.argsort(query, kind="stable")], rows.lengths[0] + rows.lengths[1]


def texts(column: pa.Array, rows: Rows) -> pa.Array:
    """Texts at some positions, as the string type that every reader of Parquet knows."""
    return column.take(pa.array(rows)).cast(pa.string())


def lists(values: pa.Array, lengths: Rows) -> pa.ListArray:
    """A list column from its flat values and the length of each list."""
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    field = pa.field("element", values.type)
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(field))


def objects(**columns: pa.Array) -> pa.StructArray:
    """A column of objects, from a column per key."""
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))


def short_scores(side: Side, rows: Rows) -> pa.Array:
    """Scores as the float64 that prints with as few digits as the float32 needs: 0.9, not 0.8999999761581421."""
    return pc.cast(pc.cast(pa.array(side.score[rows], pa.float32()), pa.string()), pa.float64())


def margins(group: Group) -> pa.Array:
    """Of each (positive, negative) of `pairs` the positive's score minus the negative's, float64."""
    positive, negative = (side.score.astype(np.float64) for side in (group.positives, group.negatives))
    return pa.array(positive[group.pairs[0]] - negative[group.pairs[1]])


def headed(head: Rows, tail: Rows, lengths: Rows) -> Rows:
    """Positions that put one head before each run of tails: [h0, t, t, h1, t, ...].

    Args:
        head: int64 [n], one per run.
        tail: int64 [sum of lengths], run after run.
        lengths: int64 [n], of the runs.
    """
    is_head = np.zeros(len(head) + len(tail), np.bool_)
    is_head[np.r_[0, np.cumsum(lengths + 1)[:-1]][: len(head)]] = True
    merged = np.empty(len(is_head), np.int64)
    merged[is_head], merged[~is_head] = head, tail
    return merged
