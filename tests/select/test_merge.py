"""Slots of earlier negatives: each policy against plain Python, query by query."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from select_cases import SOURCES, positives_of, random_rows, verdicts
from test_sampling import selection, top_oracle

from raymine import schemas
from raymine.select.judged import judge
from raymine.select.merge import Merge, quota
from raymine.select.stage import Earlier, select

IDS = [str(number) for number in range(6)]
NUMBER = 5
MARGIN = 0.05


def earlier_of(rows, seed):
    """A lineage over some of the candidates, and some documents that are no candidates any more; settled queries."""
    rng = random.Random(seed)
    pairs = [(one["query_row"], one["doc_row"]) for one in rows if rng.random() < 0.6]
    pairs += [(query, 5000 + query) for query in range(6)]
    lasts = {pair: rng.randint(1, NUMBER - 1) for pair in pairs}
    made = [
        {"query_row": q, "doc_row": d, "first_round": 1, "last_round": last, "ranks": [None] * (NUMBER - 1)}
        for (q, d), last in sorted(lasts.items())
    ]
    settled = [query for query in range(6) if rng.random() < 0.4]
    return lasts, pa.Table.from_pylist(made, schema=schemas.LINEAGE), settled


def negatives(rows, lineage, settled, n, policy, decay=0.5):
    how = selection(n=n, semi_hard_margin=MARGIN)
    merge = Merge(policy, decay, NUMBER, n, MARGIN, tuple(SOURCES))
    earlier = Earlier(lineage, pa.table({"query_row": pa.array(settled, pa.int64())}, schema=schemas.SETTLED), merge)
    table = select(judge(verdicts(rows), None, how), IDS, 0, how, None, earlier).negatives
    return list(zip(table["query_row"].to_pylist(), table["doc_row"].to_pylist(), strict=True))


def is_hard(one, rows):
    """Scores above its query's lowest positive, or within the margin below, by the embedder; random ones never are."""
    known = [p["dense_score"] for p in positives_of(rows, one["query_row"]) if p["dense_score"] is not None]
    found_by = [source for source in ("dense", "bm25") if one[f"{source}_rank"] is not None]
    if not known or one["dense_score"] is None or (one["random_rank"] is not None and not found_by):
        return False
    return one["dense_score"] > min(known) - abs(min(known)) * MARGIN


def oracle(rows, lasts, settled, n, policy, decay):
    """Reserved ones first, both in the order of `top`."""
    expected = []
    for query in range(6):
        ordered = [doc for _, doc in top_oracle([o for o in rows if o["query_row"] == query], "teacher_score", 10**6)]
        by_doc = {one["doc_row"]: one for one in rows if one["query_row"] == query}
        used, first = {}, []
        for doc in ordered:
            age = NUMBER - lasts.get((query, doc), NUMBER)
            keeps = age == 1 and query in settled
            if policy == "keep_hard":
                keeps |= age == 1 and is_hard(by_doc[doc], rows)
            if policy == "union" and age:
                used[age] = used.get(age, 0) + 1
                keeps |= used[age] <= int(n * decay**age)
            if keeps:
                first.append(doc)
        rest = [doc for doc in ordered if doc not in first]
        expected += [(query, doc) for doc in [*first, *rest][:n]]
    return expected


@pytest.mark.parametrize("policy", ["replace", "union", "keep_hard"])
@pytest.mark.parametrize("seed", range(6))
def test_slots_are_those_of_the_oracle(seed, policy):
    rows = random_rows(seed)
    lasts, lineage, settled = earlier_of(rows, seed)
    for n in (2, 4, 9):
        for decay in (0.5, 0.8):
            expected = oracle(rows, lasts, settled, n, policy, decay)
            assert negatives(rows, lineage, settled, n, policy, decay) == expected


def test_nothing_earlier_is_a_first_round():
    """With an empty lineage every policy samples as without one."""
    rows = random_rows(1)
    plain = top_oracle(rows, "teacher_score", 4)
    for policy in ("replace", "union", "keep_hard"):
        assert negatives(rows, schemas.LINEAGE.empty_table(), [], 4, policy) == plain


@pytest.mark.parametrize(
    ("n", "decay", "expected"), [(8, 0.5, [4, 2, 1, 0]), (10, 0.7, [7, 4, 3, 2]), (1, 0.9, [0, 0])]
)
def test_quotas_decay(n, decay, expected):
    """Rounded down, and not by float dust: 10 of 0.7 are 7."""
    assert [quota(n, decay, age) for age in range(1, len(expected) + 1)] == expected
