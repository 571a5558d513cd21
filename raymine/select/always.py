"""The reasons that hold whatever the config says: a known answer, a forbidden one, an empty or repeated text.

"The same text" is an equal `fold_hash` (case and white space folded), within one query. Equality is found on int64
keys, half of the hash mixed with the query: a million candidates share one by chance once in 30 million times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.lookup import among, pair_positions, rows_of
from raymine.select.base import Candidates, Mask

# 2**64 over the golden ratio: the products of neighbouring numbers with it differ in all bits.
SPREAD = np.int64(-0x61C8864680B583EB)


class Facts:
    """What the always-reasons go by. `notes` are those of the candidates, in their order, without keys and hashes.

    Args:
        candidates: the block.
        notes: schemas.notes(...), one row per candidate, in any order.
        positives: schemas.POSITIVES of the block.
        excluded: schemas.EXCLUDED of the block.
        sources: names of the sources.

    Raises:
        ValueError: a candidate has no note.
    """

    def __init__(
        self, candidates: Candidates, notes: pa.Table, positives: pa.Table, excluded: pa.Table, sources: Sequence[str]
    ) -> None:
        self.candidates, self.sources = candidates, sources
        pairs = (candidates.query_row, candidates.doc_row)
        where = pair_positions(rows_of(notes), pairs)
        if (where < 0).any():
            raise ValueError(f"{int((where < 0).sum())} candidates have no note")
        fold_hashes = notes["fold_hash"].take(pa.array(where))
        self.notes = notes.drop_columns(["query_row", "doc_row", "fold_hash"]).take(pa.array(where))
        self.is_empty: Mask = np.asarray(self.notes["is_empty"].to_numpy())
        self.is_excluded: Mask = pair_positions(rows_of(excluded), pairs) >= 0
        self.text_key = _text_keys(candidates.query_row, fold_hashes)
        self.positive_text_key = _text_keys(positives["query_row"].to_numpy(), positives["fold_hash"])


def _text_keys(queries: NDArray[np.int64], fold_hashes: pa.ChunkedArray) -> NDArray[np.int64]:
    """Equal where query and text are equal, int64 [n]."""
    array = schemas.one_array(fold_hashes)
    halves = np.frombuffer(array.buffers()[1] or b"", np.int64)
    begin = 2 * array.offset
    return np.asarray(halves[begin : begin + 2 * len(array) : 2] ^ queries * SPREAD)


def positive(facts: Facts, alive: Mask) -> Mask:
    """A known positive of the query."""
    return facts.candidates.is_positive


def excluded(facts: Facts, alive: Mask) -> Mask:
    """An answer of evaluation judgements, or a document with the text of one."""
    texts = facts.text_key[facts.is_excluded & ~facts.is_empty]
    return facts.is_excluded | among(facts.text_key, texts)


def empty_document(facts: Facts, alive: Mask) -> Mask:
    """A document without text."""
    return facts.is_empty


def duplicate_of_positive(facts: Facts, alive: Mask) -> Mask:
    """A document with the text of one of the query's positives."""
    return among(facts.text_key, facts.positive_text_key)


def duplicate(facts: Facts, alive: Mask) -> Mask:
    """A document with the text of a better candidate of the query: best rank in any source, then the lower doc_row."""
    rows = np.flatnonzero(alive)
    keys = np.sort(facts.text_key[rows])
    rows = rows[among(facts.text_key[rows], keys[1:][keys[1:] == keys[:-1]])]
    best_rank = facts.candidates.best_rank(facts.sources)
    order = rows[np.lexsort((facts.candidates.doc_row[rows], best_rank[rows], facts.text_key[rows]))]
    repeated = np.zeros(len(alive), np.bool_)
    repeated[order[1:]] = facts.text_key[order[1:]] == facts.text_key[order[:-1]]
    return repeated


# In the order in which they apply; `alive` are the candidates that those before left.
ALWAYS: dict[str, Callable[[Facts, Mask], Mask]] = {
    "positive": positive,
    "excluded": excluded,
    "empty_document": empty_document,
    "duplicate_of_positive": duplicate_of_positive,
    "duplicate": duplicate,
}
