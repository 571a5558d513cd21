"""A plan and the round that it is of: the same counts, both shown, nothing of the one in the other."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mining
import pytest
import tiny_models
from rich.console import Console

from raymine import rounds
from raymine.artifacts import Executor
from raymine.config import Config
from raymine.config_file import make_config
from raymine.console import parse_count, print_plan, print_status
from raymine.errors import ConfigError
from raymine.executor import make_executor
from raymine.plan import Plan, Variation, plan
from raymine.planning.measure import Job, Measured, measure
from raymine.planning.published import Cluster
from raymine.status import status


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with make_executor("local") as made:
        yield made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"), 120, 30)


@pytest.fixture(scope="module")
def config(data: Path, static_model: str, cross_encoder_model: str) -> Config:
    return make_config(mining.config(data, static_model, cross_encoder_model))


Planned = tuple[Plan, Measured, rounds.Round]


@pytest.fixture(scope="module")
def planned(config: Config, executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A round's plan, what was measured for it, and the round."""
    workspace, measured, said = str(tmp_path_factory.mktemp("planned")), [], []

    def measure_here(job: Job) -> Measured:
        measured.append(measure(job, said.append))
        return measured[-1]

    made = plan(config, workspace, executor, measure=measure_here)
    left = {path.name for path in Path(workspace).rglob("*") if "teacher" in path.name or "samples" in path.name}
    assert left == set() and len(said) == 4, "only what was measured stays of a calibration"
    return made, measured[0], rounds.mine(config, workspace, executor)


def of(measured: Measured) -> Any:
    """Measures nothing: gives what was measured before."""
    return lambda job: measured


def never(job: Job) -> Measured:
    raise AssertionError("it was measured before")


def test_a_plan_has_the_steps_and_counts_of_its_round(planned: Planned) -> None:
    """Every step, in its order; tasks exactly; documents, queries; candidates, pairs, tokens and bytes nearly."""
    made, _, mined = planned
    ledger = mined.ledger().to_pylist()
    cost = {step.step: step for step in mined.cost}
    assert [step.step for step in made.steps] == list(dict.fromkeys(row["step"] for row in ledger))
    assert {step.step: step.tasks for step in made.steps} == {
        name: cost[name].tasks for name in cost if name != "total"
    }
    assert (made.num_documents, made.num_queries) == (mined.facts["num_documents"], mined.facts["num_queries"])
    assert made.num_candidates == pytest.approx(cost["union_candidates"].rows_out, rel=0.1)
    assert made.num_scored == pytest.approx(cost["rescore"].rows_in, rel=0.1)
    for step in made.steps:
        actual = cost[step.step]
        if step.state == "done":
            assert (step.rows, step.tokens, step.num_bytes) == (actual.rows_out, actual.tokens, actual.bytes_out)
            assert step.worker_s == pytest.approx(actual.wall_s) and step.usd == pytest.approx(actual.usd)
        elif step.step in ("embed_documents", "rescore", "tokenize_documents"):
            assert step.tokens == pytest.approx(actual.tokens, rel=0.15)
    assert made.num_bytes == pytest.approx(cost["total"].bytes_out, rel=0.25)
    assert {step.step for step in made.steps if step.state == "done"} >= {"read_documents", "join_positives"}


def test_a_round_that_was_planned_is_the_round_that_was_not(
    planned: Planned, config: Config, executor: Executor, tmp_path: Path
) -> None:
    """Byte for byte, and the teacher had to score every pair itself: samples leave no scores behind."""
    other = rounds.mine(config, str(tmp_path), executor)
    assert mining.bytes_of_round(Path(planned[2].path)) == mining.bytes_of_round(Path(other.path))
    hits = [{step.step: step.cache_hits for step in each.cost}["rescore"] for each in (planned[2], other)]
    assert hits[0] == hits[1]


