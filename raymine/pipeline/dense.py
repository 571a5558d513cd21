"""Dense search over stored vectors: exact, or through lists of whole vectors (ivfflat) or of codes (ivfpq).

How many lists are searched is chosen by measured recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

from raymine.artifacts import Done, Step, Task, task_key
from raymine.index import ivfflat, ivfpq
from raymine.index.centroids import TrainCentroids, TryCentroids, has_fitting_size, still_serve
from raymine.index.exact import SearchExact
from raymine.index.ivfflat import BuildLists, ProbeLists, SearchLists
from raymine.index.ivfpq import BuildPart, SearchPart
from raymine.index.ivfpq_train import TrainIvf
from raymine.index.probes import ChooseProbes, SampleQueries
from raymine.pipeline.base import LIGHT, Context, contents, paths
from raymine.pipeline.choose import choose_index
from raymine.pipeline.search import Found, for_all_blocks, search_parts, search_workers
from raymine.pipeline.sizes import (
    Limits,
    chunk_documents,
    exact_limits,
    ivfpq_limits,
    parts,
    piece_documents,
    stored_bytes,
)
from raymine.retrieve.shortlist import MergeShortlist, RescoreHits
from raymine.storage import Shard

TRAINED_BY = {"nlist", "train_documents"}  # keys of the config that decide new centroids


def search_dense(context: Context) -> Found:
    """Hits of the embedder, over the index that the config names or that auto chooses."""
    kind, context.facts["index_chosen"] = index_for(context)
    context.facts["index"] = kind
    return {"exact": _search_exact, "ivfflat": _search_ivfflat, "ivfpq": _search_ivfpq}[kind](context)


def index_for(context: Context) -> tuple[str, str]:
    """exact, ivfflat or ivfpq, and why."""
    kind, tables = context.config.index.kind, context.tables
    if kind != "auto":
        return kind, "asked for by index.kind"
    return choose_index(tables.num_documents, tables.num_queries, context.facts["dim"], _k(context))


def _k(context: Context) -> int:
    dense = context.config.retrieve.dense
    assert dense is not None
    return dense.k


def _search_exact(context: Context) -> Found:
    tables, k = context.tables, _k(context)
    settings = {"query_vectors": paths(tables.query_vectors), "block_starts": tables.block_starts, "k": k}
    settings["chunk_documents"] = _chunk_documents(context)
    identity = {"queries": contents(tables.query_vectors), "k": k}
    step = Step("search_exact", SearchExact, settings, identity, [], search_workers(context), unit="documents read")
    return search_parts(context, step, _vector_parts(context), _exact_limits(context))


def _chunk_documents(context: Context) -> int:
    return chunk_documents(context.config.resources.memory_gb, context.facts["dim"], stored_bytes(context.config))


def _exact_limits(context: Context) -> Limits:
    return exact_limits(context.config.resources.memory_gb, context.facts["dim"], _k(context))


def _vector_parts(context: Context, most: int | None = None) -> list[Task]:
    """A task per part of at most so many documents: the embeddings of its shards, and where they begin."""
    most = most or _exact_limits(context).documents
    corpus, vectors = context.tables.corpus, context.tables.corpus_vectors
    return [
        Task(
            task_key([(vectors[i].sha256, corpus[i].first_row) for i in part]),
            {"vectors": [vectors[i].path for i in part], "first_rows": [corpus[i].first_row for i in part]},
        )
        for part in parts(corpus, most)
    ]


def _search_ivfflat(context: Context) -> Found:
    trained = _centroids(context)
    centroids, nlist = trained.outputs[0], trained.info["nlist"]
    context.tables.clusters = _assign_documents(context, centroids)
    built = _build_lists(context, nlist)
    probes = _probe_lists(context, centroids, built, nlist)
    context.facts["ivfflat"] |= {"nlist": nlist, **probes}
    limit: dict[str, Any] = {name: probes[name] for name in ("pilot", "max_lag")}
    settings, identity = {"centroids": centroids.path, **limit}, {"centroids": centroids.sha256, **limit}
    assigned = _assign_queries(context, ivfflat.AssignQueries, settings, identity)
    tables, k = context.tables, _k(context)
    settings = {"assigned": paths(assigned), "nlist": nlist, "query_vectors": paths(tables.query_vectors)}
    settings |= {"block_starts": tables.block_starts, "k": k}
    identity = {"assigned": contents(assigned), "queries": contents(tables.query_vectors), "k": k}
    step = Step("search_lists", SearchLists, settings, identity, [], search_workers(context), unit="documents read")
    return search_parts(context, step, built, _exact_limits(context))


def _build_lists(context: Context, nlist: int) -> list[Task]:
    """Documents in the order of their lists: a task per part for whoever searches them.

    A part is put in order some lists at a time, as many as have so many of its documents (sizes.piece_documents).
    """
    tables, vectors, tasks, counts = context.tables, _vector_parts(context), [], []
    config = context.config
    most = piece_documents(config.resources.memory_gb, context.facts["dim"], stored_bytes(config))
    groups = parts(tables.corpus, _exact_limits(context).documents)
    for part, group in zip(vectors, groups, strict=True):
        clusters = [tables.clusters[i] for i in group]
        count = max(1, -(-sum(shard.num_rows for shard in clusters) // most))
        borders = [nlist * number // count for number in range(count + 1)]
        for lists in pairwise(borders):
            key = task_key(part.key, contents(clusters), lists)
            tasks.append(Task(key, {**part.inputs, "clusters": paths(clusters), "lists": list(lists)}))
        counts.append(count)
    step = Step("build_lists", BuildLists, {}, None, tasks, LIGHT, unit="documents")
    built = iter(context.run(step).done)
    of_parts = [list(islice(built, count)) for count in counts]
    return [
        Task(
            task_key(part.key, [contents(done.outputs) for done in pieces]),
            {**part.inputs, "panels": [done.outputs[0].path for done in pieces]},
        )
        for part, pieces in zip(vectors, of_parts, strict=True)
    ]


def _assign_documents(context: Context, centroids: Shard) -> list[Shard]:
    """The list of each document: CLUSTERS of each shard."""
    tables = context.tables
    tasks = [
        Task(task_key(vectors.sha256, corpus.first_row), {"vectors": vectors.path, "first_row": corpus.first_row})
        for corpus, vectors in zip(tables.corpus, tables.corpus_vectors, strict=True)
    ]
    settings = {"centroids": centroids.path}
    step = Step("assign_documents", ivfflat.AssignDocuments, settings, centroids.sha256, tasks, LIGHT, unit="documents")
    return context.run(step).shards


def _probe_lists(context: Context, centroids: Shard, built: list[Task], nlist: int) -> dict[str, Any]:
    """Which lists to search, and the recall that a sample of the queries then has."""
    config, clusters, k = context.config.index, context.tables.clusters, _k(context)
    sample = _sample_queries(context)
    settings: dict[str, Any] = {"assigned": None, "nlist": nlist, "query_vectors": [sample.path], "block_starts": [0]}
    truth = _search_sample(context, sample, SearchLists, settings, built)
    settings = {"config": config, "centroids": centroids.path, "sample": sample.path, "k": k}
    named = config.model_dump(include={"nprobe", "recall_target"})
    identity: dict[str, Any] = {"config": named, "centroids": centroids.sha256, "sample": sample.sha256}
    identity |= {"truth": contents(truth), "clusters": contents(clusters), "k": k}
    tasks = [Task("probes", {"truth": paths(truth), "clusters": paths(clusters)})]
    step = Step("probe_lists", ProbeLists, settings, identity, tasks, search_workers(context))
    return context.run(step).done[0].info


def _assign_queries(context: Context, stage: Any, settings: dict[str, Any], identity: Any) -> list[Shard]:
    """The lists of each query, per query block."""
    tasks = [Task(shard.sha256, {"vectors": shard.path}) for shard in context.tables.query_vectors]
    return context.run(Step("assign_queries", stage, settings, identity, tasks, LIGHT, unit="queries")).shards


def _search_ivfpq(context: Context) -> Found:
    config, tables, resources = context.config.index, context.tables, search_workers(context)
    centroids = _centroids(context)
    trained = _train(context, centroids.outputs[0])
    limits = ivfpq_limits(context.config.resources.memory_gb, context.facts["dim"], config.code_dims)
    tasks = _vector_parts(context, limits.documents)
    step = Step("build_part", BuildPart, {"index": trained.path}, trained.sha256, tasks, resources, unit="documents")
    built = context.run(step).done
    tables.clusters = [
        done.outputs[1] for done, part in zip(built, parts(tables.corpus, limits.documents), strict=True) for _ in part
    ]
    probes = _choose_probes(context, trained, built)
    context.facts["ivfpq"] |= probes
    settings: dict[str, Any] = {"index": trained.path, "nprobe": probes["nprobe"]}
    identity: dict[str, Any] = {"index": trained.sha256, "nprobe": probes["nprobe"]}
    assigned = _assign_queries(context, ivfpq.AssignQueries, settings, identity)
    fetch = _k(context) * probes["overfetch"]
    settings = {
        "assigned": paths(assigned),
        "query_vectors": paths(tables.query_vectors),
        "block_starts": tables.block_starts,
        "k": fetch,
    }
    identity = {"assigned": contents(assigned), "queries": contents(tables.query_vectors), "k": fetch}
    step = Step("search_part", SearchPart, settings, identity, [], resources, unit="documents read")
    tasks = [Task(done.outputs[0].sha256, {"index": done.outputs[0].path}) for done in built]
    return _rescore_hits(context, search_parts(context, step, tasks, limits), fetch)


def _centroids(context: Context) -> Done:
    """The coarse centroids, and in the round's facts where they are from: the last round's if they still serve."""
    config, vectors, seed = context.config.index, context.tables.corpus_vectors, context.config.seed
    settings = {"config": config, "seed": seed}
    identity = {"vectors": contents(vectors), "seed": seed, "config": config.model_dump(include=TRAINED_BY)}
    tasks = [Task("centroids", {"vectors": paths(vectors)})]
    step = Step("train_centroids", TrainCentroids, settings, identity, tasks, search_workers(context))
    last = _last_centroids(context)
    tried = _tried(context, last.outputs[0]) if last is not None else None
    if last is not None and tried is not None and still_serve(tried, last.info, config.reuse_centroids):
        context.reuse(step, last)
        found, is_reused = last, True
    else:
        found, is_reused = context.run(step).done[0], False
    trained = {name: found.info[name] for name in ("imbalance", "distance")}
    context.facts[context.facts["index"]] = {"centroids": {"reused": is_reused, "tried": tried, "trained": trained}}
    context.tables.centroids = found.outputs
    return found


def _last_centroids(context: Context) -> Done | None:
    """The last round's centroids; None where they are not to be had, or of other dimensions or another number."""
    config, vectors = context.config.index, context.tables.corpus_vectors
    if context.previous is None or not context.previous.centroids or not config.reuse_centroids:
        return None
    found = context.artifacts.maker(context.previous.centroids[0])
    if found is None or found.info["dim"] != context.facts["dim"]:
        return None
    num_documents = sum(shard.num_rows for shard in vectors)
    return found if has_fitting_size(config, num_documents, found.info["nlist"]) else None


