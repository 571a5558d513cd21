"""Documents in the order of their lists, as int8 panels, and the search of the lists that a query wants.

The race is that of exact search (index.race), with a tile of queries and all panels of a part. Where the CPU lacks the
instructions of index.int8_tile, products are made in memory, list by list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.index.exact import NOTHING
from raymine.index.first_pass import Extent, Rounded, rounded
from raymine.index.int8_tile import (
    DOCS,
    GROUPS,
    LANES,
    QUAD,
    Panels,
    is_supported,
    packed_queries,
    panels_of,
    vectors_of,
)
from raymine.index.race import Race
from raymine.scores import final_scores
from raymine.threads import in_threads, num_threads
from raymine.topk import Hits, merge_topk
from raymine.vectors import Matrix, read_vectors

# Queries that are searched for together: so many want a list that the tiles of index.int8_tile are nearly full.
QUERIES_PER_TILE = 1024


def panels_table(docs: Rounded, lists: NDArray[np.int32]) -> pa.Table:
    """Documents as index.int8_tile multiplies them, a panel a row.

    Args:
        docs: n of them, in int8.
        lists: int32 [n], ascending, the list that each lies in.
    """
    present, starts = np.unique(lists, return_index=True)
    panels = panels_of(docs, np.append(starts, len(lists)).astype(np.int64))
    count = len(panels.lists)
    columns = {
        "numbers": schemas.vector_column(panels.numbers.reshape(count, math.prod(panels.numbers.shape[1:]))),
        "scales": schemas.vector_column(panels.scales.reshape(count, DOCS)),
        "residuals": schemas.vector_column(panels.residuals.reshape(count, DOCS)),
        "docs": schemas.vector_column(panels.docs.reshape(count, DOCS)),
        "list": pa.array(present[panels.lists].astype(np.int32)),
    }
    extent = docs.extent if len(lists) else Extent(0.0, 0.0, docs.mean)
    sizes = {"norm": repr(extent.norm), "residual": repr(extent.residual), "mean": extent.mean.tobytes()}
    return pa.table(columns).replace_schema_metadata(sizes)


class Part:
    """Documents in the order of their lists. Slots are numbered through all files of a part, documents likewise.

    `first_slots` are those of each file; `first_docs` the documents' likewise, and their number.

    Args:
        paths: of the part's panels.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.panels: list[Panels] = []
        self.first_slots: list[int] = []
        self.first_docs, extents = [0], []
        for path in paths:
            table = storage.read_arrow(path)
            panels = _panels(table, self.first_docs[-1])
            self.first_slots.append(sum(len(before.docs) for before in self.panels))
            self.panels.append(panels)
            self.first_docs.append(self.first_docs[-1] + int((panels.docs >= 0).sum()))
            about = table.schema.metadata
            extents.append(
                Extent(float(about[b"norm"]), float(about[b"residual"]), np.frombuffer(about[b"mean"], np.float32))
            )
        self.extent = Extent(max(e.norm for e in extents), max(e.residual for e in extents), extents[0].mean)
        self.scales = np.concatenate([panels.scales for panels in self.panels])
        self.residuals = np.concatenate([panels.residuals for panels in self.panels])
        self.docs = np.concatenate([panels.docs for panels in self.panels])


def _panels(table: pa.Table, first_doc: int) -> Panels:
    """What panels_table made, its documents numbered from first_doc on."""
    rows: dict[str, NDArray[Any]] = {name: schemas.vector_matrix(table[name]) for name in table.column_names[:4]}
    numbers, docs = rows["numbers"], rows["docs"].reshape(-1)
    shape = len(numbers), numbers.shape[1] // (DOCS * QUAD), GROUPS, LANES, QUAD
    docs = np.where(docs >= 0, docs + np.int32(first_doc), docs)
    lists = table["list"].to_numpy()
    return Panels(numbers.reshape(shape), rows["scales"].reshape(-1), rows["residuals"].reshape(-1), docs, lists)


