"""Exact search: equal to a numpy oracle, bit for bit, however documents are split, tied or stored."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymine import schemas, scores, storage
from raymine.artifacts import Task
from raymine.index import exact, first_pass, int8_tile, race
from raymine.topk import gathered_scores, merge_topk


def oracle(queries, docs, k):
    """Every inner product in float64, rounded to float32, sorted by (score descending, index ascending)."""
    found = []
    for number, query in enumerate(queries.astype(np.float64)):
        scores = np.array([np.einsum("j,j->", query, doc) for doc in docs.astype(np.float64)]).astype(np.float32)
        best = np.lexsort((np.arange(len(docs)), -scores))[:k]
        found += [(number, int(doc), rank, float(scores[doc])) for rank, doc in enumerate(best)]
    return found


PRECISIONS = ("int8", "bfloat16", "float32")


def searched(queries, docs, k, precision="float32"):
    query_index, doc_index, ranks, scores = exact.search(queries, docs, k, precision)
    return list(
        zip(query_index.tolist(), doc_index.tolist(), ranks.tolist(), scores.astype(np.float64).tolist(), strict=True)
    )


def unit_vectors(rng, count, dim, dtype):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


@pytest.fixture(params=["tiles", "products", "plain"])
def race_kind(request, monkeypatch):
    """All races run what follows: compiled, over tiles in registers or over products in memory, and plain."""
    if request.param == "tiles" and not int8_tile.is_supported():
        pytest.skip("needs a CPU with avx512_vnni")
    if request.param != "plain":
        monkeypatch.setattr(exact, "PAIRS", 0)
        monkeypatch.setattr(int8_tile, "is_supported", lambda: request.param == "tiles")


@pytest.fixture
def small_tiles(monkeypatch, race_kind):
    """Tiles so small that a small test crosses all their borders."""
    monkeypatch.setattr(exact, "QUERIES_PER_TILE", 3)
    monkeypatch.setattr(exact, "DOCS_PER_TILE", 16)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 7, 16, 60, 500], ids="k={}".format)
def test_search_equals_the_oracle(dtype, k, precision):
    """Ids, ranks and score bits are the oracle's, for every k up to more than there are documents."""
    rng = np.random.default_rng(k)
    docs, queries = unit_vectors(rng, 400, 23, dtype), unit_vectors(rng, 8, 23, dtype)
    assert searched(queries, docs, k, precision) == oracle(queries, docs, k)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_of_any_size_and_sign_are_searched(precision):
    """Inner products of unnormalised vectors: all negative, huge, tiny, and zeros of both signs."""
    rng = np.random.default_rng(8)
    docs = unit_vectors(rng, 300, 16, "float32") * 10.0 ** rng.integers(-6, 6, (300, 1)).astype(np.float32)
    docs[::7] = 0
    for queries in (unit_vectors(rng, 5, 16, "float32"), -np.abs(docs[:4]), np.zeros((2, 16), np.float32)):
        assert searched(queries, np.abs(docs), 9, precision) == oracle(queries, np.abs(docs), 9)
        assert searched(queries, docs, 9, precision) == oracle(queries, docs, 9)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("copies", [2, 40, 300], ids="copies={}".format)
def test_identical_documents_tie_and_the_lower_row_wins(copies, precision):
    """Mass duplicates, more of them than a tile and than k, are ordered by doc_row."""
    rng = np.random.default_rng(copies)
    distinct = unit_vectors(rng, 4, 24, "float16")
    docs = distinct[rng.integers(0, 4, 4 * copies)]
    queries = np.concatenate([distinct, unit_vectors(rng, 3, 24, "float16")])
    assert searched(queries, docs, 10, precision) == oracle(queries, docs, 10)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_closer_than_float32_can_tell_are_ordered_by_their_exact_values(precision):
    """Documents whose float32 products drown in rounding come out in the order of the exact scores."""
    rng = np.random.default_rng(3)
    docs = np.repeat(unit_vectors(rng, 1, 64, "float32"), 400, axis=0)
    docs = np.nextafter(docs, rng.choice([-2, 2], docs.shape).astype(np.float32))
    queries = unit_vectors(rng, 4, 64, "float32")
    assert searched(queries, docs, 5, precision) == oracle(queries, docs, 5)


@pytest.mark.usefixtures("race_kind")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_wrong_product_within_the_bound_changes_nothing(monkeypatch, precision):
    """The result does not depend on how the BLAS rounds: adding errors up to the bound leaves every bit as it was."""
    rng = np.random.default_rng(4)
    docs, queries = unit_vectors(rng, 5000, 32, "float16"), unit_vectors(rng, 20, 32, "float16")
    expected = searched(queries, docs, 50, precision)
    real = exact.products

    def noisy(left, right, buffers):
        found = real(left, right, buffers)
        bound = (room(left, right) - 2.0**-22) / (left.scales[:, None] * right.scales) / 2
        noise = bound * rng.choice([-1, 1], found.shape)
        return (found + (np.trunc(noise) if precision == "int8" else noise)).astype(found.dtype)

    monkeypatch.setattr(exact, "products", noisy)
    assert searched(queries, docs, 50, precision) == expected


