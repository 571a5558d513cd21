"""Reading corpus, queries and judgements, and resolving every id: all faults of the input end the round here."""

from __future__ import annotations

import math
from typing import Any

from raymine.artifacts import Done, Step, StepResult, Task, task_key
from raymine.config import CorpusConfig, QueriesConfig
from raymine.corpus.ids import IndexIds, JoinPositives, ResolveIds
from raymine.corpus.judgements import ReadJudgements, judgement_files
from raymine.corpus.pairs import ReadPairs
from raymine.corpus.parse import absent, asked_columns
from raymine.corpus.queries import SelectQueries
from raymine.corpus.read import ReadDocuments, ReadQueries, splits
from raymine.corpus.run import ReadRun
from raymine.corpus.splits import without_places
from raymine.errors import InputError, too_many
from raymine.pipeline.base import LIGHT, Context, contents, paths, placed
from raymine.storage import Shard

IDS_PER_BUCKET = 1_000_000  # a hash bucket of ids is joined in memory, at about 100 bytes each,
HITS_PER_BUCKET = 4_000_000  # with the lines of an imported run that name them, at about 40


def read(context: Context) -> None:
    """Fills in the tables of corpus, queries, positives, excluded pairs and run hits."""
    config, tables = context.config, context.tables
    if config.positives.has_texts:
        raw_queries, raw_vectors, judgements = _read_pairs(context)
    else:
        raw_queries, raw_vectors = _read_queries(context)
        judgements = _read_judgements(context)
    if config.corpus is not None:
        _read_documents(context, config.corpus)
    tables.corpus = placed(tables.corpus)
    if not tables.num_documents:
        raise InputError("the corpus is empty", "0 documents", "at least one", "check `corpus.path`")
    _resolve(context, _select_queries(context, raw_queries, raw_vectors, judgements))


def _read_documents(context: Context, config: CorpusConfig) -> None:
    identity = config.model_dump(exclude={"path", "vectors"})
    tasks = _split_tasks(context, config)
    step = Step("read_documents", ReadDocuments, {"config": config}, identity, tasks, LIGHT, unit="documents")
    for done in _checked_columns(config, context.run(step)):
        count = done.info["num_shards"]
        num_metadata = count if config.metadata else 0
        metadata_begin = len(done.outputs) - num_metadata
        context.tables.corpus += done.outputs[:count]
        context.tables.corpus_vectors += done.outputs[count:metadata_begin]
        context.tables.metadata += done.outputs[metadata_begin:]
        context.facts["num_empty_documents"] = context.facts.get("num_empty_documents", 0) + done.info["num_empty"]
        _check_dim(context, "the corpus", done.info["dim"])


def _split_tasks(context: Context, config: CorpusConfig | QueriesConfig) -> list[Task]:
    """A task per split; its key covers the split's content and range, not where it lies."""
    return [Task(task_key(without_places(split)), split) for split in splits(config, context.cache)]


def _checked_columns(config: CorpusConfig | QueriesConfig, result: StepResult) -> list[Done]:
    """What was read; raises InputError for a file none of whose parts has a column that was asked for."""
    present: dict[str, set[str]] = {}
    for task, done in zip(result.step.tasks, result.done, strict=True):
        if "byte_range" in task.inputs:
            present.setdefault(task.inputs["path"], set()).update(done.info["present"])
    faults = [
        absent(path, column)
        for path, found in present.items()
        for column in asked_columns(config)
        if column not in found
    ]
    if faults:
        raise InputError(too_many(faults))
    return result.done


def _read_queries(context: Context) -> tuple[list[Shard], list[Shard]]:
    config = context.config.queries
    assert config is not None
    identity = config.model_dump(exclude={"path", "vectors", "block_queries"})
    step = Step(
        "read_queries", ReadQueries, {"config": config}, identity, _split_tasks(context, config), LIGHT, unit="queries"
    )
    texts: list[Shard] = []
    vectors: list[Shard] = []
    for done in _checked_columns(config, context.run(step)):
        count = done.info["num_shards"]
        texts += done.outputs[:count]
        vectors += done.outputs[count:]
        _check_dim(context, "the queries", done.info["dim"])
    return texts, vectors


def _check_dim(context: Context, what: str, dim: int | None) -> None:
    known = context.facts.setdefault("dim", dim)
    if None not in (dim, known) and dim != known:
        raise InputError(
            f"vectors of {what} do not fit the others", f"{dim} dimensions", f"{known}", "give vectors of one model"
        )


