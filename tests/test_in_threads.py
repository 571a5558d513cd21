"""Pieces of work in threads."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from raymine.threads import in_threads, one_torch_thread


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    """Though later ones are done first."""

    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(in_threads(slow_first, range(20), threads)) == [number * number for number in range(20)]
    assert list(in_threads(slow_first, [], threads)) == []


def test_items_are_taken_a_few_ahead() -> None:
    """So that what they hold is not in memory all at once."""
    taken = 0

    def items() -> object:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    results = in_threads(lambda number: number, items(), 2)  # type: ignore[arg-type]
    assert next(results) == 1
    assert taken <= 6


def test_every_thread_has_one_torch_thread_and_the_caller_gets_its_own_back() -> None:
    """Also where a piece fails."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert set(in_threads(lambda _: torch.get_num_threads(), range(8), 2)) == {1}
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            list(in_threads(lambda number: 1 // number, [1, 0, 1], 2))
        assert torch.get_num_threads() == 3
        with one_torch_thread():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_pieces_run_side_by_side() -> None:
    """Two threads meet at a barrier that one alone would not pass."""
    barrier = threading.Barrier(2, timeout=20)
    assert len(list(in_threads(lambda _: barrier.wait(), range(4), 2))) == 4