def room(left, right):
    """The bound on the error of each pair."""
    bounds = first_pass.errors(left, right.extent)
    return bounds.flat[:, None] + bounds.slope[:, None] * right.residuals


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1.0, 300.0], ids="scale={}".format)
@pytest.mark.parametrize("offset", [0.0, 3.0], ids="offset={}".format)
def test_products_are_within_the_bound(precision, scale, offset):
    """Of float64, for vectors of every size in one tile, with and without something that all documents share."""
    rng = np.random.default_rng(6)
    queries, docs = (
        (scale * (rng.standard_normal((count, 48)) + offset) * rng.uniform(0.01, 1, (count, 1))).astype(np.float32)
        for count in (40, 500)
    )
    mean = first_pass.mean_of(docs)
    left, right = first_pass.rounded(queries, precision), first_pass.rounded(docs, precision, mean)
    found = first_pass.products(left, right, first_pass.make_buffers(precision, 40 * 500))
    values = found.astype(np.float32) * right.scales
    got = queries.astype(np.float64) @ mean[:, None] + left.scales[:, None].astype(np.float64) * values
    wanted = queries.astype(np.float64) @ docs.astype(np.float64).T
    assert (np.abs(got - wanted) <= room(left, right)).all()


@settings(deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32), st.floats(0, 1e3))
def test_threshold_is_below_the_value_less_its_error(value, error):
    """And no further than its rounding needs, as a float32 too."""
    threshold = np.float32(race.threshold_below(value, error))
    assert threshold <= value - error
    assert value - error - threshold <= 2.0**-21 * abs(value - error) + 2.0**-149


def shifted(vectors):
    """Vectors with a large part that all share, as of many embedders."""
    together = vectors + np.full(vectors.shape[1], 0.4, vectors.dtype)
    return together / np.linalg.norm(together, axis=1, keepdims=True)


def test_precision_is_the_fastest_that_tells_the_vectors_apart(monkeypatch):
    """int8 for vectors in all directions, shared offset or not; not for those that differ in the last digits only."""
    monkeypatch.setattr(first_pass, "fastest_first", lambda: ["int8", "bfloat16", "float32"])
    rng = np.random.default_rng(2)
    docs, queries = unit_vectors(rng, 20000, 64, "float32"), unit_vectors(rng, 100, 64, "float32")
    assert first_pass.precision_for(queries, docs, 100) == "int8"
    assert first_pass.precision_for(queries, shifted(docs), 100) == "int8"
    close = docs[:1] + np.float32(1e-3) * docs
    close[:, 0] = docs[:, 0]
    assert first_pass.precision_for(queries, close, 100) != "int8"
    alike = np.repeat(docs[:1], 20000, axis=0) + np.float32(1e-7) * docs
    assert first_pass.precision_for(queries, alike, 100) == "float32"


@pytest.mark.parametrize("dtypes", itertools.product(["float16", "float32"], repeat=2), ids="-".join)
def test_final_scores_are_those_of_topk_to_the_bit(dtypes):
    """For numbers of any size, subnormal ones too, and for sums that end half way between two float32."""
    rng = np.random.default_rng(1)
    queries, docs = (
        (rng.standard_normal((count, 40)) * 10.0 ** rng.integers(-8, 4, (count, 1))).astype(dtype)
        for count, dtype in zip((30, 200), dtypes, strict=True)
    )
    docs[:4] = 0
    queries[0], docs[4] = 0, 0
    queries[0, :2], docs[4, :2] = [1, 2.0**-12], [1, 2.0**-12]  # 1 + 2**-24
    query_index, doc_index = (axis.ravel() for axis in np.indices((30, 200)))
    wanted = gathered_scores(queries, docs, query_index, doc_index)
    got = scores.final_scores(queries, docs, query_index, doc_index)
    np.testing.assert_array_equal(got.view(np.int32), wanted.view(np.int32))


