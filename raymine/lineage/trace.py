"""The lineage of a round: that of the rounds before, with what this one chose and how it ranked what they chose."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import pair_positions, rows_of

RANK = "dense_rank"
NOT_RANKED = -1


def traced(earlier: pa.Table, negatives: pa.Table, verdicts: pa.Table, number: int) -> pa.Table:
    """Lineage after a round, of one query block.

    Args:
        earlier: schemas.LINEAGE in the rows of this round.
        negatives: schemas.negatives(...) of this round.
        verdicts: schemas.verdicts(...) of this round; their dense ranks go in, where there are any.
        number: of this round.

    Returns:
        schemas.LINEAGE, sorted by (query_row, doc_row).
    """
    is_new = pair_positions(rows_of(earlier), rows_of(negatives)) < 0
    new = negatives.filter(pa.array(is_new)).select(schemas.PAIRS.names)
    query_rows, doc_rows = (np.concatenate(columns) for columns in zip(rows_of(earlier), rows_of(new), strict=True))
    was_chosen = pair_positions(rows_of(negatives), (query_rows, doc_rows)) >= 0
    this = np.int16(number)
    first = np.r_[earlier["first_round"].to_numpy(), np.full(new.num_rows, this)]
    last = np.where(was_chosen, this, np.r_[earlier["last_round"].to_numpy(), np.full(new.num_rows, this)])
    ranks = _appended(earlier["ranks"], new.num_rows, _ranks(verdicts, (query_rows, doc_rows)))
    order = np.lexsort((doc_rows, query_rows))
    columns = [pa.array(query_rows), pa.array(doc_rows), pa.array(first, pa.int16()), pa.array(last, pa.int16()), ranks]
    return pa.Table.from_arrays(columns, schema=schemas.LINEAGE).take(pa.array(order))


def _ranks(verdicts: pa.Table, pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int32]:
    """The dense rank of each pair, NOT_RANKED where dense search did not find it."""
    if RANK not in verdicts.column_names:
        return np.full(len(pairs[0]), NOT_RANKED, np.int32)
    found = verdicts[RANK].fill_null(NOT_RANKED).to_numpy().astype(np.int32)
    return np.append(found, np.int32(NOT_RANKED))[pair_positions(rows_of(verdicts), pairs)]


def _appended(lists: pa.ChunkedArray, num_new: int, values: NDArray[np.int32]) -> pa.Array:
    """Each list with one value more, and a list of one value for each new row; NOT_RANKED becomes null."""
    given = schemas.one_array(lists)
    offsets = given.offsets.to_numpy().astype(np.int64)
    flat = given.values.fill_null(NOT_RANKED).to_numpy()[offsets[0] : offsets[-1]]
    lengths = np.r_[np.diff(offsets), np.zeros(num_new, np.int64)]
    ends = np.cumsum(lengths)
    longer = np.insert(flat.astype(np.int32), ends, values)
    made = pa.array(longer, mask=longer == NOT_RANKED)
    return pa.ListArray.from_arrays(
        pa.array(np.r_[0, np.cumsum(lengths + 1)].astype(np.int32)),
        made,
        type=schemas.LINEAGE.field("ranks").type,
    )


class TraceLineage:
    """Traces one query block.

    Args:
        number: of this round.
        has_ranks: whether the verdicts have dense ranks.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, number: int, has_ranks: bool) -> None:
        self.number, self.has_ranks = number, has_ranks

    def __call__(self, task: Task) -> Record:
        """Writes schemas.LINEAGE.

        Args:
            task: inputs verdicts and negatives (of the block), earlier (its carried lineage; None in a first round).
        """
        path = task.inputs["earlier"]
        earlier = schemas.LINEAGE.empty_table() if path is None else storage.read_table(path)
        pairs = schemas.PAIRS.names
        verdicts = storage.read_table(task.inputs["verdicts"], [*pairs, *([RANK] if self.has_ranks else [])])
        negatives = storage.read_table(task.inputs["negatives"], pairs)
        table = traced(earlier, negatives, verdicts, self.number)
        shard = storage.write_table(f"{task.output}.parquet", table)
        return Record([shard], rows_in=earlier.num_rows, rows_out=table.num_rows)
