"""Embedding and exact search in one worker: a shard is searched when its vectors have just been made.

Where the workers that embed have a GPU, exact search costs a few per cent more of their time and needs no index and no
second reading of the vectors. Two stages that know nothing of each other do it: EmbedShard, as always, and SearchShard,
which is given the vectors. They stay two steps with two artifacts:

    embed_documents   the same artifact as without a GPU, so its vectors are found by any later round
    search_shards     hits per shard; what the first step did not search on its way, because an earlier round had made
                      the vectors, is searched from the stored ones

Identities. A worker leaves out hits that documents it saw before have beaten, so the bytes of a hits file depend on who
made it. Only documents of earlier shards count there, so a task's key covers its shard and all before it: appended
documents leave the keys, and what was left out stays beaten. The merged k best never depend on it, and so they are
named by what was searched (`identity`, for the step that merges) and not by the checksums of the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

from raymine import schemas, storage
from raymine.artifacts import Record, Step, Task, Work, marker_path, step_folder, task_key
from raymine.embed.sentence_transformer import Description
from raymine.embed.stage import EmbedShard
from raymine.index.exact_torch import SearchShard
from raymine.pipeline.base import Context, contents, paths, workers
from raymine.pipeline.embedding import embed_step
from raymine.pipeline.retrieval import Source
from raymine.pipeline.search import Found
from raymine.pipeline.sizes import DEVICE_BYTES, device_query_bytes
from raymine.storage import Shard
from raymine.vectors import Vectors

CHOSEN = "in the worker that embeds, on its GPU"


def applies(context: Context) -> bool:
    """Whether documents are searched where they are embedded: exact search or auto, on a GPU that holds the queries."""
    config, tables = context.config, context.tables
    if config.embed is None or config.retrieve.dense is None or config.index.kind not in ("auto", "exact"):
        return False
    bytes_per_query = device_query_bytes(context.facts["dim"], config.retrieve.dense.k, config.embed.store)
    if tables.num_queries * bytes_per_query > DEVICE_BYTES:
        return False
    resources = workers(config.resources.embed)
    return bool(context.artifacts.executor.resolve(resources, max(1, len(tables.corpus))).gpus)


def embed_and_search(context: Context, embedder: Description) -> Source:
    """Fills in the documents' vectors and searches them.

    Args:
        context: the round, with the queries' vectors.
        embedder: what `describe` says of the model.

    Returns:
        The dense source: a file of hits per document shard, and the identity of their k best.
    """
    tables, dense = context.tables, context.config.retrieve.dense
    assert dense is not None
    context.facts["index"], context.facts["index_chosen"] = "exact", CHOSEN
    embed = embed_step(context, "document", tables.corpus, embedder)
    search = _search_step(context, embed, dense.k)
    tables.corpus_vectors = context.run(_fused(context, embed, search)).shards
    given = zip(search.tasks, tables.corpus_vectors, strict=True)
    tasks = [replace(task, inputs={**task.inputs, "vectors": shard.path}) for task, shard in given]
    hits: list[Shard] = context.run(replace(search, tasks=tasks)).shards
    identity = [search.fingerprint, *(task.key for task in search.tasks[-1:])]
    return Source(dense.k, Found([0], [hits], identity))


def _search_step(context: Context, embed: Step, k: int) -> Step:
    """The step that searches; its tasks do not know yet where their vectors lie."""
    tables = context.tables
    settings = {"query_vectors": paths(tables.query_vectors), "block_starts": tables.block_starts, "k": k}
    identity = {
        "documents": embed.fingerprint,
        "queries": contents(tables.query_vectors),
        "block_starts": tables.block_starts,
        "k": k,
    }
    tasks, key = [], ""
    for number, shard in enumerate(tables.corpus):
        key = task_key(key, shard.sha256, shard.first_row)
        tasks.append(Task(key, {"first_row": shard.first_row, "number": number}, shard=number))
    return Step("search_shards", SearchShard, settings, identity, tasks, embed.resources, unit="documents")


def _fused(context: Context, embed: Step, search: Step) -> Step:
    """The embedding step, whose tasks bring that of the search along, and whose workers do both."""
    artifacts = context.artifacts
    resources = artifacts.executor.resolve(embed.resources, max(1, len(embed.tasks)))
    folder = step_folder(artifacts.workspace, search)
    worker_step = replace(search, tasks=(), resources=resources)
    settings = {
        "embed": embed.settings,
        "make_search": partial(Work, worker_step, artifacts.workspace, artifacts.run_facts),
    }
    tasks = [
        replace(task, inputs={**task.inputs, "search": asdict(replace(each, output=storage.join(folder, each.key)))})
        for task, each in zip(embed.tasks, search.tasks, strict=True)
    ]
    return replace(embed, stage=EmbedThenSearch, settings=settings, tasks=tasks)


class EmbedThenSearch:
    """Embeds one shard as EmbedShard does, then does the task of the search with the vectors in hand.

    Args:
        embed: keyword arguments of EmbedShard.
        make_search: makes the Work of the search.
    """

    VERSION = EmbedShard.VERSION
    calls_in_flight = EmbedShard.calls_in_flight

    def __init__(self, embed: dict[str, Any], make_search: Callable[[], Work]) -> None:
        self.embed = EmbedShard(**embed)
        self.search = make_search()

    def __call__(self, task: Task) -> Record:
        """Writes the vectors, the hits, and the marker of the search.

        Args:
            task: inputs table (of the texts) and search (the other task).
        """
        record, table = self.embed.embed(task)
        if record.problems:
            return record
        search = Task(**task.inputs["search"])
        if storage.exists(marker_path(self.search.workspace, self.search.step, search.key)):
            return record
        path = record.outputs[0].path
        vectors = Vectors(table["row"].to_numpy(), schemas.vector_matrix(table["vector"]))
        cast(SearchShard, self.search.stage).hand_over(path, vectors)
        marker = self.search(replace(search, inputs={**search.inputs, "vectors": path}))
        return replace(record, elsewhere_s=marker["ledger"]["wall_s"])
