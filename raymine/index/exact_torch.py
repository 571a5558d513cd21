"""Exact search on a device, shard after shard: the hits of index.exact to the bit, found beside the embedder.

A worker keeps all query vectors on its device, and for each query the k best final scores among the documents that it
has seen. A shard's documents come in a tile at a time: scores by one matrix product (half precision in, float32 out);
what reaches the query's k-th best score, less the error of the product, gets its final score and enters the race. So
nearly all of a shard is dismissed by one comparison: of S shards of equal size a query keeps about k (1 + ln S) hits,
not k S.

Exactness. The product only selects, and selects too much by a bound that holds for any order of its sums
(`relative_error`). Final scores are those of topk.pair_scores: computed in float64 on the device, and where the last
bit of the float32 could depend on the order of that sum (a few pairs in a million), by pair_scores itself.

Which hits a shard's file leaves out depends on what its worker saw before. What it may leave out does not: a document
that k documents of *earlier* shards beat. A shard that comes out of order (a retry, another thread) is searched by
itself. So the merged k best of all files are always the same, and a file stays right when documents are appended.

Cost: 2 q n dim operations on the device; there 2 dim + 4 k bytes a query (float16, dim 768, k 200: 2.3 GB a million
queries) and a tile of scores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import inference, schemas, storage
from raymine.artifacts import Record, Task
from raymine.topk import pair_scores
from raymine.vectors import Matrix, Vectors, read_vectors

if TYPE_CHECKING:
    import torch

    Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# Scores of one tile, 512 MB of float32: a query block and a shard of the default sizes (8,192 x 16,384).
SCORES_PER_TILE = 1 << 27
DOCS_PER_TILE = 16384
# Survivors that are scored and sorted together (some 50 bytes each; more only where scores tie in masses), and elements
# of one chunk of their vectors in float64 (24 bytes each).
SURVIVORS_AT_ONCE = 1 << 23
PAIR_ELEMENTS = 1 << 24
# Error of one addition, relative to |q| |d|. Tensor cores align the addends of a block and cut them off instead of
# rounding each sum (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 2021): up to
# 2**-23 an addend and as much a block. Twice that; plain float32 would have 2**-24.
ADDITION_ERROR = 2.0**-22
# float32 vectors may be multiplied as TF32, which keeps 10 bits after the first; float16 ones are multiplied exactly.
TF32_ROUNDOFF = 2.0**-10
FLOAT64_ROUNDOFF = 2.0**-53


def relative_error(dim: int, is_half: bool) -> float:
    """How far a product may be from the final score, as a part of |query| |document|.

    dim additions, and four more for the roundings of the final score, the threshold and the norms; 1 % covers the
    higher orders (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).

    Args:
        dim: length of the vectors.
        is_half: both sides are float16.
    """
    inputs = 0.0 if is_half else 2 * TF32_ROUNDOFF + TF32_ROUNDOFF**2
    return 1.01 * (inputs + (dim + 4) * ADDITION_ERROR)


def product(queries: torch.Tensor, docs: torch.Tensor) -> torch.Tensor:
    """Inner products float32 [q, n], of float16 on tensor cores where the device has them, else of float32."""
    import torch

    halves = queries.dtype == docs.dtype == torch.float16
    if queries.is_cuda and halves and hasattr(torch.ops.aten.mm, "dtype"):  # from torch 2.8 on
        return torch.mm(queries, docs.T, out_dtype=torch.float32)
    return queries.float() @ docs.float().T


def final_scores(
    queries: torch.Tensor, docs: torch.Tensor, query_index: torch.Tensor, doc_index: torch.Tensor, norms: torch.Tensor
) -> torch.Tensor:
    """topk.pair_scores of (queries[query_index], docs[doc_index]), to the bit.

    Two float64 sums of the same products differ by at most 2 dim u |q| |d|, whatever their order. Where both ends of
    that interval round to the same float32, it is the score; elsewhere, and near zero, pair_scores decides.

    Args:
        queries: float16 or float32 [q, dim].
        docs: float16 or float32 [n, dim].
        query_index: int64 [p].
        doc_index: int64 [p].
        norms: float64 [q], |query| times the largest |document|.

    Returns:
        float32 [p].
    """
    import torch

    dim = queries.shape[1]
    room = 1.01 * 2 * (dim + 2) * FLOAT64_ROUNDOFF * norms
    sums = torch.empty(len(query_index), dtype=torch.float64, device=queries.device)
    step = max(1, PAIR_ELEMENTS // dim)
    for begin in range(0, len(sums), step):
        chunk = slice(begin, begin + step)
        sums[chunk] = (queries[query_index[chunk]].double() * docs[doc_index[chunk]].double()).sum(dim=1)
    scores, high = (sums - room[query_index]).float(), (sums + room[query_index]).float()
    is_sure = (scores == high) & (scores.abs() >= torch.finfo(torch.float32).tiny)
    unsure = (~is_sure).nonzero()[:, 0]
    if len(unsure):
        pairs = queries[query_index[unsure]].cpu().numpy(), docs[doc_index[unsure]].cpu().numpy()
        scores[unsure] = torch.from_numpy(pair_scores(*pairs)).to(scores.device)
    return scores


def best_first(
    rows: torch.Tensor, docs: torch.Tensor, scores: torch.Tensor, beaten: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k best hits of each row, sorted by (row, score descending, document); topk.merge_topk on a device.

    Args:
        rows: int64 [p].
        docs: int64 [p], ascending within a row.
        scores: float32 [p], not NaN.
        beaten: float32 [number of rows], the highest score that each leaves out.
        k: hits to keep per row.

    Returns:
        Rows, documents, scores and ranks (int64) of the hits kept.
    """
    import torch

    bits = (scores + 0.0).view(torch.int32)  # as in topk.score_order: integers that descend as scores ascend
    descending = -1 - (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    order = ((rows << 32) + descending).sort(stable=True).indices
    rows, scores = rows[order], scores[order]
    counts = rows.new_zeros(len(beaten)).index_add_(0, rows, torch.ones_like(rows))
    ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    kept = ((ranks < k) & (scores > beaten[rows])).nonzero()[:, 0]
    return rows[kept], docs[order[kept]], scores[kept], ranks[kept]


def take_in(best: torch.Tensor, rows: torch.Tensor, scores: torch.Tensor, ranks: torch.Tensor) -> None:
    """Brings each row's best scores up to date; only the rows that have something new are touched.

    Args:
        best: float32 [rows, k], descending; changed in place.
        rows: int64 [p], at least one.
        scores: float32 [p].
        ranks: int64 [p], distinct within a row.
    """
    import torch

    has_new = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    has_new[rows] = True
    touched = has_new.nonzero()[:, 0]
    new = best.new_full((len(touched), int(ranks.max()) + 1), -torch.inf)
    new[has_new.cumsum(0)[rows] - 1, ranks] = scores
    best[touched] = torch.cat([best[touched], new], dim=1).topk(best.shape[1], dim=1).values


@dataclass(frozen=True)
class Documents:
    """The vectors of one shard on the device.

    Args:
        number: of the shard in the corpus.
        matrix: float16 or float32 [n, dim].
        norm: float64 [], of the longest.
    """

    number: int
    matrix: torch.Tensor
    norm: torch.Tensor


class RunningTopk:
    """All queries on a device, with each one's k best scores among the documents that were offered.

    Args:
        blocks: vectors of each query block, float16 or float32 [q, dim], finite; taken one at a time.
        k: hits per query.
        device: cuda or cpu.
    """

    def __init__(self, blocks: Iterable[Matrix], k: int, device: str) -> None:
        import torch

        self.k, self.device = k, torch.device(device)
        # Its own stream: on the encoder's, every copy back would wait for all that the encoder has queued.
        self._stream = _urgent_stream() if self.device.type == "cuda" else None
        with self._on_device():
            self.queries = [torch.tensor(block, device=self.device) for block in blocks]
            self._norms = [torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in self.queries]
            self._best = [torch.full((len(block), k), -torch.inf, device=self.device) for block in self.queries]
        self._latest = [-1] * len(self.queries)
        self._locks = [threading.Lock() for _ in self.queries]

    def documents(self, number: int, matrix: Matrix) -> Documents:
        """Brings a shard's vectors (n >= 1 of them) to the device."""
        import torch

        with self._on_device():
            moved = torch.tensor(matrix, device=self.device)
            return Documents(number, moved, torch.linalg.vector_norm(moved, dim=1, dtype=torch.float64).max())

    def search(self, block: int, docs: Documents) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The hits of one query block that k documents of earlier shards do not beat; some more may be among them.

        Args:
            block: number of the query block.
            docs: a shard; one whose number is not above all before it is searched as if it were the first.

        Returns:
            int64 query indices in the block, int64 document indices in the shard, float32 final scores.
        """
        import torch

        with self._locks[block], self._on_device():
            best, is_next = self._best[block], docs.number > self._latest[block]
            self._latest[block] = max(self._latest[block], docs.number)
            best = best if is_next else torch.full_like(best, -torch.inf)
            found = [[column.cpu().numpy() for column in hits] for hits in self._tiles(block, docs, best)]
        none = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
        columns = [np.concatenate(column) for column in zip(none, *found, strict=True)]
        return columns[0], columns[1], columns[2]

    def _tiles(self, block: int, docs: Documents, best: torch.Tensor) -> Iterator[Found]:
        """Query indices, document indices and scores, tile after tile; `best` is brought up to date."""
        queries, norms = self.queries[block], self._norms[block] * docs.norm
        for doc_begin in range(0, len(docs.matrix), DOCS_PER_TILE):
            tile = docs.matrix[doc_begin : doc_begin + DOCS_PER_TILE]
            step = max(1, SCORES_PER_TILE // len(tile))
            for begin in range(0, len(queries), step):
                rows = slice(begin, begin + step)
                for query_index, doc_index, scores in self._offer(queries[rows], tile, norms[rows], best[rows]):
                    yield query_index + begin, doc_index + doc_begin, scores

    def _offer(
        self, queries: torch.Tensor, docs: torch.Tensor, norms: torch.Tensor, best: torch.Tensor
    ) -> Iterator[Found]:
        reaches = self._reaches(queries, docs, norms, best)
        pieces = -(-int(reaches.sum()) // SURVIVORS_AT_ONCE)
        step = -(-len(queries) // max(1, pieces))
        for begin in range(0, len(queries) if pieces else 0, step):
            part = slice(begin, begin + step)
            rows, doc_index = reaches[part].nonzero(as_tuple=True)
            scores = final_scores(queries[part], docs, rows, doc_index, norms[part])
            # Scores that tie with the k-th best are beaten too: those k have lower doc_rows.
            rows, doc_index, scores, ranks = best_first(rows, doc_index, scores, best[part, -1], self.k)
            if len(rows):
                take_in(best[part], rows, scores, ranks)
                yield rows + begin, doc_index, scores

    def _reaches(
        self, queries: torch.Tensor, docs: torch.Tensor, norms: torch.Tensor, best: torch.Tensor
    ) -> torch.Tensor:
        """Which documents may still be among the k best, bool [q, n]."""
        import torch

        scores = product(queries, docs)
        is_half = queries.dtype == docs.dtype == torch.float16
        error = (relative_error(queries.shape[1], is_half) * norms).float()
        threshold = best[:, -1] - error
        if len(docs) > self.k and bool(best[:, -1].isneginf().any()):
            # Fewer than k seen so far: k documents here have a final score of at least the k-th product less the error.
            kth = scores.topk(self.k, dim=1, sorted=False).values.amin(dim=1)
            threshold = torch.maximum(threshold, kth - 2 * error)
        return scores >= threshold[:, None]

    def _on_device(self) -> AbstractContextManager[object]:
        import torch

        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()


def _urgent_stream() -> torch.cuda.Stream:
    import torch

    make: Any = torch.cuda.Stream
    stream: torch.cuda.Stream = make(priority=-1)
    return stream


class SearchShard:
    """Searches one document shard for all query blocks, on the GPU where there is one.

    Args:
        query_vectors: embeddings file of each query block.
        block_starts: query_row of the first query of each block.
        k: hits per query.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, query_vectors: Sequence[str], block_starts: Sequence[int], k: int) -> None:
        import torch

        self.query_rows: list[NDArray[np.int64]] = []
        blocks = self._blocks(query_vectors, block_starts)
        self.topk = RunningTopk(blocks, k, "cuda" if torch.cuda.is_available() else "cpu")
        self._at_hand: dict[str, Vectors] = {}

    def _blocks(self, query_vectors: Sequence[str], block_starts: Sequence[int]) -> Iterator[Matrix]:
        for path, start in zip(query_vectors, block_starts, strict=True):
            block = read_vectors(path)
            self.query_rows.append(block.rows + start)
            yield block.matrix

    def hand_over(self, path: str, vectors: Vectors) -> None:
        """Gives the content of an embeddings file that a call is about to ask for, so that it is not read."""
        self._at_hand[path] = vectors

    def __call__(self, task: Task) -> Record:
        """Writes the shard's hits, bucketed by query block; ranks are 0, since only the merge of all shards gives them.

        Args:
            task: inputs vectors (embeddings file), first_row (doc_row where the shard begins), number (of the shard).
        """
        path = task.inputs["vectors"]
        vectors = self._at_hand.pop(path, None) or read_vectors(path)
        begin = time.perf_counter()
        tables = self._tables(vectors, task.inputs["number"], task.inputs["first_row"])
        shard = storage.write_buckets(f"{task.output}.arrow", schemas.HITS, tables)
        return Record(
            [shard],
            rows_in=len(vectors.rows),
            rows_out=shard.num_rows,
            bytes_in=vectors.matrix.nbytes,
            device=inference.device_name(self.topk),
            device_s=time.perf_counter() - begin,
        )

    def _tables(self, vectors: Vectors, number: int, first_row: int) -> Iterator[pa.Table]:
        if not len(vectors.rows):
            yield from (schemas.HITS.empty_table() for _ in self.query_rows)
            return
        docs, doc_rows = self.topk.documents(number, vectors.matrix), vectors.rows + first_row
        for block, query_rows in enumerate(self.query_rows):
            query_index, doc_index, scores = self.topk.search(block, docs)
            yield schemas.hits_table(
                query_rows[query_index], doc_rows[doc_index], np.zeros(len(scores), np.int32), scores
            )
