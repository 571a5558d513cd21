"""Near duplicates among a query's candidates: texts that share most of their shingles, whatever their ids.

A text is the set of its shingles, runs of `words` words of the folded text; likeness is Jaccard's (Broder 1997). Texts
stay where they lie, so it takes two passes over the documents, each with a step over the query blocks after it:

    SignDocuments    per document shard   MinHash keys of every document that is somebody's candidate
    FindNear         per query block      pairs of one query that have a key in common
    SignDocuments    per document shard   the shingles themselves of the documents in those pairs
    MeasureNear      per query block      the exact likeness of those pairs

A key is a band of a MinHash signature (datasketch): two texts share one with a probability that jumps from almost 0 to
almost 1 below the threshold (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4), and what they do not
share is not looked at. Which bands: the longest that still find RECALL of the pairs that lie at the threshold.

Cost, of 15,809 medquad answers and 1.6 million candidates on two shared cores: 3.4 s to sign, 7.4 s to find pairs (a
sort of the block's candidates per band), 76 us per pair of documents that is measured; 8 bytes per key in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import distinct, positions, rows_of
from raymine.retrieve.base import write_pairs
from raymine.shingles import band_keys, jaccard, shingles
from raymine.topk import ranks_within

Rows = NDArray[np.int64]
NO_RANK = np.int64(1) << 40


class SignDocuments:
    """Stage: BANDS of the candidates' documents of one shard, bucketed by query block, each document once per block.

    Args:
        pairs: CANDIDATE_PAIRS files of the query blocks, bucketed by document shard.
        block_starts: first query_row of each block.
        words: per shingle.
        threshold: likeness from which on pairs are to be found; None: the shingles themselves are wanted.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], block_starts: Sequence[int], words: int, threshold: float | None) -> None:
        self.pairs, self.block_starts, self.words, self.threshold = pairs, block_starts, words, threshold

    def __call__(self, task: Task) -> Record:
        """Reads shard `corpus` (path), which is number `bucket` and begins at `first_row`."""
        pairs = [storage.read_bucket(path, task.inputs["bucket"]) for path in self.pairs]
        doc_rows = distinct(np.concatenate([rows_of(table)[1] for table in pairs]))
        keys = self._keys(task, doc_rows)
        blocks = (keys.take(pa.array(positions(doc_rows, distinct(rows_of(table)[1])))) for table in pairs)
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.BANDS, blocks)
        return Record([shard], rows_in=len(doc_rows), rows_out=shard.num_rows)

    def _keys(self, task: Task, doc_rows: Rows) -> pa.Table:
        """BANDS of the documents, in their order."""
        texts: list[str | None] = []
        if len(doc_rows):
            corpus = storage.read_table(task.inputs["corpus"], ["text"])
            texts = corpus["text"].take(pa.array(doc_rows - task.inputs["first_row"])).to_pylist()
        sets = [shingles(text or "", self.words) for text in texts]
        if self.threshold is not None:
            sets = band_keys(sets, self.threshold)
        ends = np.cumsum([0, *map(len, sets)]).astype(np.int32)
        values = np.concatenate(sets) if sets else np.empty(0, np.uint64)
        lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
        return pa.Table.from_arrays(
            [pa.array(doc_rows), lists.cast(schemas.BANDS.field("keys").type)], schema=schemas.BANDS
        )


def sharing_pairs(query_rows: Rows, keys: pa.ListArray) -> tuple[Rows, Rows]:
    """Pairs of candidates of one query that have a key at the same place.

    Args:
        query_rows: int64 [n].
        keys: uint64 [n] lists, all of one length; a text without shingles has none.

    Returns:
        Positions int64 [p] each, the first below the second, each pair once, ascending.
    """
    has_keys = np.flatnonzero(np.diff(keys.offsets.to_numpy()) > 0)
    if len(has_keys) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    matrix = np.asarray(keys.flatten()).reshape(len(has_keys), -1)
    found = [_equal_pairs(query_rows[has_keys], band) for band in matrix.T]
    pairs = distinct(np.concatenate([left * len(query_rows) + right for left, right in found]))
    left, right = np.divmod(pairs, len(query_rows))
    return has_keys[left], has_keys[right]


def _equal_pairs(query_rows: Rows, band: NDArray[np.uint64]) -> tuple[Rows, Rows]:
    """Pairs of positions that are equal in both, the first below the second."""
    order = np.lexsort((band, query_rows))
    starts = np.r_[True, (query_rows[order][1:] != query_rows[order][:-1]) | (band[order][1:] != band[order][:-1])]
    before = ranks_within(np.cumsum(starts))
    # The member at place i of its group is paired with the i before it.
    right = np.repeat(np.arange(len(order)), before)
    left = right - 1 - ranks_within(right)
    pairs = np.sort(np.stack([order[left], order[right]]), axis=0)
    return pairs[0], pairs[1]


