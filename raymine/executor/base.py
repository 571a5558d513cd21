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

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"):
        if name != "NUMBA_NUM_THREADS" or "numba" not in sys.modules:
            os.environ[name] = str(count)
    loaded: dict[str, Any] = sys.modules  # type: ignore[assignment]
    if "torch" in loaded:
        loaded["torch"].set_num_threads(count)
    if "faiss" in loaded:
        loaded["faiss"].omp_set_num_threads(count)
