"""What only the documents can say of each candidate: its folded text's hash, whether it is empty, its dense score.

A candidate that dense search found has its score from there; the others get theirs here.

A pass over document shards: each shard's texts and vectors are read once, and only the rows that pairs ask for are
touched. The dense score is the one of exact search (topk.pair_scores), so a candidate that another source found scores
as if dense search had found it, to the bit.

Cost: one document shard, the pairs that meet it, and the cached query vectors (vectors.CACHE_BYTES).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.retrieve.base import rows_of, score_pairs
from raymine.vectors import VectorBlocks, Vectors, read_vectors


def document_notes(corpus: pa.Table) -> pa.Table:
    """fold_hash and is_empty of each document of a shard: empty is a text of nothing but white space, not a null one.

    Args:
        corpus: columns text and fold_hash of CORPUS.
    """
    is_blank = pc.equal(pc.utf8_trim_whitespace(corpus["text"]), "")
    return pa.table({"fold_hash": corpus["fold_hash"], "is_empty": pc.fill_null(is_blank, False)})


def annotate(
    pairs: pa.Table, documents: pa.Table, first_rows: tuple[int, int], vectors: tuple[Vectors, Vectors] | None
) -> pa.Table:
    """NOTES of the pairs of one query block and one document shard, in their order.

    Args:
        pairs: CANDIDATE_PAIRS.
        documents: document_notes of the shard.
        first_rows: query_row where the block begins, doc_row where the shard begins.
        vectors: the block's and the shard's; None: there are no embeddings.
    """
    query_rows, doc_rows = rows_of(pairs)
    query_positions, doc_positions = query_rows - first_rows[0], doc_rows - first_rows[1]
    noted = documents.take(pa.array(doc_positions))
    values, known = np.zeros(len(doc_rows), np.float32), np.zeros(len(doc_rows), np.bool_)
    if vectors is not None:
        wanted = np.flatnonzero(~pairs["has_dense_score"].to_numpy())
        values[wanted], known[wanted] = score_pairs(*vectors, query_positions[wanted], doc_positions[wanted])
    scores = pa.array(values, mask=~known)
    columns = [pairs["query_row"], pairs["doc_row"], noted["fold_hash"], noted["is_empty"], scores]
    return pa.Table.from_arrays(columns, schema=schemas.NOTES)


class Annotate:
    """Annotates the candidates that lie in one document shard.

    Args:
        pairs: CANDIDATE_PAIRS file of each query block, bucketed by document shard.
        query_vectors: embeddings file of each query block; None: there are no embeddings.
        block_starts: query_row of the first query of each block.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, pairs: Sequence[str], query_vectors: Sequence[str] | None, block_starts: Sequence[int]) -> None:
        self.pairs, self.block_starts = pairs, block_starts
        self.queries = VectorBlocks(query_vectors) if query_vectors else None

    def __call__(self, task: Task) -> Record:
        """Writes NOTES, bucketed by query block.

        Args:
            task: inputs corpus and vectors (the shard's files; vectors may be None), first_row (its first doc_row),
                bucket (the shard).
        """
        documents = document_notes(storage.read_table(task.inputs["corpus"], ["text", "fold_hash"]))
        path = task.inputs["vectors"]
        docs = read_vectors(path) if path is not None and self.queries is not None else None
        tables = (self._block(block, task, documents, docs) for block in range(len(self.pairs)))
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.NOTES, tables)
        return Record([shard], rows_in=shard.num_rows, rows_out=shard.num_rows)

    def _block(self, block: int, task: Task, documents: pa.Table, docs: Vectors | None) -> pa.Table:
        pairs = storage.read_bucket(self.pairs[block], task.inputs["bucket"])
        if not pairs.num_rows:
            return schemas.NOTES.empty_table()
        vectors = (self.queries[block], docs) if self.queries is not None and docs is not None else None
        return annotate(pairs, documents, (self.block_starts[block], task.inputs["first_row"]), vectors)