class FindNear:
    """Stage: pairs of one query's candidates that may be near duplicates.

    Args:
        bands: BANDS files of the document shards, bucketed by query block.
        shard_starts: first doc_row of each document shard.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, bands: Sequence[str], shard_starts: Sequence[int]) -> None:
        self.bands, self.shard_starts = bands, shard_starts

    def __call__(self, task: Task) -> Record:
        """Writes NEAR_PAIRS of block `bucket` (`candidates`: path), and the documents in them bucketed by shard."""
        table = storage.read_table(task.inputs["candidates"], ["query_row", "doc_row"])
        bands = storage.read_buckets(self.bands, task.inputs["bucket"], schemas.BANDS)
        where = positions(bands["doc_row"].to_numpy(), rows_of(table)[1])
        keys = schemas.one_array(bands["keys"].take(pa.array(where)))
        left, right = sharing_pairs(rows_of(table)[0], keys)
        query_rows, doc_rows = rows_of(table)
        columns = [query_rows[left], doc_rows[left], doc_rows[right]]
        pairs = pa.Table.from_arrays([pa.array(column) for column in columns], schema=schemas.NEAR_PAIRS)
        members = table.take(pa.array(distinct(np.concatenate([left, right]))))
        return Record(
            [
                storage.write_table(f"{task.output}.parquet", pairs),
                write_pairs(f"{task.output}.pairs.arrow", members, self.shard_starts),
            ],
            rows_in=table.num_rows,
            rows_out=pairs.num_rows,
        )


def near_columns(candidates: pa.Table, pairs: pa.Table, likeness: NDArray[np.float64]) -> pa.Table:
    """NEAR of the candidates that are like something.

    Args:
        candidates: schemas.candidates(...) of a block, sorted by (query_row, doc_row).
        pairs: NEAR_PAIRS of it.
        likeness: float64 [p].

    Returns:
        schemas.NEAR: like a positive, and like a better candidate: best rank in any source but random, then doc_row.
    """
    query_rows, doc_rows = rows_of(candidates)
    span = 1 + int(doc_rows.max(initial=0))
    keys = query_rows * span + doc_rows
    sides = [positions(keys, pairs["query_row"].to_numpy() * span + pairs[n].to_numpy()) for n in ("left", "right")]
    is_positive = np.asarray(candidates["relevance"].fill_null(0).to_numpy()) > 0
    rank = _best_ranks(candidates)
    like_positive, like_better = np.full(len(keys), -1.0), np.full(len(keys), -1.0)
    for one, other in (sides, sides[::-1]):
        np.maximum.at(like_positive, one[is_positive[other]], likeness[is_positive[other]])
        is_better = ~is_positive[other] & ((rank[other] < rank[one]) | ((rank[other] == rank[one]) & (other < one)))
        np.maximum.at(like_better, one[is_better], likeness[is_better])
    found = np.flatnonzero(~is_positive & (np.maximum(like_positive, like_better) >= 0))
    columns = [pa.array(query_rows[found]), pa.array(doc_rows[found])]
    columns += [pa.array(each[found].astype(np.float32), mask=each[found] < 0) for each in (like_positive, like_better)]
    return pa.Table.from_arrays(columns, schema=schemas.NEAR)


def _best_ranks(candidates: pa.Table) -> Rows:
    best = np.full(len(candidates), NO_RANK)
    for name in candidates.column_names:
        if name.endswith("_rank") and name != "random_rank":
            ranks = candidates[name].cast(pa.int64()).fill_null(int(NO_RANK)).to_numpy()
            best = np.minimum(best, ranks)
    return best


class MeasureNear:
    """Stage: NEAR of one query block.

    Args:
        shingles: BANDS files (of shingles) of the document shards, bucketed by query block.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, shingles: Sequence[str]) -> None:
        self.shingles = shingles

    def __call__(self, task: Task) -> Record:
        """Measures the pairs of block `bucket`: paths `candidates` and `near_pairs`."""
        candidates, pairs = storage.read_table(task.inputs["candidates"]), storage.read_table(task.inputs["near_pairs"])
        sets = storage.read_buckets(self.shingles, task.inputs["bucket"], schemas.BANDS)
        near = near_columns(candidates, pairs, self._likeness(pairs, sets))
        shard = storage.write_table(f"{task.output}.parquet", near)
        return Record([shard], rows_in=pairs.num_rows, rows_out=near.num_rows)

    def _likeness(self, pairs: pa.Table, sets: pa.Table) -> NDArray[np.float64]:
        """Of each pair; two documents that meet in many queries are compared once."""
        known = sets["doc_row"].to_numpy()
        keys = schemas.one_array(sets["keys"])
        offsets, values = keys.offsets.to_numpy(), np.asarray(keys.values)
        left, right = (positions(known, pairs[name].to_numpy()) for name in ("left", "right"))
        each, of_pair = np.unique(left * len(known) + right, return_inverse=True)
        found = [
            jaccard(values[offsets[one] : offsets[one + 1]], values[offsets[other] : offsets[other + 1]])
            for one, other in zip(*np.divmod(each, max(1, len(known))), strict=True)
        ]
        return np.array(found, np.float64)[of_pair]
