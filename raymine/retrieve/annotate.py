"""What only the documents can say of each candidate: its folded text's hash, whether it is empty, its dense score, and
the traits that filters go by (its cluster, its metadata).

A candidate that dense search found has its score from there; the others get theirs here.

A pass over document shards: each shard's hashes and vectors are read once, and only the rows that pairs ask for are
touched. The dense score is the one of exact search (topk.pair_scores), so a candidate that another source found scores
as if dense search had found it, to the bit.

Cost: one document shard, the pairs that meet it, and the cached query vectors (vectors.CACHE_BYTES).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.lookup import positions, rows_of
from raymine.retrieve.base import score_pairs
from raymine.vectors import VectorBlocks, Vectors, read_vectors

EMPTY_HASH = schemas.text_hash(schemas.fold(""))


def document_notes(corpus: pa.Table) -> pa.Table:
    """fold_hash and is_empty of each document of a shard: empty is a text of nothing but white space, not a null one.

    The hash tells (a text of white space folds to none), so no text is read.

    Args:
        corpus: column fold_hash of CORPUS.
    """
    hashes = corpus["fold_hash"]
    return pa.table({"fold_hash": hashes, "is_empty": pc.equal(hashes, pa.scalar(EMPTY_HASH, hashes.type))})


def with_trait(documents: pa.Table, name: str, rows: NDArray[np.int64], values: pa.ChunkedArray) -> pa.Table:
    """Notes of a shard's documents with one more column.

    Args:
        documents: of document_notes.
        name: of the trait.
        rows: int64 [m], positions of the documents of which it is known.
        values: [m].
    """
    where = positions(rows, np.arange(len(documents), dtype=np.int64))
    field = schemas.trait_field(name)
    return documents.append_column(field, values.cast(field.type).take(pa.array(where, mask=where < 0)))


def annotate(
    pairs: pa.Table, documents: pa.Table, first_rows: tuple[int, int], vectors: tuple[Vectors, Vectors] | None
) -> pa.Table:
    """Notes of the pairs of one query block and one document shard, in their order: NOTES, then the traits.

    Args:
        pairs: CANDIDATE_PAIRS.
        documents: document_notes of the shard, and its traits.
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
    traits = noted.column_names[2:]
    return pa.Table.from_arrays([*columns, *(noted[name] for name in traits)], schema=schemas.notes(traits))


class Annotate:
    """Annotates the candidates that lie in one document shard.

    Args:
        pairs: CANDIDATE_PAIRS file of each query block, bucketed by document shard.
        query_vectors: embeddings file of each query block; None: there are no embeddings.
        block_starts: query_row of the first query of each block.
        traits: what the notes say besides: `cluster` and columns of the shards' metadata.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(
        self,
        pairs: Sequence[str],
        query_vectors: Sequence[str] | None,
        block_starts: Sequence[int],
        traits: Sequence[str] = (),
    ) -> None:
        self.pairs, self.block_starts, self.traits = pairs, block_starts, traits
        self.queries = VectorBlocks(query_vectors) if query_vectors else None

    def __call__(self, task: Task) -> Record:
        """Writes notes, bucketed by query block.

        Args:
            task: inputs corpus, vectors, metadata and clusters (the shard's files; all but the first may be None, and
                the last may hold documents of other shards), first_row (its first doc_row), bucket (the shard).
        """
        documents = self._documents(task)
        path = task.inputs["vectors"]
        docs = read_vectors(path) if path is not None and self.queries is not None else None
        tables = (self._block(block, task, documents, docs) for block in range(len(self.pairs)))
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.notes(self.traits), tables)
        return Record([shard], rows_in=shard.num_rows, rows_out=shard.num_rows)

    def _documents(self, task: Task) -> pa.Table:
        documents = document_notes(storage.read_table(task.inputs["corpus"], ["fold_hash"]))
        for name in self.traits:
            path = task.inputs["clusters" if name == "cluster" else "metadata"]
            if path is None:
                rows, values = np.empty(0, np.int64), pa.chunked_array([], schemas.trait_field(name).type)
            elif name == "cluster":
                clusters = storage.read_table(path)
                begin = task.inputs["first_row"]
                first, last = np.searchsorted(clusters["doc_row"].to_numpy(), [begin, begin + len(documents)])
                clusters = clusters.slice(first, last - first)
                rows, values = clusters["doc_row"].to_numpy() - begin, clusters[name]
            else:
                values = storage.read_table(path, [name])[name]
                rows = np.arange(len(values), dtype=np.int64)
            documents = with_trait(documents, name, rows, values)
        return documents

    def _block(self, block: int, task: Task, documents: pa.Table, docs: Vectors | None) -> pa.Table:
        pairs = storage.read_bucket(self.pairs[block], task.inputs["bucket"])
        if not pairs.num_rows:
            return schemas.notes(self.traits).empty_table()
        vectors = (self.queries[block], docs) if self.queries is not None and docs is not None else None
        return annotate(pairs, documents, (self.block_starts[block], task.inputs["first_row"]), vectors)
