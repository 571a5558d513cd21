"""A plan's lines by hand: seconds, devices, money, what is reused, and a cluster by published rates."""

from dataclasses import replace
from typing import Any

import pytest

from raymine.artifacts import Resources
from raymine.config import Config
from raymine.config_file import make_config
from raymine.errors import ConfigError
from raymine.executor.local import LocalExecutor
from raymine.planning import predict, warn
from raymine.planning.fit import Rate
from raymine.planning.measure import Measured
from raymine.planning.predict import Conditions, StepPlan
from raymine.planning.published import GPUS, REACHED_SHARE, Cluster, make_cluster
from raymine.planning.reuse import Found
from raymine.planning.size import Overlap, Size

SIZE = Size([1000, 1000, 500], [100, 100], 10_000.0, 8_000.0, 64)


def rate(spread: str, start_s: float = 0.0, **seconds: float) -> Rate:
    tokens = {name: 100 * each for name, each in seconds.items()}
    return Rate(seconds, tokens, {"tasks": 1e6}, {"tasks": 2.0}, start_s, spread, 2.0)


MEASURED = Measured(
    rates={
        "embed_queries": rate("blocks", 4.0, tasks=0.5, queries=0.01),
        "embed_documents": rate("shards", 1.0, tasks=1.0, documents=0.1),
        "search_exact": rate("parts", 0.0, pairs=1e-4),
        "rescore": rate("shards", 2.0, scored=0.005),
        "select": rate("blocks", 0.0, candidates=0.001),
    },
    overlap=Overlap(50.0, 0.0, 100, 0.8),
    documents=250,
    queries=20,
    base_bytes=500_000_000,
    kept_tokens=0.25,
    kept_bytes=50.0,
    parameters={"embed": 20_000_000, "rescore": 10_000_000},
    took_s=1.0,
)


def config(**sections: Any) -> Config:
    return make_config({
        "corpus": {"path": "c"}, "queries": {"path": "q"}, "positives": {"path": "p"}, "embed": {"model": "m"},
        "retrieve": {"dense": {"k": 50}}, "rescore": {"model": "t", "dtype": "float16"},
        "cost": {"cpu_hour_usd": 0.5, "gpu_hour_usd": 3.0}, **sections,
    })  # fmt: skip


def lines(found: dict[str, Found] | None = None, scores: float = 0.0, **conditions: Any) -> dict[str, StepPlan]:
    given = {"config": config(), "size": SIZE, "num_workers": lambda resources: 1, **conditions}
    given["parameters"] = MEASURED.parameters
    return {line.step: line for line in predict.predict(MEASURED.rates, found or {}, scores, Conditions(**given))}


def test_seconds_hours_bytes_and_money() -> None:
    """Of one worker with two CPUs; a program's start comes once."""
    line = lines()["embed_documents"]
    assert line.tasks == 3 and line.worker_s == line.wall_s == pytest.approx(1 + 3 * 1.0 + 2500 * 0.1)
    assert line.cpu_hours == pytest.approx(254 * 2 / 3600) and line.gpu_hours == 0
    assert line.usd == pytest.approx(0.5 * 254 * 2 / 3600)
    assert line.num_bytes == 3e6 and line.rows == 6 and line.tokens == pytest.approx(100 * 253)
    assert lines()["search_exact"].worker_s == pytest.approx(1e-4 * 2500 * 200)
    assert lines(config=config(cost={}))["select"].usd is None


def test_workers_share_the_work_and_each_starts() -> None:
    """Three shards on two workers; one block less than workers leaves one idle."""
    line = lines(num_workers=lambda resources: 2)["embed_documents"]
    assert line.worker_s == pytest.approx(253 + 2 * 1.0) and line.wall_s == pytest.approx(line.worker_s / 2)
    assert lines(num_workers=lambda resources: 8)["select"].wall_s == pytest.approx(10 / 2)


def test_what_is_made_costs_nothing_and_its_start_falls_to_the_next() -> None:
    """Embedded queries, two of three shards of documents; pairs whose score is kept."""
    found = {"embed_queries": Found(2, 2, 7.0), "embed_documents": Found(3, 2, 100.0)}
    planned = lines(found, scores=6000.0)
    assert planned["embed_queries"].state == "reused" and planned["embed_queries"].worker_s == 0
    assert planned["embed_queries"].num_reused == 2 and planned["embed_queries"].usd == 0
    line = planned["embed_documents"]
    assert line.num_reused == 2 and line.worker_s == pytest.approx(253 / 3 + 1.0 + 4.0)
    assert planned["rescore"].worker_s == pytest.approx(2000 * 0.005 + 2.0)


