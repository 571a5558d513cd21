"""MemoryBankLoss: documents of past batches as further negatives, through the same mask.

A queue of past embeddings (MoCo, He et al. 2020, section 3.2), without a second encoder: as in cross-batch memory (Wang
et al. 2020, section 3) they come from the model itself, which drifts slowly. An age bounds how far it may have drifted.
Memory: size x (4 dim + 16) bytes on the device of the loss. Time: size products per query and step.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.util import cos_sim
from torch import Tensor, nn

from raymine.online.false_negatives import FalseNegatives
from raymine.online.in_batch import MaskedInBatchLoss, Similarity, batch_rows
from raymine.online.negatives import Negatives, all_negatives

EMPTY = -1  # doc_row of a place without a document


class MemoryBank(nn.Module):
    """First in, first out: the latest `size` embeddings, with their documents and the step that each was made in.

    All of it is in the state_dict.

    Args:
        dim: of an embedding.
        size: places.
        max_age: steps after which an embedding no longer counts: 1 is the step before.
    """

    vectors: Tensor
    doc_rows: Tensor
    steps: Tensor
    step: Tensor
    next_place: Tensor

    def __init__(self, dim: int, size: int, max_age: int) -> None:
        super().__init__()
        self.size, self.max_age = size, max_age
        self.register_buffer("vectors", torch.zeros(size, dim))
        self.register_buffer("doc_rows", torch.full((size,), EMPTY))
        self.register_buffer("steps", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("next_place", torch.tensor(0))

    def is_usable(self) -> Tensor:
        """Which places hold a document that is not too old, bool [size]."""
        return (self.doc_rows != EMPTY) & (self.step - self.steps <= self.max_age)

    def forget(self, doc_rows: Tensor) -> None:
        """Empties the places of some documents, int64 [m]: there is a newer embedding of each."""
        self.doc_rows[torch.isin(self.doc_rows, doc_rows)] = EMPTY

    def push(self, vectors: Tensor, doc_rows: Tensor) -> None:
        """Takes in one step's embeddings, over the oldest ones; ends the step.

        Args:
            vectors: float [m, dim]; gradients stay outside.
            doc_rows: int64 [m]; of a row that is there twice the first counts, beyond `size` the last ones.
        """
        first = _first_of_each(doc_rows)[-self.size :]
        places = (self.next_place + torch.arange(len(first), device=first.device)) % self.size
        self.vectors[places] = vectors.detach()[first].to(self.vectors.dtype)
        self.doc_rows[places], self.steps[places] = doc_rows[first], self.step
        self.next_place.add_(len(first)).remainder_(self.size)
        self.step.add_(1)


def _first_of_each(rows: Tensor) -> Tensor:
    """Positions of the first of equal rows, ascending, int64 [distinct rows]."""
    values, number = torch.unique(rows, return_inverse=True)
    position = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(values, len(rows)).scatter_reduce_(0, number, position, "amin")
    return first.sort().values


class MemoryBankLoss(MaskedInBatchLoss):
    """MaskedInBatchLoss with the documents of a memory bank as further negatives of every query.

    A document of the batch is never at the same time one of the bank. Where the model is not in training mode the
    loss is that of the batch alone, and the bank stays as it is. Each forward pass is a step, so with gradient
    accumulation ages count in batches; with several devices, each has a bank of its own.

    Args:
        model: a SentenceTransformer.
        false_negatives: what is masked, in batch and bank.
        bank: how many past embeddings, and how old.
        negatives: which of the others count: `all_negatives`, SemiHard(...), Hardest(...).
        scale: similarities are multiplied by it, 1 / temperature.
        similarity_fct: float [b, dim] and [m, dim] to [b, m]; the cosine unless told.
    """

    def __init__(
        self,
        model: Any,
        false_negatives: FalseNegatives,
        bank: MemoryBank,
        negatives: Negatives = all_negatives,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
    ) -> None:
        super().__init__(model, false_negatives, negatives, scale, similarity_fct)
        self.bank = bank

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """As MaskedInBatchLoss; in training mode with the bank, which then takes in the batch's documents."""
        if not self.model.training:
            return super().compute_loss_from_embeddings(embeddings, labels)
        query_rows, doc_rows = batch_rows(embeddings, labels)
        documents = torch.cat(embeddings[1:])
        self.bank.forget(doc_rows)
        is_usable = torch.cat([torch.ones_like(doc_rows, dtype=torch.bool), self.bank.is_usable()])
        both = torch.cat([documents, self.bank.vectors.to(documents.dtype)])
        rows = torch.cat([doc_rows, self.bank.doc_rows])
        loss = self.contrast(embeddings[0], query_rows, both, rows, is_usable)
        self.bank.push(documents, doc_rows)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        return {**super().get_config_dict(), "bank_size": self.bank.size, "bank_max_age": self.bank.max_age}
