"""What each step costs: a rate per task and per unit of what drives it, by least squares over a few samples.

Which units drive a step is known (DRIVERS); how many seconds, tokens and bytes each takes is fitted, never below zero.
A point counts by the relative error that it would leave, so that the small samples, which tell what a task costs
whatever its size, are not drowned by the large ones.

What a program does once (importing libraries, loading compiled code and models) is not in the rates: it is what the
first sample took beyond them, `start_s`, and every worker of a round takes it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Units = Mapping[str, float]

TASKS = "tasks"
DOCUMENTS, QUERIES, CANDIDATES, SCORED, PAIRS = (
    ("documents",),
    ("queries",),
    ("documents", "candidates"),
    ("scored",),
    ("queries", "pairs"),
)
# Steps that are not named here pass over documents for the candidates, or over the candidates alone.
DRIVERS: dict[str, tuple[str, ...]] = {
    "embed_documents": DOCUMENTS,
    "store_document_vectors": DOCUMENTS,
    "tokenize_documents": DOCUMENTS,
    "bm25_statistics": DOCUMENTS,
    "train_clusters": DOCUMENTS,
    "assign_clusters": DOCUMENTS,
    "train_centroids": ("lists",),
    "train_ivf": (),
    "build_part": ("lists",),
    "assign_documents": ("lists",),
    "build_lists": DOCUMENTS,
    "embed_queries": QUERIES,
    "store_query_vectors": QUERIES,
    "query_terms": QUERIES,
    "sample_queries": (),
    "assign_queries": QUERIES,
    "merge_shortlist": QUERIES,
    "rescore_hits": ("documents", "queries"),
    "choose_probes": DOCUMENTS,
    "search_sample": DOCUMENTS,
    "search_exact": PAIRS,
    "search_lists": PAIRS,
    "search_part": PAIRS,
    "search_shards": PAIRS,
    "search_bm25": ("documents", *PAIRS),  # a part's postings are read and weighted before a query is asked
    "fetch_texts": ("documents", "texts"),
    "annotate_candidates": ("candidates",),  # of a document that no candidate is, it reads no more than a hash
    "rescore": SCORED,
}
NOISE_S = 0.02  # of a task's seconds, whatever their number: what small ones scatter by on a shared machine


@dataclass(frozen=True)
class Point:
    """What one step did in one sample.

    Args:
        units: documents, queries, pairs (of a document and a query), candidates, scored (pairs of the teacher), lists
            (documents times centroids), texts (documents that blocks ask for, if each were as likely as the other), and
            tasks of this step.
        seconds: of its workers.
        tokens: that a model or BM25 took in.
        num_bytes: written.
        rows: given out.
    """

    units: Units
    seconds: float
    tokens: float = 0.0
    num_bytes: float = 0.0
    rows: float = 0.0


@dataclass(frozen=True)
class Rate:
    """What one step takes.

    Args:
        seconds, tokens, num_bytes, rows: per task and per unit of each driver.
        start_s: seconds of one worker, once.
        spread: what a task is: `shards`, `blocks`, `parts` (of a search) or `one`.
        cpus, gpus: of one worker.
        device: that it ran on.
        unit: of its rows.
    """

    seconds: dict[str, float]
    tokens: dict[str, float]
    num_bytes: dict[str, float]
    rows: dict[str, float]
    start_s: float = 0.0
    spread: str = "one"
    cpus: float = 1.0
    gpus: float = 0.0
    device: str = "cpu"
    unit: str = "rows"


def total(rates: Mapping[str, float], units: Units) -> float:
    """The sum of rates times units."""
    return float(sum(rate * units[name] for name, rate in rates.items()))


def fit(name: str, points: Sequence[Point]) -> Rate:
    """The rates of one step.

    Args:
        name: of the step.
        points: of samples of unlike size.
    """
    # Tasks last: where samples of one size cannot tell the two apart, a larger round takes more.
    drivers = (*DRIVERS.get(name, CANDIDATES), TASKS)
    units = np.array([[point.units[driver] for driver in drivers] for point in points], np.float64)

    def rates(what: str, noise: float) -> dict[str, float]:
        values = np.array([getattr(point, what) for point in points], np.float64)
        return dict(zip(drivers, non_negative(units, values, noise).tolist(), strict=True))

    return Rate(rates("seconds", NOISE_S), rates("tokens", 1.0), rates("num_bytes", 1.0), rates("rows", 1.0))


def non_negative(units: NDArray[np.float64], values: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Weights at least zero with which `units @ weights` comes nearest to `values`, relatively.

    Every set of columns is tried (there are four at most), and of those whose weights come out positive the best taken;
    fewer columns where more explain nothing, and the first ones where others explain as much.

    Args:
        units: [n, m].
        values: [n], at least zero.
        noise: what each value may be off by, whatever its size.

    Returns:
        [m]; zeros where there is nothing to explain.
    """
    weight = 1 / (noise + values)
    columns = range(units.shape[1])
    best, best_error = np.zeros(len(columns)), float(np.sum((values * weight) ** 2))
    for size in range(1, len(columns) + 1):
        for chosen in map(list, combinations(columns, size)):
            scale = np.maximum(np.abs(units[:, chosen]).max(axis=0), 1e-300)  # pairs are millions, tasks a few
            found, *_ = np.linalg.lstsq(units[:, chosen] / scale * weight[:, None], values * weight, rcond=None)
            error = float(np.sum((units[:, chosen] @ (found / scale) * weight - values * weight) ** 2))
            if (found >= 0).all() and error < best_error * (1 - 1e-6) - 1e-18:
                best, best_error = np.zeros(len(columns)), error
                best[chosen] = found / scale
    return best