def _tried(context: Context, centroids: Shard) -> dict[str, Any]:
    """What centroids are for the vectors of this round (index.centroids)."""
    vectors, seed = context.tables.corpus_vectors, context.config.seed
    settings = {"centroids": centroids.path, "seed": seed}
    identity = {"centroids": centroids.sha256, "vectors": contents(vectors), "seed": seed}
    tasks = [Task("measures", {"vectors": paths(vectors)})]
    step = Step("try_centroids", TryCentroids, settings, identity, tasks, search_workers(context))
    return context.run(step).done[0].info


def _train(context: Context, centroids: Shard) -> Shard:
    config, vectors, seed = context.config.index, context.tables.corpus_vectors, context.config.seed
    settings: dict[str, Any] = {"centroids": centroids.path, "config": config, "seed": seed}
    named = config.model_dump(include={"code_dims", "train_documents"})
    identity = {"centroids": centroids.sha256, "vectors": contents(vectors), "seed": seed, "config": named}
    tasks = [Task("index", {"vectors": paths(vectors)})]
    step = Step("train_ivf", TrainIvf, settings, identity, tasks, search_workers(context))
    return context.run(step).shards[0]


def _sample_queries(context: Context) -> Shard:
    tables, seed = context.tables, context.config.seed
    identity: dict[str, Any] = {"queries": contents(tables.query_vectors), "seed": seed}
    tasks = [Task("sample", {"vectors": paths(tables.query_vectors)})]
    step = Step("sample_queries", SampleQueries, {"seed": seed}, identity, tasks, LIGHT, unit="queries")
    return context.run(step).shards[0]


