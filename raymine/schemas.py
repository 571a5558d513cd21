"""Every Arrow schema that crosses a step, and `check`.

Rows are dense int64 positions. Inside a file of the corpus or of embeddings they are implied or relative to the file,
so that a file's bytes do not depend on what lies before it: doc_row = the shard's first_row + position. Ids of users
(strings) live only in corpus, queries and the final outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HASH_BYTES = 16

# A shard of documents, position = doc_row - first_row. `text` is null where a document has only a vector, and empty
# where its text is empty (never mined). `text_hash` is of the exact text (null text: of the id), `fold_hash` of the
# text with case and white space folded: equal fold_hash means "the same text" to the duplicate filters.
CORPUS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.large_string()),
        pa.field("text_hash", pa.binary(HASH_BYTES), nullable=False),
        pa.field("fold_hash", pa.binary(HASH_BYTES), nullable=False),
    ]
)
# A block of queries, position = query_row - first_row.
QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.large_string()),
        pa.field("text_hash", pa.binary(HASH_BYTES), nullable=False),
    ]
)
# Sorted by (query_row, doc_row); one file per query block. `relevance` > 0. `fold_hash` is the document's.
POSITIVES = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("relevance", pa.int32(), nullable=False),
        pa.field("fold_hash", pa.binary(HASH_BYTES), nullable=False),
    ]
)
# (query, document) pairs that must never be mined (evaluation judgements); one file per query block.
EXCLUDED = pa.schema(
    [pa.field("query_row", pa.int64(), nullable=False), pa.field("doc_row", pa.int64(), nullable=False)]
)
# Judgements as the user's files have them, in file order. `file` counts the positives' file (0) and those to exclude.
JUDGEMENTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("relevance", pa.int32(), nullable=False),
        pa.field("excluded", pa.bool_(), nullable=False),
        pa.field("file", pa.int16(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
    ]
)
# Judgements that have an effect, of the queries that were kept: positive ones and excluded ones.
JUDGED_PAIRS = pa.schema([pa.field("query_row", pa.int64(), nullable=False), *list(JUDGEMENTS)[1:]])
# Where each document id is: bucketed by the hash of the id.
ID_ROWS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("fold_hash", pa.binary(HASH_BYTES), nullable=False),
    ]
)
# The best lines of a TREC run, bucketed by the hash of the document id.
RUN_LINES = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
    ]
)
# Judged pairs with the document's row, bucketed by query block.
RESOLVED_PAIRS = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("relevance", pa.int32(), nullable=False),
        pa.field("excluded", pa.bool_(), nullable=False),
        pa.field("fold_hash", pa.binary(HASH_BYTES), nullable=False),
    ]
)
# What one source found: bucketed by query block, sorted by (query_row, rank).
HITS = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
    ]
)
# The coarse centroid of each document of an index part, sorted by doc_row.
CLUSTERS = pa.schema([pa.field("doc_row", pa.int64(), nullable=False), pa.field("cluster", pa.int32(), nullable=False)])
# Pairs on their way to a pass over document shards (bucketed by document shard).
PAIRS = EXCLUDED
# Candidates on their way to the document shards; one that dense search found has its dense score already.
CANDIDATE_PAIRS = pa.schema([*PAIRS, pa.field("has_dense_score", pa.bool_(), nullable=False)])
# What the pass over documents says of each candidate (bucketed by query block). `dense_score` is null where the
# candidate has one already, or there are no embeddings.
NOTES = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("fold_hash", pa.binary(HASH_BYTES), nullable=False),
        pa.field("is_empty", pa.bool_(), nullable=False),
        pa.field("dense_score", pa.float32()),
    ]
)
# What filters may go by besides ranks and scores, columns of notes and verdicts where a filter asks for them: the
# cluster of the document's vector; the highest Jaccard similarity to a positive of the query, and to a better candidate
# of it (null below what the filter asks about). `meta_<column>`: a code of the document's value, equal where it is.
TRAITS = {"cluster": pa.int32(), "near_positive": pa.float32(), "near_better": pa.float32()}
# Similarities of candidates to texts of their query, of one query block: sorted by (query_row, doc_row).
NEAR = pa.schema([*PAIRS, pa.field("near_positive", pa.float32()), pa.field("near_better", pa.float32())])
# Pairs of candidates of one query that may be near duplicates: `left` and `right` are doc_rows.
NEAR_PAIRS = pa.schema([pa.field(name, pa.int64(), nullable=False) for name in ("query_row", "left", "right")])
# Keys of a document's shingles for finding near duplicates, on their way to the query blocks, each document once; the
# shingles themselves, where the keys have found some.
BANDS = pa.schema(
    [pa.field("doc_row", pa.int64(), nullable=False), pa.field("keys", pa.list_(pa.field("element", pa.uint64())))]
)
# The teacher's scores of pairs (bucketed by query block).
TEACHER_SCORES = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("teacher_score", pa.float32(), nullable=False),
    ]
)
TEACHER_CACHE = pa.schema(
    [
        pa.field("query_hash", pa.binary(HASH_BYTES), nullable=False),
        pa.field("doc_hash", pa.binary(HASH_BYTES), nullable=False),
        pa.field("teacher_score", pa.float32(), nullable=False),
    ]
)
# Texts of the selected documents, on their way to the writer (bucketed by query block).
TEXTS = pa.schema(
    [
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.large_string()),
    ]
)
# How many candidates, and how many positives, have which value of a score (select.scales says what a key is).
SCORE_COUNTS = pa.schema(
    [
        pa.field("score", pa.string(), nullable=False),
        pa.field("is_positive", pa.bool_(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
# Candidates that no filter took, on their way to the document shards, with their best rank.
RANKED_PAIRS = pa.schema([*PAIRS, pa.field("rank", pa.int64(), nullable=False)])
KINDS = ("ranking_error", "semi_hard", "hard", "random")


def metadata(columns: Sequence[str]) -> pa.Schema:
    """Metadata of one shard of documents, position = doc_row - first_row: a code per column, null where there is none.

    Args:
        columns: as the user named them.
    """
    return pa.schema([trait_field(f"meta_{name}") for name in columns])


def embeddings(dim: int, dtype: str) -> pa.Schema:
    """Vectors of one shard: `row` is the position in the shard (empty documents have none).

    Args:
        dim: length of a vector.
        dtype: float16 or float32.
    """
    element = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    # The child is named `element` because Parquet renames the default `item`.
    vector = pa.list_(pa.field("element", element), dim)
    return pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("vector", vector, nullable=False)])


def vector_table(rows: NDArray[np.int64], vectors: NDArray[np.floating]) -> pa.Table:
    """An embeddings table from int64 [n] rows and float16 or float32 [n, dim] vectors."""
    schema = embeddings(vectors.shape[1], vectors.dtype.name)
    return pa.Table.from_arrays([pa.array(rows), vector_column(vectors)], schema=schema)


def vector_column(matrix: NDArray[np.generic]) -> pa.Array:
    """Numbers [n, dim] as a fixed-size-list column."""
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("element", flat.type), matrix.shape[1]))


def vector_matrix(column: pa.ChunkedArray) -> NDArray[np.floating]:
    """The vectors of a fixed-size-list column as a [n, dim] array, without a copy where the column is one chunk."""
    flat = one_array(column).flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat).reshape(-1, column.type.list_size)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, without a copy where it is one already."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def hits_table(
    query_rows: NDArray[np.int64],
    doc_rows: NDArray[np.int64],
    ranks: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> pa.Table:
    """A HITS table from its columns, each [n]."""
    return pa.Table.from_arrays([pa.array(c) for c in (query_rows, doc_rows, ranks, scores)], schema=HITS)


def candidates(sources: Sequence[str]) -> pa.Schema:
    """The wide table of candidates, sorted by (query_row, doc_row).

    A positive is a row of it too (relevance > 0), whether or not a source found it, so that it is scored as any other.
    `dense_score` is known for every row when there are embeddings; the other scores only where their source found
    the document.

    Args:
        sources: names of the sources, e.g. dense, bm25, random, run.
    """
    fields = [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("relevance", pa.int32()),
    ]
    for source in sources:
        fields += [pa.field(f"{source}_rank", pa.int32()), pa.field(f"{source}_score", pa.float32())]
    return pa.schema(fields)


DROPPED_BY = pa.field("dropped_by", pa.dictionary(pa.int32(), pa.string()))


def verdicts(sources: Sequence[str], traits: Sequence[str] = ()) -> pa.Schema:
    """Candidates plus traits, the teacher's score and the reason a candidate went (null: kept)."""
    added = [*map(trait_field, traits), pa.field("teacher_score", pa.float32()), DROPPED_BY]
    return pa.schema([*candidates(sources), *added])


