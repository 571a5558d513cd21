"""MaskedInBatchLoss: sentence-transformers' MultipleNegativesRankingLoss without the batch's false negatives.

In a batch every document is taken for a negative of all queries but its own. The better the batches (hard negatives
mined, queries of one cluster together), the more of them are answers of a neighbour. What mining already knows of a
pair is used to mask it: known positives, their twins, excluded judgements, and what scored too high for a negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim
from torch import Tensor
from torch.nn import functional

from raymine.errors import InputError
from raymine.online.false_negatives import FalseNegatives
from raymine.online.negatives import Negatives, all_negatives

Similarity = Callable[[Tensor, Tensor], Tensor]


class MaskedInBatchLoss(MultipleNegativesRankingLoss):  # type: ignore[misc]
    """InfoNCE (van den Oord et al. 2018, section 2.3) over a batch's documents, without its false negatives.

    It takes the rows of `raymine.online.training_set`: anchor, positive, any negatives, and the label that says which
    query and documents these are. A query of which all negatives are masked adds nothing to loss and gradient. With
    several devices, each looks at its own batch.

    Args:
        model: a SentenceTransformer.
        false_negatives: what is masked.
        negatives: which of the others count: `all_negatives`, SemiHard(...), Hardest(...).
        scale: similarities are multiplied by it, 1 / temperature.
        similarity_fct: float [b, dim] and [m, dim] to [b, m]; the cosine unless told.
    """

    def __init__(
        self,
        model: Any,
        false_negatives: FalseNegatives,
        negatives: Negatives = all_negatives,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
    ) -> None:
        super().__init__(model, scale=scale, similarity_fct=similarity_fct)
        self.false_negatives, self.negatives = false_negatives, negatives

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of one batch.

        Args:
            embeddings: float [b, dim] of the anchors, of the positives, and of each column of negatives.
            labels: int64 [b, columns], the rows of the same.

        Returns:
            float [].

        Raises:
            InputError: the labels are not the rows of the columns.
        """
        query_rows, doc_rows = batch_rows(embeddings, labels)
        documents = torch.cat(embeddings[1:])
        everything = torch.ones(len(documents), dtype=torch.bool, device=documents.device)
        return self.contrast(embeddings[0], query_rows, documents, doc_rows, everything)

    def contrast(
        self, queries: Tensor, query_rows: Tensor, documents: Tensor, doc_rows: Tensor, is_usable: Tensor
    ) -> Tensor:
        """InfoNCE of each query against the documents; document i is the positive of query i.

        Args:
            queries: float [b, dim].
            query_rows: int64 [b].
            documents: float [m, dim], m >= b.
            doc_rows: int64 [m].
            is_usable: bool [m], whether a document may be a negative of anybody.
        """
        scores = self.similarity_fct(queries, documents)
        own = torch.arange(len(queries), device=scores.device)
        is_negative = is_usable & ~self.false_negatives(query_rows, doc_rows)
        is_negative[own, own] = False
        fixed = scores.detach()
        counts = self.negatives(fixed.masked_fill(~is_negative, -math.inf), fixed[own, own])
        counts[own, own] = True
        return functional.cross_entropy((scores * self.scale).masked_fill(~counts, -math.inf), own)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of the loss."""
        chosen = getattr(self.negatives, "__name__", None) or repr(self.negatives)
        return {**super().get_config_dict(), "negatives": chosen, "masked_pairs": self.false_negatives.num_pairs}


def batch_rows(embeddings: list[Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows of a batch's queries, int64 [b], and of its documents, column after column, int64 [b (columns - 1)].

    Raises:
        InputError: the labels are not the rows of the columns.
    """
    expected = (len(embeddings[0]), len(embeddings))
    if labels is None or labels.is_floating_point() or tuple(labels.shape) != expected:
        raise InputError(
            "the labels of the batch are not the rows of its queries and documents",
            got="none" if labels is None else f"{labels.dtype} {list(labels.shape)}",
            expected=f"int64 {list(expected)}, a row per text column",
            fix="train on raymine.online.training_set(round_)",
        )
    return labels[:, 0], labels[:, 1:].T.reshape(-1)
