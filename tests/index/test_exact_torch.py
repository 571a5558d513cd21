"""Exact search on a device: the hits of index.exact bit for bit, in whatever order the shards come (on CPU tensors)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.index import exact, exact_torch
from raymine.index.exact_torch import RunningTopk, SearchShard, final_scores, product, relative_error
from raymine.topk import merge_topk, pair_scores
from raymine.vectors import Vectors


def unit_vectors(rng, count, dim, dtype):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def oracle(queries, docs, k):
    """(query, document, rank, score) by index.exact, which has a numpy oracle of its own."""
    return [column.tolist() for column in exact.search(queries, docs.astype(np.float32), k)]


def offered(topk: RunningTopk, docs, borders: Sequence[int], order: Sequence[int], block: int = 0):
    """Offers shards docs[borders[i] : borders[i + 1]] in an order; the hits of each, with document rows."""
    found = {}
    for number in order:
        part = docs[borders[number] : borders[number + 1]]
        if len(part):
            query_index, doc_index, scores = topk.search(block, topk.documents(number, part))
            found[number] = (query_index, doc_index + borders[number], scores)
    return found


def merged(found: dict[int, Any], k: int):
    columns = [np.concatenate(column) for column in zip(*found.values(), strict=True)]
    return [column.tolist() for column in merge_topk(*columns, k)]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and chunks so small that a small test crosses all their borders."""
    monkeypatch.setattr(exact_torch, "SCORES_PER_TILE", 50)
    monkeypatch.setattr(exact_torch, "DOCS_PER_TILE", 16)
    monkeypatch.setattr(exact_torch, "SURVIVORS_AT_ONCE", 20)
    monkeypatch.setattr(exact_torch, "PAIR_ELEMENTS", 100)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("k", [1, 7, 16, 60, 500], ids="k={}".format)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)], ids=str)
def test_hits_are_those_of_exact_search(dtype, k, order):
    """Ids, ranks and score bits, for every k up to more than there are documents, in every order of the shards."""
    rng = np.random.default_rng(k)
    docs, queries = unit_vectors(rng, 200, 24, dtype), unit_vectors(rng, 8, 24, dtype)
    found = offered(RunningTopk([queries], k, "cpu"), docs, [0, 60, 61, 130, 200], order)
    assert merged(found, k) == oracle(queries, docs, k)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("copies", [2, 40, 300], ids="copies={}".format)
def test_identical_documents_tie_and_the_lower_row_wins(copies):
    """Mass duplicates within a shard and across shards are ordered by doc_row."""
    rng = np.random.default_rng(copies)
    distinct = unit_vectors(rng, 4, 24, "float16")
    docs = distinct[rng.integers(0, 4, 4 * copies)]
    queries = np.concatenate([distinct, unit_vectors(rng, 3, 24, "float16")])
    found = offered(RunningTopk([queries], 10, "cpu"), docs, [0, 2 * copies, 3 * copies, 4 * copies], (1, 0, 2))
    assert merged(found, 10) == oracle(queries, docs, 10)


@given(
    st.lists(st.integers(0, 120), max_size=5),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
    st.sampled_from(["float16", "float32"]),
)
@settings(max_examples=60, deadline=None)
def test_any_split_in_any_order_with_repetitions_gives_the_same_hits(cuts, k, seed, draw, dtype):
    """Shards of any size, several workers, shards out of order and offered again: the merged hits never change."""
    rng = np.random.default_rng(seed)
    docs = unit_vectors(rng, 120, 16, dtype)[rng.integers(0, 60, 120)]
    queries = unit_vectors(rng, 5, 16, dtype)
    borders = [0, *sorted(cuts), 120]
    workers = [RunningTopk([queries], k, "cpu") for _ in range(2)]
    found = {}
    for number in draw.choices(range(len(borders) - 1), k=4):
        found.update(offered(draw.choice(workers), docs, borders, [number]))
    rest = [number for number in range(len(borders) - 1) if number not in found]
    for number in draw.sample(rest, len(rest)):
        found.update(offered(draw.choice(workers), docs, borders, [number]))
    assert merged(found, k) == oracle(queries, docs, k)


