"""Distillation for benchmarks/training_gain.py: a teacher, its scores beside training rows, and a loss of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from sentence_transformers.losses import MultipleNegativesRankingLoss
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, softmax

from raymine import rounds
from raymine.lookup import pair_positions

SCALE = 20.0  # of cosines, as MultipleNegativesRankingLoss has it


def train_teacher(folder: Path, embedder: Path, splits: Sequence[str], out: Path) -> Path:
    """Trains a cross-encoder on some splits of a set, unless it is there already; documents of equal text are one."""
    texts, asked = models.documents(folder), models.queries(folder)
    numbers = {document: number for number, document in enumerate(texts)}
    same: dict[str, int] = {}
    groups = [same.setdefault(" ".join(text.lower().split()), len(same)) for text in texts.values()]
    answers = {query: document for split in splits for query, document in models.judgements(folder, split)}
    order = np.random.default_rng(0).permutation(len(answers))
    queries = [list(answers)[place] for place in order]
    pairs = models.LabelledPairs(
        [asked[query] for query in queries],
        list(texts.values()),
        [numbers[answers[query]] for query in queries],
        groups,
    )
    return models.train_teacher(embedder, pairs, out)


def with_scores(rows: Any, mined: rounds.Round) -> Any:
    """Rows of online.training_set whose label is the teacher's scores of their documents, the positive's first."""
    verdicts = mined.verdicts().to_table(columns=["query_row", "doc_row", "teacher_score"])
    known = verdicts["query_row"].to_numpy(), verdicts["doc_row"].to_numpy()
    labels = np.array(rows["label"])
    documents = labels[:, 1:]
    at = pair_positions(known, (np.repeat(labels[:, 0], documents.shape[1]), documents.reshape(-1)))
    assert (at >= 0).all()
    scores = verdicts["teacher_score"].to_numpy()[at].reshape(documents.shape)
    return rows.remove_columns("label").add_column("label", scores.tolist())


class Distilled(torch.nn.Module):
    """MultipleNegativesRankingLoss, and how far the model's distribution over a row's documents is from the teacher's.

    The second term is the Kullback-Leibler divergence of softmaxes, as in RocketQAv2 (Ren et al. 2021).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.contrast = model, MultipleNegativesRankingLoss(model, scale=SCALE)

    def forward(self, sentence_features: Any, labels: torch.Tensor) -> torch.Tensor:
        anchor, *documents = [self.model(features)["sentence_embedding"] for features in sentence_features]
        scores = torch.stack([SCALE * cosine_similarity(anchor, document) for document in documents], dim=1)
        apart = kl_div(log_softmax(scores, dim=1), softmax(labels, dim=1), reduction="batchmean")
        contrast: torch.Tensor = self.contrast.compute_loss_from_embeddings([anchor, *documents], None)
        return contrast + apart
