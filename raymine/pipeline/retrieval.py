"""Candidates: BM25, the union of what all sources found, and what the documents say of each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymine.artifacts import Done, Step, Task, task_key
from raymine.index.bm25 import Bm25Statistics, QueryTerms, SearchBm25, TokenizeShard
from raymine.pipeline.base import LIGHT, Context, contents, paths
from raymine.pipeline.search import Found, search_parts, search_workers
from raymine.pipeline.sizes import bm25_limits, parts
from raymine.retrieve.annotate import Annotate
from raymine.retrieve.union import Union
from raymine.storage import Shard


def search_bm25(context: Context) -> Found:
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
    limits = bm25_limits(context.config.resources.memory_gb)
    tasks = [_bm25_part(context, postings, part) for part in parts(tables.corpus, limits.documents)]
    step = Step("search_bm25", SearchBm25, settings, identity, [], search_workers(context), unit="documents read")
    return search_parts(context, step, tasks, limits)


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


@dataclass(frozen=True)
class Source:
    """A source of candidates: `k` per query, of what was found; None: drawn at random."""

    k: int
    found: Found | None = None


def candidates(
    context: Context, sources: Mapping[str, Source], clusters: Sequence[Shard] = ()
) -> tuple[list[Done], list[Shard]]:
    """The union of the sources per query block, and what a pass over the documents says of each pair.

    Args:
        context: the round.
        sources: by name, in the order of the columns.
        clusters: of each document shard, where a filter goes by them.

    Returns:
        The union's tasks (candidates, pairs) and the notes.
    """
    tables = context.tables
    shared = {
        "shard_starts": tables.shard_starts,
        "num_documents": tables.num_documents,
        "seed": context.config.seed,
    }
    named = {name: {"k": source.k, "hits": source.found and source.found.files} for name, source in sources.items()}
    settings: dict[str, Any] = {**shared, "sources": named}
    identity: dict[str, Any] = {
        **shared,
        "sources": {name: [source.k, source.found and source.found.contents] for name, source in sources.items()},
        "positives": contents(tables.positives),
        "queries": contents(tables.queries),
    }
    tasks = context.block_tasks({"positives": shard.path} for shard in tables.positives)
    union = context.run(Step("union_candidates", Union, settings, identity, tasks, LIGHT, unit="candidates")).done
    pairs = [done.outputs[1] for done in union]
    traits = [name for name in context.config.select.traits if name == "cluster" or name.startswith("meta_")]
    settings = {
        "pairs": paths(pairs),
        "query_vectors": paths(tables.query_vectors) or None,
        "block_starts": tables.block_starts,
        "traits": traits,
    }
    identity = {"pairs": contents(pairs), "queries": contents(tables.query_vectors), "traits": traits}
    metadata = tables.metadata if any(name.startswith("meta_") for name in traits) else ()
    tasks = context.document_tasks(tables.corpus_vectors, metadata=metadata, clusters=clusters)
    step = Step("annotate_candidates", Annotate, settings, identity, tasks, LIGHT, unit="candidates")
    return union, context.run(step).shards
