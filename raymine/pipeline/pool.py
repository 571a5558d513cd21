"""Dense search of a later round over the pool of what earlier rounds found, made wider where it misses too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

from raymine.artifacts import Done, Step, Task, task_key
from raymine.embed.pool import EmbedPool
from raymine.embed.sentence_transformer import Description
from raymine.lineage.pool import EstimateMissed, FindPool, MergePool, missed
from raymine.pipeline.base import LIGHT, Context, contents, paths
from raymine.pipeline.embedding import embed_step
from raymine.pipeline.lineage import Carried, Earlier
from raymine.pipeline.retrieval import Source
from raymine.pipeline.search import Found
from raymine.storage import Shard

WIDER = 4
MOST = 0.8  # share of the documents from which on a pool is not worth its probe


Result = tuple[Source | None, Earlier | None]


def search(
    context: Context, embedder: Description, carried: Carried, search_vectors: Callable[[], Result]
) -> Result | None:
    """Embeds and searches a pool that misses little; None where there is none, and all documents must be.

    Fills in the documents' vectors, and notes in the round's facts what was tried.

    Args:
        context: the round.
        embedder: what `embedding.describe` says of the model.
        carried: what the round has from the one before.
        search_vectors: gives the dense source of the vectors that are there, and what goes with it.
    """
    config, tables = context.config, context.tables
    assert config.retrieve.dense is not None
    tried = context.facts.setdefault("pool", [])
    for top in (config.rounds.top, WIDER * config.rounds.top):
        pool = _pool(context, carried, top)
        size = sum(shard.num_rows for shard in pool)
        tried.append({"top": top, "documents": size, "missed": None})
        if size > MOST * tables.num_documents:
            break
        done = context.run(_embed_step(context, embedder, pool)).done
        tables.corpus_vectors, tables.pool = [each.outputs[0] for each in done], pool
        result = search_vectors()
        assert result[0] is not None and result[0].found is not None
        probe = [each.outputs[1] for each in done]
        tried[-1]["missed"] = _missed(context, result[0].found, min(top, config.retrieve.dense.k), probe, size)
        if tried[-1]["missed"] <= config.rounds.max_missed:
            return result
    tables.corpus_vectors, tables.pool, tables.clusters = [], [], []
    return None


def _pool(context: Context, carried: Carried, top: int) -> list[Shard]:
    """The pool's documents, per document shard."""
    previous, tables = context.previous, context.tables
    assert previous is not None
    moved, spans = carried.moved_documents, carried.document_spans
    settings: dict[str, Any] = {
        "top": top,
        "spans": spans,
        "moved": moved.path if moved else None,
        "shard_starts": tables.shard_starts,
    }
    identity = {
        "top": top,
        "spans": [astuple(span) for span in spans],
        "moved": moved.sha256 if moved else None,
        "shard_starts": tables.shard_starts,
    }
    given = {"verdicts": previous.verdicts, "pool": previous.pool, "now": [*tables.positives, *carried.lineage]}
    tasks = [
        Task(task_key(kind, shard.sha256), {kind: shard.path}) for kind, shards in given.items() for shard in shards
    ]
    found = context.run(Step("find_pool", FindPool, settings, identity, tasks, LIGHT, unit="documents")).shards
    tasks = [Task(f"shard-{number:05d}", {"bucket": number}) for number in range(len(tables.corpus))]
    step = Step("merge_pool", MergePool, {"found": paths(found)}, contents(found), tasks, LIGHT, unit="documents")
    return context.run(step).shards


def _embed_step(context: Context, embedder: Description, pool: list[Shard]) -> Step:
    """The step that embeds the pool and its probe: a task per document shard."""
    every = embed_step(context, "document", context.tables.corpus, embedder)
    config = context.config
    how = {"probe": config.rounds.probe, "seed": [config.seed, context.number]}
    tasks = [
        Task(
            task_key(shard.sha256, shard.first_row, chosen.sha256),
            {
                "table": shard.path,
                "pool": chosen.path,
                "first_row": shard.first_row,
                "shard_sha256": shard.sha256,
            },
        )
        for shard, chosen in zip(context.tables.corpus, pool, strict=True)
    ]
    settings = {"embed": every.settings, **how}
    identity = {"embed": every.identity, **how}
    return Step("embed_pool", EmbedPool, settings, identity, tasks, every.resources, unit="documents")


def _missed(context: Context, found: Found, top: int, probe: list[Shard], num_pool: int) -> float:
    """The estimated share of the first `top` hits that the pool misses."""
    settings = {"hits": found.files, "top": top, "probe": paths(probe)}
    identity = {"hits": found.contents, "top": top, "probe": contents(probe)}
    step = Step("estimate_missed", EstimateMissed, settings, identity, context.block_tasks(), LIGHT, unit="hits")
    done: list[Done] = context.run(step).done
    hits, probe_hits = (sum(each.info[name] for each in done) for name in ("hits", "probe_hits"))
    outside = context.tables.num_documents - num_pool
    return missed(hits, probe_hits, sum(shard.num_rows for shard in probe) / max(1, outside))
