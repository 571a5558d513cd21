"""Queries that got fewer negatives than asked for: counted, explained, and kept, dropped or reported as an error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.select.base import Candidates
from raymine.select.verdict import KEPT, REASONS, Codes
from raymine.select_config import SampleConfig

Counts = NDArray[np.int64]


def shortfall_table(
    candidates: Candidates, codes: Codes, found: Counts, first_row: int, config: SampleConfig
) -> pa.Table:
    """One row per query of the block, with or without candidates.

    Args:
        candidates: the block.
        codes: their verdicts.
        found: int64 [q], negatives sampled per query.
        first_row: query_row of the block's first query.
        config: how many were asked for, and what happens to a query that got fewer: with `drop` it is not emitted, its
            num_negatives is 0 and all are missing.

    Returns:
        schemas.SHORTFALL, sorted by query_row.
    """
    num_queries = len(found)
    is_emitted = (found >= config.n) | (config.shortfall != "drop")
    num_negatives = np.where(is_emitted, found, 0)
    query = candidates.query_row - first_row
    return pa.Table.from_arrays(
        [
            pa.array(np.arange(first_row, first_row + num_queries)),
            pa.array(num_negatives.astype(np.int16)),
            pa.array((config.n - num_negatives).astype(np.int16)),
            pa.array(np.bincount(query[~candidates.is_positive], minlength=num_queries).astype(np.int32)),
            top_reasons(query, codes, num_queries),
            pa.array(is_emitted),
        ],
        schema=schemas.SHORTFALL,
    )


def top_reasons(query: Counts, codes: Codes, num_queries: int) -> pa.Array:
    """The reason that took most of each query's candidates, positives aside; null where nothing was dropped.

    Args:
        query: int64 [n], position of each candidate's query in the block.
        codes: int64 [n], the verdicts.
        num_queries: in the block.

    Returns:
        string [num_queries]; of equal counts the reason that applies first.
    """
    is_dropped = (codes != KEPT) & (codes != REASONS.index("positive"))
    cells = query[is_dropped] * len(REASONS) + codes[is_dropped]
    taken = np.bincount(cells, minlength=num_queries * len(REASONS)).reshape(num_queries, len(REASONS))
    top = pa.array(taken.argmax(axis=1), mask=taken.max(axis=1) == 0)
    return pa.array(REASONS, pa.string()).take(top)


def shortfall_problems(shortfall: pa.Table, query_ids: Sequence[str]) -> list[str]:
    """One line per query that got too few negatives."""
    return [
        f"query {query_ids[number]!r}: {row['num_missing']} of {row['num_missing'] + row['num_negatives']} negatives "
        f"missing; {row['num_candidates']} candidates, most of them dropped by {row['top_reason'] or 'no filter'}"
        for number, row in enumerate(shortfall.to_pylist())
        if row["num_missing"]
    ]
