"""What is searched apart: vectors like the sample's, and copies of documents, in parts of unlike size."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raymine import schemas, storage
from raymine.artifacts import Done, Resources, Step, StepResult, Task
from raymine.pipeline.base import Tables
from raymine.planning.measure import Measuring, Sample, _around, _unlike, from_fewer, has_compiled
from raymine.planning.seen import Seen
from raymine.storage import Shard
from raymine.vectors import read_vectors


def vectors(folder: Path, count: int, dim: int = 8) -> Shard:
    made = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    table = schemas.vector_table(np.arange(count), made.astype(np.float16))
    return storage.write_arrow(str(folder / "sample.arrow"), table)


def test_drawn_vectors_are_like_the_samples(tmp_path: Path) -> None:
    """As long, in the same number format, each near one of them; as many as asked, in four shards, placed."""
    known = vectors(tmp_path, 50)
    shards = _around([known], 1001, str(tmp_path / "drawn"), np.random.default_rng(1))
    assert [shard.num_rows for shard in shards] == [251, 251, 251, 248]
    assert [shard.first_row for shard in shards] == [0, 251, 502, 753]
    made = np.concatenate([read_vectors(shard.path).matrix for shard in shards])
    assert made.dtype == np.float16 and np.linalg.norm(made.astype(float), axis=1) == pytest.approx(1.0, abs=2e-3)
    nearest = (made.astype(float) @ read_vectors(known.path).matrix.astype(float).T).max(axis=1)
    among_strangers = np.random.default_rng(2).standard_normal(made.shape)
    among_strangers /= np.linalg.norm(among_strangers, axis=1, keepdims=True)
    others = (among_strangers @ read_vectors(known.path).matrix.astype(float).T).max(axis=1)
    assert nearest.mean() > others.mean() + 0.05
    assert len(np.unique(made, axis=0)) == 1001


@pytest.mark.parametrize("num_shards", [1, 4, 8])
def test_searches_are_of_unlike_size(num_shards: int) -> None:
    """The last has everything; the others lack documents or queries."""
    assert _unlike(num_shards, 4) == [(num_shards, 1), (max(1, num_shards // 4), 4), (num_shards, 4)]


@pytest.mark.parametrize(("documents", "first"), [([1, 4, 16], 1), ([1, 16, 16, 16], 0), ([1, 4, 16, 16], 1), ([5], 0)])
def test_samples_tell_documents_from_queries(documents: list[int], first: int) -> None:
    """From one with fewer of both than the last has: between samples of as many documents, all is by queries."""
    some: Any = None
    grown = [Sample(some, {"documents": of, "queries": 10.0 * number}, 1.0) for number, of in enumerate(documents)]
    assert list(from_fewer(grown)) == grown[first:]


def result(name: str, seconds: list[float]) -> StepResult:
    ledger: dict[str, Any] = {"tokens": 10, "bytes_out": 100, "rows_out": 5, "cpus": 2, "gpus": 0.0, "device": "cpu"}
    done = [Done(str(number), [], {}, {**ledger, "wall_s": each}) for number, each in enumerate(seconds)]
    tasks = [Task(each.key, {}) for each in done]
    return StepResult(Step(name, Any, {}, None, tasks, unit="documents"), done, 0, 0.0)


STEPS = {"embed_queries": [0.1, 0.15], "embed_documents": [0.5, 0.6], "rescore": [0.2], "prefilter": [0.1]}


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_what_takes_no_time_is_measured_thrice(executor: str) -> None:
    """The median counts; what takes longer, the teacher's and all on Ray is as it was. Kept tokens are not found."""
    again, tokens = iter([0.9, 0.05, 0.3, 0.2]), []  # one step after the other, as in a round

    def run(step: Step) -> StepResult:
        tokens.append(step.settings.get("tokens"))
        return result(step.name, [next(again)])

    found = [result(name, seconds) for name, seconds in STEPS.items()]
    found[0] = replace(found[0], step=replace(found[0].step, settings={"tokens": "of the sample"}))
    fresh = SimpleNamespace(run=run, artifacts=SimpleNamespace(workspace="new"))
    measuring: Any = Measuring.__new__(Measuring)
    measuring.executor = SimpleNamespace(name=executor)
    measuring._folder, measuring._context = (lambda: ""), (lambda folder, tables: fresh)
    made: Any = Sample(SimpleNamespace(results=list(found), tables=Tables()), {}, 1.0)
    measuring._steady(made)
    seconds = [sum(done.ledger["wall_s"] for done in each.done) for each in made.context.results]
    as_it_was = [pytest.approx(sum(seconds)) for seconds in STEPS.values()]
    assert seconds == (as_it_was if executor == "ray" else [0.3, *as_it_was[1:3], 0.1])
    assert tokens == ([] if executor == "ray" else ["new/tokens", None, "new/tokens", None])


def test_a_start_is_what_the_first_sample_took_beyond_its_rate() -> None:
    """Shared by the workers that started; a step of one task has one, whoever else is idle."""
    tables = Tables(corpus=[Shard("", 100, 0, "")] * 4, queries=[Shard("", 5, 0, "")] * 2)
    units = {"documents": 400.0, "queries": 10.0, "pairs": 4000.0, "candidates": 500.0, "scored": 0.0, "lists": 0.0}
    larger = {**units, "documents": 1600.0}
    seen = Seen(lambda resources: 2 if resources == Resources(2, 0.0) else 1)
    seen.add(result("embed_documents", [3.0, 3.1, 0.1, 0.1]), units, tables, is_first=True)
    seen.add(result("embed_documents", [0.1] * 4), units, tables)
    seen.add(result("embed_documents", [0.4] * 4), larger, tables)
    seen.add(result("query_terms", [2.0]), units, tables, is_first=True)
    seen.add(result("query_terms", [0.5]), units, tables)
    rates = seen.rates()
    embed = rates["embed_documents"]
    assert embed.seconds == {"tasks": pytest.approx(0.0, abs=1e-9), "documents": pytest.approx(0.001)}
    assert embed.start_s == pytest.approx((6.3 - 0.4) / 2) and embed.spread == "shards" and embed.cpus == 2.0
    assert rates["query_terms"].start_s == pytest.approx(1.5) and rates["query_terms"].spread == "one"


@pytest.mark.parametrize(
    ("index", "is_large", "seconds"),
    [("exact", True, 0.5), ("exact", False, 0.0), ("ivfpq", True, 0.0), ("ivfflat", True, 0.0)],
)
def test_first_compiled_call_is_of_the_search(
    index: str, is_large: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made before any sample, so that none of their steps is the first; only where a round's dense search makes it."""
    clock = [10.0]

    def first_call(*arguments: Any) -> None:
        clock[0] += 0.5

    monkeypatch.setattr("raymine.scores.final_scores", first_call)
    monkeypatch.setattr("raymine.planning.measure.time.perf_counter", lambda: clock[0])
    job, executor = SimpleNamespace(index=index), SimpleNamespace(cluster=None)
    measuring: Any = SimpleNamespace(job=job, executor=executor, _is_large=is_large)
    assert Measuring._load_compiled(measuring) == seconds


def test_a_program_that_had_to_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its starts are measured again; one that never loaded a compiled loop has compiled none."""
    for number in (0, 2):
        monkeypatch.setitem(sys.modules, "raymine.compiled", SimpleNamespace(num_compiled=lambda number=number: number))
        assert has_compiled() is (number > 0)
    monkeypatch.delitem(sys.modules, "raymine.compiled")
    assert has_compiled() is False
