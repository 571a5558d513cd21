"""Calibration on Ray: a program of its own joins the cluster, and its samples have the counts of the local ones."""

from collections.abc import Iterator
from pathlib import Path

import mining
import pytest
import ray_helpers

from raymine.config_file import make_config
from raymine.executor import make_executor
from raymine.executor.ray import RayExecutor
from raymine.plan import plan
from raymine.planning.measure import measure


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    """On a cluster of 2 CPUs."""
    with ray_helpers.ray_environment(), make_executor("ray") as made:
        assert isinstance(made, RayExecutor)
        yield made


def test_both_executors_foresee_the_same_work(executor: RayExecutor, tmp_path: Path) -> None:
    """Rows, tasks and bytes of every step; two workers, where the local executor has one; pools that do not fit."""
    values = mining.config(mining.write_beir(tmp_path / "data", 120, 30), "none")
    del values["embed"]
    values |= {"retrieve": {"bm25": {"k": 20}}, "select": {"sample": {"n": 4}}, "write": {"formats": ["triplet"]}}
    values["resources"]["index"] = {"actors": 64, "cpus": 2}
    config = make_config(values)
    on_ray = plan(config, str(tmp_path / "ray"), executor)
    with make_executor("local") as local:
        here = plan(config, str(tmp_path / "local"), local, measure=lambda job: measure(job, lambda line: None))
    assert [(step.step, step.tasks) for step in on_ray.steps] == [(step.step, step.tasks) for step in here.steps]
    for ours, theirs in zip(on_ray.steps, here.steps, strict=True):
        assert ours.rows == pytest.approx(theirs.rows) and ours.num_bytes == pytest.approx(theirs.num_bytes, rel=0.02)
    assert on_ray.worker_s > 0 and on_ray.calibration["is_new"]
    assert sum(step.wall_s for step in on_ray.steps if step.tasks > 1) < on_ray.worker_s
    assert any("64 x 2 CPU = 128 CPUs" in line for line in on_ray.warnings)
    assert not any("CPU" in line for line in here.warnings)
