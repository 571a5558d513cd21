"""Exact search against faiss, in a quarter of its memory; ivfpq against one faiss index of the same factory string.

    python benchmarks/search.py --data ../shared/data

Vectors of a million sentences and of 20,000 queries (benchmarks/sentences.py) from the static model of
models.train_static, 256 dimensions, k 100. raymine reads float16 shards and writes files of hits, task by task as a
round does, and merges them; faiss has float32 vectors, or its trained index, in memory. Same threads. Exact: the hits
must be faiss's, but for scores that float32 cannot tell apart. ivfpq: training, building and searching with the nprobe
and overfetch that raymine chose; its hits are re-scored from the stored vectors, faiss's are left as the codes rank
them. Writes benchmarks/results/search-exact.json and search-ivfpq.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import sentences
import steps

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import IndexConfig
from raymine.executor.base import set_threads
from raymine.index.base import padded
from raymine.index.centroids import TrainCentroids
from raymine.index.exact import SearchExact
from raymine.index.ivfpq import AssignQueries, BuildPart, SearchPart
from raymine.index.ivfpq_train import TrainIvf, read_index
from raymine.index.probes import ChooseProbes, SampleQueries
from raymine.pipeline.sizes import block_ranges, chunk_documents, exact_limits, parts
from raymine.retrieve.base import HitFiles, merged_hits
from raymine.retrieve.shortlist import MergeShortlist, RescoreHits
from raymine.storage import Shard
from raymine.vectors import read_vectors

K, SHARD, BLOCK, DIM = 100, 16384, 8192, 256
GOALS = {"exact": ">= 0.95x, a quarter of the memory", "ivfpq": ">= 0.8x", "build": ">= 0.77x", "over exact": ">= 15x"}
LEAST_SAME = 0.999


def prepare(data: Path, model: Path | None, num_documents: int, num_queries: int, folder: Path) -> None:
    """Writes the vectors of documents and queries as shards and blocks of float16, unless they are there."""
    if (folder / "done").exists():
        return
    from sentence_transformers import SentenceTransformer

    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    texts = sentences.write(data, kept / f"short-{num_documents}", num_documents, 100_000)
    loaded = SentenceTransformer(str(model or models.train_static(data / "squad", kept / "squad-static")), device="cpu")
    asked = list(models.queries(texts).values())[:num_queries]
    for name, batch, step in (("d", list(models.documents(texts).values()), SHARD), ("q", asked, BLOCK)):
        for begin in range(0, len(batch), step):
            part = batch[begin : begin + step]
            vectors = loaded.encode(part, batch_size=1024, normalize_embeddings=True, show_progress_bar=False)
            table = schemas.vector_table(np.arange(len(part)), vectors.astype(np.float16))
            storage.write_arrow(str(folder / f"{name}-{begin:09d}.arrow"), table)
    (folder / "done").touch()


def shards(folder: Path, name: str, step: int) -> list[Shard]:
    paths = sorted(folder.glob(f"{name}-*.arrow"))
    return [Shard(str(path), storage.arrow_schema(str(path))[1], 0, "", n * step) for n, path in enumerate(paths)]


def matrix(found: Sequence[Shard]) -> Any:
    """All vectors, float32 [n, dim]."""
    return np.concatenate([read_vectors(shard.path).matrix for shard in found]).astype(np.float32)


def merged(files: list[HitFiles], num_blocks: int) -> Any:
    """The documents found, int64 [queries, K]."""
    return np.concatenate([merged_hits(files, block, K)[1].reshape(-1, K) for block in range(num_blocks)])


def exact_raymine(folder: Path, out: Path, memory_gb: float) -> Callable[[], Any]:
    """Exact search by the tasks of a round."""
    docs, queries = shards(folder, "d", SHARD), shards(folder, "q", BLOCK)
    limits = exact_limits(memory_gb, DIM, K)
    starts = [block.first_row for block in queries]
    stage = SearchExact([block.path for block in queries], starts, K, chunk_documents(memory_gb, DIM, 2))

    def work() -> Any:
        files = []
        for first, end in block_ranges(queries, docs, limits):
            made = []
            for part in parts(docs, limits.documents):
                chosen = [docs[number] for number in part]
                inputs = {"vectors": [s.path for s in chosen], "first_rows": [s.first_row for s in chosen]}
                task = Task("s", {**inputs, "blocks": [first, end]}, str(out / f"hits-{first}-{part[0]}"))
                made.append(stage(task).outputs[0].path)
            files.append(HitFiles(first, made))
        return merged(files, len(queries))

    return work


def exact_faiss(folder: Path) -> Callable[[], Any]:
    """faiss IndexFlatIP, with the vectors in memory."""
    import faiss

    index, queries = faiss.IndexFlatIP(DIM), matrix(shards(folder, "q", BLOCK))
    for shard in shards(folder, "d", SHARD):
        index.add(read_vectors(shard.path).matrix.astype(np.float32))
    return lambda: index.search(queries, K)[1]


def build_raymine(folder: Path, out: Path) -> None:
    """Trains and builds one part, and chooses how much of it to search; notes how long and what."""
    docs, queries = shards(folder, "d", SHARD), shards(folder, "q", BLOCK)
    paths = [shard.path for shard in docs]
    begin = time.perf_counter()
    coarse = TrainCentroids(IndexConfig(), 0)(Task("t", {"vectors": paths}, str(out / "centroids")))
    train = TrainIvf(coarse.outputs[0].path, IndexConfig(), 0)
    trained = train(Task("t", {"vectors": paths}, str(out / "index")))
    inputs = {"vectors": paths, "first_rows": [shard.first_row for shard in docs]}
    built = BuildPart(trained.outputs[0].path)(Task("b", inputs, str(out / "part")))
    built_s = time.perf_counter() - begin
    begin = time.perf_counter()
    sample = SampleQueries(0)(Task("s", {"vectors": [block.path for block in queries]}, str(out / "sample")))
    sample_path = sample.outputs[0].path
    search = SearchExact([sample_path], [0], K, chunk_documents(2, DIM, 2))
    truth = search(Task("e", {**inputs, "blocks": [0, 1]}, str(out / "truth"))).outputs[0].path
    index, part, clusters = trained.outputs[0].path, built.outputs[0].path, built.outputs[1].path
    choose = ChooseProbes(IndexConfig(), index, sample_path, K)
    chosen = choose(Task("c", {"truth": [truth], "parts": [part], "clusters": [clusters]}, "")).info
    facts = {**coarse.info, **chosen, "choose_s": time.perf_counter() - begin, "index": index, "part": part}
    measure.say(seconds=built_s, **facts)


def build_faiss(folder: Path, out: Path, nlist: int, num_sampled: int) -> None:
    """The same factory string, trained on as many vectors (faiss's own choice of the points per centroid)."""
    import faiss

    every = matrix(shards(folder, "d", SHARD))
    chosen = every[np.sort(np.random.default_rng(0).choice(len(every), num_sampled, replace=False))]
    begin = time.perf_counter()
    index = faiss.index_factory(DIM, f"IVF{nlist},PQ{DIM // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(chosen)
    index.add(every)
    seconds = time.perf_counter() - begin
    faiss.write_index(index, str(out / "peer.faiss"))
    measure.say(seconds=seconds)


def ivfpq_raymine(folder: Path, out: Path, facts: dict[str, Any]) -> Callable[[], Any]:
    """Assignment, search by codes, merging and re-scoring by the tasks of a round."""
    docs, queries = shards(folder, "d", SHARD), shards(folder, "q", BLOCK)
    vectors, starts = [block.path for block in queries], [block.first_row for block in queries]
    fetch, shard_starts = K * facts["overfetch"], [shard.first_row for shard in docs]
    assign = AssignQueries(facts["index"], facts["nprobe"])

    def work() -> Any:
        tasks = [Task("a", {"vectors": path}, str(out / f"lists-{n}")) for n, path in enumerate(vectors)]
        lists = [assign(task).outputs[0].path for task in tasks]
        search = SearchPart(lists, vectors, starts, fetch)
        hits = search(Task("s", {"index": facts["part"], "blocks": [0, len(queries)]}, str(out / "codes")))
        merge = MergeShortlist([HitFiles(0, [hits.outputs[0].path])], fetch, shard_starts)
        tasks = [Task("m", {"bucket": block}, str(out / f"pairs-{block}")) for block in range(len(queries))]
        pairs = [merge(task).outputs[0].path for task in tasks]
        rescore = RescoreHits(pairs, vectors, starts)
        scored = []
        for number, shard in enumerate(docs):
            inputs = {"vectors": shard.path, "first_row": shard.first_row, "bucket": number}
            scored.append(rescore(Task("r", inputs, str(out / f"scored-{number}"))).outputs[0].path)
        return merged([HitFiles(0, scored)], len(queries))

    return work


def ivfpq_faiss(folder: Path, out: Path, facts: dict[str, Any]) -> Callable[[], Any]:
    """One raw index, searched with the same nprobe for as many hits."""
    index = read_index(str(out / "peer.faiss"))
    index.nprobe = facts["nprobe"]
    queries = padded(matrix(shards(folder, "q", BLOCK)), index.d)
    return lambda: index.search(queries, K * facts["overfetch"])[1]


def recall(found: Any, truth: Any) -> float:
    """The share of the true documents that are found, both [queries, any number]."""
    return float(
        np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in zip(found, truth, strict=True)])
    )