def test_hits_stay_right_when_documents_are_appended():
    """What a shard leaves out, earlier shards beat: any first shards, merged, give the hits of those documents."""
    rng = np.random.default_rng(8)
    docs, queries = unit_vectors(rng, 300, 16, "float16"), unit_vectors(rng, 9, 16, "float16")
    borders = list(range(0, 301, 50))
    found = offered(RunningTopk([queries], 12, "cpu"), docs, borders, [0, 1, 4, 2, 3, 5])
    for count in range(1, 7):
        first = {number: found[number] for number in range(count)}
        assert merged(first, 12) == oracle(queries, docs[: borders[count]], 12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_lengths_of_a_million_to_one_are_compared_exactly(dtype):
    """Inner products of vectors that are not normalised: the longest document decides the bound."""
    rng = np.random.default_rng(11)
    docs, queries = unit_vectors(rng, 400, 24, "float32"), unit_vectors(rng, 12, 24, "float32")
    docs = (docs * 10 ** rng.uniform(-3, 3, (400, 1))).astype(dtype)
    queries = (queries * 10 ** rng.uniform(-3, 3, (12, 1))).astype(dtype)
    found = offered(RunningTopk([queries], 20, "cpu"), docs, [0, 100, 200, 300, 400], range(4))
    assert merged(found, 20) == oracle(queries, docs, 20)


def test_threads_that_overtake_each_other_leave_out_nothing_that_counts():
    """Blocks of one shard interleave with those of another: still only earlier shards beat."""
    rng = np.random.default_rng(12)
    docs = unit_vectors(rng, 600, 16, "float16")
    blocks = [unit_vectors(rng, 6, 16, "float16") for _ in range(4)]
    topk = RunningTopk(blocks, 9, "cpu")
    borders = list(range(0, 601, 30))

    def shard(number: int) -> list[Any]:
        part = topk.documents(number, docs[borders[number] : borders[number + 1]])
        hits = (topk.search(block, part) for block in range(4))
        return [(queries, index + borders[number], scores) for queries, index, scores in hits]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(shard, range(20)))
    for block, queries in enumerate(blocks):
        for count in (1, 7, 20):
            first = {number: found[number][block] for number in range(count)}
            assert merged(first, 9) == oracle(queries, docs[: borders[count]], 9)


def test_a_worker_leaves_out_what_it_has_seen_beaten():
    """Of 20 shards a query keeps some k (1 + ln 20) = 4 k hits, not 20 k."""
    rng = np.random.default_rng(9)
    docs, queries = unit_vectors(rng, 20 * 200, 32, "float16"), unit_vectors(rng, 30, 32, "float16")
    found = offered(RunningTopk([queries], 10, "cpu"), docs, list(range(0, 4001, 200)), range(20))
    kept = [len(scores) / len(queries) for _, _, scores in found.values()]
    assert kept[0] == 10 and sum(kept) < 5 * 10
    twins = np.repeat(docs[:1], 600, axis=0)
    found = offered(RunningTopk([queries], 10, "cpu"), twins, [0, 200, 400, 600], range(3))
    assert [len(scores) for _, _, scores in found.values()] == [300, 0, 0]  # a tie goes to the lower row


