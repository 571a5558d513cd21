"""`index: auto` takes exact search unless ivfpq is several times cheaper."""

import pytest

from raymine.pipeline.choose import choose_index, exact_s, ivfpq_s


@pytest.mark.parametrize(
    ("num_documents", "num_queries", "dim", "expected"),
    [
        (20_000, 1_500, 256, "exact"),
        (120_000, 112_000, 256, "exact"),
        (1_000_000, 100_000, 256, "exact"),
        (10_000_000, 100, 768, "exact"),
        (10_000_000, 1_000_000, 256, "ivfpq"),
        (100_000_000, 1_000_000, 768, "ivfpq"),
    ],
)
def test_auto_goes_by_the_price(num_documents: int, num_queries: int, dim: int, expected: str) -> None:
    """Few queries never pay for an index; very many on a large corpus do."""
    assert choose_index(num_documents, num_queries, dim, 100)[0] == expected


def test_it_says_why() -> None:
    """With both prices, in seconds of one core."""
    exact, ivfpq = exact_s(500_000, 100_000, 256), ivfpq_s(500_000, 100_000, 256, 100)
    assert exact == pytest.approx(82.6, rel=0.01)
    assert choose_index(500_000, 100_000, 256, 100)[1] == (
        f"exact about {exact:.0f} s of one core, ivfpq about {ivfpq:.0f} s"
    )


def test_prices_are_linear_in_queries_and_documents() -> None:
    """So the choice changes once, where they cross."""
    assert exact_s(2000, 30, 64) == pytest.approx(6 * exact_s(1000, 10, 64))
    assert ivfpq_s(2000, 0, 64, 10) == pytest.approx(2 * ivfpq_s(1000, 0, 64, 10))
