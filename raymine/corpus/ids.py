"""Document ids to document rows, without one process that knows all ids.

A hash join by files: every document shard writes its ids into buckets by a hash of the id (`IndexIds`), judgements and
runs name documents in the same buckets, and bucket h of all of them is joined alone (`ResolveIds`). The result is
bucketed by query block and sorted there (`JoinPositives`). Ids travel no further than this file.

Cost: one pass over the id column of the corpus (a 64-bit hash per id, vectorised over the UTF-8 bytes: 120,000 ids in
some ms), and per bucket a hash table of its ids. Memory: ResolveIds holds one bucket, i.e. num_documents / num_buckets
ids with 24 bytes beside each, and what judgements and runs name in it; JoinPositives holds one query block's pairs.
The judgements' file is streamed by every bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import CorpusConfig, TextSource
from raymine.corpus import READERS
from raymine.corpus.base import MAX_PROBLEMS, Columns, Problems
from raymine.corpus.judgements import judgement_faults
from raymine.corpus.lines import place
from raymine.corpus.parse import ids_of
from raymine.corpus.splits import file_splits

SLICE_IDS = 16384  # hashed at once, as that takes about 40 bytes of memory per byte of id
# Odd multipliers of a polynomial over the bytes and of the mixing after it (splitmix64's, Steele et al. 2014).
BYTE_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MIX_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def id_hashes(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """A stable 64-bit hash of each id: the same in every process, on every machine.

    It only spreads ids over buckets, where they are compared as strings, so collisions cost nothing.

    Args:
        ids: strings [n], no nulls.

    Returns:
        uint64 [n].
    """
    array = schemas.one_array(ids).cast(pa.large_string())
    slices = [_slice_hashes(array.slice(begin, SLICE_IDS)) for begin in range(0, len(array), SLICE_IDS)]
    return np.concatenate(slices) if slices else np.empty(0, np.uint64)


def _slice_hashes(array: pa.Array) -> NDArray[np.uint64]:
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    offsets = offsets - offsets[0]
    lengths = np.diff(offsets)
    positions = np.arange(len(data)) - np.repeat(offsets[:-1], lengths)
    powers = np.multiply.accumulate(np.full(int(lengths.max()) + 1, BYTE_MULTIPLIER))
    sums = np.r_[np.uint64(0), np.cumsum((data + np.uint64(1)) * powers[positions], dtype=np.uint64)]
    hashes = sums[offsets[1:]] - sums[offsets[:-1]]
    for shift, multiplier in zip((30, 27), MIX_MULTIPLIERS, strict=True):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * multiplier
    mixed: NDArray[np.uint64] = hashes ^ (hashes >> np.uint64(31))
    return mixed


def id_buckets(ids: pa.Array | pa.ChunkedArray, num_buckets: int) -> NDArray[np.int64]:
    """The bucket of each id: int64 [n], from 0 to num_buckets - 1."""
    buckets: NDArray[np.int64] = (id_hashes(ids) % np.uint64(num_buckets)).astype(np.int64)
    return buckets


def split_by_id(table: pa.Table, num_buckets: int) -> Iterator[pa.Table]:
    """Cuts a table with a `doc_id` column into one table per bucket, rows in their former order."""
    return storage.split_by(id_buckets(table["doc_id"], num_buckets), range(num_buckets), table)


def id_rows(corpus: pa.Table, first_row: int) -> pa.Table:
    """The ids of a document shard with their rows, as schemas.ID_ROWS.

    Args:
        corpus: doc_id and fold_hash of the shard.
        first_row: doc_row of its first document.
    """
    rows = pa.array(np.arange(first_row, first_row + corpus.num_rows, dtype=np.int64))
    return pa.Table.from_arrays([corpus["doc_id"], rows, corpus["fold_hash"]], schema=schemas.ID_ROWS)


def repeated(ids: pa.Array | pa.ChunkedArray) -> list[str]:
    """The ids that occur more than once, in the order in which they first occur."""
    encoded = schemas.one_array(ids).dictionary_encode()
    if len(encoded.dictionary) == len(encoded):
        return []
    counts = np.bincount(encoded.indices.to_numpy(), minlength=len(encoded.dictionary))
    values: list[str] = encoded.dictionary.take(pa.array(np.flatnonzero(counts > 1))).to_pylist()
    return values


def duplicate_faults(ids: Sequence[str], what: str, config: TextSource | None) -> list[str]:
    """One line for each id that occurs more than once, with its first two places: reads the source again.

    Args:
        ids: at fault; the first MAX_PROBLEMS are looked up, the rest counted.
        what: document or query.
        config: where they were read; None: made of texts.
    """
    if not ids:
        return []
    source = (config and (config.path or config.vectors)) or "text pairs"
    places = _places(set(ids[:MAX_PROBLEMS]), config)
    lines = []
    for name in ids[:MAX_PROBLEMS]:
        first, *others = [*places[name], source]
        also = f", it is also at {first}" if others else ""
        lines.append(f"{others[0] if others else first}: {what} id {name!r} is not unique{also}")
    num_more = len(ids) - len(lines)
    return [*lines, *([f"{source}: {num_more} more {what} ids are not unique"] if num_more else [])]


def _places(wanted: set[str], config: TextSource | None) -> dict[str, list[str]]:
    """Where each id is, in the order of reading."""
    places: dict[str, list[str]] = {name: [] for name in wanted}
    if config is None or config.path is None:
        return places
    problems = Problems()
    for split in file_splits(config, whole_files=True):
        for rows in READERS[split["format"]].rows(split, Columns((config.id_column,)), problems):
            for index, name in enumerate(ids_of(rows, config, problems)):
                if name in wanted:
                    places[name].append(rows.place(index))
    return places


def resolve(pairs: pa.Table, ids: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Joins pairs with the rows of their documents.

    Args:
        pairs: any table with a `doc_id` column.
        ids: schemas.ID_ROWS, each id once.

    Returns:
        The pairs whose document is known, with doc_row and fold_hash after their own columns; and the others as they
        came. Both in their former order.
    """
    positions = pc.index_in(pairs["doc_id"], value_set=schemas.one_array(ids["doc_id"]))
    known = pc.is_valid(positions)
    found = ids.select(["doc_row", "fold_hash"]).take(positions.filter(known))
    matched = pairs.filter(known)
    for name in found.column_names:
        matched = matched.append_column(found.schema.field(name), found[name])
    return matched, pairs.filter(pc.invert(known))


