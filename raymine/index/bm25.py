"""BM25 over any number of shards, equal to one index over all of them.

A score depends on the corpus through three figures only: the number of documents, their mean length, and the document
frequencies of the query's terms. So shards are tokenised once (whatever the method and its parameters), the figures
are summed, and parts of consecutive shards are scored with the sums: the same bits as one bm25s index, in any split.
Statistics of each part alone would change a tenth of the results.

    QueryTerms       all queries         -> the vocabulary (terms of queries only), terms of each query
    TokenizeShard    a corpus shard      -> postings of the vocabulary's terms, document lengths
    Bm25Statistics   all shards' terms   -> document frequencies, number of documents, total length
    SearchBm25       consecutive shards  -> the best documents of every query

Only terms of queries are kept: no other term can add to a score. A query's repeated words count each time, as in bm25s.
A document that scores 0 or less is no hit. With bm25l and bm25+ every document scores above 0 for a query with a known
term, so a query with fewer matching documents than k gets others too, by row, as from bm25s.

Measured on one core, 120k arxiv abstracts and 2,360 titles as queries (CPU seconds, bm25s in brackets): tokenise and
count 2.2 (6.3), build the part 0.2 (5.2), search 0.27 (0.39). A posting takes 2 bytes on disk, 8 in memory.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import fsum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import Bm25Config
from raymine.index import bm25_scores
from raymine.index.bm25_scores import OKAPI, Part, Postings, Scorer, Statistics, make_part
from raymine.index.bm25_text import Tokenizer, Words, load_stemmer
from raymine.threads import num_threads
from raymine.topk import ranks_within

# Terms of all queries, sorted; a term's position is its term_id.
VOCABULARY = pa.schema([pa.field("term", pa.string(), nullable=False)])
# One row per word of a query, in the query's order; bucketed by query block. `query` is the position in the block.
QUERY_TERMS = pa.schema(
    [pa.field("query", pa.int32(), nullable=False), pa.field("term_id", pa.int32(), nullable=False)]
)
# The terms of a shard, sorted, and how many postings each has. Metadata: num_documents, total_length of the shard.
SHARD_TERMS = pa.schema(
    [pa.field("term_id", pa.int32(), nullable=False), pa.field("num_documents", pa.int32(), nullable=False)]
)
# The postings of a shard by (term, document), terms as in SHARD_TERMS. `document` is the position in the shard.
POSTINGS = pa.schema([pa.field("document", pa.int32(), nullable=False), pa.field("count", pa.int32(), nullable=False)])
# Terms of each document of a shard, in its order: known or not, stop words left out.
LENGTHS = pa.schema([pa.field("length", pa.int32(), nullable=False)])
# For okapi: document frequencies of all terms of a shard; bucketed by a hash of the term.
ALL_TERMS = pa.schema(
    [pa.field("term", pa.string(), nullable=False), pa.field("num_documents", pa.int32(), nullable=False)]
)
NUM_TERM_BUCKETS = 64  # so that the sum over all shards holds a 64th of the corpus's vocabulary at a time
# Document frequencies of the vocabulary, position = term_id. Metadata: num_documents, total_length, average_idf.
FREQUENCIES = pa.schema([pa.field("num_documents", pa.int64(), nullable=False)])


def check(config: Bm25Config) -> None:
    """Finds what cannot work before any work starts.

    Raises:
        ConfigError: the stemmer's package is missing, its language is unknown, or the parameters have no scores.
    """
    load_stemmer(config.stemmer)
    bm25_scores.check(config)


class QueryTerms:
    """Finds the vocabulary: the terms of all queries.

    One task. inputs: {"queries": [path per block]}. outputs: VOCABULARY parquet, then QUERY_TERMS bucketed by query
    block.
    Memory: 4 bytes per word of all queries, and the vocabulary.

    Args:
        config: stop words and stemmer.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: Bm25Config) -> None:
        self.tokenizer = Tokenizer(config)

    def __call__(self, task: Task) -> Record:
        blocks = [self.tokenizer(storage.read_table(path, ["text"])["text"]) for path in task.inputs["queries"]]
        vocabulary = make_vocabulary(blocks)
        terms = (query_terms(block, vocabulary["term"].combine_chunks()) for block in blocks)
        outputs = [
            storage.write_table(f"{task.output}.vocabulary.parquet", vocabulary),
            storage.write_buckets(f"{task.output}.queries.arrow", QUERY_TERMS, terms),
        ]
        return Record(
            outputs=outputs,
            rows_in=sum(len(block.text_starts) - 1 for block in blocks),
            rows_out=vocabulary.num_rows,
            tokens=sum(len(block.words) for block in blocks),
        )


