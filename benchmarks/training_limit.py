"""The limit of choosing negatives, for benchmarks/training_gain.py: every document is one, in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from training_distillation import SCALE

from raymine import rounds, storage
from raymine.online import FalseNegatives


def texts_of(mined: rounds.Round) -> list[str]:
    """The texts of a round's corpus, in the order of their rows."""
    return [text for shard in mined.tables().corpus for text in storage.read_table(shard.path)["text"].to_pylist()]


class EveryDocument(nn.Module):
    """InfoNCE of each query against all documents of a corpus, embedded anew in each step with their gradients.

    For static embedders, whose documents cost little: a StaticEmbedding's embedding_bag takes them all at once.

    Args:
        model: a SentenceTransformer of one StaticEmbedding.
        texts: of the documents, in the order of their rows.
        positives: what is no negative of a query.
    """

    def __init__(self, model: Any, texts: Sequence[str], positives: FalseNegatives) -> None:
        super().__init__()
        self.model, self.positives = model, positives
        tokens = [each.ids for each in model[0].tokenizer.encode_batch(texts, add_special_tokens=False)]
        starts = np.cumsum([0, *(len(ids) for ids in tokens[:-1])])
        self.register_buffer("tokens", torch.from_numpy(np.concatenate(tokens).astype(np.int64)), persistent=False)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)

    def forward(self, sentence_features: Any, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch of raymine.online.training_set: float []."""
        anchors = normalize(self.model(sentence_features[0])["sentence_embedding"], dim=1)
        documents = normalize(self.model[0].embedding(self.tokens, self.starts), dim=1)
        query_rows, own = labels[:, 0], labels[:, 1]
        is_positive = self.positives(query_rows, torch.arange(len(documents)))
        is_positive[torch.arange(len(own)), own] = False
        return cross_entropy((SCALE * anchors @ documents.T).masked_fill(is_positive, -torch.inf), own)
