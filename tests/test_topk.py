"""The tie rule, the merging of top-k lists, and the one inner product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymine.topk import gathered_scores, merge_topk, pair_scores, ranks_within, score_of, score_order

# Few distinct scores, so that ties are common.
HITS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 30), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0])),
    max_size=60,
    unique_by=lambda hit: hit[:2],
)


def columns(hits):
    query_rows, doc_rows, scores = zip(*hits, strict=True) if hits else ((), (), ())
    return np.array(query_rows, np.int64), np.array(doc_rows, np.int64), np.array(scores, np.float32)


@given(HITS, st.integers(1, 8))
def test_merge_topk_keeps_the_best_by_score_then_doc_row(hits, k):
    """Equals sorting each query's hits in plain Python."""
    expected = []
    for query in range(4):
        best = sorted((h for h in hits if h[0] == query), key=lambda h: (-h[2], h[1]))[:k]
        expected += [(query, doc, rank, score) for rank, (_, doc, score) in enumerate(best)]
    assert list(zip(*(column.tolist() for column in merge_topk(*columns(hits), k)), strict=True)) == expected


@given(HITS, st.integers(1, 8), st.lists(st.integers(0, 5), min_size=60, max_size=60))
def test_merge_of_any_split_equals_the_global_topk(hits, k, parts):
    """Top-k of each part, then top-k of those, is the top-k of all: ids, ranks and scores."""
    part_of_doc = dict(zip(range(60), parts, strict=True))
    kept = []
    for part in range(6):
        query_rows, doc_rows, _, scores = merge_topk(*columns([h for h in hits if part_of_doc[h[1]] == part]), k)
        kept += list(zip(query_rows.tolist(), doc_rows.tolist(), scores.tolist(), strict=True))
    for got, expected in zip(merge_topk(*columns(kept), k), merge_topk(*columns(hits), k), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_ranks_within_counts_inside_runs():
    """Ranks restart where the value changes."""
    assert ranks_within(np.array([4, 4, 4, 7, 9, 9])).tolist() == [0, 1, 2, 0, 0, 1]
    assert ranks_within(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("dim", [1, 3, 64, 257, 768])
def test_a_pair_scores_the_same_in_any_batch(dtype, dim):
    """The bits of a pair's score depend on its two vectors alone: not on the batch, its size or the position in it."""
    rng = np.random.default_rng(dim)
    queries = rng.standard_normal((700, dim)).astype(dtype)
    docs = rng.standard_normal((700, dim)).astype(dtype)
    scores = pair_scores(queries, docs)
    np.testing.assert_allclose(scores, (queries.astype(np.float64) * docs.astype(np.float64)).sum(1), rtol=1e-6)
    alone = [pair_scores(queries[i : i + 1], docs[i : i + 1])[0] for i in range(700)]
    shuffled = rng.permutation(700)
    np.testing.assert_array_equal(scores, alone)
    np.testing.assert_array_equal(gathered_scores(queries, docs, shuffled, shuffled), scores[shuffled])
    np.testing.assert_array_equal(pair_scores(queries[3:], docs[3:].astype(np.float32)), scores[3:])


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=30))
def test_score_order_descends_with_the_score_and_reads_back(values):
    """Infinities, subnormals and both zeros included."""
    scores = np.array(values, np.float32)
    order = score_order(scores)
    assert ((order[:, None] < order) == (scores[:, None] > scores)).all()
    np.testing.assert_array_equal(score_of(order), scores)
    assert order.min() >= -(2**31) and order.max() < 2**31
