"""What every format is read as."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One training row.

    Args:
        query: text or id.
        positives: texts or ids.
        negatives: likewise.
        positive_scores: of the positives; empty where there are none.
        negative_scores: likewise.
        by_id: documents are named by id.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    positive_scores: list[Any] = field(default_factory=list)
    negative_scores: list[Any] = field(default_factory=list)
    by_id: bool = False
