"""Joins of dense rows against plain dictionaries and loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raymine.lookup import among, cross, distinct, pair_positions, positions

ROWS = st.lists(st.integers(0, 8), max_size=12)
PAIRS = st.lists(st.tuples(st.integers(5, 8), st.integers(0, 10**9)), max_size=12)


def rows(values):
    return np.array(values, np.int64)


@given(values=ROWS)
def test_distinct_values_are_sorted(values):
    """As of a sorted set."""
    assert distinct(rows(values)).tolist() == sorted(set(values))


@given(values=ROWS, known=ROWS)
def test_values_are_among_known_ones(values, known):
    assert among(rows(values), rows(known)).tolist() == [value in known for value in values]


@given(known=ROWS | st.builds(lambda n: list(range(3, n)), st.integers(3, 9)), wanted=ROWS)
def test_positions_are_those_of_index(known, wanted):
    """The first of equal values; -1 where there is none."""
    expected = [known.index(value) if value in known else -1 for value in wanted]
    assert positions(rows(known), rows(wanted)).tolist() == expected


@given(known=PAIRS, wanted=PAIRS)
def test_pair_positions_are_those_of_index(known, wanted):
    """Pairs are looked up whole, also when asked for in another order."""
    wanted = [*wanted, *known[::-1]]
    expected = [known.index(pair) if pair in known else -1 for pair in wanted]
    split = [tuple(rows([pair[i] for pair in pairs]) for i in (0, 1)) for pairs in (known, wanted)]
    assert pair_positions(*split).tolist() == expected


@given(left=ROWS, right=ROWS)
def test_cross_gives_all_equal_pairs(left, right):
    """As two nested loops would, left first."""
    right = sorted(right)
    expected = [(i, j) for i, a in enumerate(left) for j, b in enumerate(right) if a == b]
    got = cross(rows(left), rows(right))
    assert list(zip(*(side.tolist() for side in got), strict=True)) == expected
