"""Filters that each name their reason, and samplers: from candidates to verdicts to negatives.

Adding a filter: one function in one file, one line in FILTERS, its section in raymine/select_config.py, one test.
Adding a sampler: one function in select/samplers.py, one line in SAMPLERS, its name in raymine/select_config.py, one
test.
"""

from __future__ import annotations

from raymine.select.base import Filter
from raymine.select.cluster import other_cluster
from raymine.select.consistency import consistency
from raymine.select.near import near_duplicate
from raymine.select.percentile import percentile_band
from raymine.select.rank import rank_range, skip_top
from raymine.select.relative import relative
from raymine.select.reuse import max_reuse
from raymine.select.score import max_score, min_score
from raymine.select.source_group import same_source_group

FILTERS: dict[str, Filter] = {
    "max_score": max_score,
    "min_score": min_score,
    "max_relative_score": relative,
    "margin": relative,
    "skip_top": skip_top,
    "rank_range": rank_range,
    "percentile_band": percentile_band,
    "consistency": consistency,
    "other_cluster": other_cluster,
    "same_source_group": same_source_group,
    "near_duplicate": near_duplicate,
    "max_reuse": max_reuse,
}
