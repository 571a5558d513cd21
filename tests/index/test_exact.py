"""Exact search: equal to a numpy oracle, bit for bit, however documents are split, tied or stored."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.index import exact, first_pass, race
from raymine.topk import merge_topk


def oracle(queries, docs, k):
    """Every inner product in float64, rounded to float32, sorted by (score descending, index ascending)."""
    found = []
    for number, query in enumerate(queries.astype(np.float64)):
        scores = np.array([np.einsum("j,j->", query, doc) for doc in docs.astype(np.float64)]).astype(np.float32)
        best = np.lexsort((np.arange(len(docs)), -scores))[:k]
        found += [(number, int(doc), rank, float(scores[doc])) for rank, doc in enumerate(best)]
    return found


PRECISIONS = ("bfloat16", "float32")


def searched(queries, docs, k, precision="float32"):
    query_index, doc_index, ranks, scores = exact.search(queries, docs, k, precision)
    return list(
        zip(query_index.tolist(), doc_index.tolist(), ranks.tolist(), scores.astype(np.float64).tolist(), strict=True)
    )


def unit_vectors(rng, count, dim, dtype):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


@pytest.fixture
def small_tiles(monkeypatch):
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
    docs, queries = unit_vectors(rng, 400, 24, dtype), unit_vectors(rng, 8, 24, dtype)
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


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_wrong_product_within_the_bound_changes_nothing(monkeypatch, precision):
    """The result does not depend on how the BLAS rounds: adding errors up to the bound leaves every bit as it was."""
    rng = np.random.default_rng(4)
    docs, queries = unit_vectors(rng, 5000, 32, "float16"), unit_vectors(rng, 20, 32, "float16")
    expected = searched(queries, docs, 50, precision)
    real = exact.products

    def noisy(left, right, buffers):
        bits = real(left, right, buffers)
        stored = buffers[1][: bits.size].view(bits.shape)
        error = torch.from_numpy(first_pass.errors(left, right))[:, None] / 2
        noise = error * torch.from_numpy(rng.choice([-1, 1], bits.shape))
        stored.copy_(stored.double() + noise)
        return stored.view(torch.int16).numpy()

    monkeypatch.setattr(exact, "products", noisy)
    assert searched(queries, docs, 50, precision) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1.0, 300.0], ids="scale={}".format)
def test_products_are_within_the_bound(precision, scale):
    """Of float64, for vectors of every size in one tile."""
    rng = np.random.default_rng(6)
    queries, docs = (scale * rng.standard_normal((count, 48)).astype(np.float32) for count in (40, 500))
    left, right = first_pass.rounded(queries, precision), first_pass.rounded(docs, precision)
    buffers = first_pass.make_buffers(precision, 40 * 500)
    bits = first_pass.products(left, right, buffers)
    got = (bits.astype(np.int32) << 16).view(np.float32).astype(np.float64)
    wanted = queries.astype(np.float64) @ docs.astype(np.float64).T
    bound = first_pass.errors(left, right)[:, None] + race.RELATIVE_ERROR * np.abs(got)
    assert (np.abs(got - wanted) <= bound).all()


@settings(deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32), st.floats(0, 1e3), st.sampled_from([0.0, 2.0**-8]))
def test_threshold_is_a_key_below_the_value(value, error, relative):
    """Every product that reaches the value less twice the error has a key of at least the threshold; few more do."""
    threshold = race.threshold_below(value, error, relative)
    limit = np.float32(value - 2 * (error + relative * abs(value)))
    bits = int(limit.view(np.int32)) >> 16  # truncated: for a positive number the bfloat16 below it
    key = bits ^ ((bits >> 15) & 0x7FFF)
    assert -(2**15) <= threshold <= key
    assert race.value_of(threshold) <= limit


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