def _read_judgements(context: Context) -> Shard:
    config = context.config
    identity = {
        "positives": config.positives.model_dump(exclude={"path"}),
        "files": [context.cache.content_hash(path) for path in _sources(context)],
    }
    settings = {"positives": config.positives, "exclude": list(config.exclude)}
    return context.run(
        Step("read_judgements", ReadJudgements, settings, identity, [Task("judgements", {})], LIGHT)
    ).shards[0]


def _read_pairs(context: Context) -> tuple[list[Shard], list[Shard], Shard]:
    config = context.config.positives
    shard_documents = (context.config.corpus or CorpusConfig(path="")).shard_documents
    identity = {
        "positives": config.model_dump(exclude={"path"}),
        "files": [context.cache.content_hash(path) for path in _sources(context)],
        "shard_documents": shard_documents,
    }
    settings = {"config": config, "shard_documents": shard_documents}
    (done,) = context.run(Step("read_pairs", ReadPairs, settings, identity, [Task("pairs", {})], LIGHT)).done
    first_query = done.info["num_corpus"]
    context.tables.corpus += done.outputs[:first_query]
    context.tables.metadata += [None] * first_query
    return done.outputs[first_query:-1], [], done.outputs[-1]


def _sources(context: Context) -> list[str]:
    """The judgement files, for messages that name a file and a line."""
    config = context.config
    return [file.path for file in judgement_files(config.positives, config.exclude)]


def _select_queries(context: Context, raw: list[Shard], vectors: list[Shard], judgements: Shard) -> Shard:
    config = context.config.queries
    block_queries = (config or QueriesConfig(path="")).block_queries
    identity = {
        "queries": contents(raw),
        "vectors": contents(vectors),
        "judgements": judgements.sha256,
        "block_queries": block_queries,
    }
    inputs = {"queries": paths(raw), "query_vectors": paths(vectors), "judgements": judgements.path}
    settings = {"block_queries": block_queries, "sources": _sources(context), "config": config}
    tasks = [Task("queries", inputs)]
    step = Step("select_queries", SelectQueries, settings, identity, tasks, LIGHT, unit="queries")
    (done,) = context.run(step).done
    count = done.info["num_blocks"]
    context.tables.queries = placed(done.outputs[:count])
    context.tables.query_vectors = placed(done.outputs[count:-1])
    context.facts.update({name: value for name, value in done.info.items() if name != "num_blocks"})
    return done.outputs[-1]


def _resolve(context: Context, pairs: Shard) -> None:
    """String ids become rows: a hash join of the ids in judgements and runs with the ids of the corpus."""
    tables, run = context.tables, context.config.retrieve.run
    num_hits = tables.num_queries * run.k if run else 0
    num_buckets = math.ceil(max(tables.num_documents / IDS_PER_BUCKET, num_hits / HITS_PER_BUCKET))
    settings: dict[str, Any] = {"num_buckets": num_buckets}
    tasks = context.document_tasks()
    ids = context.run(Step("index_ids", IndexIds, settings, settings, tasks, LIGHT, unit="documents")).shards
    runs = _read_run(context, num_buckets)
    settings = {
        "id_files": paths(ids),
        "pairs": pairs.path,
        "runs": paths(runs),
        "block_starts": tables.block_starts,
        "corpus": context.config.corpus,
        "sources": _sources(context),
        "run_sources": [context.config.retrieve.run.path] if context.config.retrieve.run else [],
    }
    identity = {"ids": contents(ids), "pairs": pairs.sha256, "runs": contents(runs)}
    tasks = [Task(f"bucket-{bucket:05d}", {"bucket": bucket}) for bucket in range(num_buckets)]
    resolved = context.run(Step("resolve_ids", ResolveIds, settings, identity, tasks, LIGHT)).done
    files = [done.outputs[0] for done in resolved]
    tables.run = [done.outputs[1] for done in resolved if runs]
    settings = {"files": paths(files)}
    step = Step("join_positives", JoinPositives, settings, contents(files), context.block_tasks(), LIGHT)
    joined = context.run(step).done
    tables.positives = [done.outputs[0] for done in joined]
    tables.excluded = [done.outputs[1] for done in joined]


def _read_run(context: Context, num_buckets: int) -> list[Shard]:
    config, tables = context.config.retrieve.run, context.tables
    if config is None:
        return []
    settings = {"num_buckets": num_buckets, "k": config.k}
    inputs = {"path": config.path, "queries": paths(tables.queries)}
    identity = {**settings, "run": context.cache.content_hash(config.path), "queries": contents(tables.queries)}
    step = Step("read_run", ReadRun, settings, identity, [Task("run", inputs)], LIGHT, unit="hits")
    return context.run(step).shards
