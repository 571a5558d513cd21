"""A round whose files are read in many parts is the round of the same files read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mining
import pytest

import raymine
from raymine.config_file import make_config
from raymine.corpus import jsonl
from raymine.errors import InputError

PART_BYTES = 1500


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mining.write_beir(tmp_path / "data", 150, 40)


def mine(data: Path, model: str, workspace: Path, **corpus: Any) -> raymine.Round:
    values = mining.config(data, model, write={"formats": ["triplet"]})
    values["corpus"].update(corpus)
    return raymine.mine(make_config(values), str(workspace))


def num_tasks(workspace: Path, step: str) -> int:
    """Tasks of a step that were ever done in the workspace."""
    return len(list(workspace.glob(f"artifacts/{step}-*/done/*.json")))


def test_the_same_negatives(data: Path, static_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row numbers, verdicts and negatives; only the shards of the corpus are others."""
    whole = mine(data, static_model, tmp_path / "whole")
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", PART_BYTES)
    parts = mine(data, static_model, tmp_path / "parts")
    assert num_tasks(tmp_path / "parts", "read_documents") > 5 and num_tasks(tmp_path / "parts", "read_queries") > 1
    assert num_tasks(tmp_path / "whole", "read_documents") == 1
    assert parts.negatives().equals(whole.negatives())
    assert parts.verdicts().to_table().equals(whole.verdicts().to_table())


def test_appended_lines_redo_the_last_part(
    data: Path, static_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And embed only its documents again."""
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", PART_BYTES)
    mine(data, static_model, tmp_path / "workspace")
    before = {step: num_tasks(tmp_path / "workspace", step) for step in ("read_documents", "embed_documents")}
    with (data / "corpus.jsonl").open("a") as file:
        file.writelines(json.dumps({"_id": f"new{number}", "text": f"new text {number}"}) + "\n" for number in range(5))
    mine(data, static_model, tmp_path / "workspace")
    for step, count in before.items():
        assert count > 5
        assert num_tasks(tmp_path / "workspace", step) == count + 1


def test_faults_are_named_as_in_a_whole_file(
    data: Path, static_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that two parts share, a column that no part has, a title that none has: one message each."""
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", PART_BYTES)
    path = data / "corpus.jsonl"
    with pytest.raises(InputError) as caught:
        mine(data, static_model, tmp_path / "a", text_column="txt")
    columns = "got: columns _id, title, text; fix: name the column in the config, or rename it in the file"
    assert str(caught.value) == f"{path}:1: no column `txt`; {columns}"
    with pytest.raises(InputError) as caught:
        mine(data, static_model, tmp_path / "a", title_column="titel")
    assert str(caught.value) == f"{path}: no row has the column `titel`"
    with path.open("a") as file:
        file.write('{"_id": "d7", "text": "again"}\n')
    with pytest.raises(InputError) as caught:
        mine(data, static_model, tmp_path / "a")
    assert str(caught.value) == f"{path}:171: document id 'd7' is not unique, it is also at {path}:8"