def join_positives(pairs: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Positives and excluded pairs of one query block.

    A pair judged several times counts with its highest relevance. An excluded pair is never a positive.

    Args:
        pairs: schemas.RESOLVED_PAIRS, in any order.

    Returns:
        schemas.POSITIVES and schemas.EXCLUDED, each pair once, sorted by (query_row, doc_row).
    """
    query_rows, doc_rows = pairs["query_row"].to_numpy(), pairs["doc_row"].to_numpy()
    excluded = pairs["excluded"].to_numpy(zero_copy_only=False)
    # Within a pair: the excluded judgement first, then the highest relevance; so the first row of a pair decides.
    order = np.lexsort((-pairs["relevance"].to_numpy().astype(np.int64), ~excluded, doc_rows, query_rows))
    sorted_queries, sorted_docs = query_rows[order], doc_rows[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (sorted_queries[1:] != sorted_queries[:-1]) | (sorted_docs[1:] != sorted_docs[:-1])
    unique = pairs.take(pa.array(order[is_first]))
    positives = unique.filter(pc.and_(pc.invert(unique["excluded"]), pc.greater(unique["relevance"], 0)))
    return (
        positives.select(schemas.POSITIVES.names).cast(schemas.POSITIVES),
        unique.filter(unique["excluded"]).select(schemas.EXCLUDED.names).cast(schemas.EXCLUDED),
    )


class IndexIds:
    """Writes the ids of one document shard into buckets by their hash.

    Inputs: {"corpus": path, "first_row": doc_row of its first document}. Output: `{output}.arrow`, schemas.ID_ROWS,
    batch h = bucket h.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, num_buckets: int) -> None:
        self.num_buckets = num_buckets

    def __call__(self, task: Task) -> Record:
        corpus = storage.read_table(task.inputs["corpus"], ["doc_id", "fold_hash"])
        rows = id_rows(corpus, task.inputs["first_row"])
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.ID_ROWS, split_by_id(rows, self.num_buckets))
        return Record([shard], rows_in=corpus.num_rows, rows_out=corpus.num_rows, bytes_in=corpus.nbytes)


