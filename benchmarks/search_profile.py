"""Where does exact search spend its time, and how far is it from what the cores multiply?

    python benchmarks/search_profile.py --data ../shared/data

The vectors of benchmarks/search.py (a million documents, 20,000 queries, 256 dimensions, k 100), in chunks as a round
takes them. In turns: the whole search, and the same chunks and tiles multiplied and nothing else, which is the limit
that no comparing and no final scores can beat. And each part of the search as a share of its threads' time. Writes
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

from raymine import scores
from raymine.executor.base import set_threads
from raymine.index import exact, race
from raymine.index.base import load_chunk
from raymine.pipeline.sizes import CHUNK_DOCUMENTS
from raymine.storage import Shard

DOCUMENTS, QUERIES = 1_000_000, 20_000
# What a tile's time is made of.
PARTS: dict[str, tuple[Any, str]] = {
    "products": (exact, "products"),
    "comparing with thresholds": (race.Race, "offer"),
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
        with mock.patch.object(exact, "search_tile", multiply_tile):
            return run(documents, queries)

    run(documents[:1], queries[:1000])  # loads what is compiled
    seconds = measure.turns({"raymine": whole, "peer": products}, arguments.repeats)
    operations = 2 * sum(shard.num_rows for shard in documents) * len(queries) * queries.shape[1]
    rates = [operations / each / 1e9 for each in seconds["peer"]]
    what = f"exact search, {arguments.documents:,} x {arguments.queries:,}, against its own products alone"
    figures = [measure.figures(seconds[name]) for name in ("raymine", "peer")]
    row = measure.row(what, figures[0], figures[1], "products alone", measure.ratio(seconds), "-")
    facts = {"billion_operations_per_s": [round(rate) for rate in rates], "seconds": seconds}
    shares = Shares().of(whole)
    print(shares)
    measure.keep("search-profile", {"rows": [row], "shares_of_threads": shares, **facts})


if __name__ == "__main__":
    main()