def test_a_clusters_gpus_go_by_published_rates() -> None:
    """Operations of parameters and tokens; single precision for a float32 model; what has no GPU stays as measured."""
    cluster = Cluster(cpus=64, gpus=2, gpu="H100")
    planned = lines(cluster=cluster)
    tokens = 100 * (3 * 1.0 + 2500 * 0.1)
    seconds = 2 * 20e6 * tokens / (REACHED_SHARE * GPUS["H100"].single)
    line = planned["embed_documents"]
    assert line.rate == "published" and line.worker_s == pytest.approx(seconds)
    assert line.wall_s == pytest.approx(seconds / 2) and line.gpu_hours == pytest.approx(seconds / 3600)
    assert line.usd == pytest.approx(seconds / 3600 * (3.0 + 0.5))
    pairs = 2 * 10e6 * 100 * 8000 * 0.005 / (REACHED_SHARE * GPUS["H100"].half)
    assert planned["rescore"].worker_s == pytest.approx(pairs)
    assert planned["select"].rate == "measured" and planned["select"].wall_s == pytest.approx(10 / 2)
    given = Conditions(config(), SIZE, lambda resources: 1, cluster)
    fused = predict.predict(predict.on_gpus(MEASURED.rates), {}, 0, given)
    search = next(line for line in fused if line.step == "search_shards")
    assert search.worker_s == pytest.approx(2 * 2500 * 200 * 64 / (REACHED_SHARE * GPUS["H100"].half))


@pytest.mark.parametrize("options", [(8, None, None), (None, "H100", None), (8, "H1000", None)])
def test_a_cluster_must_be_whole(options: tuple[int | None, str | None, int | None]) -> None:
    """A number of GPUs and a name that is known."""
    with pytest.raises(ConfigError, match="a number and a name"):
        make_cluster(*options)
    assert make_cluster(None, None, None) is None and make_cluster(None, None, 32) == Cluster(32)
    assert make_cluster(8, "h100", None) == Cluster(64, 8, "H100")


def test_a_later_round_finds_inputs_and_bm25_made() -> None:
    """And so many of the teacher's scores."""
    some = list(lines().values())
    read = replace(some[0], step="read_documents", state="done", wall_s=50.0)
    bm25 = replace(some[0], step="search_bm25", wall_s=50.0)
    seconds, usd = predict.later_round([read, bm25, *some], {"read_documents"}, {"rescore": 0.75})
    every = sum(line.wall_s for line in some)
    assert seconds == pytest.approx(every - 0.25 * lines()["rescore"].wall_s)
    assert usd == pytest.approx(sum(line.usd or 0 for line in some) - 0.25 * (lines()["rescore"].usd or 0))


def test_kept_tokens_make_embedding_cheaper() -> None:
    """Of the seconds by document and task, not of what loading the model takes; and of later rounds' embedding."""
    whole, kept = lines(), lines(embedding=0.25)
    start_s = MEASURED.rates["embed_documents"].start_s
    embed = kept["embed_documents"]
    assert embed.worker_s - start_s == pytest.approx(0.25 * (whole["embed_documents"].worker_s - start_s))
    assert {name: line for name, line in kept.items() if name != "embed_documents"} == {
        name: line for name, line in whole.items() if name != "embed_documents"
    }
    some = list(whole.values())
    seconds, _ = predict.later_round(some, (), {"embed_documents": 0.25})
    assert seconds == pytest.approx(sum(line.wall_s for line in some) - 0.75 * whole["embed_documents"].wall_s)


def test_warnings_come_before_what_cannot_work(tmp_path: Any) -> None:
    """Memory over the budget, a disk that is too small, workers that take every CPU, a model larger than its GPU."""
    small = config(resources={"memory_gb": 0.4, "embed": {"actors": 8, "cpus": 8, "gpus": 1}})
    memory = warn.worker_bytes(SIZE, small, MEASURED.base_bytes, 50.0, 1)
    assert memory == MEASURED.base_bytes + max(100 * 50 * 200, 2500 * 64 * 6, 1000 * (16 * 50 + 6 * 64))
    many = replace(SIZE, queries=[100, 10_000, 200], candidates=10_300.0 * 50)
    assert warn.worker_bytes(many, small, 0, 50.0, 2) == 10_200 * 50 * 200
    executor, cluster = LocalExecutor(), Cluster(64, 8, "T4")
    executor.cpus = 4
    assert [warn.blocks_at_once(executor, None, number) for number in (0, 1, 3)] == [1, 1, 3]
    assert warn.blocks_at_once(executor, cluster, 3) == 1
    said = warn.warnings(small, str(tmp_path / "ws"), executor, cluster, memory, 1e18, {"embed": 10**10})
    assert [line.split(":")[0] for line in said] == ["memory", "workers", "disk", "GPU memory"]
    assert "8 x 8 CPU = 64 CPUs" in said[1] and "1,000,000,000.0 GB" in said[2]
    assert warn.warnings(config(), str(tmp_path / "ws"), executor, None, memory, 1e3, {}) == []
    assert executor.num_workers(executor.resolve(Resources(), 8)) == 1
