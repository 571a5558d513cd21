"""The mask, against a loop over pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from online_cases import NOTHING, mask_of, no_false_negatives

from raymine.online import FalseNegatives

ROWS = st.integers(0, 12)


@given(pairs=st.lists(st.tuples(ROWS, ROWS)), queries=st.lists(ROWS, min_size=1), documents=st.lists(ROWS, min_size=1))
def test_it_masks_the_pairs_and_no_others(pairs, queries, documents):
    """Whatever is repeated, unknown or in any order."""
    mask = mask_of(pairs)(torch.tensor(queries), torch.tensor(documents))
    assert mask.tolist() == [[(query, document) in pairs for document in documents] for query in queries]


@given(
    pairs=st.lists(st.tuples(ROWS, ROWS)),
    query_texts=st.lists(st.integers(0, 3), min_size=13, max_size=13),
    document_texts=st.lists(st.integers(0, 3), min_size=13, max_size=13),
)
def test_equal_texts_are_one(pairs, query_texts, document_texts):
    """A twin of a masked document is masked, for every query with the same text."""
    rows, both = np.arange(13), np.array(pairs, np.int64).reshape(-1, 2)
    texts = [(rows[::-1], np.array(numbers)[::-1]) for numbers in (query_texts, document_texts)]
    mask = FalseNegatives(both[:, 0], both[:, 1], *texts)
    masked = {(query_texts[query], document_texts[document]) for query, document in pairs}
    expected = [[(query, document) in masked for document in document_texts] for query in query_texts]
    assert mask(torch.arange(13), torch.arange(13)).tolist() == expected
    assert mask.num_pairs == len(masked)


def test_large_rows_do_not_run_into_each_other():
    """Rows of a corpus of billions, and the row -1 of an empty place."""
    big = 1 << 40
    mask = mask_of([(big, big + 1), (3, big), (-5, 7)])
    found = mask(torch.tensor([3, big, big + 1, -5]), torch.tensor([-1, big, big + 1, 7]))
    expected = [
        [False, True, False, False],
        [False, False, True, False],
        [False, False, False, False],
        [False, False, False, True],
    ]
    assert found.tolist() == expected


def test_no_pairs_mask_nothing():
    assert not no_false_negatives()(torch.arange(3), torch.arange(4)).any()


def test_a_pair_without_a_text_is_an_error():
    with pytest.raises(ValueError, match="1 of the pairs' documents"):
        FalseNegatives(np.array([1]), np.array([2]), documents=(NOTHING, NOTHING))
