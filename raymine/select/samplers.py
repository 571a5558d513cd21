"""Samplers: in which order the kept candidates of a query become its negatives. The first n do (select.sampling).

All are sort keys, so a whole block is sampled by one sort. Those that draw do it without a generator: a candidate's
number is element doc_row of the SplitMix64 stream (Steele, Lea and Flood 2014) that is seeded with the BLAKE2b hash of
(seed, round, query id). It does not depend on blocks, on shards, on a library's version, nor on which other candidates
there are: a stricter filter replaces only the negatives that it took.

Weights become an order by the Gumbel trick (Kool, van Hoof, Welling 2019): the n largest of log(weight) - log(-log(u)),
u uniform, are a sample of n one after the other without replacement, each with its weight's share of what is left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymine import schemas
from raymine.select.base import NOT_FOUND, Candidates
from raymine.select.kinds import kinds
from raymine.select.relative import positive_scores
from raymine.select.spread import spread_order
from raymine.select_config import SampleConfig
from raymine.topk import ranks_within
from raymine.vectors import Vectors

Rows = NDArray[np.int64]
Keys = Sequence[NDArray[np.generic]]
SPREAD_POOL = 4  # candidates that spread chooses from, per negative
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Draw:
    """What samplers go by besides the candidates.

    Args:
        config: the strategy's own keys.
        score: name of the score they go by; None: there is none, ranks decide.
        kind_score: name of the score that kinds go by.
        sources: names of the sources.
        query_seeds: uint64 [q], one per query of the block.
        first_row: query_row of the block's first query.
        vectors: of the candidates that may be drawn, by doc_row; for spread.
    """

    config: SampleConfig
    score: str | None
    kind_score: str | None
    sources: Sequence[str]
    query_seeds: NDArray[np.uint64]
    first_row: int
    vectors: Vectors | None = None


# Gives the positions that may be drawn, of those asked for (int64 [m]), and their sort keys (each [m], ascending, most
# significant first).
Sampler = Callable[[Candidates, Rows, Draw], tuple[Rows, Keys]]


def top(candidates: Candidates, rows: Rows, draw: Draw) -> tuple[Rows, Keys]:
    """Best score first, then doc_row; candidates without that score after all others, by their best rank."""
    score = _scores(candidates, rows, draw)
    return rows, _unknown_last(candidates, rows, draw, np.isnan(score), -score)


def uniform(candidates: Candidates, rows: Rows, draw: Draw) -> tuple[Rows, Keys]:
    """In the order of the query's random stream, then doc_row."""
    return rows, (_numbers(candidates, rows, draw), candidates.doc_row[rows])


def softmax(candidates: Candidates, rows: Rows, draw: Draw) -> tuple[Rows, Keys]:
    """Drawn with weights exp(score / temperature); what has no such score comes after all others, as `top` has it."""
    score = _scores(candidates, rows, draw)
    keys = -(score / draw.config.temperature + _gumbel(candidates, rows, draw))
    return rows, _unknown_last(candidates, rows, draw, np.isnan(score), keys)


def simans(candidates: Candidates, rows: Rows, draw: Draw) -> tuple[Rows, Keys]:
    """Drawn with weights exp(-a (s - p - b)^2), s the score and p the lowest positive's (SimANS, Zhou et al. 2022).

    Likeliest is what scores b more than the positive: neither easy nor, with b below 0, false. Candidates without a
    score, and those of queries whose positives have none, come after all others, as `top` has them.
    """
    score = _scores(candidates, rows, draw)
    positive = positive_scores(candidates, draw.score, "min")[rows] if draw.score else score
    distance = score - positive - draw.config.b
    keys = draw.config.a * distance**2 - _gumbel(candidates, rows, draw)
    return rows, _unknown_last(candidates, rows, draw, np.isnan(distance), keys)


