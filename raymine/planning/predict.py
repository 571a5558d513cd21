"""From rates and sizes to seconds, hours of devices, bytes and money, a line per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raymine.artifacts import Resources, StepResult
from raymine.config import Config
from raymine.corpus.splits import NPY_SPLIT_BYTES
from raymine.ledger import SECONDS_PER_HOUR, Prices
from raymine.pipeline.reading import IDS_PER_BUCKET
from raymine.planning.fit import TASKS, Rate, total
from raymine.planning.published import OPERATIONS_PER_PARAMETER, Cluster
from raymine.planning.reuse import Found
from raymine.planning.size import Size

MODELS = {"embed_documents": "embed", "embed_queries": "embed", "rescore": "rescore"}
# Made once for all checkpoints of an embedder.
OF_NO_CHECKPOINT = ("query_terms", "tokenize_documents", "bm25_statistics", "search_bm25")


@dataclass(frozen=True)
class StepPlan:
    """What one step is to do.

    Args:
        step: its name.
        unit: of its rows.
        tasks: shards, blocks or parts.
        num_reused: of these, what is made already.
        rows: given out by the tasks to do.
        tokens: taken in by them.
        num_bytes: written by them.
        worker_s: seconds of its workers, added up.
        wall_s: with all workers at work.
        cpu_hours, gpu_hours: of the devices that they hold.
        usd: None: not priced.
        state: `to do`, `done` (the inputs, read while planning) or `reused`.
        rate: where its seconds come from, `measured` or `published`.
    """

    step: str
    unit: str
    tasks: int
    num_reused: int
    rows: float
    tokens: float
    num_bytes: float
    worker_s: float
    wall_s: float
    cpu_hours: float
    gpu_hours: float
    usd: float | None
    state: str = "to do"
    rate: str = "measured"


@dataclass(frozen=True)
class Conditions:
    """What the lines of a plan have in common.

    Args:
        config: of the round.
        size: of the round.
        num_workers: of steps with some resources, here.
        cluster: that is not at hand; None: here.
        parameters: of the models, for a cluster's GPUs.
        embedding: what embedding documents takes, as a share of what it takes without kept tokens.
    """

    config: Config
    size: Size
    num_workers: Callable[[Resources], int]
    cluster: Cluster | None = None
    parameters: Mapping[str, int] = field(default_factory=dict)
    embedding: float = 1.0

    @property
    def prices(self) -> Prices:
        return Prices(self.config.cost.gpu_hour_usd, self.config.cost.cpu_hour_usd)


def predict(
    rates: Mapping[str, Rate], found: Mapping[str, Found], known_scores: float, given: Conditions
) -> list[StepPlan]:
    """The lines of all steps after the reading.

    Args:
        rates: by step, in the order of the round.
        found: what is made already.
        known_scores: pairs that the teacher need not score.
        given: what the lines have in common.
    """
    lines, waiting_s = [], 0.0
    for name, rate in rates.items():
        num_tasks = given.size.tasks(name, rate.spread, given.config)
        done = found.get(name, Found(num_tasks, 0, 0.0))
        share = 1 - done.num_done / max(done.num_tasks, 1)
        units = {**given.size.units, TASKS: float(num_tasks)}
        if name == "rescore":
            units["scored"] -= known_scores
        # What was to be loaded by a step that is reused is loaded by the next one of the same model.
        rate = replace(rate, start_s=rate.start_s + (waiting_s if name in MODELS else 0.0))
        if name in MODELS:
            waiting_s = 0.0 if share else rate.start_s
        lines.append(_line(name, rate, units, share, given))
    return lines


def _line(name: str, rate: Rate, units: Mapping[str, float], share: float, given: Conditions) -> StepPlan:
    tokens = share * total(rate.tokens, units)
    seconds = share * total(rate.seconds, units) * (given.embedding if name == "embed_documents" else 1.0)
    num_tasks = round(units[TASKS])
    to_do = max(1, round(share * num_tasks))
    line = StepPlan(
        step=name,
        unit=rate.unit,
        tasks=num_tasks,
        num_reused=num_tasks - to_do if share else num_tasks,
        rows=share * total(rate.rows, units),
        tokens=tokens,
        num_bytes=share * total(rate.num_bytes, units),
        worker_s=0.0,
        wall_s=0.0,
        cpu_hours=0.0,
        gpu_hours=0.0,
        usd=0.0,
        state="to do" if share else "reused",
    )
    if not share:
        return line
    operations = _operations(name, tokens, units, given)
    if operations is not None:
        assert given.cluster is not None and given.cluster.model is not None
        worker_s = operations / given.cluster.model.reached(_dtype(name, given.config))
        workers = min(to_do, given.cluster.gpus)
        return _priced(replace(line, rate="published"), worker_s, worker_s / workers, 1.0, 1.0, given.prices)
    if given.cluster is not None:
        workers = max(1, min(to_do, int(given.cluster.cpus // max(rate.cpus, 1.0))))
        return _priced(line, seconds, seconds / workers + rate.start_s, rate.cpus, 0.0, given.prices)
    workers = min(to_do, given.num_workers(Resources(int(rate.cpus), rate.gpus)))
    worker_s = seconds + workers * rate.start_s
    return _priced(line, worker_s, worker_s / workers, rate.cpus, rate.gpus, given.prices)


def _operations(name: str, tokens: float, units: Mapping[str, float], given: Conditions) -> float | None:
    """Operations of a step that a cluster's GPUs would do; None: it is none of those."""
    if given.cluster is None or given.cluster.model is None:
        return None
    if name == "search_shards":
        return 2.0 * units["pairs"] * given.size.dim
    parameters = given.parameters.get(MODELS.get(name, ""), 0)
    return OPERATIONS_PER_PARAMETER * parameters * tokens if parameters else None