def make_vocabulary(blocks: Sequence[Words]) -> pa.Table:
    """VOCABULARY of some texts."""
    terms = pa.chunked_array([block.terms for block in blocks], pa.string()).drop_null().unique()
    return pa.table([terms.take(pc.array_sort_indices(terms))], schema=VOCABULARY)


def query_terms(queries: Words, vocabulary: pa.Array) -> pa.Table:
    """QUERY_TERMS of one block."""
    term_ids = queries.term_ids(vocabulary)[queries.words]
    query = np.repeat(np.arange(len(queries.text_starts) - 1, dtype=np.int32), np.diff(queries.text_starts))
    known = term_ids >= 0
    return pa.table([query[known], term_ids[known]], schema=QUERY_TERMS)


class TokenizeShard:
    """Tokenises one shard of the corpus and keeps the postings of the vocabulary's terms.

    inputs: {"corpus": path}. outputs: SHARD_TERMS, POSTINGS and LENGTHS parquet, and for okapi ALL_TERMS, bucketed.
    They depend on stop words, stemmer, the vocabulary and whether the method is okapi, on nothing else in the config.

    Args:
        config: of BM25.
        vocabulary: path of QueryTerms' first output.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: Bm25Config, vocabulary: str) -> None:
        self.tokenizer = Tokenizer(config)
        self.needs_all_terms = config.method == OKAPI
        self.vocabulary = storage.read_table(vocabulary)["term"].combine_chunks()

    def __call__(self, task: Task) -> Record:
        texts = storage.read_table(task.inputs["corpus"], ["text"])["text"]
        words = self.tokenizer(texts)
        postings = count_words(words, self.vocabulary)
        outputs = write_postings(task.output, postings)
        if self.needs_all_terms:
            buckets = split_terms(all_frequencies(words))
            outputs.append(storage.write_buckets(f"{task.output}.all_terms.arrow", ALL_TERMS, buckets))
        return Record(
            outputs=outputs,
            rows_in=len(texts),
            rows_out=len(postings.documents),
            tokens=len(words.words),
            bytes_in=texts.nbytes,
        )


def count_words(words: Words, vocabulary: pa.Array) -> Postings:
    """The postings of a shard's texts, of the terms in the vocabulary (string, distinct)."""
    from raymine.index import bm25_kernel

    term_of_word = words.term_ids(vocabulary)
    occurrences = (words.words, words.text_starts, term_of_word)
    frequencies = bm25_kernel.count_documents(*occurrences, len(vocabulary))
    documents, counts = bm25_kernel.make_postings(*occurrences, frequencies)
    term_ids = np.flatnonzero(frequencies).astype(np.int32)
    return Postings(term_ids, frequencies[term_ids], documents, counts, words.lengths())


def all_frequencies(words: Words) -> pa.Table:
    """ALL_TERMS of a shard's texts, sorted by term."""
    from raymine.index import bm25_kernel

    terms = words.terms.drop_null().unique()
    terms = terms.take(pc.array_sort_indices(terms))
    frequencies = bm25_kernel.count_documents(words.words, words.text_starts, words.term_ids(terms), len(terms))
    return pa.table([terms, frequencies], schema=ALL_TERMS)


