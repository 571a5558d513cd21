"""Search beside the embedder: the same final bytes as without, through kills and in any order, and nothing done twice.

No GPU is needed: an executor says that its workers have one, and the stages then find none and use CPU tensors.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import mining
import pytest

from raymine import schemas, storage
from raymine.artifacts import Resources, Step, Task, Work
from raymine.config import EmbedConfig
from raymine.config_file import make_config
from raymine.executor.local import LocalExecutor
from raymine.pipeline import fused
from raymine.pipeline.fused import EmbedThenSearch
from raymine.rounds import Round, mine


class ClaimsGpu(LocalExecutor):
    """Says that there is a GPU; may shuffle tasks and notes what ran."""

    def __init__(self, shuffle: int | None = None) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.ran: dict[str, int] = {}

    def resolve(self, resources: Resources, num_tasks: int) -> Resources:
        gpus = 1.0 if resources.gpus is None else resources.gpus
        return replace(super().resolve(resources, num_tasks), gpus=gpus)

    def run(self, step: Step, tasks: Sequence[Task], make_work: Callable[[], Work]) -> Iterator[dict[str, Any]]:
        pickle.loads(pickle.dumps(make_work))  # as if it travelled
        tasks = list(tasks)
        if self.shuffle is not None:
            random.Random(f"{self.shuffle} {step.name}").shuffle(tasks)
        self.ran[step.name] = len(tasks)
        return super().run(step, tasks, make_work)


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def values(data: Path, static_model: str) -> dict[str, Any]:
    made = mining.config(data, static_model, write={"formats": ["triplet", "flagembedding"], "scores": True})
    made["corpus"]["shard_documents"] = 32
    made["embed"] = {"model": static_model}  # float16, as stored by default
    made["index"] = {"kind": "exact"}
    return made


@pytest.fixture(scope="module")
def plain(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a round without a GPU writes."""
    return files(run(values, tmp_path_factory.mktemp("plain"), LocalExecutor()))


def run(values: dict[str, Any], workspace: Path, executor: LocalExecutor) -> Round:
    return mine(make_config(values), str(workspace), executor)


def files(mined: Round) -> dict[str, str]:
    return mining.bytes_of_round(Path(mined.path))


def steps(mined: Round) -> dict[str, int]:
    """Tasks per step that this round did itself."""
    return {cost.step: cost.tasks for cost in mined.cost if cost.tasks}


@pytest.mark.parametrize("shuffle", [None, 1, 2], ids=["in_order", "shuffled", "shuffled_again"])
def test_final_bytes_are_those_of_a_round_without_a_gpu(
    values: dict[str, Any], plain: dict[str, str], tmp_path: Path, shuffle: int | None
) -> None:
    """Verdicts, negatives, shards; in whatever order a worker gets its tasks."""
    executor = ClaimsGpu(shuffle)
    mined = run(values, tmp_path, executor)
    assert files(mined) == plain
    assert mined.facts["index"] == "exact"
    assert executor.ran["embed_documents"] == 9
    assert "search_shards" not in executor.ran and "search_exact" not in executor.ran
    rows = [row for row in mined.ledger().to_pylist() if row["step"] == "search_shards"]
    assert len(rows) == 9 and all(row["usd"] > row["wall_s"] * 2.5 / 3600 > 0 for row in rows)  # a GPU is paid for


def test_float32_vectors_give_the_same_bytes_too(values: dict[str, Any], tmp_path: Path) -> None:
    """With their wider bound."""
    values = {**values, "embed": {**values["embed"], "store": "float32"}}
    expected = files(run(values, tmp_path / "plain", LocalExecutor()))
    assert files(run(values, tmp_path / "fused", ClaimsGpu())) == expected


