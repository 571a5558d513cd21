"""Written shards, read by the trainers' own data sets: the texts and scores are those of the round's tables.

A package that cannot be imported beside raymine gets an environment of its own, on top of this one: pip adds what is
missing and what clashes. One that cannot be installed here is skipped, with pip's last word. The scripts in readers/
run in these environments and print what they read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pytest

import raymine
from raymine import storage
from raymine.config_file import make_config

READERS = Path(__file__).with_name("readers")
TEVATRON_V2 = "https://github.com/texttron/tevatron/archive/dd063104c81a76d6a77c845f667b46b9e5abd625.zip"
FORMATS = ["flagembedding", "pylate", "tevatron", "tevatron-v2", "automodel", "automodel-corpus"]
MINUTES = 15

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * MINUTES * 60)]

Row = dict[str, Any]
Run = Callable[..., list[Row]]


@pytest.fixture(scope="module")
def mined(static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory) -> raymine.Round:
    """Several positives, several shards and blocks, queries that are short of negatives."""
    data = mining.write_beir(tmp_path_factory.mktemp("data"))
    write = {"formats": FORMATS, "scores": True}
    values = mining.config(data, static_model, cross_encoder_model, write=write)
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("workspace")))


@pytest.fixture(scope="module")
def expected(mined: raymine.Round) -> list[Row]:
    """Per query its text, its positives and its negatives, as {text: score}, from the round's tables."""
    tables = mined.tables()
    documents, queries = (
        [text for shard in shards for text in storage.read_table(shard.path, ["text"])["text"].to_pylist()]
        for shards in (tables.corpus, tables.queries)
    )
    positives: dict[int, dict[str, float]] = defaultdict(dict)
    negatives: dict[int, dict[str, float]] = defaultdict(dict)
    for row in mined.verdicts().to_table().to_pylist():
        if row["relevance"] and documents[row["doc_row"]]:
            positives[row["query_row"]][documents[row["doc_row"]]] = row["teacher_score"]
    for row in mined.negatives().to_pylist():
        negatives[row["query_row"]][documents[row["doc_row"]]] = row["teacher_score"]
    found = [
        {"query": queries[q], "positives": positives[q], "negatives": negatives[q]}
        for q in range(len(queries))
        if positives[q] and negatives[q]
    ]
    assert any(len(row["positives"]) > 1 for row in found) and any(len(row["negatives"]) < 4 for row in found)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a reader's script where its package is installed."""
    pythons: dict[str, str] = {}

    def read(script: str, folder: Path, module: str, *requirements: str) -> list[Row]:
        key = " ".join(requirements)
        if key not in pythons:
            pythons[key] = python_with(module, requirements, tmp_path_factory.mktemp("environment"))
        command = [pythons[key], str(READERS / f"{script}.py"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES * 60)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return read


def python_with(module: str, requirements: tuple[str, ...], folder: Path) -> str:
    """An interpreter that has a module: this one, or one of a new environment, else the test is skipped."""
    if find_spec(module.partition(".")[0]) and find_spec(module):
        return sys.executable
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    purelib = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    inside = subprocess.run([python, *purelib], capture_output=True, text=True, check=True).stdout.strip()
    Path(inside, "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    same_torch = f"torch=={version('torch').partition('+')[0]}"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements, same_torch]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(install, capture_output=True, text=True, timeout=MINUTES * 60, env=environment)
    if done.returncode:
        pytest.skip(f"{module} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python


def folder_of(mined: raymine.Round, name: str) -> Path:
    return Path(mined.path) / "shards" / name


def test_flagembedding_reads_texts_and_scores(mined: raymine.Round, expected: list[Row], run: Run) -> None:
    """AbsEmbedderTrainDataset with knowledge distillation: each text with its own score."""
    folder = folder_of(mined, "flagembedding")
    rows = run("read_flagembedding", folder, "FlagEmbedding.abc.finetune.embedder", "FlagEmbedding")
    assert by_query(rows) == by_query(expected)


def test_pylate_reads_texts_and_scores(mined: raymine.Round, expected: list[Row], run: Run) -> None:
    """KDProcessing finds every id, and every list is as long as its scores; positives come first."""
    rows = run("read_pylate", folder_of(mined, "pylate"), "pylate.utils", "pylate")
    whole = [{"query": row["query"], "documents": {**row["positives"], **row["negatives"]}} for row in expected]
    assert by_query(rows) == by_query(whole)
    order = {row["query"]: list(row["documents"]) for row in whole}
    assert all(list(row["documents"]) == order[row["query"]] for row in rows)


def test_tevatron_reads_texts(mined: raymine.Round, expected: list[Row], run: Run) -> None:
    """TrainDataset of version 1, after its own preprocessor."""
    rows = run("read_tevatron", folder_of(mined, "tevatron"), "tevatron.data", "tevatron")
    assert by_query(rows) == by_query(without_scores(expected))


def test_tevatron_version_2_reads_texts(mined: raymine.Round, expected: list[Row], run: Run) -> None:
    """Its TrainDataset takes both kinds, and finds each id in the corpus."""
    requirements = (f"tevatron @ {TEVATRON_V2}", "pillow")
    for name in ("tevatron", "tevatron-v2"):
        rows = run("read_tevatron_v2", folder_of(mined, name), "tevatron.retriever.dataset", *requirements)
        assert by_query(rows) == by_query(without_scores(expected))


def test_automodel_reads_texts(mined: raymine.Round, expected: list[Row], run: Run) -> None:
    """make_retrieval_dataset takes both kinds, and finds the corpus beside the rows."""
    requirements = ("--no-deps", "nemo_automodel", "pillow")  # its reader needs no more; the package does
    for name in ("automodel", "automodel-corpus"):
        module = "nemo_automodel.components.datasets.llm.retrieval_dataset"
        rows = run("read_automodel", folder_of(mined, name), module, *requirements)
        assert by_query(rows) == by_query(without_scores(expected))


def by_query(rows: list[Row]) -> dict[str, Row]:
    """Rows by query, of which each has one, scores as float32."""
    found = {row["query"]: {name: rounded(row[name]) for name in row if name != "query"} for row in rows}
    assert len(found) == len(rows)
    return found


def rounded(side: Any) -> Any:
    return {text: np.float32(score) for text, score in side.items()} if isinstance(side, dict) else side


def without_scores(rows: list[Row]) -> list[Row]:
    return [row | {side: sorted(row[side]) for side in ("positives", "negatives")} for row in rows]
