"""Rates are found again where they were planted, never below zero, and sizes are what the engine cuts."""

import numpy as np
import pytest

from raymine.config_file import make_config
from raymine.pipeline.sizes import Limits, block_ranges, parts
from raymine.planning.fit import DRIVERS, Point, Rate, fit, non_negative, total
from raymine.planning.size import Size, cut, overlap, sample_sizes, search_limits
from raymine.storage import Shard

SAMPLES = [(500, 20), (2000, 20), (2000, 80)]


def units(documents: int, queries: int, tasks: int = 4) -> dict[str, float]:
    size = Size([documents], [queries], 50.0 * queries, 40.0 * queries, selected=9.0)
    return {**size.units, "tasks": float(tasks)}


@pytest.mark.parametrize(
    "name", ["embed_documents", "embed_queries", "search_bm25", "rescore", "select", "fetch_texts"]
)
def test_planted_costs_are_found(name: str) -> None:
    """Seconds, tokens and bytes that grow by known rates are foretold exactly at a hundred times the size."""
    draw = np.random.default_rng(0)
    largest = units(*SAMPLES[-1])
    drivers = (*DRIVERS.get(name, ("documents", "candidates")), "tasks")[: len(SAMPLES)]  # more cannot be told apart
    planted = {
        what: {driver: float(draw.uniform(0.5, 2)) / largest[driver] for driver in drivers}
        for what in ("seconds", "tokens", "num_bytes", "rows")
    }
    scale = {"seconds": 1.0, "tokens": 1e5, "num_bytes": 1e6, "rows": 1e4}
    points = [
        Point(at, *(scale[what] * total(rates, at) for what, rates in planted.items()))
        for at in (units(*size) for size in SAMPLES)
    ]
    found = fit(name, points)
    whole = units(200_000, 8_000, 13)
    for what, rates in planted.items():
        assert total(getattr(found, what), whole) == pytest.approx(scale[what] * total(rates, whole), rel=1e-6)


def test_what_a_search_of_bm25_takes_before_its_first_query_is_not_taken_for_a_price_of_queries() -> None:
    """Reading the postings of 115,000 documents takes as long as searching them for 4,000 queries: measured."""
    sizes = [(114_688, 2048), (28_672, 4096), (114_688, 4096)]
    points = [
        Point(at, 3.3e-6 * at["documents"] + 0.85e-9 * at["pairs"], 0.0, 0.0, 20 * at["queries"])
        for at in (units(*size, tasks=1) for size in sizes)
    ]
    found, whole = fit("search_bm25", points), units(120_000, 30_000, 1)
    assert total(found.seconds, whole) == pytest.approx(0.396 + 3.06)
    assert total(found.rows, whole) == pytest.approx(600_000)


def test_samples_of_as_many_documents_tell_what_a_document_takes() -> None:
    """Not what a task takes, though they cannot tell the two apart: a round of ten times the size takes ten times."""
    points = [Point(units(1580, queries), 0.26, 15_800.0, 0.0, 1580.0) for queries in (1024, 1024, 1214)]
    found = fit("embed_documents", points)
    whole = units(15_800, 12_000, 1)
    assert total(found.seconds, whole) == pytest.approx(2.6) and total(found.tokens, whole) == pytest.approx(158_000)
    assert total(found.rows, whole) == pytest.approx(15_800)


def test_a_scatter_of_three_per_cent_stays_one() -> None:
    """Of a step with one driver, at a hundred times the size."""
    draw = np.random.default_rng(1)
    for _ in range(20):
        points = [
            Point(at, (0.05 + 1e-3 * at["documents"]) * draw.normal(1, 0.03))
            for at in (units(*size) for size in SAMPLES)
        ]
        whole = units(200_000, 8_000)
        assert total(fit("embed_documents", points).seconds, whole) == pytest.approx(200.05, rel=0.12)


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_those_of_non_negative_least_squares(seed: int) -> None:
    """Against scipy's, on rows weighted alike; some of the true weights are zero, some of the free ones negative."""
    nnls = pytest.importorskip("scipy.optimize").nnls
    draw = np.random.default_rng(seed)
    matrix, values = draw.uniform(0, 1, (6, 3)), draw.uniform(0, 1, 6)
    weight = 1 / (0.1 + values)
    expected, _ = nnls(matrix * weight[:, None], values * weight)
    assert non_negative(matrix, values, 0.1) == pytest.approx(expected, abs=1e-9)


