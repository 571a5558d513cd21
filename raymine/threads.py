"""Threads of numerical work: many tasks of one thread each, so that no bit of a result depends on their number.

A product of small matrices is cut differently for one thread and for two, and then sums differ in their last bit. Work
is therefore shared out in pieces (batches of texts, tiles of queries), each done by one thread from end to end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_threads() -> int:
    """Threads that this process may use, as its executor has set them."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The results for all items, in their order, worked on by so many threads with one torch thread each.

    Items are taken only as far ahead as keeps the threads busy.
    """
    waiting: deque[Future[Result]] = deque()
    with one_torch_thread(), ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Threads that begin in here run torch with one thread each."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