@pytest.mark.usefixtures("race_kind")
def test_precision_and_threads_do_not_change_a_bit(monkeypatch):
    """More queries than a tile, several chunks."""
    rng = np.random.default_rng(9)
    docs, queries = unit_vectors(rng, 9000, 24, "float16"), unit_vectors(rng, 1200, 24, "float16")
    results = []
    for precision, threads in itertools.product(PRECISIONS, ("1", "3")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found = exact.Search(queries, 30, precision)
        for begin in range(0, 9000, 4000):
            found.add(np.arange(begin, min(begin + 4000, 9000)), docs[begin : begin + 4000])
        results.append([column.tobytes() for column in found.hits()])
    assert all(result == results[0] for result in results[1:])


@given(st.lists(st.integers(0, 120), max_size=5), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_split_of_the_documents_gives_the_same_hits(cuts, k, seed):
    """Searching slices of the documents and merging equals searching all of them, duplicates included."""
    rng = np.random.default_rng(seed)
    docs = unit_vectors(rng, 120, 16, "float16")[rng.integers(0, 60, 120)]
    queries = unit_vectors(rng, 5, 16, "float16")
    borders = [0, *sorted(cuts), 120]
    parts = []
    for begin, end in itertools.pairwise(borders):
        query_index, doc_index, _, scores = exact.search(queries, docs[begin:end], k)
        parts.append((query_index, doc_index + begin, scores))
    merged = merge_topk(*(np.concatenate(column) for column in zip(*parts, strict=True)), k)
    for got, expected in zip(merged, exact.search(queries, docs, k), strict=True):
        np.testing.assert_array_equal(got, expected)


def write_vectors(folder: Path, name: str, rows, vectors) -> str:
    path = str(folder / f"{name}.parquet")
    storage.write_arrow(path, schemas.vector_table(np.asarray(rows, np.int64), vectors))
    return path


@pytest.mark.parametrize("chunk_documents", [1, 50, 1000])
@pytest.mark.parametrize("shards_per_part", [1, 2, 3])
def test_stage_writes_hits_by_query_block_whatever_the_parts(tmp_path, shards_per_part, chunk_documents):
    """Documents without a vector are skipped, rows are global, and the parts' merged hits are the oracle's."""
    rng = np.random.default_rng(5)
    sizes, starts = [30, 25, 40], [0, 30, 55]
    rows = [np.sort(rng.choice(size, size - 5, replace=False)) for size in sizes]
    docs = [unit_vectors(rng, len(r), 16, "float16") for r in rows]
    queries = unit_vectors(rng, 7, 16, "float16")
    shards = [write_vectors(tmp_path, f"d{i}", *pair) for i, pair in enumerate(zip(rows, docs, strict=True))]
    blocks = [
        write_vectors(tmp_path, f"q{i}", np.arange(len(part)), part)
        for i, part in enumerate([queries[:4], queries[4:]])
    ]
    stage = exact.SearchExact(blocks, [0, 4], 6, chunk_documents)
    paths = []
    for begin in range(0, 3, shards_per_part):
        chosen = slice(begin, begin + shards_per_part)
        inputs = {"vectors": shards[chosen], "first_rows": starts[chosen], "blocks": [0, 2]}
        record = stage(Task("key", inputs, str(tmp_path / f"part{begin}")))
        assert record.rows_in == sum(len(r) for r in rows[chosen])
        paths.append(record.outputs[0].path)
    doc_rows = np.concatenate([r + start for r, start in zip(rows, starts, strict=True)])
    expected = [(q, doc_rows[d], rank, score) for q, d, rank, score in oracle(queries, np.concatenate(docs), 6)]
    tables = [schemas.check(storage.read_buckets(paths, block, schemas.HITS), schemas.HITS) for block in (0, 1)]
    assert [set(t["query_row"].to_pylist()) for t in tables] == [{0, 1, 2, 3}, {4, 5, 6}]
    hits = pa.concat_tables(tables)
    merged = merge_topk(hits["query_row"].to_numpy(), hits["doc_row"].to_numpy(), hits["score"].to_numpy(), 6)
    assert list(zip(*(column.tolist() for column in merged), strict=True)) == expected


def test_a_task_searches_for_its_query_blocks(tmp_path):
    """Bucket i holds the hits of block first + i, as from a search for all blocks."""
    rng = np.random.default_rng(7)
    docs = write_vectors(tmp_path, "d", np.arange(50), unit_vectors(rng, 50, 8, "float16"))
    blocks = [write_vectors(tmp_path, f"q{i}", np.arange(3), unit_vectors(rng, 3, 8, "float16")) for i in range(3)]
    stage = exact.SearchExact(blocks, [0, 3, 6], 4, 1000)
    inputs = {"vectors": [docs], "first_rows": [0]}
    every = stage(Task("a", {**inputs, "blocks": [0, 3]}, str(tmp_path / "all"))).outputs[0].path
    some = stage(Task("b", {**inputs, "blocks": [1, 3]}, str(tmp_path / "some"))).outputs[0].path
    for bucket in (0, 1):
        assert storage.read_bucket(some, bucket).equals(storage.read_bucket(every, bucket + 1))
    assert storage.read_bucket(some, 0).num_rows == 12


def test_part_without_vectors_gives_no_hits(tmp_path):
    """A part whose documents are all empty writes one empty bucket per block."""
    shard = write_vectors(tmp_path, "d", [], np.empty((0, 8), np.float16))
    block = write_vectors(tmp_path, "q", [0], np.ones((1, 8), np.float16))
    stage = exact.SearchExact([block, block], [0, 1], 3, 1000)
    record = stage(Task("key", {"vectors": [shard], "first_rows": [0], "blocks": [0, 2]}, str(tmp_path / "part")))
    assert storage.read_buckets([record.outputs[0].path] * 2, 1, schemas.HITS).num_rows == 0
