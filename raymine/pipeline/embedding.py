"""Vectors for every document shard and query block: from the embedder, or given."""

from __future__ import annotations

from typing import Any

from raymine import storage
from raymine.artifacts import Resources, Step, Task
from raymine.embed.precomputed import StoreVectors
from raymine.embed.sentence_transformer import Description, Side
from raymine.embed.stage import DescribeEmbedder, EmbedShard
from raymine.fingerprint import fingerprint, model_fingerprint, tokenizer_fingerprint
from raymine.models import local_model
from raymine.pipeline.base import LIGHT, Context, workers
from raymine.storage import Shard


def describe(context: Context) -> Description:
    """What a round needs to know of the embedder.

    Raises:
        ConfigError: the model cannot be loaded or used as the config asks.
    """
    config = context.config.embed
    assert config is not None
    identity = {"model": _weights(context), "config": config.model_dump(exclude={"model", "revision"})}
    # As many CPUs as the steps that embed: a tokenizer keeps the number of threads that its process first gave it.
    resources = Resources(context.config.resources.embed.cpus)
    step = Step("describe_embedder", DescribeEmbedder, {"config": config}, identity, [Task("embedder", {})], resources)
    info: Any = context.run(step).done[0].info
    found: Description = info
    return found


def _weights(context: Context) -> str:
    config = context.config.embed
    assert config is not None and config.model is not None
    return model_fingerprint(local_model(config.model, config.revision), context.cache)


def embed_queries(context: Context, embedder: Description | None) -> None:
    """Fills in the vectors of the queries.

    Args:
        context: the round.
        embedder: what `describe` says of the model; None: the vectors are given.
    """
    tables = context.tables
    if embedder is None:
        tables.query_vectors = _store(context, "store_query_vectors", tables.query_vectors)
    else:
        tables.query_vectors = context.run(embed_step(context, "query", tables.queries, embedder)).shards


def embed_documents(context: Context, embedder: Description | None) -> None:
    """Fills in the vectors of the documents; arguments as of embed_queries."""
    tables = context.tables
    if embedder is None:
        tables.corpus_vectors = _store(context, "store_document_vectors", tables.corpus_vectors)
    else:
        tables.corpus_vectors = context.run(embed_step(context, "document", tables.corpus, embedder)).shards


def _store(context: Context, name: str, shards: list[Shard]) -> list[Shard]:
    config = context.config.embed
    similarity = (config.similarity if config else None) or "cosine"
    settings = {"similarity": similarity, "store": config.store if config else "float16"}
    tasks = [Task(shard.sha256, {"vectors": shard.path}) for shard in shards]
    return context.run(Step(name, StoreVectors, settings, settings, tasks, LIGHT, unit="vectors")).shards


def tokens_folder(context: Context, side: Side, embedder: Description) -> str:
    """Where the tokens of one side are kept: for all checkpoints whose tokenizer, prompt and length are the same."""
    config = context.config.embed
    assert config is not None and config.model is not None
    tokenizer = tokenizer_fingerprint(local_model(config.model, config.revision), context.cache)
    prompt = embedder["query_prompt"] if side == "query" else embedder["document_prompt"]
    named = {"tokenizer": tokenizer, "side": side, "prompt": prompt, "max_length": embedder["max_length"]}
    return storage.join(context.artifacts.workspace, "cache", f"tokens-{fingerprint(named)}")


def embed_step(context: Context, side: Side, shards: list[Shard], embedder: Description) -> Step:
    """The step that embeds one side: a task per shard of documents or block of queries."""
    config = context.config.embed
    assert config is not None
    weights = _weights(context)
    other = "document" if side == "query" else "query"
    unnamed = {"model", "revision", "trust_remote_code", f"{other}_prompt", f"{other}_prompt_name"}
    described = {name: value for name, value in embedder.items() if name != f"{other}_prompt"}
    identity = {"side": side, "model": weights, "config": config.model_dump(exclude=unnamed), "embedder": described}
    settings = {"config": config, "side": side, "model_fingerprint": weights}
    if context.config.resources.keep_tokens:
        settings["tokens"] = tokens_folder(context, side, embedder)
    tasks = [Task(shard.sha256, {"table": shard.path}) for shard in shards]
    name, unit = {"query": ("embed_queries", "queries"), "document": ("embed_documents", "documents")}[side]
    resources = workers(context.config.resources.embed)
    return Step(name, EmbedShard, settings, identity, tasks, resources, unit=unit)
