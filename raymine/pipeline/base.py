"""What the parts of a round share: the tables made so far, and the tasks over query blocks and document shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymine.artifacts import Artifacts, Done, Resources, Step, StepResult, Task, task_key
from raymine.config import Config, WorkerConfig
from raymine.storage import HashCache, Shard

LIGHT = Resources(cpus=1, gpus=0, in_one_thread=True)


@dataclass
class Tables:
    """What has been made so far in a round: shards, with their rows placed.

    `metadata`: of each corpus shard, where the config asks for some; None for a shard that was made of pairs of texts.
    `earlier` and `settled`: of each query block, the lineage of the rounds before and the queries that keep their
    negatives, where the round owes them slots. `lineage`: the same after this round.
    `pool`: of each corpus shard, the documents that were embedded, where not all were.
    `centroids`: of lists, where the index has some. `clusters`: of each corpus shard, the file of its part of that
    index that says in which list each document is.
    """

    corpus: list[Shard] = field(default_factory=list)
    metadata: list[Shard | None] = field(default_factory=list)
    queries: list[Shard] = field(default_factory=list)
    positives: list[Shard] = field(default_factory=list)
    excluded: list[Shard] = field(default_factory=list)
    run: list[Shard] = field(default_factory=list)
    corpus_vectors: list[Shard] = field(default_factory=list)
    query_vectors: list[Shard] = field(default_factory=list)
    lineage: list[Shard] = field(default_factory=list)
    earlier: list[Shard] = field(default_factory=list)
    settled: list[Shard] = field(default_factory=list)
    verdicts: list[Shard] = field(default_factory=list)
    pool: list[Shard] = field(default_factory=list)
    centroids: list[Shard] = field(default_factory=list)
    clusters: list[Shard] = field(default_factory=list)

    @property
    def num_documents(self) -> int:
        return sum(shard.num_rows for shard in self.corpus)

    @property
    def num_queries(self) -> int:
        return sum(shard.num_rows for shard in self.queries)

    @property
    def shard_starts(self) -> list[int]:
        """First doc_row of each document shard."""
        return [shard.first_row for shard in self.corpus]

    @property
    def block_starts(self) -> list[int]:
        """First query_row of each query block."""
        return [shard.first_row for shard in self.queries]


@dataclass
class Context:
    """One round in the making.

    Args:
        config: of the round.
        artifacts: where steps run and their outputs lie.
        cache: content hashes of input files.
        number: of the round, from 1.
        folder: of the round, relative to the workspace.
        tables: what has been made.
        facts: small facts about it (counts, choices), kept in round.json.
        results: of the steps, in order.
        previous: tables of the round before (queries, corpus, lineage); None: this is the first.
    """

    config: Config
    artifacts: Artifacts
    cache: HashCache
    number: int
    folder: str
    tables: Tables = field(default_factory=Tables)
    facts: dict[str, Any] = field(default_factory=dict)
    results: list[StepResult] = field(default_factory=list)
    previous: Tables | None = None

    def run(self, step: Step) -> StepResult:
        """Runs a step, or finds what it made before."""
        result = self.artifacts.run(step)
        self.results.append(result)
        return result

    def reuse(self, step: Step, done: Done) -> None:
        """Takes what an earlier round made for what the only task of a step would make."""
        result = StepResult(step, [done], 1, 0.0)
        self.artifacts.watcher.finished(result)
        self.results.append(result)

    def block_tasks(self, inputs: Iterable[Mapping[str, Any]] | None = None, prefix: str = "block") -> list[Task]:
        """One task per query block, with what each block brings besides its bucket, queries and first row."""
        given = list(inputs) if inputs is not None else [{} for _ in self.tables.queries]
        return [
            Task(
                f"{prefix}-{number:05d}",
                {"bucket": number, "queries": block.path, "first_row": block.first_row, **extra},
            )
            for number, (block, extra) in enumerate(zip(self.tables.queries, given, strict=True))
        ]

    def document_tasks(self, vectors: Sequence[Shard] = (), **others: Sequence[Shard | None]) -> list[Task]:
        """One task per document shard; the key covers the contents of all that it is given and where the shard lies.

        Args:
            vectors: of each shard; empty: none.
            **others: more files of each shard, by the names of the inputs; None, or an empty list: there is none.
        """
        tasks = []
        for number, shard in enumerate(self.tables.corpus):
            inputs = {
                "corpus": shard.path,
                "vectors": vectors[number].path if vectors else None,
                "first_row": shard.first_row,
                "bucket": number,
                "shard_sha256": shard.sha256,
            }
            given = {name: files[number] if files else None for name, files in others.items()}
            inputs |= {name: file.path if file else None for name, file in given.items()}
            more = [file.sha256 for file in given.values() if file]
            key = task_key(shard.sha256, vectors[number].sha256 if vectors else None, shard.first_row, number, *more)
            tasks.append(Task(key, inputs))
        return tasks


def placed(shards: Sequence[Shard]) -> list[Shard]:
    """The same shards with first_row set to the sum of the rows before each."""
    rows, result = 0, []
    for shard in shards:
        result.append(shard.at(rows))
        rows += shard.num_rows
    return result


def paths(shards: Iterable[Shard]) -> list[str]:
    return [shard.path for shard in shards]


def contents(shards: Iterable[Shard]) -> list[str]:
    """What names shards in an identity: the checksums of their contents."""
    return [shard.sha256 for shard in shards]


def workers(config: WorkerConfig) -> Resources:
    """The resources of a stage that keeps a model or an index loaded."""
    return Resources(config.cpus, config.gpus, config.actors)
