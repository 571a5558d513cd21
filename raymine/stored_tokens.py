"""The tokens of a shard's texts as a table, so that the next checkpoint of an embedder need not make them again.

One row per text that has any: `row`, its position in the shard, and a list of token ids per feature, as uint16 where
they fit (vocabularies of up to 65,536 tokens), else as int32. What the model wants to know of a batch as a whole is in
the metadata. Batches made from it are those that the texts themselves would give (raymine.batching).
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine.batching import Padding, Rows, Tokens, planned
from raymine.schemas import one_array

ROW, LAYOUT, CONSTANTS, NUM_TEXTS = "row", b"layout", b"constants", b"num_texts"
SMALL = np.iinfo(np.uint16).max


def to_table(tokens: Tokens, rows: NDArray[np.int64], num_texts: int) -> pa.Table | None:
    """The tokens of some texts of a shard; None where they cannot be taken apart into rows.

    Args:
        tokens: of n texts.
        rows: int64 [n], position of each in the shard.
        num_texts: of the shard, with those that have no tokens.
    """
    if tokens.rows is None:
        return None
    made = tokens.rows
    try:
        constants = json.dumps(made.constants)
    except TypeError:
        return None
    inverse = np.empty(len(tokens.order), np.int64)
    inverse[tokens.order] = np.arange(len(tokens.order))
    offsets = pa.array(np.r_[0, np.cumsum(made.lengths)].astype(np.int32))
    columns = {
        name: pa.ListArray.from_arrays(offsets, pa.array(_narrow(flat))).take(pa.array(inverse))
        for name, flat in made.flat.items()
    }
    table = pa.table({ROW: pa.array(rows), **columns})
    return table.replace_schema_metadata(
        {LAYOUT: made.layout, CONSTANTS: constants, NUM_TEXTS: str(num_texts)},
    )


def from_table(table: pa.Table, padding: Padding, batch_tokens: int) -> Tokens:
    """Tokens of n >= 1 texts, row i of the table is text i.

    Args:
        table: of `to_table`.
        padding: how the model pads.
        batch_tokens: padded tokens per batch.
    """
    flat: dict[str, NDArray[np.int32]] = {}
    lengths = np.zeros(table.num_rows, np.int64)
    for name in table.column_names[1:]:
        column = one_array(table[name])
        starts = column.offsets.to_numpy().astype(np.int64)
        lengths = np.diff(starts)
        flat[name] = column.values.to_numpy()[starts[0] : starts[-1]].astype(np.int32)
    metadata = table.schema.metadata
    made = Rows(flat, lengths, json.loads(metadata[CONSTANTS]), metadata[LAYOUT].decode())
    return planned(made, np.arange(table.num_rows), padding, batch_tokens)


def num_texts(table: pa.Table) -> int:
    """Texts of the shard, with those that have no tokens."""
    return int(table.schema.metadata[NUM_TEXTS])


def _narrow(flat: NDArray[np.int32]) -> NDArray[np.integer]:
    fits = not len(flat) or (flat.min() >= 0 and flat.max() <= SMALL)
    return flat.astype(np.uint16) if fits else flat
