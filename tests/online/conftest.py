"""One mined round for all tests of raymine.online."""

from __future__ import annotations

from pathlib import Path

import mining
import pytest
from auditor import Auditor

import raymine
from raymine.config_file import make_config


@pytest.fixture(scope="session")
def online_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("online-data"))


@pytest.fixture(scope="session")
def auditor(online_data: Path) -> Auditor:
    return Auditor(online_data, online_data / "qrels" / "train.tsv", [online_data / "qrels" / "test.tsv"])


@pytest.fixture(scope="session")
def mined(
    online_data: Path, static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory
) -> raymine.Round:
    """Twins of positives, several positives, excluded judgements; filters by the teacher and by rank."""
    values = mining.config(online_data, static_model, cross_encoder_model)
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("online-workspace")))
