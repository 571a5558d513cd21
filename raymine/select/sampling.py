"""Sampling: which of the kept candidates become negatives, in which slots, and of which kind.

Both samplers are sort keys, so a whole block is sampled by one sort. The random one draws without a generator: the key
of a candidate is element doc_row of the SplitMix64 stream (Steele, Lea and Flood 2014) that is seeded with the BLAKE2b
hash of (seed, round, query id), and the n lowest keys win. That makes a uniform sample without repeats, which does not
depend on blocks, on shards, on a library's version, nor on which other candidates there are: a stricter filter
replaces only the negatives that it took.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.config import SampleConfig
from raymine.select.base import NOT_FOUND, Candidates, Mask
from raymine.select.relative import positive_scores
from raymine.topk import ranks_within

Rows = NDArray[np.int64]
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
RANDOM, RANKING_ERROR, SEMI_HARD, HARD = (
    schemas.KINDS.index(k) for k in ("random", "ranking_error", "semi_hard", "hard")
)


class Draw:
    """What samplers go by besides the candidates.

    Args:
        score: name of the score that `top` goes by; None: there is none, ranks decide.
        sources: names of the sources.
        query_seeds: uint64 [q], one per query of the block.
        first_row: query_row of the block's first query.
    """

    def __init__(
        self, score: str | None, sources: Sequence[str], query_seeds: NDArray[np.uint64], first_row: int
    ) -> None:
        self.score, self.sources, self.query_seeds, self.first_row = score, sources, query_seeds, first_row


# Gives the sort keys (each [m], ascending, most significant first) of the candidates at the positions int64 [m].
Sampler = Callable[[Candidates, Rows, Draw], Sequence[NDArray[np.generic]]]


def by_score(candidates: Candidates, rows: Rows, draw: Draw) -> Sequence[NDArray[np.generic]]:
    """Best score first, then doc_row; candidates without that score after all others, by their best rank."""
    unknown_score = np.full(len(candidates), np.nan)
    score = (candidates.score(draw.score) if draw.score else unknown_score)[rows]
    is_unknown = np.isnan(score)
    rank = np.where(is_unknown, candidates.best_rank(draw.sources)[rows], 0)
    return is_unknown, np.where(is_unknown, 0, -score), rank, candidates.doc_row[rows]


def by_draw(candidates: Candidates, rows: Rows, draw: Draw) -> Sequence[NDArray[np.generic]]:
    """In the order of the query's random stream, then doc_row."""
    seeds = draw.query_seeds[candidates.query_row[rows] - draw.first_row]
    return split_mix(seeds, candidates.doc_row[rows]), candidates.doc_row[rows]


def split_mix(seeds: NDArray[np.uint64], positions: Rows) -> NDArray[np.uint64]:
    """Elements of SplitMix64 streams: uint64 [m] from seeds uint64 [m] and positions int64 [m]."""
    mixed = seeds + (positions.astype(np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def query_seeds(seed: int, round_number: int, query_ids: Sequence[str]) -> NDArray[np.uint64]:
    """Seeds of the queries' random streams, uint64 [q]: they depend on (seed, round, query id) alone."""
    texts = (json.dumps([seed, round_number, query_id]) for query_id in query_ids)
    hashes = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def first_slots(query_row: Rows, keys: Sequence[NDArray[np.generic]], n: int) -> tuple[Rows, Rows]:
    """The first n of each query in the order of the keys.

    Args:
        query_row: int64 [m].
        keys: of a sampler, [m] each.
        n: how many at most.

    Returns:
        Positions int64 [s] in `query_row`, sorted by (query_row, slot), and their slots int64 [s].
    """
    order = np.lexsort([*reversed(keys), query_row])
    slots = ranks_within(query_row[order])
    return order[slots < n], slots[slots < n]


def kinds(candidates: Candidates, rows: Rows, score: str | None, config: SampleConfig, sources: Sequence[str]) -> Rows:
    """How hard each negative is, against the lowest positive of its query.

    Args:
        candidates: the block.
        rows: int64 [m], positions of the negatives.
        score: which score decides; None, or unknown for the negative or for all positives: it counts as hard.
        config: its semi_hard_margin.
        sources: names of the sources; what only `random` found is of the kind random.

    Returns:
        int64 [m], positions in schemas.KINDS.
    """
    kind = np.full(len(rows), HARD, np.int64)
    if score is not None:
        own, positive = candidates.score(score)[rows], positive_scores(candidates, score, "min")[rows]
        kind[own > positive - np.abs(positive) * config.semi_hard_margin] = SEMI_HARD
        kind[own > positive] = RANKING_ERROR
    kind[_only_random(candidates, sources)[rows]] = RANDOM
    return kind


def _only_random(candidates: Candidates, sources: Sequence[str]) -> Mask:
    if "random" not in sources:
        return np.zeros(len(candidates), np.bool_)
    others = [source for source in sources if source != "random"]
    is_found = candidates.best_rank(others) < NOT_FOUND
    return np.asarray((candidates.rank("random") < NOT_FOUND) & ~is_found)


def negatives_table(candidates: Candidates, rows: Rows, slots: Rows, kind: Rows, sources: Sequence[str]) -> pa.Table:
    """The negatives as schemas.negatives(sources), in the order of `rows`."""
    schema = schemas.negatives(sources)
    taken = candidates.table.take(pa.array(rows))
    made = {
        "slot": pa.array(slots.astype(np.int16)),
        "kind": pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int32)), pa.array(schemas.KINDS)),
        "sources": _found_by(candidates, rows, sources).cast(schema.field("sources").type),
    }
    return pa.Table.from_arrays([made[n] if n in made else taken[n] for n in schema.names], schema=schema)


def _found_by(candidates: Candidates, rows: Rows, sources: Sequence[str]) -> pa.ListArray:
    """Per row the names of the sources that found it."""
    if not sources:
        return pa.array([[]] * len(rows), pa.list_(pa.string()))
    is_found = np.stack([candidates.rank(source)[rows] < NOT_FOUND for source in sources], axis=1)
    offsets = np.r_[0, np.cumsum(is_found.sum(axis=1))].astype(np.int32)
    names = pa.array(list(sources), pa.string()).take(pa.array(np.nonzero(is_found)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)
