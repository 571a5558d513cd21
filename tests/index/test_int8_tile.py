"""Tiles of int8 vectors, multiplied and compared in registers: against numpy, whatever their sizes."""

import numpy as np
import pytest
from numba import config

from raymine.index import first_pass, int8_tile
from raymine.index.race import Race

needs_vnni = pytest.mark.skipif(not int8_tile.is_supported(), reason="needs a CPU with avx512_vnni")


def rounded(rng, count, dim):
    return first_pass.rounded(rng.standard_normal((count, dim)).astype(np.float16), "int8")


@pytest.mark.parametrize("count", [1, 16, 48, 100])
@pytest.mark.parametrize("dim", [1, 4, 30])
def test_panels_hold_every_number_once(count, dim):
    """Each document's, plus 128, at its panel, quad, group and lane; nothing that fills up has a residual."""
    docs = rounded(np.random.default_rng(0), count, dim)
    panels = int8_tile.panels_of(docs, np.array([0, count]))
    assert panels.numbers.shape == (-(-count // 48), -(-dim // 4), 3, 16, 4) and panels.numbers.flags.c_contiguous
    for doc in range(count):
        panel, group, lane = doc // 48, doc % 48 // 16, doc % 16
        for column in range(dim):
            number = panels.numbers[panel, column // 4, group, lane, column % 4]
            assert int(number) - 128 == int(docs.tensor[doc, column])
    for padded, known in ((panels.scales, docs.scales), (panels.residuals, docs.residuals)):
        np.testing.assert_array_equal(padded[:count], known)
        assert np.isnan(padded[count:]).all() and len(padded) == 48 * len(panels.numbers)


@needs_vnni
@pytest.mark.parametrize("num_queries", [1, 8, 21])
@pytest.mark.parametrize("count", [1, 47, 48, 500])
@pytest.mark.parametrize("dim", [3, 64, 257])
def test_what_reaches_a_threshold_is_taken_in(num_queries, count, dim):
    """The documents and values of a numpy product, in their order, for thresholds that some, all and none reach."""
    rng = np.random.default_rng(count + dim)
    queries, docs = rounded(rng, num_queries, dim), rounded(rng, count, dim)
    panels = int8_tile.panels_of(docs, np.array([0, count]))
    matrix = queries.tensor.numpy().astype(np.float16)
    kth_scores, room_for_all = np.full(num_queries, -np.inf), 500
    race = Race(matrix, queries, docs.extent, panels.residuals, kth_scores, room_for_all, None)
    products = queries.tensor.numpy().astype(np.int64) @ docs.tensor.numpy().astype(np.int64).T
    uppers = products * docs.scales.astype(np.float64) + race.bounds.slopes[:, None] * docs.residuals
    thresholds = np.quantile(uppers, 0.7, axis=1) * 1.001
    thresholds[0] = -np.inf
    if num_queries > 1:
        thresholds[1] = np.inf
    race.standings.thresholds[:num_queries] = thresholds
    race.offer_panels(panels, 0, np.ones((1, num_queries), np.bool_))
    for query in range(num_queries):
        size = race.standings.sizes[query]
        wanted = np.flatnonzero(uppers[query] >= np.float32(thresholds[query]))
        np.testing.assert_array_equal(race.standings.docs[query, :size], wanted)
        np.testing.assert_allclose(race.standings.values[query, :size], uppers[query, wanted], rtol=1e-5, atol=1e-4)
    assert not race.standings.sizes[num_queries:].any()


def test_code_for_another_cpu_has_no_tiles(monkeypatch):
    """What numba is told to compile for decides, not the CPU at hand."""
    monkeypatch.setattr(config, "CPU_NAME", "generic")
    assert not int8_tile.is_supported()
    monkeypatch.setattr(config, "CPU_NAME", None)
    monkeypatch.setattr(int8_tile, "get_host_cpu_features", lambda: "+avx2,-avx512vnni")
    assert not int8_tile.is_supported()
    monkeypatch.setattr(int8_tile, "get_host_cpu_features", lambda: "+avx2,+avx512vnni")
    assert int8_tile.is_supported()
