"""The table of negatives: what was sampled, in which slots, of which kind, and who found it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.select.base import NOT_FOUND, Candidates

Rows = NDArray[np.int64]


def negatives_table(candidates: Candidates, rows: Rows, slots: Rows, kind: Rows, sources: Sequence[str]) -> pa.Table:
    """The negatives as schemas.negatives(sources), in the order of `rows`."""
    schema = schemas.negatives(sources)
    taken = candidates.table.take(pa.array(rows))
    made = {
        "slot": pa.array(slots.astype(np.int16)),
        "kind": pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int32)), pa.array(schemas.KINDS)),
        "sources": _found_by(candidates, rows, sources).cast(schema.field("sources").type),
    }
    return pa.Table.from_arrays([made[n] if n in made else taken[n] for n in schema.names], schema=schema)


def _found_by(candidates: Candidates, rows: Rows, sources: Sequence[str]) -> pa.ListArray:
    """Per row the names of the sources that found it."""
    if not sources:
        return pa.array([[]] * len(rows), pa.list_(pa.string()))
    is_found = np.stack([candidates.rank(source)[rows] < NOT_FOUND for source in sources], axis=1)
    offsets = np.r_[0, np.cumsum(is_found.sum(axis=1))].astype(np.int32)
    names = pa.array(list(sources), pa.string()).take(pa.array(np.nonzero(is_found)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)
