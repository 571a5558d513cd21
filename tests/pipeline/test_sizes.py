"""Parts are as large as the budget allows, whole shards, consecutive, and never empty."""

import pytest

from raymine.pipeline.sizes import bm25_part_documents, dense_part_documents, parts
from raymine.storage import Shard


@pytest.mark.parametrize("dim", [8, 256, 768, 4096])
def test_vectors_of_a_part_take_a_quarter_of_the_budget(dim: int) -> None:
    """As float32."""
    documents = dense_part_documents(2.0, dim)
    assert documents * dim * 4 <= 0.5e9 < (documents + 1) * dim * 4


def test_the_default_budget_gives_what_the_docstring_says() -> None:
    """Figures that people plan with."""
    assert (dense_part_documents(2, 256), dense_part_documents(2, 768)) == (488281, 162760)
    assert bm25_part_documents(2) == pytest.approx(1.02e6, rel=0.01)


def test_parts_are_consecutive_groups_of_whole_shards() -> None:
    """A shard larger than a part is a part of its own."""
    shards = [Shard(str(n), rows, 0, "") for n, rows in enumerate([5, 5, 30, 1, 2, 3, 4])]
    assert parts(shards, 10) == [[0, 1], [2], [3, 4, 5, 6]]
    assert parts(shards, 1) == [[n] for n in range(7)]
    assert parts([], 10) == []
