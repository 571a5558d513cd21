"""FetchTexts: one pass over the documents takes the texts of the selected ones to the query blocks that need them.

Each shard is read once, and only if a pair asks for one of its documents. A text goes once into each block that needs
it, so what is exchanged is the selected texts and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import distinct


def fetch_texts(corpus: pa.Table, pairs: pa.Table, first_row: int, block_starts: Sequence[int]) -> Iterator[pa.Table]:
    """The texts that each query block needs of a document shard.

    Args:
        corpus: schemas.CORPUS of the shard (its hashes are not needed).
        pairs: schemas.PAIRS of its documents, in any order.
        first_row: doc_row of its first document.
        block_starts: first query_row of each block.

    Yields:
        schemas.TEXTS per block, sorted by doc_row, each document once.
    """
    for block in storage.split_by(pairs["query_row"].to_numpy(), block_starts, pairs):
        doc_rows = distinct(block["doc_row"].to_numpy())
        taken = corpus.select(["doc_id", "text"]).take(pa.array(doc_rows - first_row))
        yield pa.Table.from_arrays([pa.array(doc_rows), *taken.columns], schema=schemas.TEXTS)


class FetchTexts:
    """Stage: the selected texts of one document shard, bucketed by query block.

    Args:
        pairs: paths of Select's pairs, bucketed by document shard.
        block_starts: first query_row of each query block.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], block_starts: Sequence[int]) -> None:
        self.pairs, self.block_starts = pairs, block_starts

    def __call__(self, task: Task) -> Record:
        """Fetches from shard `corpus` (path), which is number `bucket` and begins at `first_row`."""
        inputs: dict[str, Any] = task.inputs
        pairs = storage.read_buckets(self.pairs, inputs["bucket"], schemas.PAIRS)
        corpus = schemas.CORPUS.empty_table()
        if pairs.num_rows:
            corpus = storage.read_table(inputs["corpus"], ["doc_id", "text"])
        blocks = fetch_texts(corpus, pairs, inputs["first_row"], self.block_starts)
        written = storage.write_buckets(f"{task.output}.arrow", schemas.TEXTS, blocks)
        return Record([written], rows_in=pairs.num_rows, rows_out=written.num_rows, bytes_in=corpus.nbytes)
