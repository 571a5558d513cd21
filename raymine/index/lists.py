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
    panels_of,
    vectors_of,
)
from raymine.index.race import Race
from raymine.scores import final_scores
from raymine.threads import in_threads, num_threads
from raymine.topk import Hits, merge_topk, widened
from raymine.vectors import Matrix, num_vectors, read_vectors

# Queries that are searched for together: so many want a list that the tiles of index.int8_tile are nearly full.
QUERIES_PER_TILE = 1024
# Tiles whose pairs are scored together, file by file: a file is opened once for all of them. So many while their
# queries take no more in float64.
TILES_SCORED, WIDENED_BYTES = 4, 16 << 20


def panels_table(docs: Rounded, numbers: NDArray[np.int64], lists: NDArray[np.int32]) -> pa.Table:
    """Documents as index.int8_tile multiplies them, a panel a row.

    Args:
        docs: n of them, in int8.
        numbers: int64 [n], those of the documents in their part.
        lists: int32 [n], ascending, the list that each lies in.
    """
    present, starts = np.unique(lists, return_index=True)
    panels = panels_of(docs, np.append(starts, len(lists)).astype(np.int64))
    count, of_slots = len(panels.lists), np.append(numbers, -1).astype(np.int32)  # -1: no document
    columns = {
        "numbers": schemas.vector_column(panels.numbers.reshape(count, math.prod(panels.numbers.shape[1:]))),
        "scales": schemas.vector_column(panels.scales.reshape(count, DOCS)),
        "residuals": schemas.vector_column(panels.residuals.reshape(count, DOCS)),
        "docs": schemas.vector_column(of_slots[panels.docs].reshape(count, DOCS)),
        "list": pa.array(present[panels.lists].astype(np.int32)),
    }
    extent = docs.extent if len(lists) else Extent(0.0, 0.0, docs.mean)
    sizes = {"norm": repr(extent.norm), "residual": repr(extent.residual), "mean": extent.mean.tobytes()}
    return pa.table(columns).replace_schema_metadata(sizes)