def test_blocks_are_searched_apart(small_tiles):
    """Each block of queries has its own thresholds and its own order of shards."""
    rng = np.random.default_rng(10)
    docs = unit_vectors(rng, 90, 16, "float16")
    blocks = [unit_vectors(rng, count, 16, "float16") for count in (5, 0, 3)]
    topk = RunningTopk(blocks, 7, "cpu")
    for block, order in enumerate([(0, 1, 2), (0, 1, 2), (2, 0, 1)]):
        found = offered(topk, docs, [0, 30, 60, 90], order, block)
        assert merged(found, 7) == oracle(blocks[block], docs, 7)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_wrong_product_within_the_bound_changes_nothing(monkeypatch, dtype):
    """The hits do not depend on how a device rounds: errors up to the bound leave every bit as it was."""
    rng = np.random.default_rng(4)
    queries = unit_vectors(rng, 20, 32, dtype)
    # So close together that the error reaches over many of them.
    docs = np.repeat(unit_vectors(rng, 1, 32, dtype), 3000, axis=0)
    docs = np.nextafter(docs, rng.choice([-2, 2], docs.shape).astype(dtype))
    bound = 0.9 * relative_error(32, dtype == "float16")
    noise = torch.Generator().manual_seed(0)

    def noisy(left, right):
        made = product(left, right)
        return made + bound * (2 * torch.randint(0, 2, made.shape, generator=noise) - 1)

    monkeypatch.setattr(exact_torch, "product", noisy)
    found = offered(RunningTopk([queries], 50, "cpu"), docs, [0, 2600, 3000], range(2))
    assert merged(found, 50) == oracle(queries, docs, 50)


