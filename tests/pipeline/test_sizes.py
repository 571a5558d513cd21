"""Tasks are as large as the budget allows, whole shards and blocks, consecutive, and never empty."""

import pytest

from raymine.pipeline.sizes import (
    CHUNK_DOCUMENTS,
    MAX_TASKS,
    Limits,
    block_ranges,
    bm25_limits,
    chunk_documents,
    exact_limits,
    ivfpq_limits,
    parts,
)
from raymine.storage import Shard


def shards(rows: int, size: int) -> list[Shard]:
    return [Shard(str(begin), min(size, rows - begin), 0, "", begin) for begin in range(0, rows, size)]


@pytest.mark.parametrize("dim", [8, 256, 768, 4096])
def test_vectors_of_a_chunk_take_a_quarter_of_the_budget_at_most(dim: int) -> None:
    """As stored, in float16 or float32, and as float32; no chunk is larger than is of use."""
    for stored_bytes in (2, 4):
        documents = chunk_documents(0.02, dim, stored_bytes)
        assert documents * dim * (stored_bytes + 4) <= 5e6
        assert documents == CHUNK_DOCUMENTS or (documents + 1) * dim * (stored_bytes + 4) > 5e6


def test_the_default_budget_gives_what_the_docstring_says() -> None:
    """Figures that people plan with."""
    assert chunk_documents(2, 256, 2) == 131_072
    assert chunk_documents(2, 768, 2) == pytest.approx(108_500, rel=0.001)
    assert ivfpq_limits(2, 256, 4).documents == pytest.approx(12.5e6, rel=0.01)
    assert bm25_limits(2).documents == pytest.approx(1.02e6, rel=0.01)


def test_parts_are_consecutive_groups_of_whole_shards() -> None:
    """A shard larger than a part is a part of its own."""
    given = [Shard(str(n), rows, 0, "") for n, rows in enumerate([5, 5, 30, 1, 2, 3, 4])]
    assert parts(given, 10) == [[0, 1], [2], [3, 4, 5, 6]]
    assert parts(given, 1) == [[n] for n in range(7)]
    assert parts([], 10) == []


@pytest.mark.parametrize(
    ("num_documents", "num_queries", "dim"),
    [(5_000, 800, 256), (120_000, 112_000, 256), (500_000, 100_000, 256), (10_000_000, 100_000, 256), (1e8, 1e6, 768)],
)
def test_searches_are_cut_into_tasks_of_bounded_work_and_memory(num_documents, num_queries, dim) -> None:
    """Ranges cover all blocks in order; a small search is one task, a large one no more than MAX_TASKS."""
    documents, blocks = shards(int(num_documents), 16384), shards(int(num_queries), 8192)
    limits = exact_limits(2.0, dim, 200)
    ranges = block_ranges(blocks, documents, limits)
    assert [number for begin, end in ranges for number in range(begin, end)] == list(range(len(blocks)))
    num_parts = len(parts(documents, limits.documents))
    assert len(ranges) * num_parts <= 1.3 * MAX_TASKS
    for begin, end in ranges:
        queries = sum(block.num_rows for block in blocks[begin:end])
        assert end - begin == 1 or queries * (12 * 200 + 4 * dim) <= 0.5e9
        if len(ranges) * num_parts < MAX_TASKS / 2:
            assert end - begin == 1 or queries * min(num_documents, limits.documents) <= limits.pairs


def test_appended_documents_leave_full_parts_and_their_ranges_as_they_are() -> None:
    """So only the last part and the new ones are searched."""
    limits, blocks = Limits(100, 3000.0), shards(80, 10)
    before, after = shards(1005, 10), shards(1305, 10)
    assert block_ranges(blocks, before, limits) == block_ranges(blocks, after, limits)
    assert parts(before, 100)[:10] == parts(after, 100)[:10]