@pytest.mark.parametrize("moment", [1, 2, 7, 16])
def test_a_killed_round_goes_on_in_another_order_with_the_same_bytes(
    values: dict[str, Any], plain: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed at any marker, also between a shard's hits and its vectors; others may have been left out by then."""
    write_json, seen = storage.write_json, []

    def dying(path: str, value: Any) -> None:
        if "/done/" in path and ("embed_documents" in path or "search_shards" in path):
            seen.append(path)
            if len(seen) > moment:
                raise Killed
        write_json(path, value)

    monkeypatch.setattr(storage, "write_json", dying)
    with pytest.raises(Killed):
        run(values, tmp_path, ClaimsGpu(shuffle=moment))
    monkeypatch.setattr(storage, "write_json", write_json)
    before = {path: storage.sha256_of(path) for path in seen[:moment]}
    mined = run(values, tmp_path, ClaimsGpu(shuffle=moment + 1))
    assert files(mined) == plain
    assert {path: storage.sha256_of(path) for path in before} == before


def test_what_merges_the_hits_is_found_whatever_their_bytes(values: dict[str, Any], tmp_path: Path) -> None:
    """Two workspaces whose hits files differ have the same artifacts from the union on."""
    named = {}
    for shuffle in (None, 3):
        workspace = tmp_path / str(shuffle)
        run(values, workspace, ClaimsGpu(shuffle))
        hits = {
            storage.sha256_of(path)
            for path in storage.list_files(str(workspace / "artifacts"), ".arrow")
            if "search_shards" in path
        }
        named[shuffle] = ({path.name for path in (workspace / "artifacts").iterdir()}, hits)
    assert named[None][0] == named[3][0] and named[None][1] != named[3][1]


def test_vectors_that_are_there_are_searched_without_the_embedder(values: dict[str, Any], tmp_path: Path) -> None:
    """A round without a GPU made them; the next one, with another k and a GPU, embeds nothing and searches all."""
    run(values, tmp_path / "both", LocalExecutor())
    other = {**values, "retrieve": {**values["retrieve"], "dense": {"k": 17}}}
    executor = ClaimsGpu()
    second = run(other, tmp_path / "both", executor)
    assert "embed_documents" not in executor.ran and executor.ran["search_shards"] == 9
    run(values, tmp_path / "plain", LocalExecutor())
    assert files(second) == files(run(other, tmp_path / "plain", LocalExecutor()))


def test_a_round_without_a_gpu_finds_the_vectors(values: dict[str, Any], plain: dict[str, str], tmp_path: Path) -> None:
    """The vectors are the artifact of the embedding step, whoever made them."""
    first = run(values, tmp_path, ClaimsGpu())
    other = {**values, "select": {**values["select"], "sample": {"n": 3}}}
    second = run(other, tmp_path, LocalExecutor())
    assert steps(first)["embed_documents"] == 9 and "embed_documents" not in steps(second)
    assert steps(second)["search_exact"] > 0


def test_appended_documents_cost_only_their_shards(values: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """Hits of the old shards stay right; only the last old shard, which grew, and the new ones are done."""
    corpus = tmp_path / "corpus.jsonl"
    lines = (data / "corpus.jsonl").read_text().splitlines(keepends=True)
    values = {**values, "corpus": {**values["corpus"], "path": str(corpus)}}
    added = [json.dumps({**json.loads(line), "_id": f"new{i}"}) + "\n" for i, line in enumerate(lines[::-1][:70])]
    mined = {}
    for name, make in (("plain", LocalExecutor), ("fused", ClaimsGpu)):
        corpus.write_text("".join(lines))
        run(values, tmp_path / name, make())
        corpus.write_text("".join([*lines, *added]))
        mined[name] = run(values, tmp_path / name, make())
    assert mined["fused"].number == 2 and mined["fused"].facts["num_documents"] == 330
    assert files(mined["fused"]) == files(mined["plain"])
    assert steps(mined["fused"])["embed_documents"] == steps(mined["fused"])["search_shards"] == 3


def test_faults_of_the_input_are_reported_as_ever(static_model: str, tmp_path: Path) -> None:
    """A document without text: nothing is written, and nothing is searched."""
    path = str(tmp_path / "corpus.parquet")
    storage.write_table(path, schemas.corpus_table(["heart", "none"], ["heart", None]))
    settings = {"config": EmbedConfig(model=static_model), "side": "document", "model_fingerprint": "x"}
    stage = EmbedThenSearch(settings, lambda: cast(Work, None))
    record = stage(Task("key", {"table": path, "search": {}}, str(tmp_path / "out")))
    assert record.problems == ["document 'none' has no text to embed"]
    assert [file.name for file in tmp_path.iterdir()] == ["corpus.parquet"]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, True),
        ({"index": {"kind": "auto"}}, True),
        ({"index": {"kind": "ivfpq", "nlist": 4, "nprobe": 4}}, False),
        ({"index": {"kind": "ivfflat", "nlist": 4, "nprobe": 4}}, False),
        ({"resources": {"embed": {"gpus": 0}}}, False),
    ],
    ids=["exact", "auto", "ivfpq", "ivfflat", "gpus_0"],
)
def test_it_is_used_where_exact_search_and_a_gpu_meet(
    values: dict[str, Any], tmp_path: Path, sections: dict[str, Any], expected: bool
) -> None:
    """The config may ask for another index, or for no GPU."""
    mined = run({**values, **sections}, tmp_path, ClaimsGpu())
    assert ("search_shards" in steps(mined)) == expected


def test_queries_that_do_not_fit_the_device_are_searched_elsewhere(
    values: dict[str, Any], plain: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 queries of 16 float16 numbers and 30 scores take 60 x (32 + 120) bytes."""
    monkeypatch.setattr(fused, "DEVICE_BYTES", 54 * 152 - 1)
    mined = run(values, tmp_path, ClaimsGpu())
    assert "search_shards" not in steps(mined) and files(mined) == plain