def child(side: str, folder: Path, out: Path, threads: int, facts: dict[str, Any]) -> None:
    """One side, in its own process."""
    set_threads(threads)
    works: dict[str, Callable[[], Callable[[], Any]]] = {
        "exact-raymine": lambda: exact_raymine(folder, out, facts["memory_gb"]),
        "exact-faiss": lambda: exact_faiss(folder),
        "ivfpq-raymine": lambda: ivfpq_raymine(folder, out, facts),
        "ivfpq-faiss": lambda: ivfpq_faiss(folder, out, facts),
    }
    if side == "build-raymine":
        build_raymine(folder, out)
    elif side == "build-faiss":
        build_faiss(folder, out, facts["nlist"], facts["num_sampled"])
    else:
        measure.serve(works[side](), lambda answer, path: np.save(path, answer))


def command(side: str, folder: Path, out: Path, threads: int, facts: dict[str, Any]) -> list[str]:
    given = ["--folder", str(folder), "--out", str(out), "--threads", str(threads), "--facts", json.dumps(facts)]
    return [sys.executable, __file__, "--side", side, *given]


def compare_exact(folder: Path, out: Path, arguments: argparse.Namespace) -> Path:
    """Keeps the result; the true documents' file."""
    sides = {"raymine": "exact-raymine", "peer": "exact-faiss"}
    facts = {"memory_gb": arguments.memory_gb}
    commands = {name: command(side, folder, out, arguments.threads, facts) for name, side in sides.items()}

    def same(answers: dict[str, Path]) -> None:
        share = recall(np.load(answers["raymine"]), np.load(answers["peer"]))
        print(f"{share:.5f} of faiss's hits are raymine's", file=sys.stderr)
        if share < LEAST_SAME:
            sys.exit("the hits differ")
        facts["share_of_same_hits"] = share

    compared = steps.compare(commands, out, same, arguments.threads, arguments.repeats)
    what = f"exact search, {arguments.documents:,} x {DIM}, {arguments.queries:,} queries"
    row = compared.row(what, "raymine", "faiss IndexFlatIP", GOALS["exact"])
    memory = {name: each["tree_mb"] for name, each in compared.memory.items()}
    measure.keep("search-exact", {"rows": [row], "seconds": compared.seconds, "tree_mb": memory, **facts})
    return (out / "answer-raymine.npy").rename(out / "truth.npy")  # the sides of ivfpq save answers of the same names