def _dtype(name: str, config: Config) -> str:
    section = {"embed": config.embed, "rescore": config.rescore}.get(MODELS.get(name, ""))
    return section.dtype if section is not None else "float16"


def _priced(line: StepPlan, worker_s: float, wall_s: float, cpus: float, gpus: float, prices: Prices) -> StepPlan:
    hours = worker_s / SECONDS_PER_HOUR
    usd = prices.usd({"cpus": cpus, "gpus": gpus, "wall_s": worker_s})
    return replace(line, worker_s=worker_s, wall_s=wall_s, cpu_hours=hours * cpus, gpu_hours=hours * gpus, usd=usd)


def on_gpus(rates: Mapping[str, Rate]) -> dict[str, Rate]:
    """The rates of a round whose dense search is done where documents are embedded, on a GPU."""
    search = Rate({}, {}, {}, {}, spread="shards", unit="documents")
    names = {"search_exact": "search_shards", "search_part": "search_shards", "search_lists": "search_shards"}
    only_lists = {
        "train_centroids", "train_ivf", "build_part", "sample_queries", "search_sample", "choose_probes",
        "assign_queries", "merge_shortlist", "rescore_hits", "assign_documents", "build_lists", "probe_lists",
    }  # fmt: skip
    return {
        names.get(name, name): replace(search, num_bytes=rate.num_bytes, rows=rate.rows) if name in names else rate
        for name, rate in rates.items()
        if name not in only_lists
    }


def read_lines(
    results: Sequence[StepResult], number: int, growth: Mapping[str, float], given: Conditions
) -> list[StepPlan]:
    """The lines of the inputs' reading, which planning has done; of a round of another size in proportion.

    Args:
        results: of the steps.
        number: of the round, whose ledger has what was done for it.
        growth: `documents` and `queries` of the round per one that was read.
        given: what lines have in common.
    """
    return [_read_line(result, number, growth, given) for result in results]


def _read_line(result: StepResult, number: int, growth: Mapping[str, float], given: Conditions) -> StepPlan:
    rows = [done.ledger for done in result.done]
    is_scaled = given.cluster is not None or any(factor != 1 for factor in growth.values())
    own = rows if is_scaled else [row for row in rows if row["round"] == number]
    by = "queries" if result.step.unit == "queries" or "judgements" in result.step.name else "documents"
    factor = growth[by] if result.step.name != "describe_embedder" else 1.0
    sums: dict[str, Any] = {
        name: factor * sum(row[name] for row in own) for name in ("rows_out", "tokens", "bytes_out", "wall_s")
    }
    cpus, gpus = (float(rows[0][name] or 0) for name in ("cpus", "gpus"))
    line = StepPlan(
        step=result.step.name,
        unit=result.step.unit,
        tasks=_read_tasks(result.step.name, len(rows), sums["bytes_out"], given.size) if is_scaled else len(rows),
        num_reused=len(rows) - len(own),
        rows=sums["rows_out"],
        tokens=sums["tokens"],
        num_bytes=sums["bytes_out"],
        worker_s=0.0,
        wall_s=0.0,
        cpu_hours=0.0,
        gpu_hours=0.0,
        usd=0.0,
        state="to do" if is_scaled else "done" if own else "reused",
    )
    workers = given.cluster.cpus if given.cluster else given.num_workers(Resources(int(cpus or 1), gpus))
    wall_s = sums["wall_s"] / max(1, min(line.tasks, workers))
    return _priced(line, sums["wall_s"], wall_s, cpus, gpus, given.prices) if own else line


def _read_tasks(name: str, num_read: int, num_bytes: float, size: Size) -> int:
    """Tasks of a reading step at another size: as its inputs are cut, but for those that one worker does alone."""
    if name in ("read_documents", "read_queries"):
        return max(num_read, math.ceil(num_bytes / NPY_SPLIT_BYTES))
    cut = {
        "index_ids": len(size.documents),
        "join_positives": len(size.queries),
        "resolve_ids": math.ceil(sum(size.documents) / IDS_PER_BUCKET),
    }
    return cut.get(name, 1)


def later_round(
    lines: Sequence[StepPlan], reading: Collection[str], shares: Mapping[str, float]
) -> tuple[float, float | None]:
    """Wall seconds and price of a round with another checkpoint: inputs and BM25 are found, and some scores or tokens.

    Args:
        lines: of a whole first round.
        reading: steps that read the inputs.
        shares: of what a step takes in the first round, what it takes then; of those not named, all.
    """
    again = [line for line in lines if line.step not in (*OF_NO_CHECKPOINT, *reading)]
    wall_s = sum(shares.get(line.step, 1.0) * line.wall_s for line in again)
    prices = [None if line.usd is None else shares.get(line.step, 1.0) * line.usd for line in again]
    known = [price for price in prices if price is not None]
    return wall_s, sum(known) if len(known) == len(prices) else None