def search(part: Part, vectors: Sequence[str], queries: Matrix, passes: Sequence[NDArray[np.uint8]], k: int) -> Hits:
    """The k best documents of the lists that each query wants; ties go to the lower doc_row.

    Args:
        part: the documents.
        vectors: paths of their vectors.
        queries: float16 or float32 [q, dim], finite.
        passes: each uint8 [q, ceil(nlist / 8)], bits of the lists that queries look through, first and then.
        k: hits per query.

    Returns:
        Query indexes, doc_rows, ranks and final scores, by (query, rank).
    """
    as_int8 = rounded(queries, "int8")

    def search_tile(begin: int) -> Hits:
        end = min(begin + QUERIES_PER_TILE, len(queries))
        tile = queries[begin:end]

        def best_of(row: int, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            doc_rows, scores = scored(vectors, part, tile, np.full(len(slots), row), part.docs[slots])
            best = np.lexsort((doc_rows, -scores))[:k]
            return best, scores[best]

        unknown, rounded_tile = np.full(len(tile), -np.inf), as_int8.rows(begin, end)
        race = Race(tile, rounded_tile, part.extent, part.residuals, unknown, k, best_of)
        for bits in passes:
            wanted = np.ascontiguousarray(np.unpackbits(bits[begin:end], axis=1).T).view(np.bool_)
            for panels, first_slot in zip(part.panels, part.first_slots, strict=True):
                if is_supported():
                    race.offer_panels(panels, first_slot, wanted)
                else:
                    offer_products(race, rounded_tile, panels, part.scales, first_slot, wanted)
        query_index, slots = race.survivors()
        doc_rows, scores = scored(vectors, part, tile, query_index, part.docs[slots])
        merged = merge_topk(query_index, doc_rows, scores, k)
        return merged[0] + begin, *merged[1:]

    begins = range(0, len(queries), QUERIES_PER_TILE)
    found = [NOTHING, *in_threads(search_tile, begins, num_threads())]
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns[0], columns[1], columns[2], columns[3]


def offer_products(
    race: Race,
    queries: Rounded,
    panels: Panels,
    scales: NDArray[np.float32],
    first_slot: int,
    wanted: NDArray[np.bool_],
) -> None:
    """As Race.offer_panels, by products in memory: int8 numbers as float32."""
    import torch

    as_floats, _ = packed_queries(queries.tensor)
    left = torch.from_numpy(as_floats[:-1].astype(np.float32))
    starts = np.append(np.flatnonzero(np.diff(panels.lists, prepend=-1)), len(panels.lists))
    for begin, end in pairwise(starts.tolist()):
        rows = np.flatnonzero(wanted[panels.lists[begin]])
        if len(rows):
            docs = torch.from_numpy(vectors_of(panels.numbers[begin:end]).astype(np.float32))
            race.offer((left[rows] @ docs.T).numpy(), scales, first_slot + begin * DOCS, rows)


def scored(
    paths: Sequence[str], part: Part, queries: Matrix, query_index: NDArray[np.int64], docs: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """doc_rows and final scores of pairs.

    Args:
        paths: of the part's vectors; each is mapped into memory while its pairs are scored.
        part: the documents.
        queries: float16 or float32 [q, dim].
        query_index: int64 [n].
        docs: int32 [n], indexes in the part.

    Returns:
        int64 [n] and float32 [n].
    """
    doc_rows, scores = np.empty(len(docs), np.int64), np.empty(len(docs), np.float32)
    for path, (first, last) in zip(paths, pairwise(part.first_docs), strict=True):
        own = np.flatnonzero((docs >= first) & (docs < last))
        if len(own):
            vectors, at = read_vectors(path), docs[own].astype(np.int64) - first
            doc_rows[own], scores[own] = vectors.rows[at], final_scores(queries, vectors.matrix, query_index[own], at)
    return doc_rows, scores