def compare_ivfpq(folder: Path, out: Path, truth: Path, arguments: argparse.Namespace) -> None:
    """Builds once on each side, searches in turns, and keeps the result."""
    threads = arguments.threads
    facts = measure.ask(command("build-raymine", folder, out, threads, {}))
    peer_build = measure.ask(command("build-faiss", folder, out, threads, facts))
    sides = {"raymine": "ivfpq-raymine", "peer": "ivfpq-faiss", "exact": "exact-faiss"}
    commands = {name: command(side, folder, out, threads, facts) for name, side in sides.items()}
    recalls: dict[str, float] = {}

    def same(answers: dict[str, Path]) -> None:
        expected = np.load(truth)
        recalls.update({name: recall(np.load(path), expected) for name, path in answers.items()})
        print(recalls, file=sys.stderr)

    compared = steps.compare(commands, out, same, threads, arguments.repeats)
    name = f"IVF{facts['nlist']},PQ{DIM // 2}x4fs, nprobe {facts['nprobe']}"
    what = (
        f"ivfpq search, {arguments.documents:,} x {DIM}, {arguments.queries:,} queries, recall {recalls['raymine']:.3f}"
    )
    built = [f"{seconds:.0f} s" for seconds in (facts["seconds"], peer_build["seconds"])]
    rows = [
        compared.row(what, "raymine", f"faiss {name}, not re-scored", GOALS["ivfpq"]),
        compared.row(what, "raymine", "faiss IndexFlatIP", GOALS["over exact"], "exact"),
        measure.row("ivfpq build", *built, f"faiss {name}", peer_build["seconds"] / facts["seconds"], GOALS["build"]),
    ]
    build = {name: fact for name, fact in facts.items() if name not in ("index", "part")}  # files that are gone
    kept = {"recalls": recalls, "raymine_build": build, "peer_build": peer_build, "seconds": compared.seconds}
    measure.keep("search-ivfpq", {"rows": rows, **kept})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--memory-gb", type=float, default=0.25, help="budget of raymine's worker in exact search")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--exact-only", action="store_true", help="leaves ivfpq out")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--facts", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        child(arguments.side, arguments.folder, arguments.out, arguments.threads, arguments.facts)
        return
    folder = Path(tempfile.gettempdir()) / "raymine-benchmarks" / f"vectors-{arguments.documents}-{arguments.queries}"
    prepare(arguments.data, arguments.model, arguments.documents, arguments.queries, folder)
    with tempfile.TemporaryDirectory() as out:
        truth = compare_exact(folder, Path(out), arguments)
        if not arguments.exact_only:
            compare_ivfpq(folder, Path(out), truth, arguments)


if __name__ == "__main__":
    main()