def notes(traits: Sequence[str] = ()) -> pa.Schema:
    """NOTES, with the traits that a pass over the documents gives."""
    return pa.schema([*NOTES, *map(trait_field, traits)])


def trait_field(name: str) -> pa.Field:
    """The column of a trait."""
    return pa.field(name, pa.int64() if name.startswith("meta_") else TRAITS[name])


def negatives(sources: Sequence[str]) -> pa.Schema:
    """The sampled negatives, sorted by (query_row, slot); `sources` lists which sources found each."""
    scores = [pa.field(f"{source}_score", pa.float32()) for source in sources]
    return pa.schema(
        [
            pa.field("query_row", pa.int64(), nullable=False),
            pa.field("doc_row", pa.int64(), nullable=False),
            pa.field("slot", pa.int16(), nullable=False),
            pa.field("kind", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("sources", pa.list_(pa.field("element", pa.string())), nullable=False),
            *scores,
            pa.field("teacher_score", pa.float32()),
        ]
    )


# (query, positive, negative) triples that must not stand in one training row: `doc_row` is a negative of the query that
# passes the filters `against: each` for another positive, but not for this one. Usually empty.
FORBIDDEN = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("positive_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
    ]
)
# What was ever among a query's negatives, sorted by (query_row, doc_row): in which round first, in which last, and its
# dense rank in each round since the first (null where dense search did not find it).
LINEAGE = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("doc_row", pa.int64(), nullable=False),
        pa.field("first_round", pa.int16(), nullable=False),
        pa.field("last_round", pa.int16(), nullable=False),
        pa.field("ranks", pa.list_(pa.field("element", pa.int32())), nullable=False),
    ]
)
# Rows of an earlier round that are others now, found by their ids.
MOVED = pa.schema([pa.field("old_row", pa.int64(), nullable=False), pa.field("new_row", pa.int64(), nullable=False)])
# Documents of a pool, each once in a file.
DOC_ROWS = pa.schema([pa.field("doc_row", pa.int64(), nullable=False)])
# Queries that keep the last round's negatives.
SETTLED = pa.schema([pa.field("query_row", pa.int64(), nullable=False)])
# One row per query: how many negatives it got, how many are missing (together always the number asked for), which
# filter took most of its candidates, and whether it goes into training shards at all.
SHORTFALL = pa.schema(
    [
        pa.field("query_row", pa.int64(), nullable=False),
        pa.field("num_negatives", pa.int16(), nullable=False),
        pa.field("num_missing", pa.int16(), nullable=False),
        pa.field("num_candidates", pa.int32(), nullable=False),
        pa.field("top_reason", pa.string()),
        pa.field("is_emitted", pa.bool_(), nullable=False),
    ]
)
# A row per task. What was found made by an earlier round is `reused`: its figures are those of that time, but for its
# seconds, which are 0 and stand in `saved_s`. `peak_bytes` is the worker's resident memory at its highest, from when it
# began the step until the task was done.
LEDGER = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("round", pa.int16(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("started_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("wall_s", pa.float64(), nullable=False),
        pa.field("device_s", pa.float64(), nullable=False),
        pa.field("rows_in", pa.int64(), nullable=False),
        pa.field("rows_out", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("bytes_in", pa.int64(), nullable=False),
        pa.field("bytes_out", pa.int64(), nullable=False),
        pa.field("peak_bytes", pa.int64(), nullable=False),
        pa.field("cache_hits", pa.int64(), nullable=False),
        pa.field("reused", pa.bool_(), nullable=False),
        pa.field("saved_s", pa.float64(), nullable=False),
        pa.field("usd", pa.float64()),
    ]
)


def check(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the table if its columns and types are exactly the schema's.

    Raises:
        TypeError: they are not; names the first difference.
    """
    if table.schema.names != schema.names:
        raise TypeError(f"columns are {table.schema.names}, expected {schema.names}")
    for got, expected in zip(table.schema, schema, strict=True):
        if got.type != expected.type:
            raise TypeError(f"column {got.name} is {got.type}, expected {expected.type}")
        if not expected.nullable and table[got.name].null_count:
            raise TypeError(f"column {got.name} has nulls")
    return table


def text_hash(text: str) -> bytes:
    """16 bytes of BLAKE2b of the exact text."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def fold(text: str) -> str:
    """A text with case and white space folded."""
    return " ".join(text.casefold().split())


def corpus_table(doc_ids: Sequence[str], texts: Sequence[str | None]) -> pa.Table:
    """A corpus table from ids and texts (None: a document that has only a vector)."""
    named = [(doc_id if text is None else text) for doc_id, text in zip(doc_ids, texts, strict=True)]
    return pa.Table.from_arrays(
        [
            pa.array(doc_ids, pa.string()),
            pa.array(texts, pa.large_string()),
            _hashes(named),
            _hashes(fold(text) if given is not None else text for text, given in zip(named, texts, strict=True)),
        ],
        schema=CORPUS,
    )


def query_table(query_ids: Sequence[str], texts: Sequence[str | None]) -> pa.Table:
    """A queries table from ids and texts (None: a query that has only a vector)."""
    named = [(query_id if text is None else text) for query_id, text in zip(query_ids, texts, strict=True)]
    return pa.Table.from_arrays(
        [pa.array(query_ids, pa.string()), pa.array(texts, pa.large_string()), _hashes(named)], schema=QUERIES
    )


def _hashes(texts: Iterable[str]) -> pa.Array:
    return pa.array([text_hash(text) for text in texts], pa.binary(HASH_BYTES))
