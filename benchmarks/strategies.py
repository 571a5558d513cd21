"""The strategies that benchmarks/false_negatives.py compares: filters, sampling and calibration of raymine's config.

Unless a name says otherwise, the best of what the filters leave are taken, by the embedder's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from raymine import recipes

NEGATIVES = 5


@dataclass(frozen=True)
class Strategy:
    """A way to select negatives.

    Args:
        family: what it is plotted as.
        filters: of raymine's config.
        sample: of raymine's config, besides n; by default the best of the embedder.
        is_mined: its filters need another round, not only another selection.
        calibrate: of raymine's config.
    """

    family: str
    filters: Sequence[Mapping[str, Any]] = ()
    sample: Mapping[str, Any] = field(default_factory=lambda: {"strategy": "top", "score": "dense"})
    is_mined: bool = False
    calibrate: str | None = None


def skip(n: int) -> dict[str, Any]:
    return {"kind": "skip_top", "n": n}


def of_positive(share: float, score: str) -> dict[str, Any]:
    return {"kind": "max_relative_score", "of_positive": share, "score": score}


def at_most(value: float) -> dict[str, Any]:
    return {"kind": "max_score", "value": value, "score": "teacher"}


def band(low: float, high: float, score: str = "teacher") -> dict[str, Any]:
    return {"kind": "percentile_band", "low": low, "high": high, "score": score}


OTHER_CLUSTER = {"kind": "other_cluster"}
SPREAD = {"strategy": "spread", "score": "dense"}


def near(threshold: float) -> dict[str, Any]:
    return {"kind": "near_duplicate", "threshold": threshold}


def recipe(name: str) -> Strategy:
    """How others choose among the nearest documents (raymine/recipes), with five negatives per query."""
    sections = yaml.safe_load(recipes.recipe(name))
    depth = sections["retrieve"]["dense"]["k"]
    filters = [{"kind": "rank_range", "stop": depth}, *sections["select"].get("filters", [])]
    return Strategy("recipes", filters, {**sections["select"]["sample"], "n": NEGATIVES})


# Adding a strategy: a line.
STRATEGIES: dict[str, Strategy] = {
    "naive": Strategy("naive"),
    **{f"skip_top {n}": Strategy("skip_top", [skip(n)]) for n in (5, 10, 20, 30, 50, 100, 200)},
    **{
        f"positive-aware {share} on the embedder": Strategy("positive-aware (embedder)", [of_positive(share, "dense")])
        for share in (0.98, 0.95, 0.9, 0.8)
    },
    "positive-aware 0.95 on the embedder, skip_top 5": Strategy("combinations", [of_positive(0.95, "dense"), skip(5)]),
    "positive-aware 0.95 on the embedder, first 100": Strategy(
        "positive-aware (embedder)", [of_positive(0.95, "dense"), {"kind": "rank_range", "stop": 100}]
    ),
    **{
        f"embedder's percentile <= {high}": Strategy("percentile (embedder)", [band(0, high, "dense")])
        for high in (0.95, 0.9, 0.8)
    },
    **{
        f"teacher <= {value}": Strategy("threshold (teacher)", [at_most(value)])
        for value in (0.7, 0.5, 0.3, 0.25, 0.2, 0.1)
    },
    **{
        f"positive-aware {share} on the teacher": Strategy("positive-aware (teacher)", [of_positive(share, "teacher")])
        for share in (0.95, 0.9, 0.8, 0.6)
    },
    **{
        f"teacher's percentile <= {high}": Strategy("percentile (teacher)", [band(0, high)])
        for high in (0.95, 0.9, 0.75, 0.6, 0.5)
    },
    **{
        f"teacher's percentile over all queries <= {high}": Strategy(
            "percentile (teacher)", [{**band(0, high), "over": "all"}]
        )
        for high in (0.9, 0.75, 0.6)
    },
    **{
        f"teacher's percentile among positives <= {value}": Strategy(
            "calibrated (teacher)", [at_most(value)], calibrate="percentile"
        )
        for value in (0.5, 0.4, 0.3, 0.2)
    },
    "other_cluster": Strategy("other_cluster", [OTHER_CLUSTER], is_mined=True),
    **{
        f"other_cluster of {clusters}": Strategy(
            "other_cluster", [{**OTHER_CLUSTER, "clusters": clusters}], is_mined=True
        )
        for clusters in (20, 50, 300)
    },
    **{
        f"near_duplicate {threshold}": Strategy("near_duplicate", [near(threshold)], is_mined=True)
        for threshold in (0.8, 0.5)
    },
    **{
        f"other_cluster, skip_top {n}": Strategy("combinations", [OTHER_CLUSTER, skip(n)], is_mined=True)
        for n in (5, 10, 20, 30)
    },
    **{
        f"other_cluster, positive-aware {share} on the teacher": Strategy(
            "combinations", [OTHER_CLUSTER, of_positive(share, "teacher")], is_mined=True
        )
        for share in (0.95, 0.9, 0.8)
    },
    **{
        f"other_cluster, teacher <= {value}": Strategy("combinations", [OTHER_CLUSTER, at_most(value)], is_mined=True)
        for value in (0.5, 0.4, 0.3)
    },
    **{
        f"other_cluster, teacher's percentile among positives <= {value}": Strategy(
            "combinations", [OTHER_CLUSTER, at_most(value)], is_mined=True, calibrate="percentile"
        )
        for value in (0.5, 0.4)
    },
    **{
        f"teacher's percentile among positives <= 0.4, skip_top {n}": Strategy(
            "combinations", [at_most(0.4), skip(n)], calibrate="percentile"
        )
        for n in (2, 5)
    },
    **{
        f"teacher's percentile among positives <= 0.3, {name}": Strategy(
            "combinations", [at_most(0.3)], sample, calibrate="percentile"
        )
        for name, sample in (
            ("the teacher's best", {"strategy": "top", "score": "teacher"}),
            ("spread", SPREAD),
            ("by chance of 20", {"strategy": "random", "pool": 20, "score": "dense"}),
        )
    },
    "positive-aware 0.95 on the teacher, skip_top 5, the teacher's best": Strategy(
        "combinations", [of_positive(0.95, "teacher"), skip(5)], {"strategy": "top", "score": "teacher"}
    ),
    "other_cluster, near_duplicate 0.5, positive-aware 0.95 on the teacher": Strategy(
        "combinations", [OTHER_CLUSTER, near(0.5), of_positive(0.95, "teacher")], is_mined=True
    ),
    "other_cluster, positive-aware 0.95 on the teacher, spread": Strategy(
        "combinations", [OTHER_CLUSTER, of_positive(0.95, "teacher")], SPREAD, is_mined=True
    ),
    "teacher <= 0.3, skip_top 5": Strategy("combinations", [at_most(0.3), skip(5)]),
    "teacher <= 0.5, skip_top 10": Strategy("combinations", [at_most(0.5), skip(10)]),
    "positive-aware 0.8 on the teacher, skip_top 3": Strategy("combinations", [of_positive(0.8, "teacher"), skip(3)]),
    "positive-aware 0.95 on the teacher, teacher <= 0.5": Strategy(
        "combinations", [of_positive(0.95, "teacher"), at_most(0.5)]
    ),
    # dpr has no dense candidates; calibrated is "teacher's percentile among positives <= 0.3".
    **{f"recipe {name}": recipe(name) for name in recipes.names() if name not in ("dpr", "calibrated")},
}
