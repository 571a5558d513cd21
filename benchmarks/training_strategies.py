"""The strategies that benchmarks/training_gain.py compares: where negatives come from, how they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NEGATIVES, ROUNDS = 8, 5
MARGIN = 0.05


@dataclass(frozen=True)
class Strategy:
    """A way to choose negatives.

    Args:
        retrieve: of raymine's config; None: raymine does not mine.
        filters: of raymine's config.
        sample: of raymine's config, besides n.
        negatives: for each query; None: as many as the kind of embedder has.
        rounds: how often it mines; each round trains an equal share of the steps.
        is_masked: what may be an answer by the round's verdicts is masked among a batch's other rows.
        has_teacher: a teacher scores the candidates.
        is_distilled: its scores are learned beside the ranking.
        group_size: of the queries in a batch, so many resemble each other; None: a batch is drawn by chance.
        is_limit: every document of the corpus is a negative in every step; for static embedders only.
    """

    retrieve: Mapping[str, Any] | None = None
    filters: Sequence[Mapping[str, Any]] = ()
    sample: Mapping[str, Any] = field(default_factory=dict)
    negatives: int | None = None
    rounds: int = 1
    is_masked: bool = False
    has_teacher: bool = False
    is_distilled: bool = False
    group_size: int | None = None
    is_limit: bool = False


IN_BATCH, PEER = "in-batch only", "sentence-transformers, relative margin"
MORE = f"random, {4 * NEGATIVES} of them"
MASKED, PAIRS = "raymine, rounds, masked", "raymine, ten rounds, pairs, drawn"
# What is compared with the goals.
OURS = (MASKED, PAIRS)
# Recall@10, at least so many times as high.
GOALS = {"random": 1.1, PEER: 1.03}
DEPTH = 100
DENSE = {"dense": {"k": DEPTH}}
# Candidates drawn by chance make up for those that the filter takes: else 8 % of wordnet's queries, those whose
# positives score lowest, would not be trained on.
FILTERED: dict[str, Any] = {
    "retrieve": {**DENSE, "random": {"k": 10}},
    "filters": [{"kind": "max_relative_score", "of_positive": 1 - MARGIN, "score": "dense", "spare_random": True}],
    "sample": {"strategy": "top", "score": "dense"},
}
# Or what ranks behind the first DEPTH makes up for them: of an embedder that knows little, so many positives score
# below all of those that two of three negatives above come by chance.
FIRST_JUDGED: dict[str, Any] = {
    "retrieve": {"dense": {"k": DEPTH + 50}},
    "filters": [{"kind": "max_relative_score", "of_positive": 1 - MARGIN, "score": "dense", "spare_beyond": DEPTH}],
}
DRAWN = {**FILTERED, "sample": {"strategy": "random", "score": "dense", "pool": 5}}
# Or a teacher judges, that has learned the queries' answers: nothing is learned of a query whose positive it puts below
# eight candidates or more, and what it puts above the positive is no negative. Nothing makes up for what is taken.
JUDGED: dict[str, Any] = {
    "retrieve": {"dense": {"k": 30}},
    "filters": [
        {"kind": "consistency", "n": 8, "score": "teacher"},
        {"kind": "margin", "value": 0.0, "score": "teacher"},
    ],
    "sample": {"strategy": "top", "score": "dense"},
    "has_teacher": True,
}
# Adding a strategy: a line.
STRATEGIES = {
    IN_BATCH: Strategy(),
    "random": Strategy({"random": {"k": 10}}, sample={"strategy": "random"}),
    MORE: Strategy({"random": {"k": 5 * NEGATIVES}}, sample={"strategy": "random"}, negatives=4 * NEGATIVES),
    "bm25": Strategy({"bm25": {"k": DEPTH}}),
    "naive": Strategy(DENSE),
    PEER: Strategy(),
    "raymine": Strategy(**FILTERED),
    "raymine, first judged": Strategy(**FIRST_JUDGED),
    "raymine, rounds": Strategy(**FILTERED, rounds=ROUNDS),
    "raymine, rounds, first judged": Strategy(**FIRST_JUDGED, rounds=ROUNDS),
    MASKED: Strategy(**FILTERED, rounds=ROUNDS, is_masked=True),
    PAIRS: Strategy(**DRAWN, rounds=2 * ROUNDS, is_masked=True, group_size=2),
    "raymine, judged by a teacher": Strategy(**JUDGED),
    # A teacher scores all that is left of the candidates: 1.1 million pairs of all rounds' queries with DEPTH.
    "raymine, rounds, distilled": Strategy(
        **{**FILTERED, "retrieve": {"dense": {"k": 30}, "random": {"k": 10}}},
        rounds=ROUNDS,
        has_teacher=True,
        is_distilled=True,
    ),
    "every document, no choice": Strategy(DENSE, is_limit=True),
}
# All that strategies need with the first embedder, mined once.
SHARED = Strategy({**DENSE, "bm25": {"k": DEPTH}})
