"""A small round made of rows of a large one: queries, their positives, and documents evenly spaced.

Reads at most MOST_SHARDS document shards, however large the corpus is, and the judgements of FEWEST_BLOCKS query
blocks, or of as many more as it takes to find enough queries with a positive in those shards: without their positives
the filters would keep others. (Those of one block alone are not like the others: arxiv's first has 1.10 times as many
postings of BM25 per query as all.)

A sample always has SHARDS document shards and BLOCKS query blocks (where it has as many rows), so that what a task
costs whatever its size is told apart from what a row costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.lookup import distinct, pair_positions, positions
from raymine.pipeline.base import Tables, placed
from raymine.storage import Shard

MOST_SHARDS, FEWEST_BLOCKS = 32, 8
SHARDS, BLOCKS = 4, 2

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """Rows of a round.

    Args:
        documents: doc_rows, int64 [n], ascending.
        queries: query_rows, int64 [q], ascending.
    """

    documents: Rows
    queries: Rows


def evenly(count: int, most: int) -> Rows:
    """At most so many numbers below `count`, evenly spaced, int64, ascending."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64) if count else np.empty(0, np.int64)


def draw(tables: Tables, num_documents: int, num_queries: int) -> Drawn:
    """Chooses queries that have a positive in the shards that are read, those positives, and other documents.

    Args:
        tables: of the round, read.
        num_documents: documents in all; more where the queries have more positives than that.
        num_queries: queries at most.
    """
    at_hand = _at_hand(tables.corpus, MOST_SHARDS)
    found: list[pa.Table] = []
    num_found = 0
    for number, block in enumerate(_spread(len(tables.positives)), 1):
        pairs = storage.read_table(tables.positives[block].path, ["query_row", "doc_row"])
        found.append(pairs.filter(pa.array(positions(at_hand, pairs["doc_row"].to_numpy()) >= 0)))
        num_found += len(distinct(found[-1]["query_row"].to_numpy()))
        if number >= FEWEST_BLOCKS and num_found >= num_queries:
            break
    pairs = pa.concat_tables(found)
    known = distinct(pairs["query_row"].to_numpy())
    queries = known[evenly(len(known), num_queries)]
    positives = pairs["doc_row"].to_numpy()[positions(queries, pairs["query_row"].to_numpy()) >= 0]
    needed = distinct(positives.astype(np.int64))
    others = at_hand[positions(needed, at_hand) < 0]
    more = others[evenly(len(others), max(0, num_documents - len(needed)))]
    return Drawn(distinct(np.concatenate([needed, more])), queries)


def draw_evenly(tables: Tables, num_documents: int, num_queries: int) -> Drawn:
    """Chooses documents and queries for a search alone, whatever is positive.

    Documents that are all some query's positive have more of the queries' words than others: with those that `draw`
    chooses, BM25 takes a query of arxiv 1.1 times as long.

    Args:
        tables: of the round, read.
        num_documents, num_queries: at most.
    """
    documents, queries = _at_hand(tables.corpus, MOST_SHARDS), _at_hand(tables.queries, FEWEST_BLOCKS)
    return Drawn(documents[evenly(len(documents), num_documents)], queries[evenly(len(queries), num_queries)])


def _at_hand(shards: Sequence[Shard], most: int) -> Rows:
    """Rows of at most so many shards, evenly spaced, int64, ascending."""
    chosen = [shards[number] for number in evenly(len(shards), most)]
    return np.concatenate([np.arange(shard.first_row, shard.first_row + shard.num_rows) for shard in chosen])


def _spread(count: int) -> list[int]:
    """All numbers below `count`, each as far from those before as can be (bits reversed)."""
    width = max(1, (count - 1).bit_length())
    reversed_bits = [int(f"{number:0{width}b}"[::-1], 2) for number in range(1 << width)]
    return [number for number in reversed_bits if number < count]