def test_what_was_measured_is_kept(planned: Planned, config: Config, executor: Executor) -> None:
    """Another plan of the same kind measures nothing; a done round needs no plan."""
    made, measured, mined = planned
    done = plan(config, mined.workspace, executor, measure=never)
    assert done.is_done and done.steps == []
    variation = Variation(documents=100_000, rounds=2)
    larger = plan(config, mined.workspace, executor, measure=never, asked=variation)
    assert not larger.calibration["is_new"] and larger.calibration["documents"] == made.calibration["documents"] == 140
    assert len(list(Path(mined.workspace, "plans").glob("*.json"))) == 1, "only the round itself is kept"
    embed = {step.step: step for step in larger.steps}["embed_documents"]
    rate = measured.rates["embed_documents"]
    units = {"documents": 100_000.0, "tasks": float(embed.tasks)}
    assert embed.tasks == -(-100_000 // 64)
    assert embed.worker_s == pytest.approx(rate.start_s + sum(rate.seconds[name] * units[name] for name in units))
    assert larger.rounds_wall_s < 2 * larger.wall_s and larger.rounds_wall_s > larger.wall_s


def test_money_is_hours_times_prices(planned: Planned) -> None:
    """As the ledger prices a round, and its sums are those of its steps."""
    made = planned[0]
    assert made.usd == pytest.approx(0.04 * made.cpu_hours) and made.cpu_hours == pytest.approx(
        sum(step.cpu_hours for step in made.steps)
    )
    assert made.worker_s == pytest.approx(sum(step.worker_s for step in made.steps))
    assert made.worker_s >= made.wall_s == pytest.approx(sum(step.wall_s for step in made.steps))


def test_status_shows_planned_beside_actual(planned: Planned) -> None:
    """Of each step that mining did, from the plan that the round took over."""
    made, _, mined = planned
    (found,) = status(mined.workspace)
    seconds = {step.step: step.worker_s for step in made.steps if step.state != "done"}
    assert {step["step"]: step["planned_s"] for step in found["steps"]} == seconds
    assert found["planned_s"] == pytest.approx(sum(seconds.values())) and found["worker_s"] > 0
    console = Console(width=120)
    with console.capture() as shown:
        print_status([found], console)
    lines = shown.get().splitlines()
    assert "planned)" in lines[0] and lines[1].split() == ["step", "done", "left", "worker", "time", "planned"]


def test_what_is_made_is_not_planned_again(planned: Planned, config: Config, executor: Executor) -> None:
    """Another sampling finds all but its own steps; another `k` finds vectors, BM25's terms and scores."""
    _, measured, mined = planned
    sampled = config.model_copy(
        update={"select": config.select.model_copy(update={"sample": config.select.sample.model_copy(update={"n": 3})})}
    )
    made = plan(sampled, mined.workspace, executor, measure=of(measured))
    to_do = [step.step for step in made.steps if step.state == "to do"]
    assert made.round == 2 and to_do[0] == "select" and "rescore" not in to_do
    assert {step.step for step in made.steps if step.state == "reused"} >= {"read_documents", "embed_documents"}
    assert "embed_documents, " in made.reused[0] and "made already, " in made.reused[0]
    retrieve = config.retrieve.model_copy(update={"random": None})
    fewer = plan(config.model_copy(update={"retrieve": retrieve}), mined.workspace, executor, measure=of(measured))
    states = {step.step: step.state for step in fewer.steps}
    assert states["search_bm25"] == states["embed_queries"] == states["search_exact"] == "reused"
    assert states["union_candidates"] == "to do"
    rescored = next(step for step in fewer.steps if step.step == "rescore")
    whole = next(step for step in planned[0].steps if step.step == "rescore")
    assert rescored.tokens < 0.3 * whole.tokens and any("have their score already" in line for line in fewer.reused)


def test_tokens_that_are_kept_are_in_the_plan(
    planned: Planned, config: Config, executor: Executor, tmp_path: Path
) -> None:
    """A later checkpoint takes the share that was measured; where none are kept, it is said what they would save."""
    assert planned[1].kept_tokens is not None and 0 < planned[1].kept_tokens <= 1 and planned[1].kept_bytes > 10
    measured = replace(planned[1], kept_tokens=0.25, kept_bytes=100.0)
    resources = config.resources.model_copy(update={"keep_tokens": True})
    keeping, workspace = config.model_copy(update={"resources": resources}), str(tmp_path / "workspace")
    rounds.mine(keeping, workspace, executor)
    assert config.embed is not None
    later = config.embed.model_copy(update={"model": tiny_models.save_static(str(tmp_path / "later"), seed=1)})
    made = plan(keeping.model_copy(update={"embed": later}), workspace, executor, measure=of(measured))
    assert "tokens of 100% of the documents are kept: embedding takes 25% of what it would" in made.reused
    first = plan(keeping, str(tmp_path / "other"), executor, measure=of(measured))
    seconds = [next(step.worker_s for step in each.steps if step.step == "embed_documents") for each in (first, made)]
    start_s = measured.rates["embed_documents"].start_s
    assert seconds[1] - start_s == pytest.approx(0.25 * (seconds[0] - start_s)) and first.advice == made.advice == []
    many = Variation(documents=10_000_000, rounds=3)
    for asked, advice in ((config, 1), (keeping, 0)):
        found = plan(asked, str(tmp_path / "other"), executor, measure=of(measured), asked=many)
        assert len(found.advice) == advice and all(
            "25% of the time" in line and "1.00 GB" in line for line in found.advice
        )
    later_s = []
    of_gpus = replace(measured, parameters={"embed": 20_000_000, "rescore": 10_000_000})
    for asked in (config, keeping):
        many = Variation(documents=10_000_000, rounds=3, cluster=Cluster(8, 1, "L4"))
        found = plan(asked, str(tmp_path / "gpus"), executor, measure=of(of_gpus), asked=many)
        assert found.advice == [] and {step.step: step.rate for step in found.steps}["embed_documents"] == "published"
        later_s.append(found.rounds_wall_s - found.wall_s)
    assert later_s[0] == pytest.approx(later_s[1]), "a GPU's published rate knows no tokenising"


def test_a_plan_says_which_index_and_what_it_goes_by(planned: Planned, config: Config, executor: Executor) -> None:
    """As the config asks, as the size suggests, or beside the embedder on a cluster's GPUs."""
    _, measured, mined = planned
    for kind in ("ivfflat", "ivfpq"):
        asked = config.model_copy(update={"index": config.index.model_copy(update={"kind": kind})})
        found = plan(asked, mined.workspace, executor, measure=of(measured))
        assert (found.index, found.index_chosen) == (kind, "asked for by index.kind")
    assert planned[0].index == "exact" and "s of one core" in (planned[0].index_chosen or "")
    huge = Variation(documents=100_000_000, queries=1_000_000)
    usual = {
        "corpus": config.corpus.model_copy(update={"shard_documents": 65_536}),
        "queries": config.queries.model_copy(update={"block_queries": 8192}),
    }
    cut = config.model_copy(update=usual)
    assert plan(cut, mined.workspace, executor, measure=of(measured), asked=huge).index == "ivfpq"
    on_gpus = plan(
        cut, mined.workspace, executor, measure=of(measured), asked=replace(huge, cluster=Cluster(64, 8, "H100"))
    )
    assert (on_gpus.index, on_gpus.index_chosen) == ("exact", "in the worker that embeds, on its GPU")
    assert {step.step: step.rate for step in on_gpus.steps}["rescore"] == "published"
    assert any("published, not measured" in line and "989 TFLOP/s" in line for line in on_gpus.assumptions)
    assert on_gpus.gpu_hours > 0 and on_gpus.warnings
    console = Console(width=200)
    with console.capture() as shown:
        print_plan(on_gpus, console)
    text = shown.get()
    assert "100,000,000 documents, 1,000,000 queries" in text and "published rate" in text and "WARNING" in text


@pytest.mark.parametrize(
    ("text", "number"), [("250", 250), ("250k", 250_000), ("1.5G", 1_500_000_000), ("100M", 10**8)]
)
def test_counts_are_read_as_people_write_them(text: str, number: int) -> None:
    """With a unit or without."""
    assert parse_count(text) == number
    for wrong in ("", "M", "many", "-3", "0"):
        with pytest.raises(ConfigError, match="not a count"):
            parse_count(wrong)
