"""Sampling: order, chance and its independence, kinds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from select_cases import SOURCES, positives_of, random_rows, row, verdicts

from raymine.select.base import Candidates
from raymine.select.judged import Selection, judge
from raymine.select.kinds import kinds
from raymine.select.samplers import Draw, first_slots, query_seeds, split_mix, top, uniform
from raymine.select.stage import select
from raymine.select_config import SampleConfig

FAR = 10**12


def selection(sources=SOURCES, score="teacher", seed=0, round_number=1, filters=(), **sample):
    return Selection(list(filters), SampleConfig(**sample), seed, round_number, sources, score)


def draw(score, sources, seeds, **config):
    return Draw(SampleConfig(**config), score, score, sources, seeds, 0)


def sampled(rows, query_ids, first_row=0, **how):
    """(query_row, doc_row) of the negatives, in the order of the table."""
    table = select(judge(verdicts(rows), None, selection(**how)), query_ids, first_row, selection(**how)).negatives
    return list(zip(table["query_row"].to_pylist(), table["doc_row"].to_pylist(), strict=True))


def best_rank(one):
    ranks = [(s, one.get(f"{s}_rank")) for s in SOURCES]
    return min([rank + (FAR if s == "random" else 0) for s, rank in ranks if rank is not None], default=FAR * FAR)


def top_oracle(rows, score, n):
    """Query by query: best score first, ties by doc_row; the unscored last, by rank, then doc_row."""
    expected = []
    for query in sorted({one["query_row"] for one in rows}):
        kept = [one for one in rows if one["query_row"] == query and one["dropped_by"] is None]
        known = [one for one in kept if one[score] is not None]
        unknown = [one for one in kept if one[score] is None]
        known.sort(key=lambda one: (-one[score], one["doc_row"]))
        unknown.sort(key=lambda one: (best_rank(one), one["doc_row"]))
        expected += [(query, one["doc_row"]) for one in [*known, *unknown][:n]]
    return expected


@pytest.mark.parametrize("score", ["teacher", "dense", "bm25"])
@pytest.mark.parametrize("seed", range(5))
def test_top_takes_the_best(seed, score):
    """In the order of the score, of one default or of the sample's own."""
    rows, ids = random_rows(seed), [str(i) for i in range(6)]
    expected = top_oracle(rows, f"{score}_score", 4)
    assert sampled(rows, ids, score=score, n=4) == expected
    how = Selection([], SampleConfig(n=4, score=score), 0, 1, SOURCES, "dense")
    table = select(judge(verdicts(rows), None, how), ids, 0, how).negatives
    assert list(zip(table["query_row"].to_pylist(), table["doc_row"].to_pylist(), strict=True)) == expected


def test_top_without_any_score_goes_by_rank():
    """Candidates of the random source alone: in the order they were drawn, after what another source found."""
    rows = [row(0, 9, random_rank=0), row(0, 5, random_rank=1), row(0, 7, bm25_rank=3)]
    assert sampled(rows, ["q"], score=None, n=3) == [(0, 7), (0, 9), (0, 5)]


def test_random_depends_on_seed_round_and_query_id_alone():
    """Not on where the query lies, nor on its block; another seed or round draws anew."""
    rows = [row(q, doc, dense=0.0) for q in range(20) for doc in range(50)]
    ids = [f"query {q}" for q in range(20)]
    whole = sampled(rows, ids, strategy="random", n=5)
    parts = [
        pair
        for q in range(20)
        for pair in sampled([one for one in rows if one["query_row"] == q], [ids[q]], q, strategy="random", n=5)
    ]
    assert whole == parts
    assert whole != sampled(rows, ids, strategy="random", n=5, seed=1)
    assert whole != sampled(rows, ids, strategy="random", n=5, round_number=2)
    assert len(set(whole)) == 100


def test_random_replaces_only_what_a_filter_took():
    """Fewer candidates change nothing about the draws of those that are left."""
    rows = [row(0, doc, dense=0.0) for doc in range(50)]
    first = sampled(rows, ["q"], strategy="random", n=5)
    fewer = [one for one in rows if one["doc_row"] != first[2][1]]
    second = sampled(fewer, ["q"], strategy="random", n=5)
    assert second[:4] == [*first[:2], *first[3:]]


