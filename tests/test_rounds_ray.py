"""Rounds on Ray, over one cluster: from the command line, a watch and a loop, with the bytes of rounds in process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mining
import pytest
import ray_helpers
import tiny_models

from raymine import cli, rounds
from raymine.config_file import load_config, make_config
from raymine.executor.local import LocalExecutor
from raymine.executor.ray import RayExecutor
from raymine.loop import Training, loop

POOL = {"scope": "pool", "top": 3, "probe": 0.1, "max_missed": 1.0}


@pytest.fixture(scope="module")
def on_ray() -> Iterator[RayExecutor]:
    with ray_helpers.private_cluster():
        yield RayExecutor()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A checkpoint, and a later one that is near to it."""
    folder = tmp_path_factory.mktemp("models")
    first = tiny_models.save_static(str(folder / "0"))
    return [first, tiny_models.save_moved(first, str(folder / "1"), 0.1)]


@pytest.fixture(scope="module")
def job(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a config, and two rounds mined in process: `first` is a workspace with the first, `both` with both."""
    folder = tmp_path_factory.mktemp("job")
    sections: dict[str, Any] = {
        "index": {"kind": "ivfpq", "nlist": 8},
        "retrieve": {"dense": {"k": 10}, "random": {"k": 2}},
        "rounds": {"merge": "union"},
        "write": {"formats": ["triplet"]},
    }
    values = mining.config(mining.write_beir(folder / "data", 240, 40), models[0], **sections)
    mining.write_config(folder / "mine.yaml", values)
    config = load_config(str(folder / "mine.yaml"))
    rounds.mine(config, str(folder / "first"), LocalExecutor())
    shutil.copytree(folder / "first", folder / "both")
    second = rounds.remine(config, str(folder / "both"), models[1], LocalExecutor())
    assert second.facts["ivfpq"]["centroids"]["reused"]
    return folder


@pytest.fixture
def workspace(job: Path, tmp_path: Path) -> Path:
    """One in which the first round is done."""
    return Path(shutil.copytree(job / "first", tmp_path / "workspace"))


def assert_is_second(job: Path, workspace: Path, executor: str) -> None:
    """Whether the second round is there, with the bytes of the one in process."""
    made, known = (folder / "rounds" / "0002" for folder in (workspace, job / "both"))
    facts = json.loads((made / "round.json").read_text())
    assert (facts["state"], facts["executor"]) == ("done", executor)
    assert facts["ivfpq"] == json.loads((known / "round.json").read_text())["ivfpq"]
    assert mining.bytes_of_round(made) == mining.bytes_of_round(known)


@pytest.mark.parametrize(("executor", "num_tasks"), [("local", 5), ("ray", 15)])
def test_a_round_that_is_killed_again_and_again_is_finished(
    job: Path, models: list[str], workspace: Path, on_ray: RayExecutor, executor: str, num_tasks: int
) -> None:
    """Each time after a few tasks more; the same call goes on, and decides as before whether centroids still serve."""
    config, kills = load_config(str(job / "mine.yaml")), 0
    runner = on_ray if executor == "ray" else LocalExecutor()
    while True:
        try:
            assert rounds.remine(config, str(workspace), models[1], mining.Dies(runner, num_tasks)).is_new
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 2
    assert_is_second(job, workspace, executor)


def test_the_command_line_mines_the_next_round_on_ray(
    job: Path, models: list[str], workspace: Path, on_ray: RayExecutor
) -> None:
    """`raymine remine`, on the cluster that this program is connected to."""
    run(["remine", str(job / "mine.yaml"), "--workspace", str(workspace), "--checkpoint", models[1]])
    assert_is_second(job, workspace, "ray")


def test_a_watch_mines_the_next_round_on_ray(
    job: Path, models: list[str], workspace: Path, tmp_path: Path, on_ray: RayExecutor
) -> None:
    """`raymine watch --once`."""
    folder = tmp_path / "checkpoints" / "checkpoint-9"
    shutil.copytree(models[1], folder)
    (folder / "trainer_state.json").write_text("{}")
    run(["watch", str(job / "mine.yaml"), "--workspace", str(workspace), "--checkpoints", str(folder.parent), "--once"])
    assert_is_second(job, workspace, "ray")


def run(arguments: list[str]) -> None:
    """The command line in this process, which is connected already."""
    cli.app([*arguments, "--executor", "ray"], standalone_mode=False)


def test_the_loop_is_the_same_on_ray(models: list[str], tmp_path: Path, on_ray: RayExecutor) -> None:
    """A few hundred documents: the same negatives, so the same training, so the same measures."""
    data = mining.write_beir(tmp_path / "data", 300, 60)
    sections = {"retrieve": {"dense": {"k": 10}}, "write": {"formats": ["n-tuple"]}}
    config = make_config(mining.config(data, models[0], **sections))
    rows = {}
    for runner in (LocalExecutor(), on_ray):
        how, judgements = Training(steps=3, batch_size=16), str(data / "qrels" / "test.tsv")
        rows[runner.name] = loop(config, str(tmp_path / runner.name), judgements, 1, how, runner)
    assert [row["round"] for row in rows["ray"]] == [1, None]
    for one, other in zip(rows["local"], rows["ray"], strict=True):
        assert {name: one[name] for name in one if "@" in name} == {name: other[name] for name in other if "@" in name}
    assert rows["ray"][0]["R@10"] > 0.1


def test_rounds_that_build_on_one_another_are_the_same_on_ray(
    models: list[str], tmp_path: Path, on_ray: RayExecutor
) -> None:
    """With kept tokens too, which change nothing but the time."""
    data = mining.write_beir(tmp_path / "data")
    how = {**POOL, "merge": "union", "queries": "unsettled", "margin": 0.1}
    made = {}
    for runner, resources in ((LocalExecutor(), {}), (on_ray, {"keep_tokens": True})):
        values = mining.config(data, models[0], rounds=how, resources={"memory_gb": 2.5e-4, **resources})
        config = make_config(values)
        made[runner.name] = [rounds.remine(config, str(tmp_path / runner.name), model, runner) for model in models]
    for one, other in zip(made["local"], made["ray"], strict=True):
        assert mining.bytes_of_round(Path(one.path)) == mining.bytes_of_round(Path(other.path))
        assert one.lineage().equals(other.lineage())
