"""training_set: the mined negatives as texts with their rows beside them, so that a loss knows who is in its batch.

The columns are sentence-transformers' n-tuple; the rows travel in the column `label`, which the trainer hands to the
loss as a tensor. Cost: in memory, a text once for every row that it stands in; the corpus is read once, shard by shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine import storage
from raymine.config_file import load_config
from raymine.errors import WorkspaceError
from raymine.lookup import Rows, cross, distinct, pair_positions, positions
from raymine.online.verdicts import taken, verdict_blocks
from raymine.rounds import Round
from raymine.select.base import Candidates
from raymine.select.relative import forbidden
from raymine.select.verdict import resolved
from raymine.select_config import FilterConfig
from raymine.storage import Shard
from raymine.topk import ranks_within


def training_set(round_: Round, num_negatives: int | None = None) -> Any:
    """The round's training rows for the losses of raymine.online.

    Args:
        round_: finished.
        num_negatives: per row, at most as many as were mined for; None: as many. 0: pairs, whose negatives are those
            of the batch. A positive that has fewer has no row.

    Returns:
        datasets.Dataset with the columns anchor, positive, negative_1 .. negative_n, and label = [query_row, the
        positive's doc_row, the negatives' doc_rows ...]. A row with an empty text is left out.

    Raises:
        WorkspaceError: fewer negatives were mined than asked for, or the round has no texts.
    """
    import datasets

    config = load_config(storage.join(round_.path, "config.yaml"))
    mined = config.select.sample.n
    num_negatives = mined if num_negatives is None else num_negatives
    if num_negatives > mined:
        raise WorkspaceError(
            f"round {round_.number} has fewer negatives per query",
            got=str(num_negatives),
            expected=f"at most {mined}",
            fix="raise select.sample.n and mine again: only the selection is done anew",
        )
    rows = _all_rows(round_, resolved(config.select.filters, round_.facts["default_score"]), num_negatives)
    return datasets.Dataset(_with_texts(round_, rows))


def training_rows(verdicts: pa.Table, negatives: pa.Table, filters: Sequence[FilterConfig], num_negatives: int) -> Rows:
    """Which documents stand in which training row of a query block.

    Args:
        verdicts: schemas.verdicts(...) of the block.
        negatives: schemas.negatives(...) of its queries, sorted by (query_row, slot).
        filters: the round's; what those `against: each` forbid a positive does not stand beside it.
        num_negatives: per row, the first that a positive may stand beside.

    Returns:
        int64 [r, 2 + num_negatives]: query_row, the positive's doc_row, the negatives' doc_rows.
    """
    candidates = Candidates(verdicts)
    beside, stands = _allowed(candidates, negatives, filters)
    is_first = ranks_within(beside) < num_negatives
    beside, stands = beside[is_first], stands[is_first]
    is_full = np.bincount(beside, minlength=len(candidates)) == num_negatives
    positive, stands = np.flatnonzero(candidates.is_positive & is_full), stands[is_full[beside]]
    columns = [candidates.query_row[positive, None], candidates.doc_row[positive, None]]
    return np.concatenate([*columns, candidates.doc_row[stands].reshape(len(positive), num_negatives)], axis=1)


def _allowed(candidates: Candidates, negatives: pa.Table, filters: Sequence[FilterConfig]) -> tuple[Rows, Rows]:
    """Positions of positives and of the negatives that may stand beside each, in the order of their slots."""
    positive = np.flatnonzero(candidates.is_positive)
    query_row, doc_row = (negatives[name].to_numpy() for name in ("query_row", "doc_row"))
    negative = pair_positions((candidates.query_row, candidates.doc_row), (query_row, doc_row))
    left, right = cross(candidates.query_row[positive], query_row)
    beside, stands = positive[left], negative[right]
    never = forbidden(candidates, negative, filters)
    is_allowed = pair_positions((never.positive, never.row), (beside, stands)) < 0
    return beside[is_allowed], stands[is_allowed]


def _all_rows(round_: Round, filters: Sequence[FilterConfig], num_negatives: int) -> Rows:
    """training_rows of all blocks, for the queries that are emitted."""
    shortfalls = round_.shortfalls()
    emitted = shortfalls["query_row"].filter(shortfalls["is_emitted"]).to_numpy()
    negatives = round_.negatives().sort_by([("query_row", "ascending"), ("slot", "ascending")])
    made = [np.empty((0, 2 + num_negatives), np.int64)]
    for verdicts in verdict_blocks(round_):
        queries = verdicts["query_row"].to_numpy()
        begin, end = np.searchsorted(
            negatives["query_row"].to_numpy(), [queries.min(initial=0), queries.max(initial=-1) + 1]
        )
        made.append(training_rows(verdicts, negatives.slice(begin, end - begin), filters, num_negatives))
    rows = np.concatenate(made)
    return rows[np.isin(rows[:, 0], emitted)]


def _with_texts(round_: Round, rows: Rows) -> pa.Table:
    """The columns of texts and the column of rows, of the rows that have all their texts."""
    tables = round_.tables()
    texts = [*_texts(tables.queries, rows[:, :1]), *_texts(tables.corpus, rows[:, 1:])]
    is_whole = np.ones(len(rows), np.bool_)
    for text in texts:
        is_whole &= pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(text), ""), False).to_numpy()
    if len(rows) and not is_whole.any():
        raise WorkspaceError(
            f"round {round_.number} has no texts to train on",
            got="queries or documents that are vectors only",
            expected="a text of each",
            fix="give corpus and queries a text column, and mine again",
        )
    ends = np.arange(len(rows) + 1) * rows.shape[1]
    label = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(rows.reshape(-1)))
    names = ["anchor", "positive", *(f"negative_{i + 1}" for i in range(rows.shape[1] - 2)), "label"]
    return pa.table([*texts, label], names).filter(pa.array(is_whole))


def _texts(shards: Sequence[Shard], rows: Rows) -> list[pa.ChunkedArray]:
    """The texts of rows [r, columns], one array per column."""
    known = distinct(rows.reshape(-1))
    parts = [chunk for part in taken(shards, "text", known) for chunk in part.chunks]
    text = pa.chunked_array(parts, pa.large_string())
    return [text.take(pa.array(positions(known, column))) for column in rows.T]
