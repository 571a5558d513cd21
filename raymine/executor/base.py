"""What every executor does the same way: threads of a worker, and the choice of an executor by name."""

from __future__ import annotations

import os
from typing import Any


def set_threads(count: int) -> None:
    """Gives this process `count` threads in every library that keeps a pool of its own and is already loaded or
    will be: OpenMP (faiss, numpy), torch, tokenizers and numba.

    Ray gives a worker with a fraction of a CPU one OpenMP thread, and a library that finds no limit takes every core.
    """
    import sys

    for library in ("OMP", "MKL", "OPENBLAS", "RAYON", "NUMBA"):
        if library != "NUMBA" or "numba" not in sys.modules:
            os.environ[f"{library}_NUM_THREADS"] = str(count)
    loaded: dict[str, Any] = sys.modules
    if "torch" in loaded:
        loaded["torch"].set_num_threads(count)
    if "faiss" in loaded:
        loaded["faiss"].omp_set_num_threads(count)
