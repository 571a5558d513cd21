"""For benchmarks/training_gain.py: nothing is chosen, every document of the corpus is a negative in every step.

No bound: a choice that leaves out unlabelled positives may do better. It says what more negatives bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymine import rounds, storage
from raymine.online import FalseNegatives, MaskedInBatchLoss
from raymine.online.in_batch import batch_rows


def texts_of(mined: rounds.Round) -> list[str]:
    """The texts of a round's corpus, in the order of their rows."""
    return [text for shard in mined.tables().corpus for text in storage.read_table(shard.path)["text"].to_pylist()]


class EveryDocument(MaskedInBatchLoss):
    """InfoNCE of each query against all documents of a corpus, embedded anew in each step with their gradients.

    For static embedders, whose documents cost little: a StaticEmbedding's embedding_bag takes them all at once.

    Args:
        model: a SentenceTransformer of one StaticEmbedding.
        texts: of the documents, in the order of their rows.
        positives: what is no negative of a query, its positives among them.
    """

    def __init__(self, model: Any, texts: Sequence[str], positives: FalseNegatives) -> None:
        super().__init__(model, positives)
        tokens = [each.ids for each in model[0].tokenizer.encode_batch(texts, add_special_tokens=False)]
        starts = np.cumsum([0, *(len(ids) for ids in tokens[:-1])])
        self.register_buffer("tokens", torch.from_numpy(np.concatenate(tokens).astype(np.int64)), persistent=False)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of a batch of raymine.online.training_set(round_, 0): float []."""
        query_rows, own = batch_rows(embeddings, labels)
        documents = self.model[0].embedding(self.tokens, self.starts)
        rows = torch.cat([own, torch.arange(len(documents))])
        is_negative = torch.arange(len(rows)) >= len(own)
        return self.contrast(embeddings[0], query_rows, torch.cat([documents[own], documents]), rows, is_negative)
