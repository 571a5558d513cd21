"""The config's filters against the oracle, their order, and that tightening never adds."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from select_cases import goes, random_rows, row, verdicts

from raymine.select import FILTERS
from raymine.select.base import Candidates, without_non_finite
from raymine.select.relative import unbounded_queries
from raymine.select.scales import Scales, count_scores
from raymine.select.verdict import KEPT, REASONS, apply_filters, comes_late, from_column, resolved, to_column
from raymine.select_config import (
    Consistency,
    FilterConfig,
    Margin,
    MaxRelativeScore,
    MaxScore,
    MinScore,
    NearDuplicate,
    OtherCluster,
    PercentileBand,
    RankRange,
    SameSourceGroup,
    SkipTop,
)

EXAMPLES = [
    MaxScore(kind="max_score", value=0.5, score="dense"),
    MaxScore(kind="max_score", value=3, score="teacher"),
    MinScore(kind="min_score", value=0.0, score="dense"),
    MinScore(kind="min_score", value=4, score="bm25"),
    *[
        MaxRelativeScore(kind="max_relative_score", of_positive=share, against=against, score=score)
        for share in (0.5, 0.95, 1.0)
        for against in ("min", "max", "each")
        for score in ("teacher", "dense")
    ],
    *[Margin(kind="margin", value=v, against=a, score="dense") for v in (0.5, -0.5) for a in ("min", "max", "each")],
    MaxScore(kind="max_score", value=0.5, score="dense", spare_random=True),
    *[
        MaxRelativeScore(kind="max_relative_score", against=against, score="dense", spare_random=True)
        for against in ("min", "max", "each")
    ],
    Margin(kind="margin", value=-0.5, score="dense", spare_random=True),
    MaxScore(kind="max_score", value=0.5, score="dense", spare_beyond=3),
    *[
        MaxRelativeScore(kind="max_relative_score", against=against, score=score, spare_beyond=5)
        for against in ("min", "max", "each")
        for score in ("teacher", "dense")
    ],
    SkipTop(kind="skip_top", n=5),
    SkipTop(kind="skip_top", n=0),
    RankRange(kind="rank_range", start=2, stop=12, source="bm25"),
    PercentileBand(kind="percentile_band", score="teacher"),
    PercentileBand(kind="percentile_band", low=0.5, high=1, score="dense"),
    PercentileBand(kind="percentile_band", low=0, high=0, score="bm25"),
    PercentileBand(kind="percentile_band", low=0.3, high=0.9, score="teacher", over="all"),
    PercentileBand(kind="percentile_band", low=0, high=0.5, score="bm25", over="all"),
    OtherCluster(kind="other_cluster"),
    OtherCluster(kind="other_cluster", column="topic"),
    SameSourceGroup(kind="same_source_group", column="topic"),
    SameSourceGroup(kind="same_source_group", column="topic", keep="same"),
    NearDuplicate(kind="near_duplicate", threshold=0.75),
    NearDuplicate(kind="near_duplicate", threshold=1),
    Consistency(kind="consistency", n=1, score="teacher"),
    Consistency(kind="consistency", n=4, score="dense"),
]


def name(config):
    return "-".join(str(value) for value in config.model_dump().values())


def with_counts(table):
    """Candidates whose scores have been counted, as of one block that is all there is."""
    plain = Candidates(table)
    names = ("teacher", "dense", "bm25")
    counts = pa.concat_tables([count_scores(name, plain.score(name), plain.is_positive) for name in names])
    return Candidates(table, Scales(counts=counts))


def kept_rows(rows, filters):
    """Candidates kept of a table whose positives alone are dropped."""
    table = verdicts(rows)
    return apply_filters(from_column(table["dropped_by"]), with_counts(table), filters)


@pytest.mark.parametrize("config", EXAMPLES, ids=name)
@pytest.mark.parametrize("seed", range(4))
def test_a_filter_takes_what_the_oracle_takes(config, seed):
    """A vectorised filter and one candidate at a time agree."""
    rows = random_rows(seed)
    table = verdicts(rows)
    ordered = sorted(rows, key=lambda one: (one["query_row"], one["doc_row"]))
    expected = [goes(config, one, rows) for one in ordered]
    got = FILTERS[config.kind](with_counts(table), config)
    is_candidate = ~Candidates(table).is_positive
    assert got[is_candidate].tolist() == np.array(expected)[is_candidate].tolist()


def test_every_config_filter_has_a_function():
    """The dict of filters and the config know the same kinds."""
    sections = get_args(get_args(FilterConfig)[0])
    assert set(FILTERS) == {get_args(section.model_fields["kind"].annotation)[0] for section in sections}


def test_a_negative_positive_score_lowers_the_bound():
    """Regression of a peer: p * 0.95 lies above p when p is a negative logit, and let everything through."""
    rows = [row(0, 1, relevance=1, teacher=-4.0), row(0, 2, teacher=-4.1), row(0, 3, teacher=-4.3)]
    config = MaxRelativeScore(kind="max_relative_score", of_positive=0.95, score="teacher")
    assert kept_rows(rows, [config]).tolist() == [0, REASONS.index("max_relative_score"), KEPT]


def test_without_a_positive_score_nothing_goes_and_it_is_counted():
    """A positive whose score is unknown bounds nothing."""
    rows = [row(0, 1, relevance=1), row(0, 2, dense=9.0), row(1, 1, relevance=1, dense=1.0), row(1, 2, dense=9.0)]
    for against in ("min", "max", "each"):
        config = Margin(kind="margin", value=0, against=against, score="dense")
        codes = kept_rows(rows, [config])
        assert (codes == KEPT).tolist() == [False, True, False, False]
        assert unbounded_queries(Candidates(verdicts(rows)), [config]) == 1


def test_with_each_an_unknown_positive_lets_a_candidate_stay():
    """It passes for the positive whose score is unknown."""
    rows = [row(0, 1, relevance=1, dense=1.0), row(0, 2, relevance=1), row(0, 3, dense=9.0)]
    assert kept_rows(rows, [Margin(kind="margin", value=0, against="each", score="dense")])[2] == KEPT
    assert kept_rows(rows, [Margin(kind="margin", value=0, against="max", score="dense")])[2] != KEPT


def test_random_candidates_are_spared():
    """Of a query whose positive scores low the filter leaves what chance alone has found, and that it was not asked."""
    found = {1: {"random_rank": 0}, 2: {"random_rank": 1, "dense_rank": 7}, 3: {"dense_rank": 0}}
    rows = [row(0, 0, relevance=1, dense=0.1), *(row(0, doc, dense=0.5, **ranks) for doc, ranks in found.items())]
    for against in ("min", "each"):
        config = MaxRelativeScore(kind="max_relative_score", score="dense", against=against, spare_random=True)
        assert (kept_rows(rows, [config]) == KEPT).tolist() == [False, True, False, False]


def test_what_ranks_far_behind_is_spared():
    """Of a query whose positive scores low the filter takes the first ranks of any source, and no others."""
    ranks = [{"dense_rank": 1}, {"dense_rank": 2}, {"dense_rank": 9, "bm25_rank": 1}, {"random_rank": 0}]
    rows = [row(0, 0, relevance=1, dense=0.1), *(row(0, 1 + i, dense=0.5, **each) for i, each in enumerate(ranks))]
    for against in ("min", "each"):
        config = MaxRelativeScore(kind="max_relative_score", score="dense", against=against, spare_beyond=2)
        assert (kept_rows(rows, [config]) == KEPT).tolist() == [False, False, True, False, True]


def test_the_first_filter_names_the_reason():
    """One reason each: the first in the config's order."""
    rows = [row(0, 1, relevance=1, dense=1.0), row(0, 2, dense=3.0, dense_rank=0)]
    top, high = SkipTop(kind="skip_top", n=1), MaxScore(kind="max_score", value=2, score="dense")
    assert REASONS[kept_rows(rows, [top, high])[1]] == "skip_top"
    assert REASONS[kept_rows(rows, [high, top])[1]] == "max_score"


