"""Is BM25 as fast as the fastest, with the same results? raymine's four steps against bm25s, and against rank-bm25.

    python benchmarks/bm25.py --data ../shared/data

Index and search of arxiv's abstracts with its test titles as queries, k 100. raymine tokenises shards, sums their
statistics and searches a part, by the local executor, from files to files; the best of bm25s is one index with the
numba backend, texts and hits in memory, same stop words and method (lucene). Scores must be the same bits, documents
the same up to ties. rank-bm25 (BM25Okapi) gets bm25s's tokens and 2,000 of the queries, for it scores every document of
the corpus for each of them in Python; scores must agree to 1e-5 of themselves. Writes benchmarks/results/bm25.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import steps

from raymine import schemas, storage
from raymine.artifacts import Artifacts
from raymine.config import Config
from raymine.executor.local import LocalExecutor
from raymine.pipeline.base import Context
from raymine.pipeline.retrieval import search_bm25
from raymine.retrieve.base import merged_hits
from raymine.storage import HashCache, Shard

K, SHARDS, BLOCK_QUERIES = 100, 8, 8192
TOLERANCE = {"bm25s": 0.0, "rank-bm25": 1e-5}
METHODS = {"bm25s": "lucene", "rank-bm25": "okapi"}
GOALS = {"bm25s": ">= 0.9x", "rank-bm25": "stated"}


def prepare(data: Path, documents: int, queries: int, folder: Path) -> None:
    """Corpus shards and query blocks."""
    texts = list(itertools.islice(models.documents(data / "arxiv").values(), documents))
    steps.corpus_shards(texts, folder / "corpus", -(-len(texts) // SHARDS))
    asked = models.queries(data / "arxiv")
    wanted = list(dict.fromkeys(query for query, _ in models.judgements(data / "arxiv", "test")))[:queries]
    table = schemas.query_table(wanted, [asked[query] for query in wanted])
    (folder / "queries").mkdir()
    for number, begin in enumerate(range(0, len(wanted), BLOCK_QUERIES)):
        storage.write_table(str(folder / "queries" / f"{number:05d}.parquet"), table.slice(begin, BLOCK_QUERIES))


def texts_of(folder: Path) -> list[str]:
    """All texts of a folder's shards."""
    paths = sorted(folder.glob("*.parquet"))
    return [text for path in paths for text in storage.read_table(str(path), ["text"])["text"].to_pylist()]


def shards_of(folder: Path) -> list[Shard]:
    """A folder's shards, placed."""
    shards, first_row = [], 0
    for path in sorted(folder.glob("*.parquet")):
        num_rows = storage.read_table(str(path), ["text_hash"]).num_rows
        shards.append(Shard(str(path), num_rows, path.stat().st_size, storage.sha256_of(str(path)), first_row))
        first_row += num_rows
    return shards


def raymine_side(folder: Path, method: str) -> Callable[[], Any]:
    """The four steps of a round, from nothing, in a new workspace each time."""
    bm25 = {"k": K, "method": method}
    config = Config.model_validate(
        {"corpus": {"path": "-"}, "queries": {"path": "-"}, "positives": {"path": "-"}, "retrieve": {"bm25": bm25}}
    )
    corpus, queries = shards_of(folder / "corpus"), shards_of(folder / "queries")
    sizes = [sum(shard.num_rows for shard in shards) for shards in (queries, corpus)]

    def work() -> Any:
        with tempfile.TemporaryDirectory(dir=folder) as workspace:
            context = Context(config, Artifacts(workspace, LocalExecutor(), {}), HashCache(), 1, "round")
            context.tables.corpus, context.tables.queries = corpus, queries
            found = search_bm25(context)
            hits = [merged_hits(found.files, block, K) for block in range(len(queries))]
            return dense_hits([schemas.hits_table(*each) for each in hits], sizes[0])

    return work


def dense_hits(tables: list[Any], num_queries: int) -> tuple[Any, Any]:
    """Scores and documents [queries, K] of a single part's hits; 0 and -1 where there is none."""
    scores, documents = np.zeros((num_queries, K), np.float32), np.full((num_queries, K), -1, np.int64)
    for table in tables:
        at = (table["query_row"].to_numpy(), table["rank"].to_numpy())
        scores[at], documents[at] = table["score"].to_numpy(), table["doc_row"].to_numpy()
    return scores, documents