def split_terms(table: pa.Table) -> Iterator[pa.Table]:
    """Cuts an ALL_TERMS table into NUM_TERM_BUCKETS by a hash of the term."""
    hashes = [zlib.crc32(term.encode()) % NUM_TERM_BUCKETS for term in table["term"].to_pylist()]
    return storage.split_by(np.array(hashes, np.int64), range(NUM_TERM_BUCKETS), table)


def write_postings(output: str, postings: Postings) -> list[storage.Shard]:
    """Writes SHARD_TERMS, POSTINGS and LENGTHS."""
    facts = {"num_documents": len(postings.lengths), "total_length": int(postings.lengths.sum(dtype=np.int64))}
    terms = pa.table([postings.term_ids, postings.num_documents], schema=_with_facts(SHARD_TERMS, facts))
    return [
        storage.write_table(f"{output}.terms.parquet", terms),
        storage.write_table(
            f"{output}.postings.parquet", pa.table([postings.documents, postings.counts], schema=POSTINGS)
        ),
        storage.write_table(f"{output}.lengths.parquet", pa.table([postings.lengths], schema=LENGTHS)),
    ]


def read_postings(terms: str, postings: str, lengths: str) -> Postings:
    """Reads what `write_postings` wrote."""
    columns = [
        column.to_numpy()
        for path in (terms, postings, lengths)
        for column in storage.read_table(path).combine_chunks().columns
    ]
    return Postings(*columns)


class Bm25Statistics:
    """Sums the figures of all shards; whole numbers, so any order gives the same.

    One task. inputs: {"vocabulary": path, "terms": [SHARD_TERMS path per shard], "all_terms": [ALL_TERMS path per
    shard] (okapi only)}. output: FREQUENCIES parquet. Memory: 8 bytes per term of the vocabulary.
    """

    VERSION = 1
    calls_in_flight = 1

    def __call__(self, task: Task) -> Record:
        with storage.parquet_file(task.inputs["vocabulary"]) as vocabulary:
            num_terms = vocabulary.metadata.num_rows
        shards = (storage.read_table(path) for path in task.inputs["terms"])
        statistics = sum_statistics(shards, num_terms)
        average_idf = _average_idf(task.inputs.get("all_terms", []), statistics.num_documents)
        facts = {
            "num_documents": statistics.num_documents,
            "total_length": statistics.total_length,
            "average_idf": average_idf,
        }
        table = pa.table([statistics.frequencies], schema=_with_facts(FREQUENCIES, facts))
        shard = storage.write_table(f"{task.output}.parquet", table)
        return Record(outputs=[shard], rows_in=len(task.inputs["terms"]), rows_out=num_terms, info=facts)


def sum_statistics(shards: Iterator[pa.Table], num_terms: int) -> Statistics:
    """Sums SHARD_TERMS tables."""
    frequencies = np.zeros(num_terms, np.int64)
    num_documents, total_length = 0, 0
    for shard in shards:
        frequencies[shard["term_id"].to_numpy()] += shard["num_documents"].to_numpy()
        num_documents += int(_fact(shard, "num_documents"))
        total_length += int(_fact(shard, "total_length"))
    return Statistics(num_documents, total_length, frequencies)


def _average_idf(paths: Sequence[str], num_documents: int) -> float:
    """The mean of okapi's inverse document frequencies over all terms; 0 without terms."""
    terms_with: Counter[int] = Counter()
    for bucket in range(NUM_TERM_BUCKETS if paths else 0):
        table = storage.read_buckets(paths, bucket, ALL_TERMS)
        sums = table.group_by("term").aggregate([("num_documents", "sum")])["num_documents_sum"]
        values, counts = np.unique(sums.to_numpy(), return_counts=True)
        terms_with.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    total = fsum(count * bm25_scores.okapi_idf(value, num_documents) for value, count in terms_with.items())
    return total / max(terms_with.total(), 1)


def read_statistics(path: str) -> Statistics:
    """Reads what Bm25Statistics wrote."""
    table = storage.read_table(path)
    return Statistics(
        int(_fact(table, "num_documents")),
        int(_fact(table, "total_length")),
        table["num_documents"].to_numpy(),
        float(_fact(table, "average_idf")),
    )


