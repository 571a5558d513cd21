"""Candidates: dense search, BM25, their union with random and imported hits, and what the documents say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymine.artifacts import Done, Resources, Step, Task, task_key
from raymine.index.bm25 import Bm25Statistics, QueryTerms, SearchBm25, TokenizeShard
from raymine.index.exact import SearchExact
from raymine.index.ivfpq import AssignQueries, BuildPart, SearchPart, TrainIvf
from raymine.pipeline.base import LIGHT, Context, contents, paths
from raymine.pipeline.sizes import bm25_part_documents, dense_part_documents, parts
from raymine.retrieve.annotate import Annotate
from raymine.retrieve.shortlist import MergeShortlist, RescoreHits
from raymine.retrieve.union import Union
from raymine.storage import Shard


def search_dense(context: Context) -> list[Shard]:
    """Hits of the embedder, over the index that the config names or that auto chooses."""
    config, dense, tables = context.config.index, context.config.retrieve.dense, context.tables
    assert dense is not None
    kind = config.kind
    if kind == "auto":
        kind = "exact" if tables.num_documents <= config.auto_exact_documents else "ivfpq"
    context.facts["index"] = kind
    tasks = _vector_parts(context)
    resources = _cpu_workers(context)
    if kind == "ivfpq":
        return _search_ivfpq(context, tasks, resources, dense.k)
    settings = {"query_vectors": paths(tables.query_vectors), "block_starts": tables.block_starts, "k": dense.k}
    identity = {"queries": contents(tables.query_vectors), "k": dense.k}
    return context.run(Step("search_exact", SearchExact, settings, identity, tasks, resources, unit="documents")).shards


def _cpu_workers(context: Context) -> Resources:
    """Index steps load little, so unless a pool is asked for they run as plain tasks in processes that are there."""
    config = context.config.resources.index
    return Resources(config.cpus, config.gpus or 0, config.actors or 0)


def _vector_parts(context: Context) -> list[Task]:
    corpus, vectors = context.tables.corpus, context.tables.corpus_vectors
    most = dense_part_documents(context.config.resources.memory_gb, context.facts["dim"])
    return [
        Task(
            task_key([(vectors[i].sha256, corpus[i].first_row) for i in part]),
            {"vectors": [vectors[i].path for i in part], "first_rows": [corpus[i].first_row for i in part]},
        )
        for part in parts(corpus, most)
    ]


def _search_ivfpq(context: Context, part_tasks: list[Task], resources: Resources, k: int) -> list[Shard]:
    config, tables = context.config.index, context.tables
    trained = _train(context, resources)
    settings: dict[str, Any] = {"index": trained.path, "nprobe": config.nprobe}
    tasks = [Task(shard.sha256, {"vectors": shard.path}) for shard in tables.query_vectors]
    identity: dict[str, Any] = {"index": trained.sha256, "nprobe": config.nprobe}
    assigned = context.run(
        Step("assign_queries", AssignQueries, settings, identity, tasks, LIGHT, unit="queries")
    ).shards
    settings = {"index": trained.path}
    built = context.run(
        Step("build_part", BuildPart, settings, trained.sha256, part_tasks, resources, unit="documents")
    )
    settings = {
        "assigned": paths(assigned),
        "query_vectors": paths(tables.query_vectors),
        "block_starts": tables.block_starts,
        "k": k * config.overfetch,
        "nprobe": config.nprobe,
    }
    identity = {
        "assigned": contents(assigned),
        "queries": contents(tables.query_vectors),
        "k": k * config.overfetch,
    }
    tasks = [Task(done.outputs[0].sha256, {"index": done.outputs[0].path}) for done in built.done]
    found = context.run(Step("search_part", SearchPart, settings, identity, tasks, resources, unit="documents")).shards
    return _rescore_hits(context, found, k * config.overfetch)


def _train(context: Context, resources: Resources) -> Shard:
    config, vectors, seed = context.config.index, context.tables.corpus_vectors, context.config.seed
    names = {"nlist", "code_dims", "train_documents"}
    identity = {"vectors": contents(vectors), "seed": seed, "config": config.model_dump(include=names)}
    tasks = [Task("index", {"vectors": paths(vectors)})]
    step = Step("train_ivf", TrainIvf, {"config": config, "seed": seed}, identity, tasks, resources)
    return context.run(step).shards[0]


def _rescore_hits(context: Context, found: list[Shard], k: int) -> list[Shard]:
    """The best hits by codes get their exact scores, in a pass over the stored vectors."""
    tables = context.tables
    settings: dict[str, Any] = {"hits": paths(found), "k": k, "shard_starts": tables.shard_starts}
    identity: dict[str, Any] = {"hits": contents(found), "k": k, "shard_starts": tables.shard_starts}
    pairs = context.run(
        Step("merge_shortlist", MergeShortlist, settings, identity, context.block_tasks(), LIGHT)
    ).shards
    settings = {
        "pairs": paths(pairs),
        "query_vectors": paths(tables.query_vectors),
        "block_starts": tables.block_starts,
    }
    identity = {"pairs": contents(pairs), "queries": contents(tables.query_vectors)}
    tasks = context.document_tasks(tables.corpus_vectors)
    return context.run(Step("rescore_hits", RescoreHits, settings, identity, tasks, LIGHT)).shards


def search_bm25(context: Context) -> list[Shard]:
    """Hits of BM25, part by part, with the statistics of the whole corpus."""
    config, tables = context.config.retrieve.bm25, context.tables
    assert config is not None
    text = config.model_dump(include={"stopwords", "stemmer"})
    identity: dict[str, Any] = {"text": text, "queries": contents(tables.queries)}
    tasks = [Task("queries", {"queries": paths(tables.queries)})]
    step = Step("query_terms", QueryTerms, {"config": config}, identity, tasks, LIGHT, unit="queries")
    vocabulary, query_terms = context.run(step).shards
    identity = {"text": text, "vocabulary": vocabulary.sha256, "okapi": config.method == "okapi"}
    settings = {"config": config, "vocabulary": vocabulary.path}
    tasks = [Task(shard.sha256, {"corpus": shard.path}) for shard in tables.corpus]
    step = Step("tokenize_documents", TokenizeShard, settings, identity, tasks, LIGHT, unit="documents")
    postings = [done.outputs for done in context.run(step).done]
    statistics = _bm25_statistics(context, vocabulary, postings)
    settings = {
        "config": config,
        "statistics": statistics.path,
        "query_terms": query_terms.path,
        "block_starts": tables.block_starts,
    }
    identity = {
        "config": config.model_dump(),
        "statistics": statistics.sha256,
        "query_terms": query_terms.sha256,
        "block_starts": tables.block_starts,
    }
    most = bm25_part_documents(context.config.resources.memory_gb)
    tasks = [_bm25_part(context, postings, part) for part in parts(tables.corpus, most)]
    step = Step("search_bm25", SearchBm25, settings, identity, tasks, _cpu_workers(context), unit="documents")
    return context.run(step).shards


def _bm25_statistics(context: Context, vocabulary: Shard, postings: list[list[Shard]]) -> Shard:
    terms = [outputs[0] for outputs in postings]
    all_terms = [outputs[3] for outputs in postings if len(outputs) > 3]
    inputs = {"vocabulary": vocabulary.path, "terms": paths(terms), "all_terms": paths(all_terms)}
    identity = {"vocabulary": vocabulary.sha256, "terms": contents(terms), "all_terms": contents(all_terms)}
    step = Step("bm25_statistics", Bm25Statistics, {}, identity, [Task("statistics", inputs)], LIGHT)
    return context.run(step).shards[0]


def _bm25_part(context: Context, postings: list[list[Shard]], part: list[int]) -> Task:
    first_rows = [context.tables.corpus[number].first_row for number in part]
    shards = [postings[number] for number in part]
    inputs = {
        name: [outputs[position].path for outputs in shards]
        for position, name in enumerate(("terms", "postings", "lengths"))
    }
    key = task_key([contents(outputs[:3]) for outputs in shards], first_rows)
    return Task(key, {**inputs, "first_rows": first_rows})


def candidates(context: Context, sources: Mapping[str, Mapping[str, Any]]) -> tuple[list[Done], list[Shard]]:
    """The union of the sources per query block, and what a pass over the documents says of each pair.

    Args:
        context: the round.
        sources: per source, `k` and (but for random) `hits`, its shards; also `identity` where their k best are the
            same whatever their bytes are.

    Returns:
        The union's tasks (candidates, pairs) and the notes.
    """
    tables = context.tables
    shared = {
        "shard_starts": tables.shard_starts,
        "num_documents": tables.num_documents,
        "seed": context.config.seed,
    }
    settings: dict[str, Any] = {**shared, "sources": {name: _settings(each) for name, each in sources.items()}}
    identity: dict[str, Any] = {
        **shared,
        "sources": {name: _identity(source) for name, source in sources.items()},
        "positives": contents(tables.positives),
        "queries": contents(tables.queries),
    }
    tasks = context.block_tasks({"positives": shard.path} for shard in tables.positives)
    union = context.run(Step("union_candidates", Union, settings, identity, tasks, LIGHT, unit="candidates")).done
    pairs = [done.outputs[1] for done in union]
    settings = {
        "pairs": paths(pairs),
        "query_vectors": paths(tables.query_vectors) or None,
        "block_starts": tables.block_starts,
    }
    identity = {"pairs": contents(pairs), "queries": contents(tables.query_vectors)}
    tasks = context.document_tasks(tables.corpus_vectors)
    step = Step("annotate_candidates", Annotate, settings, identity, tasks, LIGHT, unit="candidates")
    return union, context.run(step).shards


def _settings(source: Mapping[str, Any]) -> dict[str, Any]:
    hits: Sequence[Shard] | None = source.get("hits")
    return {"k": source["k"], **({"hits": paths(hits)} if hits is not None else {})}


def _identity(source: Mapping[str, Any]) -> dict[str, Any]:
    hits: Sequence[Shard] | None = source.get("hits")
    return {"k": source["k"], **({"hits": source.get("identity") or contents(hits)} if hits is not None else {})}
