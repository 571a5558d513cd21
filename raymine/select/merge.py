"""Merge: which slots of a query go to negatives of earlier rounds, if no filter takes them.

Earlier negatives are candidates like any other: their scores are new, and every filter sees them. What a policy
reserves for them comes before what sampling would choose; the rest of the slots is sampled as in a first round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas
from raymine.lookup import pair_positions, positions, rows_of
from raymine.select.base import Candidates
from raymine.select.kinds import kinds
from raymine.topk import ranks_within

Rows = NDArray[np.int64]
HARD_KINDS = [schemas.KINDS.index(name) for name in ("ranking_error", "semi_hard")]


@dataclass(frozen=True)
class Merge:
    """How a round builds on those before.

    Args:
        policy: replace, union or keep_hard (config.RoundsConfig).
        decay: of union.
        number: of this round.
        n: negatives per query.
        semi_hard_margin: of select.sample.
        sources: names of the sources.
    """

    policy: str
    decay: float
    number: int
    n: int
    semi_hard_margin: float
    sources: tuple[str, ...]


def quota(n: int, decay: float, age: int) -> int:
    """Slots that union keeps for negatives that were chosen `age` rounds ago for the last time."""
    return int(n * decay**age + 1e-9)


def ages(candidates: Candidates, earlier: pa.Table, number: int) -> Rows:
    """How many rounds ago each candidate was a negative for the last time, int64 [n]; 0: never.

    Args:
        candidates: the block.
        earlier: schemas.LINEAGE of it.
        number: of this round.
    """
    at = pair_positions(rows_of(earlier), (candidates.query_row, candidates.doc_row))
    last = np.append(earlier["last_round"].to_numpy().astype(np.int64), number)
    return np.asarray(number - last[at])


def reserved(
    candidates: Candidates, rows: Rows, age: Rows, order: Rows, settled: Rows, how: Merge
) -> NDArray[np.bool_]:
    """Which of the rows have a slot before all others, bool [m].

    Args:
        candidates: the block.
        rows: int64 [m], positions of what may be chosen.
        age: int64 [m], of each (see `ages`).
        order: int64 [m], positions in `rows`, by query and then as sampling has them.
        settled: query_rows that keep the last round's negatives.
        how: the policy.
    """
    is_last = age == 1
    query_row = candidates.query_row[rows]
    keeps = is_last & (positions(settled, query_row) >= 0)
    if how.policy == "keep_hard":
        kind = kinds(candidates, rows, "dense", how.semi_hard_margin, how.sources)
        keeps |= is_last & np.isin(kind, HARD_KINDS)
    if how.policy == "union":
        oldest = int(age.max(initial=0))
        for each in range(1, oldest + 1):
            members = order[age[order] == each]
            within = ranks_within(query_row[members])
            keeps[members[within < quota(how.n, how.decay, each)]] = True
    return np.asarray(keeps)
