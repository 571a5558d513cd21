"""Dense scores of pairs."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from raymine.retrieve import base
from raymine.topk import gathered_scores
from raymine.vectors import Vectors


@pytest.mark.parametrize("is_loaded", [False, True])
def test_few_pairs_are_scored_by_compiled_code_where_it_is_loaded(monkeypatch, is_loaded):
    """It is not imported for them; both give the same bits."""
    vectors = Vectors(np.arange(3), np.random.default_rng(0).standard_normal((3, 8)).astype(np.float16))
    index = np.array([0, 2, 1]), np.array([2, 2, 0])
    expected = gathered_scores(vectors.matrix, vectors.matrix, *index)
    calls = []
    monkeypatch.setattr(base, "gathered_scores", lambda *given: calls.append(1) or gathered_scores(*given))
    if is_loaded:
        importlib.import_module("raymine.scores")
    else:
        monkeypatch.delitem(sys.modules, "raymine.scores", raising=False)
    scores, known = base.score_pairs(vectors, vectors, *index)
    assert scores.tobytes() == expected.tobytes() and known.all()
    assert len(calls) == (0 if is_loaded else 1)
    assert ("raymine.scores" in sys.modules) is is_loaded