def stratified(candidates: Candidates, rows: Rows, draw: Draw) -> tuple[Rows, Keys]:
    """So many from each source or of each kind (`quotas`), the best of each; then, with `fill`, the best of the rest.

    Quotas are served in their order, and a document that fits several counts for the first that has room for it.
    """
    order = _order(candidates.query_row[rows], top(candidates, rows, draw)[1])
    rows = rows[order]
    kind = kinds(candidates, rows, draw.kind_score, draw.config.semi_hard_margin, draw.sources)
    stratum = np.full(len(rows), len(draw.config.quotas), np.int64)
    for number, (name, quota) in enumerate(draw.config.quotas.items()):
        fits = candidates.rank(name)[rows] < NOT_FOUND if name in draw.sources else kind == schemas.KINDS.index(name)
        free = np.flatnonzero(fits & (stratum == len(draw.config.quotas)))
        stratum[free[ranks_within(candidates.query_row[rows[free]]) < quota]] = number
    allowed = np.full(len(rows), True) if draw.config.fill else stratum < len(draw.config.quotas)
    return rows[allowed], (stratum[allowed], np.flatnonzero(allowed))


def spread(candidates: Candidates, rows: Rows, draw: Draw) -> tuple[Rows, Keys]:
    """One after the other, by score and by unlikeness to those before (select.spread)."""
    if draw.vectors is None:
        raise ValueError("spread needs vectors")
    rows = rows[_order(candidates.query_row[rows], top(candidates, rows, draw)[1])]
    of_query, of_doc = candidates.query_row[rows], candidates.doc_row[rows]
    score = _scores(candidates, rows, draw)
    turns = spread_order(of_query, of_doc, score, draw.vectors, draw.config.n, draw.config.diversity)
    return rows, (turns, np.arange(len(rows)))


SAMPLERS: dict[str, Sampler] = {
    "top": top,
    "random": uniform,
    "softmax": softmax,
    "simans": simans,
    "stratified": stratified,
    "spread": spread,
}


def pool_of(candidates: Candidates, rows: Rows, draw: Draw) -> Rows:
    """The positions that sampling draws from: of each query the best by score, as many as the config says."""
    size = draw.config.pool or (SPREAD_POOL * draw.config.n if draw.config.strategy == "spread" else None)
    if size is None:
        return rows
    rows, keys = top(candidates, rows, draw)
    return np.sort(rows[first_slots(candidates.query_row[rows], keys, size)[0]])


def first_slots(query_row: Rows, keys: Keys, n: int) -> tuple[Rows, Rows]:
    """The first n of each query in the order of the keys.

    Args:
        query_row: int64 [m].
        keys: of a sampler, [m] each.
        n: how many at most.

    Returns:
        Positions int64 [s] in `query_row`, sorted by (query_row, slot), and their slots int64 [s].
    """
    order = _order(query_row, keys)
    slots = ranks_within(query_row[order])
    return order[slots < n], slots[slots < n]


def _order(query_row: Rows, keys: Keys) -> Rows:
    return np.lexsort([*reversed(keys), query_row])


def _scores(candidates: Candidates, rows: Rows, draw: Draw) -> NDArray[np.float64]:
    return candidates.score(draw.score)[rows] if draw.score else np.full(len(rows), np.nan)


def _unknown_last(
    candidates: Candidates, rows: Rows, draw: Draw, is_unknown: NDArray[np.bool_], keys: NDArray[np.float64]
) -> Keys:
    rank = np.where(is_unknown, candidates.best_rank(draw.sources)[rows], 0)
    return is_unknown, np.where(is_unknown, 0, keys), rank, candidates.doc_row[rows]


def _numbers(candidates: Candidates, rows: Rows, draw: Draw) -> NDArray[np.uint64]:
    seeds = draw.query_seeds[candidates.query_row[rows] - draw.first_row]
    return split_mix(seeds, candidates.doc_row[rows])


def _gumbel(candidates: Candidates, rows: Rows, draw: Draw) -> NDArray[np.float64]:
    """Standard Gumbel numbers, float64 [m]: -log(-log(u)), u the middles of 2**53 equal parts of (0, 1)."""
    chance = ((_numbers(candidates, rows, draw) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(-np.log(-np.log(chance)))


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
