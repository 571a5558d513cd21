"""Pairs of texts (query, positive) instead of ids: corpus, queries and judgements are made from one file.

Ids are made of the texts' hashes, so that equal texts are one document or one query: a query that occurs in several
rows gets the positives of all of them. Documents and queries keep the order in which they first occur. A row whose
relevance is 0 or below still gives its document, which may then be mined.

Cost: one streaming pass and a BLAKE2b hash per text. Memory: 16 bytes per distinct text (the hashes met so far, as
sorted arrays), twice that while two of them are merged, and one shard of texts; nothing else grows with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import PositivesConfig
from raymine.corpus import jsonl, parquet, tsv
from raymine.corpus.base import Columns, Problems, Rows
from raymine.corpus.batches import Batch
from raymine.corpus.judgements import TableFile, integral, table_files
from raymine.corpus.read import ShardWriter
from raymine.errors import InputError

DEFAULT_RELEVANCE_COLUMN = PositivesConfig.model_fields["relevance_column"].default
READ: dict[str, Callable[[str, Columns, Problems], Iterator[Rows]]] = {
    "tsv": tsv.tsv_rows,
    "jsonl": jsonl.jsonl_rows,
    "parquet": parquet.parquet_rows,
}


class SeenHashes:
    """The set of hashes met so far: sorted arrays whose sizes double, so that each hash is merged O(log n) times."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.bytes_]] = []

    def add(self, hashes: Sequence[bytes]) -> NDArray[np.int64]:
        """Takes in hashes.

        Args:
            hashes: schemas.HASH_BYTES each.

        Returns:
            Positions of those that were not met before, each the first of its value, ascending.
        """
        values, first = np.unique(_sortable(hashes), return_index=True)
        is_new = np.ones(len(values), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, values), len(run) - 1)
            is_new &= run[at] != values
        if is_new.any():
            self._runs.append(values[is_new])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]))]
        return np.sort(first[is_new])


def _sortable(hashes: Sequence[bytes]) -> NDArray[np.bytes_]:
    # numpy drops zero bytes at the end of such strings, which changes neither equality nor order of equal lengths.
    return np.array(hashes, f"S{schemas.HASH_BYTES}")


def pair_columns(config: PositivesConfig) -> Columns:
    """The columns of a file of pairs.

    The relevance column counts where it is; it may be absent only under its default name, as then nobody asked for it.
    """
    texts = (config.query_column or "", config.positive_column or "")
    relevance = () if config.relevance_column is None else (config.relevance_column,)
    if config.relevance_column == DEFAULT_RELEVANCE_COLUMN:
        return Columns(texts, relevance)
    return Columns((*texts, *relevance))


def check_pairs(rows: Rows, config: PositivesConfig, problems: Problems) -> tuple[list[str], list[str], list[int]]:
    """The query texts, positive texts and relevances of rows.

    Args:
        rows: with the columns of `pair_columns`.
        config: names of the columns.
        problems: takes a line for each row with an empty text or a relevance that is no integer; they are left out.
    """
    queries, positives, relevances = [], [], []
    columns = rows.columns
    given = columns[config.relevance_column] if config.relevance_column else [None] * len(rows)
    is_optional = config.relevance_column in (None, DEFAULT_RELEVANCE_COLUMN)
    texts = zip(columns[config.query_column or ""], columns[config.positive_column or ""], strict=True)
    for index, ((query, positive), value) in enumerate(zip(texts, given, strict=True)):
        relevance = 1 if value is None and is_optional else integral(value)
        fault = _text_fault("query", query) or _text_fault("positive", positive)
        if relevance is None:
            fault = fault or (
                f"{value!r} is no relevance, expected an integer (positives.relevance_column: null if all are positive)"
            )
        if fault or relevance is None:
            problems.add(rows.place(index), fault)
        else:
            queries.append(query)
            positives.append(positive)
            relevances.append(relevance)
    return queries, positives, relevances


def _text_fault(what: str, value: object) -> str:
    if not isinstance(value, str):
        return f"the {what} is not a text; got {value!r:.60}"
    return "" if value and not value.isspace() else f"the {what}'s text is empty"


class UniqueTexts:
    """Names texts by their hashes and writes each distinct one once, into shards of documents or queries.

    Args:
        writer: of the shards.
        prefix: of the ids.
    """

    def __init__(self, writer: ShardWriter, prefix: str) -> None:
        self.writer, self.prefix, self.seen = writer, prefix, SeenHashes()

    def add(self, texts: Sequence[str]) -> list[str]:
        """Takes in texts and gives their ids."""
        hashes = [schemas.text_hash(text) for text in texts]
        ids = [self.prefix + digest.hex() for digest in hashes]
        new = self.seen.add(hashes).tolist()
        self.writer.add(Batch([ids[at] for at in new], [texts[at] for at in new], np.ones(len(new), bool)))
        return ids


class ReadPairs:
    """Makes corpus shards, raw query shards and judgements of the files of text pairs: one task.

    Settings: `config`, and `shard_documents`, rows per shard. Outputs: `{output}-corpus-{i:05d}.parquet`
    (schemas.CORPUS), `{output}-queries-{i:05d}.parquet` (schemas.QUERIES), and last `{output}-judgements.parquet`
    (schemas.JUDGEMENTS). info: num_corpus and num_queries, the numbers of shards.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: PositivesConfig, shard_documents: int) -> None:
        self.config, self.shard_documents = config, shard_documents

    def __call__(self, task: Task) -> Record:
        corpus = ShardWriter(f"{task.output}-corpus", self.shard_documents, schemas.corpus_table)
        queries = ShardWriter(f"{task.output}-queries", self.shard_documents, schemas.query_table)
        problems = Problems()
        shards = []
        try:
            files = table_files(self.config.path, self.config.format)
            tables = self._tables(files, UniqueTexts(queries, "query-"), UniqueTexts(corpus, "text-"), problems)
            shards.append(storage.write_tables(f"{task.output}-judgements.parquet", schemas.JUDGEMENTS, tables))
            corpus.finish()
            queries.finish()
        except InputError as error:
            problems.add_error(error)
        if problems.lines:
            return Record(problems=problems.lines)
        info = {"num_corpus": len(corpus.shards), "num_queries": len(queries.shards)}
        outputs = [*corpus.shards, *queries.shards, *shards]
        return Record(outputs, shards[0].num_rows, corpus.num_written + queries.num_written, info=info)

    def _tables(
        self, files: Sequence[TableFile], queries: UniqueTexts, corpus: UniqueTexts, problems: Problems
    ) -> Iterator[pa.Table]:
        """Judgements, batch by batch; the texts go to their shards as they pass."""
        for ordinal, file in enumerate(files):
            num_rows = 0
            for rows in READ[file.format](file.path, pair_columns(self.config), problems):
                pairs = check_pairs(rows, self.config, problems)
                if problems.lines:  # only to find more of them
                    continue
                num_rows += len(rows)
                columns = [
                    queries.add(pairs[0]),
                    corpus.add(pairs[1]),
                    pairs[2],
                    [False] * len(rows),
                    [ordinal] * len(rows),
                    rows.lines,
                ]
                arrays = [
                    pa.array(values, kind) for values, kind in zip(columns, schemas.JUDGEMENTS.types, strict=True)
                ]
                yield pa.Table.from_arrays(arrays, schema=schemas.JUDGEMENTS)
            if not num_rows and not problems.lines:
                problems.add(file.path, "no pairs in the file")