def test_random_is_uniform():
    """Each of 20 documents is drawn as often as another: chi-square of 4,000 queries, and slots are drawn alike."""
    seeds = query_seeds(0, 1, [str(i) for i in range(4000)])
    table = verdicts([])
    query, doc = np.repeat(np.arange(4000), 20), np.tile(np.arange(20), 4000)
    candidates = Candidates(table)
    candidates.__dict__.update(query_row=query, doc_row=doc)
    positions, slots = first_slots(query, uniform(candidates, np.arange(80000), draw(None, [], seeds))[1], 5)
    for slot in range(5):
        counts = np.bincount(doc[positions[slots == slot]], minlength=20)
        assert ((counts - 200) ** 2 / 200).sum() < 43.8  # 0.1 % quantile of chi-square with 19 degrees of freedom


def test_split_mix_is_the_published_generator():
    """First outputs of SplitMix64 with seed 1234567, as its reference implementation prints them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    got = split_mix(np.full(3, 1234567, np.uint64), np.arange(3))
    assert got.tolist() == expected


def test_query_ids_are_hashed_apart():
    """Seed and round cannot run into the id."""
    assert query_seeds(1, 11, ["a"])[0] != query_seeds(11, 1, ["a"])[0]


def kind_oracle(one, rows, score, margin):
    ranks = {s: one.get(f"{s}_rank") for s in SOURCES}
    if ranks["random"] is not None and ranks["dense"] is None and ranks["bm25"] is None:
        return "random"
    known = [p[f"{score}_score"] for p in positives_of(rows, one["query_row"]) if p[f"{score}_score"] is not None]
    own = one[f"{score}_score"]
    if own is None or not known:
        return "hard"
    lowest = min(known)
    if own > lowest:
        return "ranking_error"
    return "semi_hard" if own > lowest - abs(lowest) * margin else "hard"


@pytest.mark.parametrize("margin", [0, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_kinds_and_columns_are_those_of_the_oracle(seed, margin):
    """Kind, slot, sources and scores of every negative."""
    rows = random_rows(seed)
    ids = [str(i) for i in range(6)]
    how = selection(n=100, semi_hard_margin=margin)
    table = select(judge(verdicts(rows), None, how), ids, 0, how).negatives
    by_pair = {(one["query_row"], one["doc_row"]): one for one in rows}
    slots = {}
    for negative in table.to_pylist():
        one = by_pair[negative["query_row"], negative["doc_row"]]
        assert negative["kind"] == kind_oracle(one, rows, "teacher", margin)
        assert negative["sources"] == [s for s in SOURCES if one.get(f"{s}_rank") is not None]
        assert negative["teacher_score"] == one["teacher_score"] and negative["bm25_score"] == one["bm25_score"]
        assert negative["slot"] == slots.get(negative["query_row"], 0)
        slots[negative["query_row"]] = negative["slot"] + 1
    assert table.num_rows == sum(one["dropped_by"] is None for one in rows)


def test_kinds_without_a_score_or_a_random_source():
    """Nothing is known, so all is merely hard."""
    rows = [row(0, 1, relevance=1), row(0, 2, bm25_rank=0)]
    candidates = Candidates(verdicts(rows, ["bm25"]))
    assert kinds(candidates, np.array([1]), None, 0.05, ["bm25"]).tolist() == [2]


def test_equal_scores_go_by_doc_row():
    """The one tie rule, whatever the order of the candidates."""
    docs = random.Random(0).sample(range(100), 10)
    rows = [row(0, doc, dense=1.0) for doc in docs]
    assert sampled(rows, ["q"], score="dense", n=10) == [(0, doc) for doc in sorted(docs)]
    _, keys = top(Candidates(verdicts(rows)), np.arange(10), draw("dense", SOURCES, np.zeros(1, np.uint64)))
    assert first_slots(np.zeros(10, np.int64), keys, 3)[1].tolist() == [0, 1, 2]
