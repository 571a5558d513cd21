"""What the tests of raymine.online share: the loss in plain numpy, a batch of it, and embeddings without a model."""

from __future__ import annotations

import numpy as np
import torch

from raymine.online import FalseNegatives

NOTHING = np.empty(0, np.int64)


class NoModel(torch.nn.Module):
    """Stands where a loss wants a model: tests hand over embeddings."""


def no_false_negatives() -> FalseNegatives:
    return FalseNegatives(NOTHING, NOTHING)


def mask_of(pairs: list[tuple[int, int]]) -> FalseNegatives:
    """A mask of (query_row, doc_row) pairs."""
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return FalseNegatives(both[:, 0], both[:, 1])


def batch(num_rows: int = 6, num_negatives: int = 2, dim: int = 8, seed: int = 0):
    """Embeddings per column (with gradients), and the labels: query i has the documents 100 i, 100 i + 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(num_rows, dim, generator=generator, requires_grad=True) for _ in range(2 + num_negatives)]
    rows = torch.arange(num_rows)
    return embeddings, torch.stack([rows, *(100 * rows + i for i in range(1 + num_negatives))], dim=1)


def cosines(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(documents, axis=1)
    return queries.astype(np.float64) @ documents.astype(np.float64).T / lengths


def info_nce(scores: np.ndarray, is_negative: np.ndarray, scale: float = 20.0) -> float:
    """Mean over queries of -log(e^p / (e^p + sum of e^n)), one query after the other; document i is query i's own."""
    losses = []
    for query, row in enumerate(scores * scale):
        others = sum(np.exp(row[j] - row[query]) for j in np.flatnonzero(is_negative[query]) if j != query)
        losses.append(np.log1p(others))
    return float(np.mean(losses))


def plain(embeddings) -> tuple[np.ndarray, np.ndarray]:
    """Queries and documents (column after column) as numpy arrays."""
    found = [column.detach().numpy() for column in embeddings]
    return found[0], np.concatenate(found[1:])
