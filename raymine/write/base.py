"""The port of formats, and what they are made from: the selected negatives of some queries, as index arrays.

A format turns a `Group` into a table of training rows by `take`: no loop over rows. `pairs` lists the (positive,
negative) combinations that may stand in one row, so no format has to know of thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """The positives, or the negatives, of a group: sorted by query, the negatives then by slot.

    Args:
        query: int64 [n], position of the query in the group.
        text: large_string [n].
        score: float32 [n], finite where scores are written.
    """

    query: Rows
    text: pa.Array
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True)
class Group:
    """Some consecutive queries with all that training rows are made from.

    Args:
        queries: large_string [q], texts.
        positives: of the queries that are emitted.
        negatives: likewise.
        pairs: positions (positive, negative), int64 [p] each, sorted; combinations that may stand in one row.
        num_negatives: negatives asked for per query.
    """

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
class Format:
    """One trainer's format.

    Args:
        extension: parquet or jsonl.
        make: gives the rows of a group, with scores or without.
    """

    extension: str
    make: Callable[[Group, bool], Formatted]


def texts(column: pa.Array, rows: Rows) -> pa.Array:
    """Texts at some positions, as the string type that every reader of Parquet knows."""
    return column.take(pa.array(rows)).cast(pa.string())


def lists(values: pa.Array, lengths: Rows) -> pa.ListArray:
    """A list column from its flat values and the length of each list."""
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    field = pa.field("element", values.type)
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(field))


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