class Part:
    """Documents in the order of their lists. Slots are numbered through all files of panels.

    Args:
        panels: paths of them.
        vectors: paths of the part's embeddings; documents are numbered as they lie in these.
        first_rows: doc_row where each of those begins.
    """

    def __init__(self, panels: Sequence[str], vectors: Sequence[str], first_rows: Sequence[int]) -> None:
        self.vectors, self.first_rows = vectors, first_rows
        self.first_docs = np.cumsum([0, *(num_vectors(path) for path in vectors)])
        tables = [storage.read_arrow(path) for path in panels]
        self.panels = [_panels(table) for table in tables]
        self.first_slots = np.cumsum([0, *(len(each.docs) for each in self.panels)])[:-1].tolist()
        extents = [_extent(table) for table in tables]
        self.extent = Extent(max(e.norm for e in extents), max(e.residual for e in extents), extents[0].mean)
        self.scales = np.concatenate([each.scales for each in self.panels])
        self.residuals = np.concatenate([each.residuals for each in self.panels])
        self.docs = np.concatenate([each.docs for each in self.panels])
        # Of each slot, in 16 bits where that is enough: numpy sorts those in linear time.
        files = np.searchsorted(self.first_docs, self.docs, side="right") - 1
        self.files = files.clip(min=0).astype(np.min_scalar_type(len(vectors)))

    def scored(
        self, queries: Matrix, query_index: NDArray[np.int64], slots: NDArray[np.int64], threads: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """doc_rows and final scores of pairs. A file of vectors is mapped into memory while its pairs are scored.

        Args:
            queries: float16, float32 or float64 [q, dim].
            query_index: int64 [n].
            slots: int64 [n].
            threads: that work on files.

        Returns:
            int64 [n] and float32 [n].
        """
        files = self.files[slots]
        order = np.argsort(files, kind="stable")
        borders = np.cumsum([0, *np.bincount(files, minlength=len(self.vectors))])
        doc_rows, scores = np.empty(len(slots), np.int64), np.empty(len(slots), np.float32)

        def score(number: int) -> None:
            own = order[borders[number] : borders[number + 1]]
            if len(own):
                shard, at = read_vectors(self.vectors[number]), self.docs[slots[own]] - self.first_docs[number]
                doc_rows[own] = shard.rows[at] + self.first_rows[number]
                scores[own] = final_scores(queries, shard.matrix, query_index[own], at)

        numbers = range(len(self.vectors))
        for _ in map(score, numbers) if threads == 1 else in_threads(score, numbers, threads):
            pass
        return doc_rows, scores


def _panels(table: pa.Table) -> Panels:
    """What panels_table made."""
    rows: dict[str, NDArray[Any]] = {name: schemas.vector_matrix(table[name]) for name in table.column_names[:4]}
    numbers, scales, residuals, docs = rows.values()
    shape = len(numbers), numbers.shape[1] // (DOCS * QUAD), GROUPS, LANES, QUAD
    lists = table["list"].to_numpy()
    return Panels(numbers.reshape(shape), scales.reshape(-1), residuals.reshape(-1), docs.reshape(-1), lists)


def _extent(table: pa.Table) -> Extent:
    about = table.schema.metadata
    return Extent(float(about[b"norm"]), float(about[b"residual"]), np.frombuffer(about[b"mean"], np.float32))


def search(part: Part, queries: Matrix, nearest: NDArray[np.int32], probed: NDArray[np.uint8], k: int) -> Hits:
    """The k best documents of the lists that each query probes; ties go to the lower doc_row.

    Args:
        part: the documents.
        queries: float16 or float32 [q, dim], finite.
        nearest: int32 [q, any number], the lists that queries look through first.
        probed: uint8 [q, ceil(nlist / 8)], a bit for each list, whether they look through it.
        k: hits per query.

    Returns:
        Query indexes, doc_rows, ranks and final scores, by (query, rank).
    """
    as_int8, threads = rounded(queries, "int8"), num_threads()

    def race_tile(begin: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Query indexes and slots of what may be among the k best."""
        rows = slice(begin, min(begin + QUERIES_PER_TILE, len(queries)))
        tile = queries[rows]

        def best_of(row: int, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            doc_rows, scores = part.scored(tile, np.full(len(slots), row), slots)
            best = np.lexsort((doc_rows, -scores))[:k]
            return best, scores[best]

        unknown, rounded_tile = np.full(len(tile), -np.inf), as_int8.rows(rows.start, rows.stop)
        race = Race(tile, rounded_tile, part.extent, part.residuals, unknown, k, best_of)
        every = np.ascontiguousarray(np.unpackbits(probed[rows], axis=1).T).view(np.bool_)
        first = np.zeros_like(every)
        first[nearest[rows].T, np.arange(len(tile))] = True
        for wanted in (first, every & ~first):
            for panels, first_slot in zip(part.panels, part.first_slots, strict=True):
                if is_supported():
                    race.offer_panels(panels, first_slot, wanted)
                else:
                    offer_products(race, panels, part.scales, first_slot, wanted)
        query_index, slots = race.survivors()
        return query_index + begin, slots

    found = [NOTHING]
    step = QUERIES_PER_TILE * max(1, min(TILES_SCORED, WIDENED_BYTES // (8 * QUERIES_PER_TILE * queries.shape[1])))
    for begin in range(0, len(queries), step):
        own = slice(begin, begin + step)
        tiles = list(in_threads(race_tile, range(len(queries))[own][::QUERIES_PER_TILE], threads))
        ends = np.cumsum([0, *(len(each[0]) for each in tiles)])
        query_index, slots = (np.concatenate(column) for column in zip(*tiles, strict=True))
        del tiles
        doc_rows, scores = part.scored(widened(queries[own]), query_index - begin, slots, threads)
        pairs = [(query_index[a:b], doc_rows[a:b], scores[a:b]) for a, b in pairwise(ends)]
        found += in_threads(lambda tile: merge_topk(*tile, k), pairs, threads)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns[0], columns[1], columns[2], columns[3]


def offer_products(
    race: Race,
    panels: Panels,
    scales: NDArray[np.float32],
    first_slot: int,
    wanted: NDArray[np.bool_],
) -> None:
    """As Race.offer_panels, by products in memory: int8 numbers as float32."""
    import torch

    left = torch.from_numpy(race.packed_queries[0][:-1].astype(np.float32))
    starts = np.append(np.flatnonzero(np.diff(panels.lists, prepend=-1)), len(panels.lists))
    for begin, end in pairwise(starts.tolist()):
        rows = np.flatnonzero(wanted[panels.lists[begin]])
        if len(rows):
            docs = torch.from_numpy(vectors_of(panels.numbers[begin:end]).astype(np.float32))
            race.offer((left[rows] @ docs.T).numpy(), scales, first_slot + begin * DOCS, rows)
