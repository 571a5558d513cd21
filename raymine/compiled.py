"""How the inner loops of search are compiled.

Numba takes a second to import, so modules with compiled loops are imported where they are first needed. Machine code
is cached beside them (or in the user's cache folder), so only the first process that ever runs a loop compiles it (a
few seconds each). Loops release the interpreter lock and use one thread; callers run several at once on slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])
_made: list[Any] = []


def compiled(function: Function, sums_in_any_order: bool = False) -> Function:
    """Compiles a function without the interpreter lock, cached on disk where any cache folder can be written.

    Args:
        function: in Python that numba takes.
        sums_in_any_order: sums of floating point numbers may be split over the lanes of vector instructions.
    """
    fastmath = {"reassoc", "contract"} if sums_in_any_order else False
    try:
        made: Function = njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # numba finds no folder to write to
        made = njit(nogil=True, fastmath=fastmath)(function)
    _made.append(made)
    return made


def num_compiled() -> int:
    """How many functions this process had to compile, because no process before it had left their machine code."""
    return sum(sum(function.stats.cache_misses.values()) for function in _made)
