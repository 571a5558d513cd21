"""spread against maximal marginal relevance written out, query by query."""

from __future__ import annotations

import numpy as np
import pytest

from raymine.select.spread import spread_order
from raymine.vectors import Vectors


def mmr_oracle(docs, scores, vectors, n, diversity):
    """Documents in the order in which they are chosen."""
    known = [score for score in scores if not np.isnan(score)]
    low, high = min(known, default=0), max(known, default=0)

    def relevance(score):
        if np.isnan(score):
            return 0.0
        return (score - low) / (high - low) if high > low else 0.5

    def cosine(one, other):
        if one not in vectors or other not in vectors:
            return 0.0
        left, right = vectors[one], vectors[other]
        return round(float(left @ right / np.linalg.norm(left) / np.linalg.norm(right)), 6)

    chosen, left = [], list(zip(docs, scores, strict=True))
    while left and len(chosen) < n:
        worth = [
            (1 - diversity) * relevance(score) - diversity * max((cosine(doc, other) for other in chosen), default=0.0)
            for doc, score in left
        ]
        chosen.append(left.pop(int(np.argmax(worth)))[0])
    return chosen


@pytest.mark.parametrize("diversity", [0, 0.3, 0.8, 1])
@pytest.mark.parametrize("seed", range(3))
def test_turns_are_those_of_the_oracle(seed, diversity):
    """Queries of uneven pools, unknown scores, documents without a vector."""
    rng = np.random.default_rng(seed)
    vectors = {doc: rng.normal(size=8) for doc in range(60) if doc % 7}
    known = np.array(sorted(vectors))
    stored = Vectors(known, np.stack([vectors[doc] for doc in known]))
    query_row, doc_row, score, expected = [], [], [], {}
    for query in range(300):
        docs = rng.choice(60, rng.integers(1, 14), replace=False)
        scores = np.where(rng.random(len(docs)) < 0.2, np.nan, rng.normal(size=len(docs)))
        query_row += [query] * len(docs)
        doc_row += docs.tolist()
        score += scores.tolist()
        expected[query] = mmr_oracle(docs.tolist(), scores.tolist(), vectors, 5, diversity)
    rows, docs = np.array(query_row), np.array(doc_row)
    turns = spread_order(rows, docs, np.array(score), stored, 5, diversity)
    for query, wanted in expected.items():
        own = np.flatnonzero((rows == query) & (turns < 5))
        assert docs[own[np.argsort(turns[own])]].tolist() == wanted


def test_of_near_equal_documents_one_is_chosen():
    """The best two are the same document twice; with diversity the third takes the second's place."""
    matrix = np.array([[1.0, 0], [1, 0.001], [0, 1], [0.7, 0.7]])
    rows, docs, score = np.zeros(4, np.int64), np.arange(4), np.array([4.0, 3.9, 3.0, 0.0])
    vectors = Vectors(docs, matrix)
    assert spread_order(rows, docs, score, vectors, 2, 0.0).tolist() == [0, 1, 2, 2]
    assert spread_order(rows, docs, score, vectors, 2, 0.5).tolist() == [0, 2, 1, 2]


def test_nothing_to_choose_from():
    nothing = np.empty(0, np.int64)
    assert len(spread_order(nothing, nothing, np.empty(0), Vectors(nothing, np.empty((0, 4))), 3, 0.3)) == 0