def write(tables: Tables, drawn: Drawn, folder: str) -> Tables:
    """Writes the chosen rows as the tables of a round of their own.

    Args:
        tables: of the round.
        drawn: which rows.
        folder: where to.
    """
    documents, queries = np.array_split(drawn.documents, SHARDS), np.array_split(drawn.queries, BLOCKS)
    documents, queries = [rows for rows in documents if len(rows)], [rows for rows in queries if len(rows)]
    made = Tables(
        corpus=placed(_taken(tables.corpus, tables.corpus, documents, f"{folder}/corpus")),
        queries=placed(_taken(tables.queries, tables.queries, queries, f"{folder}/queries")),
    )
    given = [shard for shard in tables.metadata if shard is not None]
    if tables.metadata and len(given) == len(tables.metadata):
        made.metadata = list(_taken(given, tables.corpus, documents, f"{folder}/metadata"))
    elif tables.metadata:
        made.metadata = [None] * len(documents)
    if tables.corpus_vectors:
        made.corpus_vectors = _vectors(tables.corpus_vectors, tables.corpus, documents, f"{folder}/document-vectors")
    if tables.query_vectors:
        vectors = _vectors(tables.query_vectors, tables.queries, queries, f"{folder}/query-vectors")
        made.query_vectors = placed(vectors)
    made.positives = _pairs(tables, tables.positives, drawn, queries, f"{folder}/positives")
    made.excluded = _pairs(tables, tables.excluded, drawn, queries, f"{folder}/excluded")
    if tables.run:
        made.run = [_run(tables, drawn, made, f"{folder}/run.arrow")]
    return made


def _shard_of(rows: Rows, places: Sequence[Shard]) -> Rows:
    starts = np.array([shard.first_row for shard in places])
    return np.searchsorted(starts, rows, side="right") - 1


def _taken(files: Sequence[Shard], places: Sequence[Shard], parts: Sequence[Rows], name: str) -> list[Shard]:
    """A file for each part, of its rows in the files of a table whose rows begin where `places` say."""
    return [
        storage.write_table(f"{name}-{number}.parquet", pa.concat_tables(
            storage.read_table(files[shard].path).take(pa.array(rows[of == shard] - places[shard].first_row))
            for shard in distinct(of)
        ))
        for number, rows in enumerate(parts)
        for of in [_shard_of(rows, places)]
    ]  # fmt: skip


def _vectors(files: Sequence[Shard], places: Sequence[Shard], parts: Sequence[Rows], name: str) -> list[Shard]:
    """As `_taken`, for embeddings as they were given: `row` says which rows of a shard have one."""
    made = []
    for number, rows in enumerate(parts):
        of, tables = _shard_of(rows, places), []
        for shard in distinct(of):
            table = storage.read_table(files[shard].path)
            at = positions(rows, table["row"].to_numpy() + places[shard].first_row)
            tables.append(table.filter(pa.array(at >= 0)).set_column(0, table.schema.field(0), [at[at >= 0]]))
        made.append(storage.write_table(f"{name}-{number}.parquet", pa.concat_tables(tables)))
    return made


def _pairs(tables: Tables, files: Sequence[Shard], drawn: Drawn, queries: Sequence[Rows], name: str) -> list[Shard]:
    """The pairs of chosen queries and chosen documents in their new rows, a file per query block."""
    blocks = distinct(_shard_of(drawn.queries, tables.queries))
    table = pa.concat_tables(storage.read_table(files[block].path) for block in blocks)
    query_rows = positions(drawn.queries, table["query_row"].to_numpy())
    doc_rows = positions(drawn.documents, table["doc_row"].to_numpy())
    is_there = (query_rows >= 0) & (doc_rows >= 0)
    table = table.filter(pa.array(is_there))
    for column, rows in ((0, query_rows), (1, doc_rows)):
        table = table.set_column(column, table.schema.field(column), [pa.array(rows[is_there])])
    starts = np.cumsum([0, *(len(part) for part in queries[:-1])]).tolist()
    split = storage.split_by(table["query_row"].to_numpy(), starts, table)
    return [storage.write_table(f"{name}-{number}.parquet", part) for number, part in enumerate(split)]


def _run(tables: Tables, drawn: Drawn, made: Tables, path: str) -> Shard:
    """Hits of an imported run: of the chosen queries, at documents of the sample, as many as there are."""
    blocks = distinct(_shard_of(drawn.queries, tables.queries)).tolist()
    files = [shard.path for shard in tables.run]
    hits = pa.concat_tables(storage.read_buckets(files, block, schemas.HITS) for block in blocks)
    query_rows = positions(drawn.queries, hits["query_row"].to_numpy())
    hits, query_rows = hits.filter(pa.array(query_rows >= 0)), query_rows[query_rows >= 0]
    doc_rows = hits["doc_row"].to_numpy() % len(drawn.documents)
    pairs = (query_rows, doc_rows)
    is_first = pair_positions(pairs, pairs) == np.arange(len(doc_rows))
    columns = [pa.array(query_rows), pa.array(doc_rows), hits["rank"], hits["score"]]
    table = pa.table(columns, schema=schemas.HITS).filter(pa.array(is_first)).sort_by("query_row")
    split = storage.split_by(table["query_row"].to_numpy(), made.block_starts, table)
    return storage.write_buckets(path, schemas.HITS, split)
