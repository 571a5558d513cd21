"""Where does exact search spend its time, and how far is it from what the cores multiply?

    python benchmarks/search_profile.py --data ../shared/data

The vectors of benchmarks/search.py (a million documents, 20,000 queries, 256 dimensions, k 100), in chunks as a round
takes them. In turns: the whole search, and the same chunks and tiles multiplied by torch and nothing else. Between the
turns, what the cores' instructions for int8 do with numbers that never leave a register, where the search uses them:
the limit that no exact search in int8 can beat. And each part of the search as a share of its threads' time. Writes
benchmarks/results/search-profile.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import measure
import models
import numpy as np
import search
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from raymine import scores
from raymine.executor.base import set_threads
from raymine.index import exact, int8_tile, race
from raymine.index.base import load_chunk
from raymine.pipeline.sizes import CHUNK_DOCUMENTS
from raymine.storage import Shard
from raymine.threads import in_threads, num_threads

DOCUMENTS, QUERIES = 1_000_000, 20_000
CHAINS, SPINS = 16, 50_000_000  # registers of sums, more than an instruction takes cycles; 0.2 s
# What a tile's time is made of.
PARTS: dict[str, tuple[Any, str]] = {
    "products": (exact, "products"),
    "first thresholds": (race.Race, "begin"),
    "comparing with thresholds": (race.Race, "offer"),
    "products compared in registers": (race.Race, "offer_panels"),
    "the last of the race": (race.Race, "survivors"),
    "final scores": (scores, "final_scores"),
    "merging": (exact, "merge_topk"),
    "whole": (exact, "search_tile"),
}


def run(documents: Sequence[Shard], queries: Any) -> float:
    """Searches chunk by chunk; seconds without the reading."""
    found, seconds = exact.Search(queries, search.K), 0.0
    per_chunk = CHUNK_DOCUMENTS // search.SHARD
    for begin in range(0, len(documents), per_chunk):
        part = documents[begin : begin + per_chunk]
        doc_rows, matrix = load_chunk([shard.path for shard in part], [shard.first_row for shard in part])
        start = time.perf_counter()
        found.add(doc_rows, matrix)
        seconds += time.perf_counter() - start
    return seconds


def multiply_tile(tile: exact.Tile, chunk: exact.Chunk, k: int, buffers: Any, is_small: bool) -> Any:
    """In place of exact.search_tile: its products, and no hits."""
    for begin in range(0, len(chunk.matrix), exact.DOCS_PER_TILE):
        exact.products(tile.rounded, chunk.rounded.rows(begin, begin + exact.DOCS_PER_TILE), buffers)
    return exact.NOTHING


@intrinsic
def add_products(typing_context: Any, times: Any) -> Any:
    """Adds products of numbers in registers to CHAINS registers, `times` times over."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, before = int8_tile.Code(builder), builder.block
        numbers = code.spread_value(builder.trunc(arguments[0], int8_tile.WORD))
        loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        count = builder.phi(int8_tile.LONG)
        sums = [builder.phi(int8_tile.SUMS) for _ in range(CHAINS)]
        added = [code.call(int8_tile.ADD_PRODUCTS, int8_tile.SUMS, each, numbers, numbers) for each in sums]
        following = builder.add(count, code.number(1))
        for phi, first, later in (
            (count, code.number(0), following),
            *zip(sums, [numbers] * CHAINS, added, strict=True),
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, arguments[0]), loop, after)
        builder.position_at_end(after)
        total = added[0]
        for each in added[1:]:
            total = builder.add(total, each)
        return builder.zext(builder.extract_element(total, ir.Constant(int8_tile.WORD, 0)), int8_tile.LONG)

    return types.int64(types.int64), generate


@njit(nogil=True)
def spin(times: int) -> Any:
    return add_products(times)


def limit() -> float:
    """Billions of operations a second of all cores' int8 instructions, on numbers in registers."""
    threads = num_threads()
    begin = time.perf_counter()
    list(in_threads(spin, [SPINS] * threads, threads))
    operations = 2 * int8_tile.BYTES * CHAINS * SPINS * threads
    return operations / (time.perf_counter() - begin) / 1e9


class Shares:
    """Seconds of all threads in each of PARTS while it is entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                with self._lock:
                    self.seconds[name] += time.perf_counter() - begin

        return call

    def of(self, work: Callable[[], Any]) -> dict[str, float]:
        """The share of each part in the whole, of a run of `work`."""
        patches = [
            mock.patch.object(where, name, self.timed(part, getattr(where, name)))
            for part, (where, name) in PARTS.items()
        ]
        for patch in patches:
            patch.start()
        try:
            work()
        finally:
            mock.patch.stopall()
        whole = self.seconds.pop("whole")
        return {part: round(seconds / whole, 3) for part, seconds in self.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    arguments = parser.parse_args()
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    folder = kept / f"vectors-{arguments.documents}-{arguments.queries}"
    folder.mkdir(parents=True, exist_ok=True)
    search.prepare(arguments.data, arguments.model, arguments.documents, arguments.queries, folder)
    documents = search.shards(folder, "d", search.SHARD)
    queries = search.matrix(search.shards(folder, "q", search.BLOCK)).astype(np.float16)
    set_threads(os.cpu_count() or 1)

    def whole() -> float:
        return run(documents, queries)

    def products() -> float:
        in_memory = mock.patch.object(int8_tile, "is_supported", lambda: False)
        with in_memory, mock.patch.object(exact, "search_tile", multiply_tile):
            limits.append(limit() if has_tiles else None)
            return run(documents, queries)

    run(documents[:1], queries[:1000])  # loads what is compiled
    has_tiles, limits = int8_tile.is_supported(), []
    if has_tiles:
        spin(1)
    seconds = measure.turns({"raymine": whole, "peer": products}, arguments.repeats)
    operations = 2 * sum(shard.num_rows for shard in documents) * len(queries) * queries.shape[1]
    rates = {
        "search": [operations / each / 1e9 for each in seconds["raymine"]],
        "products_alone": [operations / each / 1e9 for each in seconds["peer"]],
        "limit": limits,
    }
    what = f"exact search, {arguments.documents:,} x {arguments.queries:,}, against torch's products alone"
    figures = [measure.figures(seconds[name]) for name in ("raymine", "peer")]
    row = measure.row(what, figures[0], figures[1], "products alone", measure.ratio(seconds), "-")
    rounded = {name: [each and round(each) for each in rate] for name, rate in rates.items()}
    facts = {"billion_operations_per_s": rounded, "seconds": seconds}
    shares = Shares().of(whole)
    print(shares, rounded)
    measure.keep("search-profile", {"rows": [row], "shares_of_threads": shares, **facts})


if __name__ == "__main__":
    main()
