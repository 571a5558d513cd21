"""Which queries are mined for: those with a positive, numbered densely in the order of their file.

One task joins the judgements with the queries' ids and gives every kept query its row. Judgements of other queries go,
as do those of relevance 0 or below (judged not relevant: neither positive nor excluded). A pair that is to be excluded
is no positive, whatever the positives' file says; a query that has no other one is not mined for.

Queries of equal text are one question: what answers one of them is excluded for the others.

Cost: one hash table over the queries' ids and one probe per judgement. Memory: all query ids and all judgements as
Arrow columns (an id's bytes + 4, and 15 bytes of numbers per judgement: 10 million of them are some 0.5 GB, and about
twice that while they are joined), and one block of queries' texts and vectors. Nothing grows with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import QueriesConfig
from raymine.corpus.ids import duplicate_faults, repeated
from raymine.corpus.judgements import judgement_faults
from raymine.lookup import cross
from raymine.storage import Shard

NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Selection:
    """Which queries are kept, and their judgements.

    Args:
        is_kept: bool [num_queries], in file order.
        pairs: schemas.JUDGED_PAIRS of the kept queries, in the judgements' order; then those of queries of equal text.
        unknown: judgements (schemas.JUDGEMENTS) of positives whose query is not among the queries.
        num_positives_excluded: judgements of positives that are void because the pair is excluded.
    """

    is_kept: NDArray[np.bool_]
    pairs: pa.Table
    unknown: pa.Table
    num_positives_excluded: int


def select_queries(query_ids: pa.Array, judgements: pa.Table, texts: NDArray[np.int64]) -> Selection:
    """Joins judgements with queries.

    Args:
        query_ids: unique strings [num_queries].
        judgements: schemas.JUDGEMENTS.
        texts: int64 [num_queries], from 0, equal where the queries' texts are equal.
    """
    excluded = judgements["excluded"].to_numpy()
    counts = excluded | (judgements["relevance"].to_numpy() > 0)
    positions = pc.index_in(judgements["query_id"], value_set=query_ids)
    is_known = pc.is_valid(positions).to_numpy()
    unknown = judgements.filter(pa.array(counts & ~excluded & ~is_known))

    judgements = judgements.filter(pa.array(counts & is_known))
    query_rows = positions.filter(pa.array(counts & is_known)).to_numpy().astype(np.int64)
    excluded = judgements["excluded"].to_numpy()
    is_void = void_positives(query_rows, judgements["doc_id"], excluded)
    is_kept = np.zeros(len(query_ids), bool)
    is_kept[query_rows[~excluded & ~is_void]] = True

    kept = is_kept[query_rows] & ~is_void
    new_rows = np.cumsum(is_kept) - 1
    columns = [pa.array(new_rows[query_rows[kept]]), *judgements.filter(pa.array(kept)).columns[1:]]
    pairs = pa.Table.from_arrays(columns, schema=schemas.JUDGED_PAIRS)
    twins, judgement = pairs_of_twins(texts, query_rows, judgements["doc_id"])
    judgement, twins = judgement[is_kept[twins]], twins[is_kept[twins]]
    excluded_pairs = judgements.take(pa.array(judgement))
    is_excluded = pa.array(np.ones(len(twins), np.bool_))
    at = schemas.JUDGEMENTS.get_field_index("excluded")
    excluded_pairs = excluded_pairs.set_column(at, schemas.JUDGEMENTS.field(at), is_excluded)
    columns = [pa.array(new_rows[twins]), *excluded_pairs.columns[1:]]
    pairs = pa.concat_tables([pairs, pa.Table.from_arrays(columns, schema=schemas.JUDGED_PAIRS)]).combine_chunks()
    return Selection(is_kept, pairs, unknown, int(is_void.sum()))


def pairs_of_twins(
    texts: NDArray[np.int64], query_rows: NDArray[np.int64], doc_ids: pa.ChunkedArray
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents judged for a query of equal text but not for the query itself.

    Args:
        texts: int64 [num_queries], equal where the queries' texts are.
        query_rows: int64 [n], of the judgements that count.
        doc_ids: strings [n].

    Returns:
        The other query's row and the judgement's position, int64 [p] each; a pair occurs once.
    """
    shared = np.flatnonzero(np.bincount(texts)[texts[query_rows]] > 1)
    order = np.argsort(texts, kind="stable")
    judgement, other = cross(texts[query_rows[shared]], texts[order])
    judgement, other = shared[judgement], order[other]
    docs = schemas.one_array(doc_ids.take(pa.array(shared))).dictionary_encode()
    doc_of = np.zeros(len(query_rows), np.int64)
    doc_of[shared] = docs.indices.to_numpy()
    span = max(1, len(docs.dictionary))
    keys = other * span + doc_of[judgement]
    is_new = ~np.isin(keys, query_rows[shared] * span + doc_of[shared])
    keys, first = np.unique(keys[is_new], return_index=True)
    return other[is_new][first], judgement[is_new][first]


