"""Random candidates: distinct, uniform, and a query's own whatever else is mined."""

from __future__ import annotations

import time

import numpy as np
import pytest

from raymine.retrieve.random import draw

IDS = [f"query-{i}" for i in range(300)]


@pytest.mark.parametrize(
    ("num_documents", "k"), [(1000, 10), (50, 10), (11, 10), (10, 10), (3, 10), (1, 1), (0, 5), (10**9, 200)]
)
def test_draws_are_distinct_documents(num_documents, k):
    """Each query gets min(k, num_documents) different documents of the corpus."""
    drawn = draw(IDS, num_documents, k, seed=0)
    assert drawn.shape == (300, min(k, num_documents))
    assert all(len(set(row)) == len(row) for row in drawn.tolist())
    assert ((drawn >= 0) & (drawn < num_documents)).all()


@pytest.mark.parametrize("num_documents", [12, 60], ids=["shuffled", "drawn"])
def test_every_document_is_as_likely_at_every_rank(num_documents):
    """Counts of the first and of the last draw stay within five standard deviations of uniform."""
    num_queries = 6000
    drawn = draw([str(i) for i in range(num_queries)], num_documents, 4, seed=1)
    share = num_queries / num_documents
    for column in (0, 3):
        counts = np.bincount(drawn[:, column], minlength=num_documents)
        assert abs(counts - share).max() < 5 * np.sqrt(share)


def test_a_querys_draw_depends_on_seed_and_id_alone():
    """Other queries, their order and their number change nothing; another seed or id does."""
    drawn = draw(IDS, 5000, 10, seed=7)
    np.testing.assert_array_equal(draw(IDS[::-1], 5000, 10, seed=7), drawn[::-1])
    np.testing.assert_array_equal(draw(IDS[5:6], 5000, 10, seed=7), drawn[5:6])
    assert (draw(IDS, 5000, 10, seed=8) != drawn).any(axis=1).all()
    assert len({tuple(row) for row in drawn.tolist()}) == len(IDS)


def test_fewer_draws_are_the_first_of_more():
    """A smaller k keeps the documents of a larger one, in their order."""
    np.testing.assert_array_equal(draw(IDS, 5000, 4, seed=7), draw(IDS, 5000, 10, seed=7)[:, :4])


def test_the_draw_is_fixed_for_ever():
    """The numbers themselves: a change of them would change every mined set."""
    assert draw(["q1", "ü"], 1000, 5, seed=0).tolist() == [
        [68, 76, 984, 959, 944],
        [34, 598, 754, 291, 334],
    ]


def test_a_block_is_drawn_in_well_under_a_second():
    """8,192 queries with k 10."""
    begin = time.process_time()
    draw([str(i) for i in range(8192)], 1_000_000, 10, seed=0)
    assert time.process_time() - begin < 1