def bm25s_side(folder: Path, threads: int) -> Callable[[], Any]:
    """Tokenise, index and search, as bm25s's own examples do."""
    import bm25s

    texts, queries = texts_of(folder / "corpus"), texts_of(folder / "queries")

    def work() -> Any:
        tokens = bm25s.tokenize(texts, stopwords="english", show_progress=False)
        index = bm25s.BM25(method="lucene", backend="numba")
        index.index(tokens, show_progress=False)
        asked = bm25s.tokenize(queries, stopwords="english", show_progress=False)
        found = index.retrieve(asked, k=K, show_progress=False, n_threads=threads)
        return found.scores, np.asarray(found.documents, np.int64)

    return work


def rank_bm25_side(folder: Path) -> Callable[[], Any]:
    """Index, then all scores of each query and the K best, by bm25s's tokens."""
    import bm25s
    from rank_bm25 import BM25Okapi

    texts, queries = texts_of(folder / "corpus"), texts_of(folder / "queries")

    def work() -> Any:
        options = {"stopwords": "english", "show_progress": False, "return_ids": False}
        index = BM25Okapi(bm25s.tokenize(texts, **options))
        scores, documents = [], []
        for query in bm25s.tokenize(queries, **options):
            every = index.get_scores(query)
            best = np.argpartition(-every, K)[:K]
            best = best[np.lexsort((best, -every[best]))]
            scores.append(every[best])
            documents.append(best)
        return np.array(scores, np.float32), np.array(documents)

    return work


def same(answers: dict[str, Path], tolerance: float) -> None:
    """Ends if scores differ by more than a share of themselves, or documents whose scores are not tied."""
    (scores, documents), (expected, theirs) = (_loaded(answers[name]) for name in ("raymine", "peer"))
    expected = np.maximum(expected, 0)
    allowed = tolerance * np.maximum(expected, 1)
    worst = float(np.abs(scores - expected).max())
    print(f"largest difference of scores {worst:.1e}", file=sys.stderr)
    if (np.abs(scores - expected) > allowed).any():
        sys.exit(f"scores differ by up to {worst}, more than {tolerance} of themselves")
    steps_down = np.abs(np.diff(expected, axis=1)) > allowed[:, 1:]
    decided = expected > expected[:, -1:] + allowed
    decided[:, :-1] &= steps_down
    decided[:, 1:] &= steps_down
    if (documents != theirs)[decided].any():
        sys.exit("documents differ where no scores are tied")


def _loaded(path: Path) -> tuple[Any, Any]:
    with np.load(path) as arrays:
        return arrays["scores"], arrays["documents"]


def save(found: tuple[Any, Any], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, scores=found[0], documents=found[1])


def compared(arguments: argparse.Namespace, peer: str, queries: int) -> steps.Compared:
    """raymine and one peer in turns."""
    threads, repeats, tolerance = arguments.threads, arguments.repeats, TOLERANCE[peer]
    with tempfile.TemporaryDirectory() as made:
        prepare(arguments.data, arguments.documents, queries, Path(made))
        given = ["--folder", made, "--threads", str(threads), "--peer", peer]
        commands = {side: [sys.executable, __file__, *given, "--side", side] for side in ("raymine", "peer")}
        return steps.compare(commands, Path(made), lambda found: same(found, tolerance), threads, repeats)


def child(arguments: argparse.Namespace) -> None:
    """One side, in its own process."""
    folder, peer = arguments.folder, arguments.peer
    if arguments.side == "raymine":
        measure.serve(raymine_side(folder, METHODS[peer]), save)
    elif peer == "bm25s":
        measure.serve(bm25s_side(folder, arguments.threads), save)
    else:
        measure.serve(rank_bm25_side(folder), save)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--documents", type=int, default=1_000_000, help="of arxiv; default: all")
    parser.add_argument("--queries", type=int, default=1_000_000, help="of arxiv's test queries; default: all")
    parser.add_argument("--rank-queries", type=int, default=2000, help="of them, for rank-bm25; default: 2000")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--side", choices=("raymine", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--peer", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        child(arguments)
        return
    num_queries = {"bm25s": arguments.queries, "rank-bm25": min(arguments.queries, arguments.rank_queries)}
    runs = {peer: compared(arguments, peer, num_queries[peer]) for peer in METHODS}
    what = f"BM25 of arxiv, {min(arguments.documents, len(models.documents(arguments.data / 'arxiv'))):,} documents"
    sample = f"{what}, {num_queries['rank-bm25']:,} queries"
    rows = [
        runs["bm25s"].row(what, "raymine", "bm25s (numba)", GOALS["bm25s"]),
        runs["rank-bm25"].row(sample, "raymine", "rank-bm25", GOALS["rank-bm25"]),
    ]
    facts = {"threads": arguments.threads, "k": K}
    measure.keep("bm25", {"rows": rows, **facts, **{peer: asdict(run) for peer, run in runs.items()}})


if __name__ == "__main__":
    main()