def void_positives(
    query_rows: NDArray[np.int64], doc_ids: pa.ChunkedArray, excluded: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Marks the positives whose pair is also among the excluded ones.

    Args:
        query_rows: int64 [n].
        doc_ids: strings [n].
        excluded: bool [n].
    """
    is_void = np.zeros(len(query_rows), bool)
    # Only queries that have both kinds can have such a pair: a few, where evaluation queries are not trained on.
    shared = np.isin(query_rows, np.intersect1d(query_rows[excluded], query_rows[~excluded]))
    docs = schemas.one_array(doc_ids.filter(pa.array(shared))).dictionary_encode()
    pairs = query_rows[shared] * max(len(docs.dictionary), 1) + docs.indices.to_numpy()
    is_void[shared] = ~excluded[shared] & np.isin(pairs, pairs[excluded[shared]])
    return is_void


def reblock(tables: Iterator[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Cuts a stream of tables into tables of `num_rows` rows; the last may be shorter."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        while num_waiting >= num_rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, num_rows).combine_chunks()
            waiting, num_waiting = [whole.slice(num_rows)], num_waiting - num_rows
    if num_waiting:
        yield pa.concat_tables(waiting).combine_chunks()


class SelectQueries:
    """Keeps the queries that have a positive, in blocks of dense rows, and their judged pairs: one task.

    Settings: `block_queries`, queries per block; and for messages only `sources`, the paths that JUDGEMENTS.file
    counts, and `config` (None: the queries were made of text pairs).
    Inputs: {"queries": raw shards, "query_vectors": a shard of vectors beside each, or [], "judgements": path}.
    Outputs: the blocks `{output}-{b:05d}.parquet`; with vectors, as many `{output}-{b:05d}.vectors.parquet`; last
    `{output}-pairs.parquet`, schemas.JUDGED_PAIRS.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, block_queries: int, sources: Sequence[str], config: QueriesConfig | None) -> None:
        self.block_queries, self.sources, self.config = block_queries, sources, config

    def __call__(self, task: Task) -> Record:
        paths, vector_paths = task.inputs["queries"], task.inputs["query_vectors"]
        if not paths:
            return Record(problems=[f"{self.sources[0] if self.config is None else self.config.path}: no queries"])
        tables = [storage.read_table(path, ["query_id", "text_hash"]) for path in paths]
        whole = pa.concat_tables(tables)
        query_ids = schemas.one_array(whole["query_id"])
        texts = schemas.one_array(whole["text_hash"]).dictionary_encode().indices.to_numpy().astype(np.int64)
        judgements = storage.read_table(task.inputs["judgements"])
        if problems := duplicate_faults(repeated(query_ids), "query", self.config):
            return Record(problems=problems)
        selection = select_queries(query_ids, judgements, texts)
        if problems := self._problems(selection, len(query_ids), judgements.num_rows):
            return Record(problems=problems)
        ends = np.cumsum([table.num_rows for table in tables])[:-1]
        masks = np.split(selection.is_kept, ends)
        outputs = self._write(task.output, paths, masks, "")
        num_blocks = len(outputs)
        if vector_paths:
            outputs += self._write(task.output, vector_paths, masks, ".vectors")
        pairs = storage.write_table(f"{task.output}-pairs.parquet", selection.pairs)
        without = np.flatnonzero(~selection.is_kept)
        info = {
            "num_blocks": num_blocks,
            "num_queries_read": len(query_ids),
            "num_without_positive": len(without),
            "example_without_positive": query_ids.take(pa.array(without[:NUM_EXAMPLES])).to_pylist(),
            "num_positives_excluded": selection.num_positives_excluded,
        }
        return Record([*outputs, pairs], len(query_ids), int(selection.is_kept.sum()), info=info)

    def _problems(self, selection: Selection, num_queries: int, num_judgements: int) -> list[str]:
        what = "is judged, but is not among the queries"
        problems = judgement_faults(selection.unknown, self.sources, "query_id", what)
        if not problems and not selection.is_kept.any():
            reason = f"{num_queries} queries, {num_judgements} judgements"
            void = selection.num_positives_excluded
            reason += f", {void} positives void because they are among those to exclude" if void else ""
            problems.append(f"{self.sources[0]}: no query has a positive ({reason})")
        return problems

    def _write(self, output: str, paths: Sequence[str], masks: Sequence[NDArray[np.bool_]], suffix: str) -> list[Shard]:
        tables = (storage.read_table(path).filter(pa.array(mask)) for path, mask in zip(paths, masks, strict=True))
        shards = []
        for number, block in enumerate(reblock(tables, self.block_queries)):
            if suffix:
                rows = pa.array(np.arange(block.num_rows, dtype=np.int64))
                block = block.set_column(0, block.schema.field(0), rows)
            shard = storage.write_table(f"{output}-{number:05d}{suffix}.parquet", block)
            shards.append(shard.at(number * self.block_queries))
        return shards
