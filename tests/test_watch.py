"""Rounds by checkpoint: only complete ones, the newest, each once; `remine` does what depends on the weights."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import mining
import pytest
import tiny_models
from rich.console import Console

import raymine
from raymine import rounds, watch
from raymine.config_file import make_config
from raymine.console import cost_table
from raymine.errors import ConfigError, UserError
from raymine.executor import make_executor
from raymine.executor.local import LocalExecutor
from raymine.watch import newest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three sets of weights of one embedder."""
    folder = tmp_path_factory.mktemp("models")
    return [tiny_models.save_static(str(folder / str(seed)), seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


def save(model: str, folder: Path, state: bool = True, age_s: float = 0) -> Path:
    """A checkpoint as a trainer writes it, its last file so many seconds old."""
    shutil.copytree(model, folder)
    (folder / "optimizer.pt").write_bytes(b"large")
    if state:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    return folder


def found(folder: Path) -> str | None:
    checkpoint = newest(str(folder))
    return checkpoint.name if checkpoint else None


def test_a_trainers_checkpoint_is_complete_with_its_state(models: list[str], tmp_path: Path) -> None:
    """trainer_state.json comes last; however long the trainer takes to write the rest, nothing is taken before."""
    assert found(tmp_path) is None
    folder = save(models[0], tmp_path / "checkpoint-20", state=False, age_s=1000)
    assert found(tmp_path) is None
    (folder / "trainer_state.json").write_text("{}")
    assert found(tmp_path) == "checkpoint-20"


def test_a_saved_model_is_complete_when_nothing_changes(models: list[str], tmp_path: Path) -> None:
    """A folder without a trainer's name has no last file: a minute of rest."""
    save(models[0], tmp_path / "final", state=False, age_s=10)
    assert found(tmp_path) is None
    shutil.rmtree(tmp_path / "final")
    save(models[0], tmp_path / "final", state=False, age_s=70)
    assert found(tmp_path) == "final"


@pytest.mark.parametrize("cut", [1, 200, 10**9])
def test_weights_cut_short_are_no_checkpoint(models: list[str], tmp_path: Path, cut: int) -> None:
    """A safetensors file that is shorter than its header says, or has no whole header, is still being written."""
    folder = save(models[0], tmp_path / "checkpoint-1")
    (weights,) = folder.rglob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[: max(0, len(content) - cut)])
    assert found(tmp_path) is None
    weights.write_bytes(content)
    assert found(tmp_path) == "checkpoint-1"


def test_what_is_no_model_is_no_checkpoint(models: list[str], tmp_path: Path) -> None:
    """Folders of logs, and loose files, are passed over."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "events").write_text("x")
    (tmp_path / "trainer_state.json").write_text("{}")
    assert found(tmp_path) is None


def test_the_newest_goes_by_number_and_a_later_name_wins(models: list[str], tmp_path: Path) -> None:
    """900 before 1000 though it was written later; a model saved under a name after both is newer than both."""
    save(models[0], tmp_path / "checkpoint-1000", age_s=300)
    save(models[1], tmp_path / "checkpoint-900", age_s=200)
    assert found(tmp_path) == "checkpoint-1000"
    save(models[2], tmp_path / "final", state=False, age_s=100)
    assert found(tmp_path) == "final"


def config(data: Path, model: str, **sections: Any) -> raymine.Config:
    return make_config(mining.config(data, model, **sections))


def test_what_was_reused_is_said(data: Path, models: list[str], tmp_path: Path) -> None:
    """Below the costs, which are of the steps that had work to do; without prices there are none."""
    values = mining.config(data, models[0])
    del values["cost"]
    with make_executor("local") as executor:
        rounds.mine(make_config(values), str(tmp_path), executor)
        second = rounds.remine(make_config(values), str(tmp_path), models[1], executor)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(cost_table(second.cost))
    shown = console.export_text()
    assert "tokenize_documents" not in shown and "embed_documents" in shown and "USD" not in shown
    reused = [cost for cost in second.cost[:-1] if cost.reused]
    assert f"{second.cost[-1].reused} shards of {len(reused)} steps" in shown
    assert all(cost.usd is None for cost in second.cost)


def embedded(round_: raymine.Round) -> set[str]:
    """The steps that did work in a round."""
    return {row["step"] for row in round_.ledger().to_pylist() if not row["reused"]}


def test_remine_does_what_depends_on_the_weights(data: Path, models: list[str], tmp_path: Path) -> None:
    """Round 2 reads nothing and searches no text; its negatives are those of a first round with that checkpoint."""
    made = config(data, models[0])
    with make_executor("local") as executor:
        first = rounds.mine(made, str(tmp_path / "ws"), executor)
        second = rounds.remine(made, str(tmp_path / "ws"), models[1], executor)
        alone = rounds.mine(config(data, models[1]), str(tmp_path / "alone"), executor)
    assert (first.number, second.number) == (1, 2)
    assert embedded(first) - embedded(second) >= {"read_documents", "tokenize_documents", "search_bm25", "index_ids"}
    assert embedded(second) >= {"embed_queries", "embed_documents", "search_exact"}
    assert mining.bytes_of_round(Path(second.path)) == mining.bytes_of_round(Path(alone.path))


def test_kept_tokens_are_found_by_the_next_checkpoint(data: Path, models: list[str], tmp_path: Path) -> None:
    """The tokenizer is the same, so round 2 tokenises nothing; its bytes are those of a round that does."""
    resources = {"memory_gb": 2.5e-4, "keep_tokens": True}
    made = config(data, models[0], resources=resources)
    with make_executor("local") as runner:
        rounds.mine(made, str(tmp_path / "ws"), runner)
        second = rounds.remine(made, str(tmp_path / "ws"), models[1], runner)
        alone = rounds.mine(config(data, models[1]), str(tmp_path / "alone"), runner)
        embed = made.model_copy(update={"embed": made.embed.model_copy(update={"document_prompt": "passage: "})})
        prompted = rounds.remine(embed, str(tmp_path / "ws"), models[2], runner)
    assert mining.bytes_of_round(Path(second.path)) == mining.bytes_of_round(Path(alone.path))
    hits = {cost.step: cost.cache_hits for cost in second.cost}
    assert (hits["embed_documents"], hits["embed_queries"]) == (256, 54)
    hits = {cost.step: cost.cache_hits for cost in prompted.cost}
    assert (hits["embed_documents"], hits["embed_queries"]) == (0, 54)


def test_unchanged_weights_are_no_new_round(data: Path, models: list[str], tmp_path: Path) -> None:
    """Whatever the folder is called, and whatever else the trainer left in it; older weights find their own round."""
    made, workspace = config(data, models[0]), str(tmp_path / "ws")
    copy = save(models[0], tmp_path / "checkpoint-7")
    with make_executor("local") as executor:
        first = rounds.mine(made, workspace, executor)
        same = rounds.remine(made, workspace, str(copy), executor)
        assert (same.number, same.is_new) == (first.number, False)
        assert rounds.remine(made, workspace, models[1], executor).number == 2
        assert rounds.remine(made, workspace, models[0], executor).number == 1
    assert len(rounds.rounds(workspace)) == 2


def test_a_submitted_run_is_one_round(data: Path, models: list[str], tmp_path: Path) -> None:
    """A job of the same id finds its round, though the checkpoint under that path is another one by now."""
    with make_executor("local") as executor:
        once = rounds.mine(config(data, models[0]), str(tmp_path), executor, run_id="nightly-1")
        again = rounds.remine(config(data, models[0]), str(tmp_path), models[1], executor, run_id="nightly-1")
        other = rounds.remine(config(data, models[0]), str(tmp_path), models[1], executor, run_id="nightly-2")
    assert (once.number, again.number, again.is_new, other.number) == (1, 1, False, 2)
    assert other.facts["run_id"] == "nightly-2"


def test_a_config_without_an_embedder_has_no_checkpoints(data: Path, models: list[str], tmp_path: Path) -> None:
    values = mining.config(data, models[0], retrieve={"bm25": {"k": 5}}, select={"sample": {"n": 2}})
    del values["embed"]
    with pytest.raises(ConfigError, match="no checkpoints"), make_executor("local") as executor:
        rounds.remine(make_config(values), str(tmp_path), models[1], executor)


def test_watching_once_mines_the_newest_once(data: Path, models: list[str], tmp_path: Path) -> None:
    """Of three checkpoints that came the last complete one; a second look finds nothing new; a newer one is a round."""
    folder, workspace = tmp_path / "checkpoints", str(tmp_path / "ws")
    save(models[0], folder / "checkpoint-1")
    save(models[1], folder / "checkpoint-2")
    save(models[2], folder / "checkpoint-3", state=False)

    def look() -> list[tuple[int, bool]]:
        with make_executor("local") as executor:
            seen = watch.watch(config(data, models[0]), workspace, str(folder), executor, once=True)
            return [(round_.number, round_.is_new) for round_ in seen]

    assert look() == [(1, True)]
    assert look() == [(1, False)]
    (folder / "checkpoint-3" / "trainer_state.json").write_text("{}")
    assert look() == [(2, True)]
    (kept,) = (tmp_path / "ws" / "checkpoints").iterdir()
    assert kept.name.startswith("checkpoint-3-") and not (kept / "optimizer.pt").exists()


def test_watching_goes_on(data: Path, models: list[str], tmp_path: Path) -> None:
    """A round per checkpoint as they come; one that is no model is told and passed over; deleted ones do no harm."""
    folder, faults = tmp_path / "checkpoints", list[tuple[str, UserError]]()
    save(models[0], folder / "checkpoint-1")
    seen = watch.watch(
        config(data, models[0]),
        str(tmp_path / "ws"),
        str(folder),
        LocalExecutor(),
        every_s=0.01,
        failed=lambda checkpoint, error: (faults.append((checkpoint.name, error)), save_next())[0],
    )

    def save_next() -> None:
        save(models[2], folder / "checkpoint-3")

    assert next(seen).number == 1
    shutil.rmtree(folder / "checkpoint-1")
    broken = save(models[1], folder / "checkpoint-2")
    (broken / "modules.json").write_text("[]")
    second = next(seen)
    assert [name for name, _ in faults] == ["checkpoint-2"]
    assert second.number == 2 and second.is_new


@pytest.mark.parametrize("listed", [0, 1], ids=["before its files are listed", "before they are read"])
@pytest.mark.parametrize("once", [False, True])
def test_a_checkpoint_deleted_while_it_is_copied_is_left_out(
    data: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool, listed: int
) -> None:
    """Trainers keep the last few: with the newest gone there is another look at once, and nobody is told of a failure.

    A file that had gone was an InputError, which no other look followed; a folder that had gone was copied as empty.
    """
    folder, looks, faults = tmp_path / "checkpoints", list[int](), list[str]()
    save(models[0], folder / "checkpoint-1")
    save(models[1], folder / "checkpoint-2")
    list_files = watch.model_files

    def deletes(path: str) -> list[str]:
        looks.append(1)
        names = list_files(path) if listed else []
        if path.endswith("checkpoint-2"):
            shutil.rmtree(path)
        return names or list_files(path)

    monkeypatch.setattr("raymine.fingerprint.model_files", deletes)
    seen = watch.watch(
        config(data, models[0]),
        str(tmp_path / "ws"),
        str(folder),
        LocalExecutor(),
        every_s=0.01,
        once=once,
        failed=lambda checkpoint, _: faults.append(checkpoint.name),
    )
    assert next(seen).number == 1
    assert not faults and len(looks) < 10
    (kept,) = (tmp_path / "ws" / "checkpoints").glob("checkpoint-1-*")
    assert (kept / "modules.json").exists()
    if once:
        assert list(seen) == []
        shutil.rmtree(folder / "checkpoint-1")
        looked = watch.watch(config(data, models[0]), str(tmp_path / "ws"), str(folder), LocalExecutor(), once=True)
        assert list(looked) == []


def test_a_fault_of_a_checkpoint_that_is_there_is_told(
    data: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is listed and cannot be found, though nothing was deleted, is an error and not looked at for ever."""
    save(models[0], tmp_path / "checkpoints" / "checkpoint-1")
    monkeypatch.setattr("raymine.fingerprint.model_files", lambda path: ["missing.json"])
    arguments = config(data, models[0]), str(tmp_path / "ws"), str(tmp_path / "checkpoints"), LocalExecutor()
    with pytest.raises(raymine.InputError, match="no such file"):
        next(watch.watch(*arguments, once=True))


def test_a_locked_workspace_is_not_mined(data: Path, models: list[str], tmp_path: Path) -> None:
    """Two schedulers: the second is refused while the first is at work, and finds the round finished afterwards."""
    from raymine.lock import locked

    made = config(data, models[0])
    with make_executor("local") as executor:
        with locked(str(tmp_path), "a round"), pytest.raises(raymine.WorkspaceError, match="another run is at work"):
            rounds.mine(made, str(tmp_path), executor)
        assert rounds.mine(made, str(tmp_path), executor).is_new
        assert not rounds.mine(made, str(tmp_path), executor).is_new
