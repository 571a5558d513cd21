"""The memory bank against a plain list: order, age, one embedding per document, and what it does to the loss."""

import numpy as np
import pytest
import torch
from online_cases import NoModel, batch, cosines, info_nce, mask_of, no_false_negatives, plain

from raymine.online import FalseNegatives, Hardest, MaskedInBatchLoss, MemoryBank, MemoryBankLoss

DIM = 8


class PlainBank:
    """Places in the order in which they were filled: [document or None, vector, step]."""

    def __init__(self, size, max_age):
        self.size, self.max_age, self.places, self.step = size, max_age, [], 0

    def forget(self, documents):
        self.places = [[None if place[0] in documents else place[0], *place[1:]] for place in self.places]

    def usable(self):
        return [place for place in self.places if place[0] is not None and self.step - place[2] <= self.max_age]

    def push(self, documents, vectors):
        seen = {}
        for document, vector in zip(documents, vectors, strict=True):
            seen.setdefault(document, vector)
        self.places += [[document, vector, self.step] for document, vector in seen.items()]
        self.places, self.step = self.places[-self.size :], self.step + 1


def usable_of(bank):
    """Documents and vectors that the bank offers, by document."""
    rows = torch.nonzero(bank.is_usable()).reshape(-1)
    return {int(bank.doc_rows[row]): bank.vectors[row].numpy() for row in rows}


@pytest.mark.parametrize("size, max_age", [(7, 100), (7, 1), (64, 2), (3, 100), (1, 1)])
def test_it_is_a_queue_with_an_age(size, max_age):
    """Batches with repeated documents, of more rows than the bank has places, over many rounds of the ring."""
    rng = np.random.default_rng(size + max_age)
    bank, oracle = MemoryBank(DIM, size, max_age), PlainBank(size, max_age)
    for _ in range(40):
        documents = rng.integers(0, 30, rng.integers(1, 6))
        vectors = rng.normal(size=(len(documents), DIM)).astype(np.float32)
        for each in (bank, oracle):
            each.forget(torch.from_numpy(documents) if each is bank else documents.tolist())
        expected = {document: vector for document, vector, _ in oracle.usable()}
        found = usable_of(bank)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[document], expected[document]) for document in found)
        bank.push(torch.from_numpy(vectors), torch.from_numpy(documents))
        oracle.push(documents.tolist(), vectors)


def trained(loss, num_steps, **settings):
    """Values of the loss over some batches, and the batches."""
    batches = [batch(seed=seed, dim=DIM, **settings) for seed in range(num_steps)]
    for step, (_, labels) in enumerate(batches):
        labels[:, 1:] += 1000 * step
    return [loss.compute_loss_from_embeddings(*each) for each in batches], batches


def bank_loss(mask: FalseNegatives, size=1000, max_age=100, **settings) -> MemoryBankLoss:
    return MemoryBankLoss(NoModel(), mask, MemoryBank(DIM, size, max_age), **settings)


@pytest.mark.parametrize("max_age", [1, 2, 100])
def test_past_documents_are_negatives_through_the_same_mask(max_age):
    """The formula over batch and bank, in numpy."""
    pairs = [(0, 1000), (0, 1), (2, 2202), (4, 3000), (1, 101)]
    values, batches = trained(bank_loss(mask_of(pairs), max_age=max_age), 4)
    documents, rows = [], []
    for step, (embeddings, labels) in enumerate(batches):
        queries, own = plain(embeddings)
        documents.insert(0, own)
        rows.insert(0, labels[:, 1:].T.reshape(-1).tolist())
        seen = np.concatenate(documents[: max_age + 1])
        seen_rows = [row for step_rows in rows[: max_age + 1] for row in step_rows]
        is_left = np.array([[(query, document) not in pairs for document in seen_rows] for query in range(6)])
        assert values[step].item() == pytest.approx(info_nce(cosines(queries, seen), is_left), abs=1e-5)


def test_a_document_of_the_batch_is_not_one_of_the_bank_too():
    """The same batch again: the loss is that of the batch alone, as its fresh embeddings replace those of the bank."""
    embeddings, labels = batch(dim=DIM)
    loss = bank_loss(no_false_negatives())
    alone = MaskedInBatchLoss(NoModel(), no_false_negatives()).compute_loss_from_embeddings(embeddings, labels)
    for _ in range(3):
        again = loss.compute_loss_from_embeddings(embeddings, labels)
        assert again.item() == pytest.approx(alone.item(), abs=1e-6)


def test_gradients_go_to_the_batch_and_end_at_the_bank():
    """The second step's loss moves the second batch's queries, by the first one's documents, but not these."""
    values, batches = trained(bank_loss(no_false_negatives(), negatives=Hardest(5)), 2)
    values[1].backward()
    assert all(column.grad is None for column in batches[0][0])
    assert all(torch.isfinite(column.grad).all() for column in batches[1][0])
    assert torch.count_nonzero(batches[1][0][0].grad)


def test_a_document_masked_in_the_bank_pulls_no_query():
    """With all of the bank masked the gradients are those without it."""
    pairs = [(query, 100 * row + i) for query in range(6) for row in range(6) for i in range(3)]
    masked, batches = trained(bank_loss(mask_of(pairs)), 2)
    expected = MaskedInBatchLoss(NoModel(), mask_of(pairs)).compute_loss_from_embeddings(*batches[1])
    gradients = [torch.autograd.grad(each, batches[1][0]) for each in (masked[1], expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def test_evaluation_neither_uses_nor_fills_the_bank():
    loss = bank_loss(no_false_negatives())
    trained(loss, 2)
    before = {name: value.clone() for name, value in loss.bank.state_dict().items()}
    loss.model.eval()
    embeddings, labels = batch(seed=9, dim=DIM)
    alone = MaskedInBatchLoss(NoModel(), no_false_negatives()).compute_loss_from_embeddings(embeddings, labels)
    assert loss.compute_loss_from_embeddings(embeddings, labels).item() == pytest.approx(alone.item(), abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in loss.bank.state_dict().items())


def test_its_state_survives_saving(tmp_path):
    """A bank that is loaded goes on where the saved one stopped."""
    first, second = bank_loss(no_false_negatives(), size=20), bank_loss(no_false_negatives(), size=20)
    trained(first, 3)
    torch.save(first.state_dict(), tmp_path / "loss.pt")
    second.load_state_dict(torch.load(tmp_path / "loss.pt"))
    embeddings, labels = batch(seed=5, dim=DIM)
    values = [each.compute_loss_from_embeddings(embeddings, labels + 9000).item() for each in (first, second)]
    assert values[0] == values[1]
    assert usable_of(first.bank).keys() == usable_of(second.bank).keys()
