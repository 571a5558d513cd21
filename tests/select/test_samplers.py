"""softmax, simans and stratified against plain Python, query by query; that chance has the weights it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from select_cases import SOURCES, positives_of, random_rows, row
from test_sampling import kind_oracle, sampled, top_oracle

from raymine.select.samplers import query_seeds
from raymine.select_config import SampleConfig

IDS = [str(number) for number in range(6)]
MASK = 2**64 - 1


def gumbel(seed, position):
    """-log(-log(u)) of one element of a SplitMix64 stream, in Python's integers."""
    mixed = (seed + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    mixed ^= mixed >> 31
    return -math.log(-math.log(((mixed >> 11) + 0.5) / 2**53))


def drawn_oracle(rows, n, log_weight):
    """Query by query: the highest log weight plus Gumbel number first; what has no weight last, as top has it."""
    expected = []
    for query in sorted({one["query_row"] for one in rows}):
        kept = [one for one in rows if one["query_row"] == query and one["dropped_by"] is None]
        weights = [(log_weight(one), one) for one in kept]
        seed = int(query_seeds(0, 1, [IDS[query]])[0])
        known = [
            (-(weight + gumbel(seed, one["doc_row"])), one["doc_row"]) for weight, one in weights if weight is not None
        ]
        last = [one | {"teacher_score": None} for weight, one in weights if weight is None]
        unknown = [doc for _, doc in top_oracle(last, "teacher_score", n)]
        expected += [(query, doc) for doc in [*(doc for _, doc in sorted(known)), *unknown][:n]]
    return expected


@pytest.mark.parametrize("temperature", [0.1, 1, 20])
@pytest.mark.parametrize("seed", range(4))
def test_softmax_is_that_of_the_oracle(seed, temperature):
    rows = random_rows(seed)

    def log_weight(one):
        return None if one["teacher_score"] is None else one["teacher_score"] / temperature

    assert sampled(rows, IDS, strategy="softmax", temperature=temperature, n=4) == drawn_oracle(rows, 4, log_weight)


@pytest.mark.parametrize("a, b", [(0.5, 0), (3, -1)])
@pytest.mark.parametrize("seed", range(4))
def test_simans_is_that_of_the_oracle(seed, a, b):
    rows = random_rows(seed)

    def log_weight(one):
        known = [p["teacher_score"] for p in positives_of(rows, one["query_row"]) if p["teacher_score"] is not None]
        if one["teacher_score"] is None or not known:
            return None
        return -a * (one["teacher_score"] - min(known) - b) ** 2

    assert sampled(rows, IDS, strategy="simans", a=a, b=b, n=4) == drawn_oracle(rows, 4, log_weight)


def test_softmax_draws_with_its_weights():
    """The first of 6,000 draws of five scores has the shares of softmax; the second those of what is left."""
    scores, temperature, count = [0.0, 0.5, 1.0, 1.5, 2.0], 0.7, 6000
    rows = [row(query, doc, dense=score) for query in range(count) for doc, score in enumerate(scores)]
    ids = [f"query {number}" for number in range(count)]
    pairs = sampled(rows, ids, strategy="softmax", temperature=temperature, n=2, score="dense")
    docs = np.array([doc for _, doc in pairs]).reshape(-1, 2)
    weights = np.exp(np.array(scores) / temperature)
    shares = weights / weights.sum()
    second = [sum(shares[i] * shares[j] / (1 - shares[i]) for i in range(5) if i != j) for j in range(5)]
    for slot, expected in enumerate([shares, np.array(second)]):
        found = np.bincount(docs[:, slot], minlength=5)
        assert ((found - count * expected) ** 2 / (count * expected)).sum() < 18.5  # 0.1 % quantile, 4 degrees


def stratified_oracle(rows, quotas, n, fill):
    expected = []
    for query in sorted({one["query_row"] for one in rows}):
        left = [
            doc for _, doc in top_oracle([one for one in rows if one["query_row"] == query], "teacher_score", 10**6)
        ]
        by_doc = {one["doc_row"]: one for one in rows if one["query_row"] == query}
        taken = []
        for name, quota in quotas.items():
            fits = [
                doc
                for doc in left
                if (by_doc[doc].get(f"{name}_rank") is not None if name in SOURCES else True)
                and (name in SOURCES or kind_oracle(by_doc[doc], rows, "teacher", 0.05) == name)
            ][:quota]
            taken += fits
            left = [doc for doc in left if doc not in fits]
        expected += [(query, doc) for doc in [*taken, *(left if fill else [])][:n]]
    return expected


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize(
    "quotas", [{"dense": 2, "bm25": 1, "random": 1}, {"bm25": 4}, {"hard": 2, "semi_hard": 1, "random": 2}], ids=str
)
@pytest.mark.parametrize("seed", range(4))
def test_stratified_is_that_of_the_oracle(seed, quotas, fill):
    """Quotas in their order, each document once, the best of each; the rest only with `fill`."""
    rows = random_rows(seed)
    got = sampled(rows, IDS, strategy="stratified", quotas=quotas, fill=fill, n=6)
    assert got == stratified_oracle(rows, quotas, 6, fill)


def test_a_document_of_several_sources_counts_once():
    """For the first quota that has room: the other source gives its next."""
    rows = [
        row(0, 1, dense_rank=0, bm25_rank=0, teacher=9.0),
        row(0, 2, bm25_rank=1, teacher=8.0),
        row(0, 3, dense_rank=1, teacher=7.0),
    ]
    quotas = {"dense": 1, "bm25": 1}
    assert sampled(rows, ["q"], strategy="stratified", quotas=quotas, fill=False, n=2) == [(0, 1), (0, 2)]


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"temperature": 0.5}, "`temperature` goes with `strategy: softmax`, not with top"),
        ({"strategy": "stratified"}, "`quotas` ask for 0 negatives"),
        ({"strategy": "stratified", "quotas": {"dense": 9}}, "`quotas` ask for 9 negatives, expected 1 to n = 8"),
        ({"strategy": "stratified", "quotas": {"sparse": 1}}, "quotas"),
    ],
    ids=str,
)
def test_keys_go_with_their_strategy(keys, message):
    """A key that would do nothing is an error."""
    with pytest.raises(ValidationError, match=message):
        SampleConfig(**keys)
