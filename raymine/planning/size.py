"""How large a round is, in the units that drive its steps, and into how many tasks they are cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raymine.config import Config
from raymine.pipeline.base import Tables
from raymine.pipeline.sizes import (
    Limits,
    block_ranges,
    bm25_limits,
    exact_limits,
    ivfpq_limits,
    parts,
    piece_documents,
    stored_bytes,
)
from raymine.storage import Shard

FIRST_QUERIES, DOCUMENTS_PER_CANDIDATE, FEWEST_DOCUMENTS = 16, 2, 256
GROWTH = 4
SHARE = 10  # a sample is at most a tenth of the round, so planning never takes as long as mining
LISTS_PER_ROOT = 4  # 4 sqrt(n) centroids, and each document is compared with all of them


@dataclass(frozen=True)
class Size:
    """How large a round is.

    Args:
        documents: of each shard.
        queries: of each block.
        candidates: of all queries, united.
        scored: pairs that the teacher is given.
        dim: of the vectors; 0: none.
        selected: documents that a query trains on, its negatives and its positives.
    """

    documents: Sequence[int]
    queries: Sequence[int]
    candidates: float
    scored: float
    dim: int = 0
    selected: float = 0.0

    @property
    def units(self) -> dict[str, float]:
        """What drives steps (raymine.planning.fit), but for their tasks."""
        num_documents, num_queries = float(sum(self.documents)), float(sum(self.queries))
        return {
            "documents": num_documents,
            "queries": num_queries,
            "pairs": num_documents * num_queries,
            "candidates": self.candidates,
            "scored": self.scored,
            "lists": num_documents * LISTS_PER_ROOT * math.sqrt(num_documents),
            "texts": sum(_distinct(num_documents, self.selected * count) for count in self.queries),
        }

    def tasks(self, name: str, spread: str, config: Config) -> int:
        """Tasks of a step.

        Args:
            name: of the step.
            spread: what a task is (see fit.Rate).
            config: of the round.
        """
        if spread != "parts":
            return {"shards": len(self.documents), "blocks": len(self.queries), "one": 1}[spread]
        if name == "search_shards":
            return len(self.documents)
        shards, blocks = _shards(self.documents), _shards(self.queries)
        limits = search_limits(name, config, self.dim)
        num_parts = len(parts(shards, limits.documents))
        return num_parts if name in ONE_RANGE else num_parts * len(block_ranges(blocks, shards, limits))


ONE_RANGE = ("search_sample", "build_part", "build_lists")  # cut by documents alone


def search_limits(name: str, config: Config, dim: int) -> Limits:
    """What bounds a task of a search step."""
    memory_gb, dense = config.resources.memory_gb, config.retrieve.dense
    if name == "search_bm25":
        return bm25_limits(memory_gb)
    if name in ("search_part", "build_part"):
        return ivfpq_limits(memory_gb, dim, config.index.code_dims)
    assert dense is not None
    if name == "build_lists":
        return Limits(piece_documents(memory_gb, dim, stored_bytes(config)), math.inf)
    return exact_limits(memory_gb, dim, dense.k)


def _distinct(num_documents: float, num_drawn: float) -> float:
    """Documents among so many draws, each as likely as the other: what several queries of a block ask for is one."""
    return num_documents * -math.expm1(-num_drawn / max(num_documents, 1))


def of_tables(tables: Tables, candidates: float, scored: float, dim: int, negatives: int = 0) -> Size:
    """The size of a round whose inputs are read, and that selects so many negatives for each query."""
    documents, queries = ([shard.num_rows for shard in table] for table in (tables.corpus, tables.queries))
    return Size(documents, queries, candidates, scored, dim, negatives + positives_per_query(tables))


def positives_per_query(tables: Tables) -> float:
    """Positives of each query, on average."""
    return sum(shard.num_rows for shard in tables.positives) / max(1, tables.num_queries)


def cut(count: int, most: int) -> list[int]:
    """Rows of each shard, at most so many, of a table of `count` rows."""
    full, rest = divmod(count, most)
    return [most] * full + [rest] * bool(rest)


def _shards(rows: Sequence[int]) -> list[Shard]:
    return [Shard("", count, 0, "") for count in rows]


@dataclass(frozen=True)
class Overlap:
    """How many candidates a query has once its sources are united.

    Sources agree on fewer documents the more there are, by about as many each time the corpus doubles.

    Args:
        per_query: in the largest sample.
        per_doubling: more of them for each doubling of the documents.
        documents: of that sample.
        scored_share: of the candidates, those that the teacher is given.
    """

    per_query: float
    per_doubling: float
    documents: int
    scored_share: float

    def candidates(self, num_documents: int, num_queries: int, most: float) -> float:
        """Candidates of all queries.

        Args:
            num_documents: of the corpus.
            num_queries: to mine for.
            most: candidates of a query, if no two sources found the same, and its positives.
        """
        doublings = math.log2(max(num_documents, 1) / max(self.documents, 1))
        return num_queries * min(most, max(0.0, self.per_query + self.per_doubling * doublings))


def overlap(few: Mapping[str, float], more: Mapping[str, float], largest: Mapping[str, float]) -> Overlap:
    """The overlap seen in three samples: documents, queries, candidates and scored of each.

    Args:
        few, more: of the same queries, over fewer and more documents.
        largest: whose candidates per query count.
    """
    doublings = math.log2(more["documents"] / few["documents"])
    growth = (_per_query(more) - _per_query(few)) / doublings if doublings else 0.0
    share = largest["scored"] / max(largest["candidates"], 1)
    return Overlap(_per_query(largest), max(0.0, growth), int(largest["documents"]), share)


def _per_query(sample: Mapping[str, float]) -> float:
    return sample["candidates"] / max(sample["queries"], 1)


def candidates_per_query(config: Config) -> int:
    """What the sources find at most, before their union."""
    retrieve = config.retrieve
    return sum(source.k for source in (retrieve.dense, retrieve.bm25, retrieve.random, retrieve.run) if source)


def sample_sizes(num_documents: int, num_queries: int, num_candidates: int) -> list[tuple[int, int]]:
    """Documents and queries of samples that grow up to a share of the round, two at least.

    Args:
        num_documents, num_queries: of the round.
        num_candidates: of each query: a sample has more documents than that, or all sources would find the same.
    """
    first = max(FEWEST_DOCUMENTS, DOCUMENTS_PER_CANDIDATE * num_candidates), FIRST_QUERIES
    whole = num_documents, num_queries
    most = [min(every, max(least, every // SHARE)) for every, least in zip(whole, first, strict=True)]
    sizes = [(min(first[0], most[0]), min(first[1], most[1]))]
    while sizes[-1] != (most[0], most[1]):
        sizes.append((min(GROWTH * sizes[-1][0], most[0]), min(GROWTH * sizes[-1][1], most[1])))
    if len(sizes) == 1:
        sizes.insert(0, (max(1, most[0] // GROWTH), max(1, most[1] // GROWTH)))
    return sizes
