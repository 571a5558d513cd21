"""The masked loss against sentence-transformers' own and against numpy, and what its gradients reach."""

import numpy as np
import pytest
import torch
from online_cases import NoModel, batch, cosines, info_nce, mask_of, no_false_negatives, plain
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import dot_score

from raymine.errors import InputError
from raymine.online import Hardest, MaskedInBatchLoss, SemiHard, all_negatives


def value(loss, embeddings, labels):
    return loss.compute_loss_from_embeddings(embeddings, labels)


@pytest.mark.parametrize("num_negatives", [0, 1, 3])
@pytest.mark.parametrize("settings", [{}, {"scale": 7.0}, {"scale": 1.0, "similarity_fct": dot_score}])
def test_without_a_mask_it_is_the_loss_of_sentence_transformers(num_negatives, settings):
    """Value and gradients."""
    embeddings, labels = batch(num_negatives=num_negatives)
    ours = value(MaskedInBatchLoss(NoModel(), no_false_negatives(), **settings), embeddings, labels)
    theirs = MultipleNegativesRankingLoss(NoModel(), **settings).compute_loss_from_embeddings(embeddings, labels)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for mine, other in zip(torch.autograd.grad(ours, embeddings), torch.autograd.grad(theirs, embeddings), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


PAIRS = [(0, 100), (0, 201), (3, 0), (5, 500), (5, 502), (2, 402), (2, 77)]


def below(scores, margin):
    own = np.diag(scores)[:, None]
    return (scores < own) & (own - scores < margin)


def highest(scores, is_left, n):
    found = np.zeros_like(is_left)
    for query, row in enumerate(scores):
        left = [j for j in np.argsort(-row, kind="stable") if is_left[query, j]]
        found[query, left[:n]] = True
    return found


CHOICES = {
    "all": (all_negatives, lambda scores, left: left),
    "semi-hard": (SemiHard(), lambda scores, left: left & below(scores, np.inf)),
    "semi-hard within a margin": (SemiHard(0.3), lambda scores, left: left & below(scores, 0.3)),
    "hardest": (Hardest(3), lambda scores, left: highest(scores, left, 3)),
    "hardest, more than there are": (Hardest(99), lambda scores, left: left),
}


@pytest.mark.parametrize("name", CHOICES)
def test_it_is_the_formula_over_the_chosen(name):
    """Masked pairs and each choice of negatives, in numpy."""
    chosen, oracle = CHOICES[name]
    embeddings, labels = batch()
    loss = value(MaskedInBatchLoss(NoModel(), mask_of(PAIRS), chosen), embeddings, labels)
    scores = cosines(*plain(embeddings))
    documents = labels[:, 1:].T.reshape(-1).tolist()
    is_left = np.array([[(q, d) not in PAIRS for d in documents] for q in range(6)])
    np.fill_diagonal(is_left, False)
    assert loss.item() == pytest.approx(info_nce(scores, oracle(scores, is_left)), abs=1e-5)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, embeddings))


def test_a_document_masked_for_all_queries_gets_no_gradient():
    """Its own query's too: document 201 is a mined negative of query 2."""
    embeddings, labels = batch()
    loss = value(MaskedInBatchLoss(NoModel(), mask_of([(query, 201) for query in range(6)])), embeddings, labels)
    loss.backward()
    assert torch.count_nonzero(embeddings[2].grad[2]) == 0
    others = torch.tensor([0, 1, 3, 4, 5])
    assert all(torch.count_nonzero(row) for row in embeddings[2].grad[others])


def test_a_query_whose_negatives_are_all_masked_adds_nothing():
    """No NaN, and no gradient; its positive is never masked by its own verdict."""
    embeddings, labels = batch(num_rows=3, num_negatives=1)
    pairs = [(1, document) for document in labels[:, 1:].reshape(-1).tolist()]
    value(MaskedInBatchLoss(NoModel(), mask_of(pairs)), embeddings, labels).backward()
    assert torch.count_nonzero(embeddings[0].grad[1]) == 0
    assert torch.count_nonzero(embeddings[0].grad[0]) and torch.count_nonzero(embeddings[0].grad[2])


@pytest.mark.parametrize(
    "labels",
    [None, torch.zeros(6), torch.zeros(6, 4), torch.zeros(6, 3, dtype=torch.int64)],
    ids=["none", "one per row", "scores", "a column too few"],
)
def test_labels_that_are_no_rows_are_an_error(labels):
    """Other data sets have labels too: they are told from rows by their shape and type."""
    embeddings, _ = batch()
    with pytest.raises(InputError, match="training_set"):
        value(MaskedInBatchLoss(NoModel(), no_false_negatives()), embeddings, labels)


def test_the_model_card_names_the_choice():
    loss = MaskedInBatchLoss(NoModel(), mask_of(PAIRS), Hardest(4))
    assert loss.get_config_dict() | {"negatives": "Hardest(n=4)", "masked_pairs": 7} == loss.get_config_dict()
    assert MaskedInBatchLoss(NoModel(), mask_of([])).get_config_dict()["negatives"] == "all_negatives"