def test_a_filter_without_a_score_goes_by_the_default():
    """The teacher's, when there is one; such a filter has to wait for it."""
    high, top = MaxScore(kind="max_score", value=2), SkipTop(kind="skip_top", n=1)
    assert [f.model_dump().get("score") for f in resolved([high, top], "teacher")] == ["teacher", None]
    assert [comes_late(f) for f in resolved([high, top], "teacher")] == [True, False]
    assert [comes_late(f) for f in resolved([high, top], "dense")] == [False, False]
    assert resolved([high.model_copy(update={"score": "bm25"})], "teacher")[0].score == "bm25"


def test_verdicts_of_no_candidates_are_empty():
    """A block whose queries found nothing passes through."""
    assert kept_rows([], EXAMPLES).tolist() == []


def test_codes_survive_the_column():
    """dropped_by to codes and back, whatever the order of its dictionary; kept is null."""
    codes = np.array([KEPT, 3, len(REASONS) - 1, 0, KEPT])
    column = to_column(codes)
    assert column.to_pylist() == [None, "duplicate_of_positive", REASONS[-1], "positive", None]
    assert from_column(column.cast("string").dictionary_encode()).tolist() == codes.tolist()


def test_non_finite_scores_become_unknown():
    """NaN and infinity are no scores: a min_score takes them, and no later table carries them."""
    rows = [row(0, 1, dense=float("inf")), row(0, 2, dense=float("nan")), row(0, 3, dense=1.0)]
    table = without_non_finite(verdicts(rows))
    assert table["dense_score"].to_pylist() == [None, None, 1.0]


TIGHTER = {
    "max_score": lambda c, by: c.model_copy(update={"value": c.value - by}),
    "min_score": lambda c, by: c.model_copy(update={"value": c.value + by}),
    "max_relative_score": lambda c, by: c.model_copy(update={"of_positive": c.of_positive / (1 + by)}),
    "margin": lambda c, by: c.model_copy(update={"value": c.value + by}),
    "skip_top": lambda c, by: c.model_copy(update={"n": c.n + int(by)}),
    "rank_range": lambda c, by: c.model_copy(update={"start": c.start + int(by), "stop": c.stop - int(by)}),
    "percentile_band": lambda c, by: c.model_copy(update={"low": c.low + by / 9, "high": c.high - by / 9}),
    "consistency": lambda c, by: c.model_copy(update={"n": max(1, c.n - int(by))}),
    "near_duplicate": lambda c, by: c.model_copy(update={"threshold": c.threshold - by / 9}),
    "other_cluster": lambda c, by: c,
    "same_source_group": lambda c, by: c,
}


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    filters=st.lists(st.sampled_from(EXAMPLES), min_size=1, max_size=4),
    which=st.integers(0, 3),
    by=st.floats(0, 3),
)
def test_tightening_a_filter_never_adds(seed, filters, which, by):
    """Kept by the tighter filters is a subset of kept by the looser; kept and dropped are all candidates."""
    rows = random_rows(seed, num_queries=3)
    which %= len(filters)
    tighter = [TIGHTER[f.kind](f, by) if i == which else f for i, f in enumerate(filters)]
    loose, tight = kept_rows(rows, filters), kept_rows(rows, tighter)
    assert not ((tight == KEPT) & (loose != KEPT)).any()
    assert len(loose) == len(rows) and ((loose >= KEPT) & (loose < len(REASONS))).all()