def test_the_bound_of_float32_covers_tf32():
    """Vectors cut to 10 bits after the first, as TF32 does, stay within it; float16 vectors are not cut at all."""
    rng = np.random.default_rng(5)
    docs, queries = unit_vectors(rng, 500, 64, "float32"), unit_vectors(rng, 50, 64, "float32")
    cut = [(side.view(np.int32) & ~0x1FFF).view(np.float32).astype(np.float64) for side in (queries, docs)]
    exact_products = queries.astype(np.float64) @ docs.T.astype(np.float64)
    assert np.abs(cut[0] @ cut[1].T - exact_products).max() < relative_error(64, is_half=False)
    halves = docs.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal((halves.view(np.int32) & ~0x1FFF).view(np.float32), halves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_products_on_a_gpu_are_float32(dtype):
    """Not rounded to half precision on their way out; with tensors that only say that they are on a GPU."""
    with FakeTensorMode():
        queries, docs = (torch.empty(count, 64, dtype=dtype, device="cuda") for count in (8, 100))
        made = product(queries, docs)
    assert (made.dtype, made.shape, made.device.type) == (torch.float32, (8, 100), "cuda")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_final_scores_are_pair_scores(dtype):
    """Bit for bit, zero vectors, cancelling ones and every kind of pair among them."""
    rng = np.random.default_rng(6)
    queries, docs = (rng.standard_normal((count, 40)).astype(dtype) for count in (30, 50))
    docs[3], queries[5, :] = 0, 0
    docs[4] = np.concatenate([queries[6, :20], -queries[6, :20]])
    queries[6] = np.concatenate([queries[6, :20], queries[6, :20]])  # its product with docs[4] is zero
    rows, columns = (index.reshape(-1) for index in np.mgrid[0:30, 0:50])
    sides = torch.tensor(queries), torch.tensor(docs)
    norms = (
        torch.linalg.vector_norm(sides[0].double(), dim=1) * torch.linalg.vector_norm(sides[1].double(), dim=1).max()
    )
    got = final_scores(*sides, torch.tensor(rows), torch.tensor(columns), norms).numpy()
    np.testing.assert_array_equal(got.view(np.int32), pair_scores(queries[rows], docs[columns]).view(np.int32))


def test_a_sum_that_another_order_would_round_otherwise_is_decided_by_pair_scores(monkeypatch):
    """As if the device had summed to the edge of what float64 allows: a score whose last bit it decides is not its."""
    rng = np.random.default_rng(7)
    # 1 + 2**-24 lies halfway between two float32: the smallest error of the sum decides.
    queries = np.zeros((1, 4), np.float32)
    queries[0] = [1, 2.0**-12, 2.0**-30, 2.0**-30]
    docs = np.array([[1, 2.0**-12, 2.0**-25, -(2.0**-25)], [1, 2.0**-12, 0, 0]], np.float32)
    docs = np.concatenate([docs, rng.standard_normal((20, 4)).astype(np.float32)])
    asked = []

    def counted(left, right):
        asked.extend(right.tolist())
        return pair_scores(left, right)

    monkeypatch.setattr(exact_torch, "pair_scores", counted)
    rows, columns = torch.zeros(len(docs), dtype=torch.int64), torch.arange(len(docs))
    norms = torch.tensor([np.linalg.norm(queries) * np.linalg.norm(docs, axis=1).max()])
    final_scores(torch.tensor(queries), torch.tensor(docs), rows, columns, norms)
    assert asked == docs[:2].tolist()


def write_vectors(folder: Path, name: str, rows, vectors) -> str:
    path = str(folder / f"{name}.parquet")
    storage.write_arrow(path, schemas.vector_table(np.asarray(rows, np.int64), vectors))
    return path


def test_stage_writes_hits_by_query_block(tmp_path):
    """Documents without a vector are skipped, an empty shard is none, rows are global, the merge is the oracle's."""
    rng = np.random.default_rng(5)
    sizes, starts = [30, 25, 4, 40], [0, 30, 55, 59]
    rows = [np.sort(rng.choice(size, max(0, size - 5), replace=False)) for size in sizes]
    docs = [unit_vectors(rng, len(r), 16, "float16") for r in rows]
    queries = unit_vectors(rng, 7, 16, "float16")
    blocks = [
        write_vectors(tmp_path, "q0", [0, 1, 3, 4], queries[:4]),
        write_vectors(tmp_path, "q1", [0, 1, 2], queries[4:]),
    ]
    stage = SearchShard(blocks, [0, 5], 6)
    paths = []
    for number, (shard_rows, vectors) in enumerate(zip(rows, docs, strict=True)):
        path = write_vectors(tmp_path, f"d{number}", shard_rows, vectors)
        inputs = {"vectors": path, "first_row": starts[number], "number": number}
        record = stage(Task("key", inputs, str(tmp_path / f"hits{number}")))
        assert record.rows_in == len(vectors) and record.device == "cpu"
        paths.append(record.outputs[0].path)
    tables = [schemas.check(storage.read_buckets(paths, block, schemas.HITS), schemas.HITS) for block in (0, 1)]
    assert [set(table["query_row"].to_pylist()) for table in tables] == [{0, 1, 3, 4}, {5, 6, 7}]
    hits = pa.concat_tables(tables)
    got = merge_topk(hits["query_row"].to_numpy(), hits["doc_row"].to_numpy(), hits["score"].to_numpy(), 6)
    expected = exact.search(queries, np.concatenate(docs).astype(np.float32), 6)
    doc_rows = np.concatenate([r + start for r, start in zip(rows, starts, strict=True)])
    query_rows = np.array([0, 1, 3, 4, 5, 6, 7])
    wanted = (query_rows[expected[0]], doc_rows[expected[1]], expected[2], expected[3])
    for column, (left, right) in enumerate(itertools.zip_longest(got, wanted)):
        np.testing.assert_array_equal(left, right, err_msg=str(column))


def test_vectors_that_are_handed_over_are_not_read(tmp_path):
    """Once: the next call for the same path reads the file."""
    block = write_vectors(tmp_path, "q", [0], np.ones((1, 4), np.float16))
    stage = SearchShard([block], [0], 3)
    path = str(tmp_path / "not-there.parquet")
    stage.hand_over(path, Vectors(np.arange(2), np.ones((2, 4), np.float16)))
    task = Task("key", {"vectors": path, "first_row": 10, "number": 0}, str(tmp_path / "hits"))
    hits = storage.read_bucket(stage(task).outputs[0].path, 0).to_pydict()
    assert hits == {"query_row": [0, 0], "doc_row": [10, 11], "rank": [0, 0], "score": [4.0, 4.0]}
    with pytest.raises(FileNotFoundError):
        stage(task)
