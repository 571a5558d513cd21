"""Searches cut into tasks: a part of the documents for a range of query blocks each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymine.artifacts import Resources, Step, Task, task_key
from raymine.config import Config
from raymine.pipeline.base import Context, contents, paths
from raymine.pipeline.sizes import Limits, block_ranges
from raymine.retrieve.base import HitFiles
from raymine.storage import Shard


@dataclass(frozen=True)
class Found:
    """The hits of a source for all query blocks.

    Args:
        first_blocks: of each range of query blocks that was searched for together, its first.
        shards: per range the files of HITS, which have a bucket for each of its blocks.
        identity: what the k best depend on, where that is not the contents of the files.
    """

    first_blocks: Sequence[int]
    shards: Sequence[Sequence[Shard]]
    identity: Any = None

    @property
    def files(self) -> list[HitFiles]:
        return [HitFiles(first, paths(shards)) for first, shards in zip(self.first_blocks, self.shards, strict=True)]

    @property
    def contents(self) -> Any:
        """What names the hits in an identity."""
        if self.identity is not None:
            return self.identity
        return [[first, contents(shards)] for first, shards in zip(self.first_blocks, self.shards, strict=True)]


def for_all_blocks(shards: Sequence[Shard]) -> Found:
    """Hits in files that have a bucket for every query block."""
    return Found([0], [shards])


def search_parts(context: Context, step: Step, parts: Sequence[Task], limits: Limits) -> Found:
    """Runs a step that searches every part for every query block.

    Args:
        context: the round.
        step: without tasks; its stage takes `blocks`, the first query block and the one after the last.
        parts: a task per part of the documents, without `blocks`.
        limits: of a task.
    """
    ranges = block_ranges(context.tables.queries, context.tables.corpus, limits)
    tasks = [
        replace(part, key=task_key(part.key, blocks), inputs={**part.inputs, "blocks": list(blocks)})
        for blocks in ranges
        for part in parts
    ]
    shards = context.run(replace(step, tasks=tasks)).shards
    borders = range(0, len(shards), len(parts))
    return Found([first for first, _ in ranges], [shards[begin : begin + len(parts)] for begin in borders])


def search_workers(context: Context) -> Resources:
    """The workers of searches, as the round's config has them."""
    return search_resources(context.config)


def search_resources(config: Config) -> Resources:
    """Searches take a GPU only where the config gives them one: they are made for the cores."""
    section = config.resources.index
    return Resources(section.cpus or 1, section.gpus or 0, section.actors)
