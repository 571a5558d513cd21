"""What a round will find made: its steps are looked up, as far as they can be known before any has run.

A step is named by the contents of its inputs, so what follows a step that is still to be done cannot be looked up. The
round is therefore walked from several places: its beginning, the embedding of either side, and BM25.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from raymine import storage
from raymine.artifacts import Artifacts, Step, StepResult
from raymine.config import RoundsConfig
from raymine.embed.sentence_transformer import Description
from raymine.pipeline import embedding, retrieval
from raymine.pipeline.base import Context
from raymine.pipeline.run import run_steps
from raymine.pipeline.selection import teacher_cache


class _ToDoError(Exception):
    """A step has tasks to do, so what comes after it is unknown."""


class _Lookup(Artifacts):
    """Artifacts in which steps are looked up and never run."""

    def __init__(self, of: Artifacts, found: dict[str, Found]) -> None:
        super().__init__(of.workspace, of.executor, of.run_facts)
        self.found = found

    def run(self, step: Step) -> StepResult:
        _, known = self.known(step)
        rows = [known[task.key]["ledger"] for task in step.tasks if task.key in known]
        self.found[step.name] = Found(len(step.tasks), len(rows), sum(row["wall_s"] for row in rows))
        if len(rows) < len(step.tasks):
            raise _ToDoError
        return StepResult(step, [self.to_done(known[task.key]) for task in step.tasks], len(rows), 0.0)


@dataclass(frozen=True)
class Found:
    """Of one step: its tasks, those that are done, and the worker seconds that these took."""

    num_tasks: int
    num_done: int
    seconds: float


def steps_done(context: Context, embedder: Description | None) -> dict[str, Found]:
    """What is known of the steps of a round, by name.

    Args:
        context: of the round, its inputs read; left as it is.
        embedder: what `read_inputs` gave.
    """
    found: dict[str, Found] = {}
    walks: list[Callable[[Context], Any]] = [lambda copied: run_steps(copied, embedder)]
    if context.config.has_embeddings:
        walks.append(lambda copied: embedding.embed_queries(copied, embedder))
        walks.append(lambda copied: embedding.embed_documents(copied, embedder))
    if context.config.retrieve.bm25:
        walks.append(retrieval.search_bm25)
    # What carries negatives over is always to be done, and unless they are owed something, the rest goes without it.
    is_plain = context.config.rounds == RoundsConfig()
    previous = None if is_plain else context.previous
    for walk in walks:
        artifacts = _Lookup(context.artifacts, found)
        copied = replace(
            context,
            artifacts=artifacts,
            tables=copy(context.tables),
            facts=dict(context.facts),
            results=[],
            previous=previous,
        )
        try:
            walk(copied)
        except _ToDoError:
            continue
    return found


def num_scores(context: Context) -> int:
    """Pairs whose score by this teacher is kept in the workspace."""
    files = storage.list_files(teacher_cache(context), ".parquet")
    counts = []
    for path in files:
        with storage.parquet_file(path) as file:
            counts.append(int(file.metadata.num_rows))
    return sum(counts)


def share_tokenized(context: Context, embedder: Description | None) -> float:
    """Share of the documents whose tokens are kept, for any checkpoint with this tokenizer."""
    if embedder is None or not context.config.resources.keep_tokens:
        return 0.0
    files = storage.list_files(embedding.tokens_folder(context, "document", embedder), ".arrow")
    kept = {path.rsplit("/", 1)[1].removesuffix(".arrow") for path in files}
    found = sum(shard.num_rows for shard in context.tables.corpus if shard.sha256 in kept)
    return found / max(1, context.tables.num_documents)
