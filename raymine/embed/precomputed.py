"""Vectors that the user brings: no model, only the project's one way of storing them.

Cosine vectors are normalised (in float32), so that everywhere after this a dot product is the similarity.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import Similarity

PRECOMPUTED = "precomputed"


def stored_vectors(vectors: NDArray[np.floating], similarity: Similarity, store: str) -> NDArray[np.floating]:
    """Vectors as they are stored.

    Args:
        vectors: float16 or float32 [n, dim].
        similarity: cosine (made length 1; a zero vector stays zero) or dot (left as they are).
        store: float16 or float32.
    """
    values = vectors.astype(np.float32)
    if similarity == "cosine":
        lengths = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
        values = (values / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    with np.errstate(over="ignore"):  # a number too large for float16 is found by the caller
        return values.astype(store)


class StoreVectors:
    """Stores one shard of precomputed vectors. task.inputs: `vectors`, an embeddings file.

    Args:
        similarity: cosine or dot.
        store: number format of the stored vectors.
    """

    VERSION = 2
    calls_in_flight = 1

    def __init__(self, similarity: Similarity, store: str) -> None:
        self.similarity, self.store = similarity, store

    def __call__(self, task: Task) -> Record:
        path = task.inputs["vectors"]
        table = storage.read_table(path)
        rows = table["row"].to_numpy()
        vectors = stored_vectors(schemas.vector_matrix(table["vector"]), self.similarity, self.store)
        bad = rows[~np.isfinite(vectors).all(axis=1)]
        if len(bad):
            return Record(problems=[f"{path}: vector {row} is not finite in {self.store}" for row in bad])
        made = self._described(schemas.vector_table(rows, vectors), vectors.shape[1])
        return Record(
            outputs=[storage.write_arrow(f"{task.output}.arrow", made)],
            rows_in=table.num_rows,
            rows_out=made.num_rows,
            bytes_in=table.nbytes,
        )

    def _described(self, table: pa.Table, dim: int) -> pa.Table:
        normalized = str(self.similarity == "cosine").lower()
        return table.replace_schema_metadata(
            {"model": PRECOMPUTED, "dim": str(dim), "normalized": normalized, "prompt": ""}
        )
