"""The filter by the rank that a score gives the query's positive: judgements that the teacher does not believe.

A query whose positive is beaten by many documents has a wrong positive or says too little; its negatives teach noise
(the consistency filter of Promptagator, Dai et al. 2022, and of KaLM).
"""

from __future__ import annotations

import numpy as np

from raymine.select.base import Candidates, Mask
from raymine.select.relative import positive_scores
from raymine.select_config import Consistency


def consistency(candidates: Candidates, config: Consistency) -> Mask:
    """All candidates of the queries whose best positive is beaten by `n` candidates or more.

    A query without a positive whose score is known keeps its candidates.
    """
    score = candidates.score(str(config.score))
    beats = (score > positive_scores(candidates, str(config.score), "max")) & ~candidates.is_positive
    first = candidates.query_row.min(initial=0)
    query = candidates.query_row - first
    return np.asarray(np.bincount(query, beats, int(query.max(initial=-1)) + 1)[query] >= config.n)
