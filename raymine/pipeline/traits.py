"""What filters go by besides ranks and scores: clusters of the documents, and near duplicates among the candidates."""

from __future__ import annotations

from typing import Any

from raymine.artifacts import Done, Step, Task, task_key
from raymine.index.clusters import AssignClusters, TrainClusters
from raymine.pipeline.base import LIGHT, Context, contents, paths
from raymine.pipeline.search import search_workers
from raymine.retrieve.near import FindNear, MeasureNear, SignDocuments
from raymine.select_config import NearDuplicate, OtherCluster
from raymine.storage import Shard


def clusters(context: Context) -> list[Shard]:
    """CLUSTERS of the documents, per document shard; empty where no filter goes by them.

    They are the lists of the round's index, where it has some and the config asks for no number of clusters.
    """
    if "cluster" not in context.config.select.traits:
        return []
    asked = next(f for f in context.config.select.filters if isinstance(f, OtherCluster) and f.column is None)
    tables = context.tables
    if tables.clusters and asked.clusters is None:
        context.facts["clusters"] = context.facts[context.facts["index"]]["nlist"]
        return tables.clusters
    settings: dict[str, Any] = {"clusters": asked.clusters, "seed": context.config.seed}
    identity: dict[str, Any] = {**settings, "vectors": contents(tables.corpus_vectors)}
    tasks = [Task("clusters", {"vectors": paths(tables.corpus_vectors)})]
    step = Step("train_clusters", TrainClusters, settings, identity, tasks, search_workers(context))
    (trained,) = context.run(step).done
    context.facts["clusters"] = trained.info["clusters"]
    centroids = trained.outputs[0]
    tasks = [
        Task(task_key(vectors.sha256, corpus.first_row), {"vectors": vectors.path, "first_row": corpus.first_row})
        for corpus, vectors in zip(tables.corpus, tables.corpus_vectors, strict=True)
    ]
    settings = {"centroids": centroids.path}
    step = Step("assign_clusters", AssignClusters, settings, centroids.sha256, tasks, LIGHT, unit="documents")
    return context.run(step).shards


def near_duplicates(context: Context, union: list[Done]) -> list[Shard]:
    """Likeness of the candidates to texts of their query, per query block; empty where no filter goes by it.

    Args:
        context: the round.
        union: tasks of the union of the sources: candidates, pairs.
    """
    asked = context.config.select.one(NearDuplicate)
    if asked is None:
        return []
    pairs = [done.outputs[1] for done in union]
    signed = _signed(context, "sign_documents", pairs, asked.words, asked.threshold)
    settings: dict[str, Any] = {"bands": paths(signed), "shard_starts": context.tables.shard_starts}
    candidates = [done.outputs[0] for done in union]
    identity: dict[str, Any] = {**settings, "bands": contents(signed), "candidates": contents(candidates)}
    tasks = context.block_tasks({"candidates": shard.path} for shard in candidates)
    found = context.run(Step("find_near", FindNear, settings, identity, tasks, LIGHT, unit="candidates")).done
    shingles = _signed(context, "fetch_shingles", [done.outputs[1] for done in found], asked.words, None)
    near_pairs = [done.outputs[0] for done in found]
    settings = {"shingles": paths(shingles)}
    identity = {"shingles": contents(shingles), "pairs": contents(near_pairs), "candidates": contents(candidates)}
    tasks = context.block_tasks(
        {"candidates": shard.path, "near_pairs": pair.path} for shard, pair in zip(candidates, near_pairs, strict=True)
    )
    return context.run(Step("measure_near", MeasureNear, settings, identity, tasks, LIGHT, unit="pairs")).shards


def _signed(context: Context, name: str, pairs: list[Shard], words: int, threshold: float | None) -> list[Shard]:
    shared = {"block_starts": context.tables.block_starts, "words": words, "threshold": threshold}
    settings, identity = {**shared, "pairs": paths(pairs)}, {**shared, "pairs": contents(pairs)}
    step = Step(name, SignDocuments, settings, identity, context.document_tasks(), LIGHT, unit="documents")
    return context.run(step).shards