def _search_sample(
    context: Context, sample: Shard, stage: Any, settings: dict[str, Any], parts: Sequence[Task]
) -> list[Shard]:
    """What exact search finds for a sample of the queries in each part."""
    k = _k(context)
    identity = {"queries": sample.sha256, "k": k}
    tasks = [Task(part.key, {**part.inputs, "blocks": [0, 1]}) for part in parts]
    resources = search_workers(context)
    step = Step("search_sample", stage, {**settings, "k": k}, identity, tasks, resources, unit="documents")
    return context.run(step).shards


def _choose_probes(context: Context, trained: Shard, built: list[Done]) -> dict[str, Any]:
    """How much of the index to search, and the recall that a sample of the queries then has (index.probes)."""
    config, k = context.config.index, _k(context)
    sample = _sample_queries(context)
    settings: dict[str, Any] = {"query_vectors": [sample.path], "block_starts": [0]}
    settings["chunk_documents"] = _chunk_documents(context)
    truth = _search_sample(context, sample, SearchExact, settings, _vector_parts(context))
    names = {"nprobe", "overfetch", "recall_target"}
    settings = {"config": config, "index": trained.path, "sample": sample.path, "k": k}
    shards = [done.outputs[0] for done in built], [done.outputs[1] for done in built]
    inputs = {"truth": paths(truth), "parts": paths(shards[0]), "clusters": paths(shards[1])}
    identity = {
        "config": config.model_dump(include=names),
        "truth": contents(truth),
        "parts": contents(shards[0]),
        "k": k,
    }
    step = Step("choose_probes", ChooseProbes, settings, identity, [Task("probes", inputs)], search_workers(context))
    return {"nlist": built[0].info["nlist"], **context.run(step).done[0].info}


def _rescore_hits(context: Context, found: Found, fetch: int) -> Found:
    """The best hits by codes get their exact scores, in a pass over the stored vectors."""
    tables = context.tables
    settings: dict[str, Any] = {"hits": found.files, "k": fetch, "shard_starts": tables.shard_starts}
    identity: dict[str, Any] = {"hits": found.contents, "k": fetch, "shard_starts": tables.shard_starts}
    step = Step("merge_shortlist", MergeShortlist, settings, identity, context.block_tasks(), LIGHT)
    pairs = context.run(step).shards
    settings = {
        "pairs": paths(pairs),
        "query_vectors": paths(tables.query_vectors),
        "block_starts": tables.block_starts,
    }
    identity = {"pairs": contents(pairs), "queries": contents(tables.query_vectors)}
    tasks = context.document_tasks(tables.corpus_vectors)
    return for_all_blocks(context.run(Step("rescore_hits", RescoreHits, settings, identity, tasks, LIGHT)).shards)
