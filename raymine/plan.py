"""What a round will take, before it runs: its documents and queries, and which index it would search.

Planning reads the inputs, as the round would: every fault in them shows, and the round finds them read.
"""

from __future__ import annotations

from dataclasses import dataclass

from raymine import rounds, storage
from raymine.artifacts import Artifacts, Executor, Watcher
from raymine.config import Config
from raymine.pipeline import fused
from raymine.pipeline.base import Context
from raymine.pipeline.dense import index_for
from raymine.pipeline.run import read_inputs
from raymine.storage import HashCache


@dataclass(frozen=True)
class Plan:
    """A round to be.

    Args:
        round: its number.
        is_done: the round is finished: mining would do nothing.
        num_documents: of the corpus.
        num_queries: to mine for.
        dim: of the vectors; None where the round needs none.
        candidates_per_query: that the sources find at most, before their union.
        index: exact or ivfpq; None where nothing is searched by vectors.
        index_chosen: why that one.
    """

    round: int
    is_done: bool
    num_documents: int
    num_queries: int
    dim: int | None
    candidates_per_query: int
    index: str | None
    index_chosen: str | None


def plan(config: Config, workspace: str, executor: Executor, watcher: Watcher | None = None) -> Plan:
    """Reads the inputs of a round and says what it will take.

    Args:
        config: of the round.
        workspace: folder or URL; what is read is kept there.
        executor: where the inputs are read.
        watcher: is told how it goes.

    Raises:
        InputError: the input is wrong.
        ConfigError: a model cannot be loaded, or does not fit the config.
        ResourceError: the machine or cluster has less than the config asks for.
    """
    workspace = storage.absolute(workspace)
    cache = HashCache(storage.join(workspace, "cache", "hashes.json"))
    number, known = rounds.number_of(workspace, rounds.round_identity(config, cache))
    cache.save()
    artifacts = Artifacts(workspace, executor, {"run_id": "plan", "round": number}, watcher)
    context = Context(config, artifacts, cache, number, rounds.round_folder(number))
    embedder = read_inputs(context)
    index = why = None
    if config.retrieve.dense:
        is_fused = embedder is not None and fused.applies(context)
        index, why = ("exact", fused.CHOSEN) if is_fused else index_for(context)
    retrieve = config.retrieve
    sources = [source for source in (retrieve.dense, retrieve.bm25, retrieve.random, retrieve.run) if source]
    return Plan(
        round=number,
        is_done=known is not None and known.facts["state"] == "done",
        num_documents=context.tables.num_documents,
        num_queries=context.tables.num_queries,
        dim=context.facts.get("dim"),
        candidates_per_query=sum(source.k for source in sources),
        index=index,
        index_chosen=why,
    )
