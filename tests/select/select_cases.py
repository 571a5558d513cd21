"""Candidates for the tests of raymine.select, from plain rows, and a plain-Python oracle of the filters."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa

from raymine import schemas
from raymine.select_config import FilterConfig

SOURCES = ["dense", "bm25", "random"]
TRAITS = ["cluster", "near_positive", "near_better", "meta_topic"]
Row = dict[str, Any]


def row(query: int, doc: int, **columns: Any) -> Row:
    """A candidate: `dense`, `bm25` and `teacher` are its scores, the other columns go by their own names."""
    made = {"query_row": query, "doc_row": doc, "dropped_by": None}
    for name, value in columns.items():
        made[f"{name}_score" if name in ("dense", "bm25", "teacher") else name] = value
    if made.get("relevance") is not None and made["relevance"] > 0:
        made["dropped_by"] = "positive"
    return made


def verdicts(rows: list[Row], sources: list[str] = SOURCES) -> pa.Table:
    """A verdicts table from rows, sorted."""
    ordered = sorted(rows, key=lambda one: (one["query_row"], one["doc_row"]))
    return pa.Table.from_pylist(ordered, schema=schemas.verdicts(sources, TRAITS))


def random_rows(seed: int, num_queries: int = 6, first_row: int = 0) -> list[Row]:
    """Candidates with gaps: unknown scores and ranks, several positives or none with a score, ties, negative scores."""
    rng = random.Random(seed)
    rows = []
    for query in range(first_row, first_row + num_queries):
        docs = rng.sample(range(1000), rng.randint(2, 25))
        for number, doc in enumerate(docs):
            score = rng.choice([None, rng.randint(-8, 8) / 4, rng.randint(-8, 8) / 4])
            rows.append(
                row(
                    query,
                    doc,
                    relevance=1 if number < rng.choice([1, 1, 2, 3]) else rng.choice([None, None, 0]),
                    dense=score,
                    teacher=rng.choice([None, *[rng.randint(-8, 8) / 2] * 4]),
                    bm25=rng.choice([None, rng.randint(0, 20) / 2]),
                    dense_rank=rng.choice([None, rng.randint(0, 30)]),
                    bm25_rank=rng.choice([None, rng.randint(0, 30)]),
                    random_rank=rng.choice([None, rng.randint(0, 30)]),
                    cluster=rng.choice([None, rng.randint(0, 3)]),
                    meta_topic=rng.choice([None, rng.randint(0, 2)]),
                    near_positive=rng.choice([None, None, rng.randint(4, 8) / 8]),
                    near_better=rng.choice([None, None, rng.randint(4, 8) / 8]),
                )
            )
    return rows


def positives_of(rows: list[Row], query: int) -> list[Row]:
    return [one for one in rows if one["query_row"] == query and (one.get("relevance") or 0) > 0]


def limit(config: FilterConfig, positive: float) -> float:
    if config.kind == "margin":
        return positive - config.value
    return positive - abs(positive) * (1 - config.of_positive)


def is_spared(config: FilterConfig, one: Row) -> bool:
    """Whether the filter does not look at a candidate."""
    found = [one.get(f"{source}_rank") for source in SOURCES if source != "random"]
    found = [rank for rank in found if rank is not None]
    if getattr(config, "spare_beyond", None) is not None:
        return all(rank >= config.spare_beyond for rank in found)
    return getattr(config, "spare_random", False) and one.get("random_rank") is not None and not found


def passes_for(config: FilterConfig, one: Row, positive: Row) -> bool:
    """Whether a candidate may stand beside a positive."""
    if is_spared(config, one):
        return True
    own, other = one.get(f"{config.score}_score"), positive.get(f"{config.score}_score")
    return own is None or other is None or not own > limit(config, other)


def goes(config: FilterConfig, one: Row, rows: list[Row]) -> bool:
    """Whether a filter takes a candidate, one candidate at a time."""
    if is_spared(config, one):
        return False
    if config.kind in ("max_score", "min_score"):
        score = one.get(f"{config.score}_score")
        if score is None:
            return config.kind == "min_score"
        return score > config.value if config.kind == "max_score" else score < config.value
    if config.kind in ("skip_top", "rank_range"):
        rank = one.get(f"{config.source}_rank")
        if rank is None:
            return config.kind == "rank_range"
        return rank < config.n if config.kind == "skip_top" else not config.start <= rank < config.stop
    positives = positives_of(rows, one["query_row"])
    if config.kind == "near_duplicate":
        return any((one.get(name) or 0) >= config.threshold for name in ("near_positive", "near_better"))
    if config.kind in ("other_cluster", "same_source_group"):
        name = f"meta_{config.column}" if config.column else "cluster"
        known = [positive[name] for positive in positives if positive.get(name) is not None]
        shares = one.get(name) is not None and one[name] in known
        return bool(known) and not shares if getattr(config, "keep", "other") == "same" else shares
    scores = {doc["doc_row"]: doc.get(f"{config.score}_score") for doc in rows if doc["query_row"] == one["query_row"]}
    of_positives = [scores.pop(positive["doc_row"]) for positive in positives]
    if config.kind == "percentile_band":
        if config.over == "all":
            scores = {id(doc): doc.get(f"{config.score}_score") for doc in rows if not (doc.get("relevance") or 0) > 0}
            scores[one["doc_row"]] = scores.pop(id(one), None)
        known = [score for score in scores.values() if score is not None]
        own = scores.get(one["doc_row"])
        if own is None:
            return False
        percentile = sum(score < own for score in known) / (len(known) - 1) if len(known) > 1 else 0.5
        return not config.low <= percentile <= config.high
    if config.kind == "consistency":
        best = max((score for score in of_positives if score is not None), default=None)
        return best is not None and sum(score is not None and score > best for score in scores.values()) >= config.n
    if config.against == "each":
        return bool(positives) and not any(passes_for(config, one, positive) for positive in positives)
    known = [p[f"{config.score}_score"] for p in positives if p.get(f"{config.score}_score") is not None]
    own = one.get(f"{config.score}_score")
    if not known or own is None:
        return False
    return own > limit(config, min(known) if config.against == "min" else max(known))