class SearchBm25:
    """Finds the best documents of every query in one part.

    inputs: {"terms": [...], "postings": [...], "lengths": [...], "first_rows": [...]}, one entry per shard of the part,
    consecutive shards in order; {"blocks": [first, end]}, the query blocks to search for. output: HITS, a bucket for
    each of those, ranks within the part. Queries of a block are shared out to as many threads as the worker has.
    Memory: 8 bytes per posting of the part, and 8 k bytes per query of one block.

    Args:
        config: of BM25.
        statistics: path of Bm25Statistics' output.
        query_terms: path of QueryTerms' second output.
        block_starts: query_row of each block's first query.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: Bm25Config, statistics: str, query_terms: str, block_starts: Sequence[int]) -> None:
        bm25_scores.check(config)
        self.scorer = Scorer(config, read_statistics(statistics))
        self.query_terms, self.block_starts = query_terms, block_starts

    def __call__(self, task: Task) -> Record:
        paths = [task.inputs[name] for name in ("terms", "postings", "lengths")]
        part = make_part(self.scorer, self._frequencies(paths[0]), map(read_postings, *paths))
        first_rows = np.repeat(np.asarray(task.inputs["first_rows"], np.int64), part.shard_sizes)
        doc_rows = first_rows + ranks_within(first_rows)
        threads = num_threads()
        tables = (
            at_query_row(
                search_block(self.scorer, part, storage.read_bucket(self.query_terms, block), doc_rows, threads),
                self.block_starts[block],
            )
            for block in range(*task.inputs["blocks"])
        )
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, tables)
        return Record(outputs=[shard], rows_in=len(doc_rows), rows_out=shard.num_rows)

    def _frequencies(self, paths: Sequence[str]) -> NDArray[np.int64]:
        shards = (storage.read_table(path) for path in paths)
        return sum_statistics(shards, len(self.scorer.idf)).frequencies


def search_block(
    scorer: Scorer, part: Part, queries: pa.Table, doc_rows: NDArray[np.int64], threads: int = 1
) -> pa.Table:
    """HITS of one block of queries in one part, query_row relative to the block.

    Args:
        scorer: of the whole corpus.
        part: from `make_part` with that scorer.
        queries: QUERY_TERMS.
        doc_rows: int64, ascending, doc_row of each document of the part.
        threads: queries are shared out to so many; no effect on the result.
    """
    from raymine.index.bm25_search_kernel import search

    query = queries["query"].to_numpy()
    num_queries = int(query[-1]) + 1 if len(query) else 0
    starts = np.searchsorted(query, np.arange(num_queries + 1))
    terms = np.array(queries["term_id"].to_numpy())
    k = min(scorer.config.k, part.num_documents)
    lists = (part.term_starts, part.documents, part.weights, scorer.absent, part.num_documents, k)
    cuts = np.linspace(0, num_queries, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(search, terms, starts[a : b + 1], *lists) for a, b in pairwise(cuts)]
        found = [future.result() for future in waiting]
    counts, documents, scores = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    query_rows = np.repeat(np.arange(num_queries), counts)
    is_hit = np.arange(k) < counts[:, None]
    columns = [query_rows, doc_rows[documents[is_hit]], ranks_within(query_rows).astype(np.int32), scores[is_hit]]
    return pa.table(columns, schema=schemas.HITS)


def at_query_row(hits: pa.Table, first: int) -> pa.Table:
    """HITS of a block whose first query has the row `first`."""
    return hits.set_column(0, hits.schema.field(0), pc.add(hits["query_row"], first))


def _with_facts(schema: pa.Schema, facts: dict[str, Any]) -> pa.Schema:
    return schema.with_metadata({name: repr(value) for name, value in facts.items()})


def _fact(table: pa.Table, name: str) -> str:
    text: bytes = table.schema.metadata[name.encode()]
    return text.decode()