def test_nothing_explains_nothing() -> None:
    """A step that took no time has no rate, and one point is met by one driver."""
    assert fit("select", [Point(units(500, 20), 0.0)]).seconds == {"tasks": 0.0, "documents": 0.0, "candidates": 0.0}
    assert total(fit("rescore", [Point(units(500, 20), 3.0)]).seconds, units(500, 20)) == pytest.approx(3.0)


def test_samples_grow_to_a_tenth() -> None:
    """By four, from more documents than a query has candidates; a tiny round is its own sample."""
    assert sample_sizes(100_000, 50_000, 55) == [
        (256, 16),
        (1024, 64),
        (4096, 256),
        (10_000, 1024),
        (10_000, 4096),
        (10_000, 5000),
    ]
    assert sample_sizes(140, 27, 54) == [(35, 4), (140, 16)]
    assert sample_sizes(1_000_000, 20, 310)[0] == (620, 16)  # fmt: skip


def test_texts_are_fetched_once_for_each_block() -> None:
    """As many as draws by chance touch: a block asks for a document once, however many of its queries selected it."""
    draw = np.random.default_rng(0)
    drawn = [len(np.unique(draw.integers(0, 3000, 9 * queries))) for queries in (400, 50)]
    assert Size([1000, 2000], [400, 50], 0.0, 0.0, selected=9.0).units["texts"] == pytest.approx(sum(drawn), rel=0.02)
    assert Size([0], [1], 0.0, 0.0, selected=9.0).units["texts"] == 0


def test_candidates_grow_with_the_logarithm_of_the_corpus_up_to_what_sources_find() -> None:
    """One more per doubling in the samples, so one more per doubling beyond; 55 at most."""
    seen = [
        {"documents": 256.0, "queries": 10.0, "candidates": 400.0, "scored": 100.0},
        {"documents": 1024.0, "queries": 10.0, "candidates": 420.0, "scored": 100.0},
        {"documents": 1024.0, "queries": 40.0, "candidates": 1680.0, "scored": 840.0},
    ]
    found = overlap(*seen)
    assert found.scored_share == 0.5
    assert found.candidates(1024, 100, 55) == pytest.approx(4200)
    assert found.candidates(8192, 100, 55) == pytest.approx(4500)
    assert found.candidates(10**9, 100, 55) == pytest.approx(5500)


def test_tasks_of_a_search_are_those_that_the_round_is_cut_into() -> None:
    """As many as parts of documents times ranges of query blocks."""
    config = make_config({
        "corpus": {"path": "c"}, "queries": {"path": "q"}, "positives": {"path": "p"},
        "retrieve": {"bm25": {"k": 5}}, "resources": {"memory_gb": 0.05},
    })  # fmt: skip
    size = Size(cut(1_000_000, 16384), cut(50_000, 8192), 0, 0)
    assert sum(size.documents) == 1_000_000 and sum(size.queries) == 50_000
    limits: Limits = search_limits("search_bm25", config, 0)
    shards, blocks = ([Shard("", rows, 0, "") for rows in table] for table in (size.documents, size.queries))
    expected = len(parts(shards, limits.documents)) * len(block_ranges(blocks, shards, limits))
    assert size.tasks("search_bm25", "parts", config) == expected > 10
    assert size.tasks("select", "blocks", config) == 7 and size.tasks("rescore", "shards", config) == 62
    assert Rate({}, {}, {}, {}).spread == "one" and size.tasks("query_terms", "one", config) == 1


def test_lists_are_built_in_as_many_tasks_as_a_round_does() -> None:
    """500,000 documents of 256 dimensions were one part, put in order in eight tasks; with less memory in more."""
    raw = {"corpus": {"path": "c"}, "queries": {"path": "q"}, "positives": {"path": "p"}, "embed": {"model": "m"}}
    size = Size(cut(500_000, 16384), cut(100_000, 8192), 0, 0, 256)
    retrieve = {"dense": {"k": 100}}
    assert size.tasks("build_lists", "parts", make_config({**raw, "retrieve": retrieve})) == 8
    small = {**raw, "retrieve": retrieve, "resources": {"memory_gb": 0.1}}
    assert size.tasks("build_lists", "parts", make_config(small)) == 31