class ResolveIds:
    """Joins one bucket of document ids with the judgements and runs that name them.

    Settings: `id_files`, the `.arrow` of every document shard; `pairs`, the path of schemas.JUDGED_PAIRS; `runs`, the
    `.arrow` of every run (schemas.RUN_LINES); `block_starts`, first row of each query block; and for messages only
    `corpus`, `sources` (the paths that `file` of the pairs counts) and `run_sources` (the paths of the run files).
    Inputs: {"bucket": h}. Outputs, bucketed by query block: `{output}.positives.arrow` (schemas.RESOLVED_PAIRS) and, if
    there are runs, `{output}.run.arrow` (schemas.HITS, all of rank 0, in no order).
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self,
        id_files: Sequence[str],
        pairs: str,
        runs: Sequence[str],
        block_starts: Sequence[int],
        corpus: CorpusConfig | None,
        sources: Sequence[str],
        run_sources: Sequence[str] = (),
    ) -> None:
        self.id_files, self.pairs, self.runs, self.block_starts = id_files, pairs, runs, block_starts
        self.corpus, self.sources, self.run_sources = corpus, sources, run_sources

    def __call__(self, task: Task) -> Record:
        bucket = task.inputs["bucket"]
        ids = storage.read_buckets(self.id_files, bucket, schemas.ID_ROWS)
        if problems := duplicate_faults(repeated(ids["doc_id"]), "document", self.corpus):
            return Record(problems=problems)
        pairs, unknown = resolve(self._judged(bucket), ids)
        problems = judgement_faults(unknown, self.sources, "doc_id", "is judged, but is not in the corpus")
        hits = [
            self._run_hits(storage.read_bucket(file, bucket), path, ids, problems)
            for file, path in zip(self.runs, self.run_sources, strict=True)
        ]
        if problems:
            return Record(problems=problems)
        outputs = [self._write(f"{task.output}.positives.arrow", schemas.RESOLVED_PAIRS, pairs)]
        if hits:
            outputs.append(self._write(f"{task.output}.run.arrow", schemas.HITS, pa.concat_tables(hits)))
        return Record(outputs, ids.num_rows, sum(shard.num_rows for shard in outputs), bytes_in=ids.nbytes)

    def _judged(self, bucket: int) -> pa.Table:
        """The judged pairs of the bucket, from a stream of all of them."""
        num_buckets = _num_buckets(self.id_files[0])
        with storage.parquet_file(self.pairs) as file:
            kept = [
                batch.filter(pa.array(id_buckets(batch["doc_id"], num_buckets) == bucket))
                for batch in file.iter_batches()
            ]
        return pa.Table.from_batches(kept, schemas.JUDGED_PAIRS)

    def _run_hits(self, lines: pa.Table, path: str, ids: pa.Table, problems: list[str]) -> pa.Table:
        found, unknown = resolve(lines, ids)
        shown = unknown.slice(0, MAX_PROBLEMS).select(["line", "doc_id"]).to_pylist()
        problems += [f"{place(path, row['line'])}: {row['doc_id']!r} is not in the corpus" for row in shown]
        ranks = pa.array(np.zeros(found.num_rows, np.int32))
        columns = [found["query_row"], found["doc_row"], ranks, found["score"]]
        return pa.Table.from_arrays(columns, schema=schemas.HITS)

    def _write(self, path: str, schema: pa.Schema, table: pa.Table) -> storage.Shard:
        rows = table["query_row"].to_numpy()
        return storage.write_buckets(
            path, schema, storage.split_by(rows, self.block_starts, table.select(schema.names))
        )


class JoinPositives:
    """Gathers the positives and the excluded pairs of one query block.

    Settings: `files`, the `.positives.arrow` of every bucket. Inputs: {"bucket": block}. Outputs: `{output}.parquet`
    (schemas.POSITIVES) and `{output}.excluded.parquet` (schemas.EXCLUDED).
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files

    def __call__(self, task: Task) -> Record:
        pairs = storage.read_buckets(self.files, task.inputs["bucket"], schemas.RESOLVED_PAIRS)
        positives, excluded = join_positives(pairs)
        shards = [
            storage.write_table(f"{task.output}.parquet", positives),
            storage.write_table(f"{task.output}.excluded.parquet", excluded),
        ]
        rows_out = positives.num_rows + excluded.num_rows
        return Record(shards, rows_in=pairs.num_rows, rows_out=rows_out, bytes_in=pairs.nbytes)


def _num_buckets(path: str) -> int:
    with storage.mapped(path) as source, pa.ipc.open_file(source) as reader:
        return int(reader.num_record_batches)
