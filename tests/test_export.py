"""Exports from finished verdicts: what mining with the same settings would have written, and nothing mined again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mining
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raymine
from raymine import rounds
from raymine.config_file import make_config
from raymine.executor import make_executor
from raymine.export import Export, export

TIGHTER = "select.filters=[{kind: max_relative_score, of_positive: 0.8}, {kind: skip_top, n: 4}]"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def values(data: Path, static_model: str, cross_encoder_model: str) -> dict[str, Any]:
    return mining.config(data, static_model, cross_encoder_model)


@pytest.fixture(scope="module")
def mined(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> raymine.Round:
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("workspace")))


def exported(found: raymine.Round, formats: list[str], *overrides: str, output: str | None = None) -> Export:
    with make_executor("local") as executor:
        return export(found, formats, executor, overrides, output)


def table_of(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.iterdir()))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_rounds_own_settings_give_its_own_bytes(mined: raymine.Round) -> None:
    """Every format that the round wrote; a second export finds them done."""
    made = exported(mined, mining.FORMATS)
    for name in mining.FORMATS:
        assert files(Path(made.path) / name) == files(Path(mined.path) / "shards" / name)
    assert made.num_negatives == mined.negatives().num_rows and made.num_unscored == 0
    assert sum(made.rows.values()) > 100
    assert exported(mined, mining.FORMATS) == made


def test_tighter_filters_give_what_mining_with_them_gives(
    mined: raymine.Round, values: dict[str, Any], tmp_path: Path
) -> None:
    """The same verdicts and rows; sampling too can be another."""
    filters = [{"kind": "max_relative_score", "of_positive": 0.8}, {"kind": "skip_top", "n": 4}]
    select = {"filters": filters, "sample": {"n": 3, "strategy": "random"}}
    again = raymine.mine(make_config({**values, "select": select}), str(tmp_path))
    made = exported(mined, ["triplet"], TIGHTER, "select.sample={n: 3, strategy: random}")
    # A pair's score may differ in its last bit where the teacher had it in another batch.
    texts = ["anchor", "positive", "negative"]
    got, wanted = (
        table_of(Path(path)).select(texts) for path in (made.path + "/triplet", again.path + "/shards/triplet")
    )
    assert got.equals(wanted) and got.num_rows > 50
    dropped = table_of(Path(made.path).parent / "verdicts")["dropped_by"].to_pylist()
    assert dropped == again.verdicts().to_table()["dropped_by"].to_pylist()


def test_what_the_teacher_has_not_scored_is_counted(mined: raymine.Round) -> None:
    """Without the filters that came before it, candidates come back that it was not asked for."""
    assert exported(mined, ["triplet"], "select.filters=[]").num_unscored > 0


def test_nothing_is_mined_or_loaded(mined: raymine.Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of reading, searching or scoring runs."""
    ran = []
    real = rounds.Artifacts.run
    monkeypatch.setattr(rounds.Artifacts, "run", lambda self, step: ran.append(step.name) or real(self, step))
    exported(mined, ["dpr"], "select.sample.n=2")
    assert ran == ["select_again", "fetch_texts", "write_dpr"]


def test_only_selection_and_writing_can_be_overridden(mined: raymine.Round) -> None:
    with pytest.raises(raymine.ConfigError, match=r"key of `select` or `write`"):
        exported(mined, ["triplet"], "retrieve.dense.k=10")
    with pytest.raises(raymine.ConfigError, match="formats"):
        exported(mined, ["tripplet"])


def test_a_copy_goes_where_it_is_asked_for(mined: raymine.Round, tmp_path: Path) -> None:
    """With the files that its rows refer to."""
    made = exported(mined, ["tevatron-v2"], output=str(tmp_path / "out"))
    assert made.path == str(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "tevatron-v2").iterdir())[0] == "documents"
    assert made.rows["tevatron-v2"] == sum(
        len(path.read_text().splitlines()) for path in (tmp_path / "out" / "tevatron-v2").glob("*.jsonl")
    )
