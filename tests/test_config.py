"""A config is typed and strict: every fault names the key, what came and what would be right."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raymine.config_file import dump_yaml, load_config, make_config
from raymine.errors import ConfigError
from raymine.recipes import recipe

GOOD: dict[str, Any] = {
    "corpus": {"path": "corpus.jsonl"},
    "queries": {"path": "queries.jsonl"},
    "positives": {"path": "qrels/train.tsv"},
    "embed": {"model": "some/model"},
    "retrieve": {"dense": {"k": 10}},
}


def _with(**sections: Any) -> dict[str, Any]:
    return {**GOOD, **sections}


def _write(folder: Path, value: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return str(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            _with(corpus={"path": "x", "idcolumn": "i"}),
            r"unknown key `corpus.idcolumn`[\s\S]*one of path, format, id_column",
        ),
        (_with(retreive={}), r"unknown key `retreive`[\s\S]*retrieve"),
        (
            _with(select={"filters": [{"kind": "skip_top", "n": 5, "m": 1}]}),
            r"`select.filters.0.m`[\s\S]*kind, n, source",
        ),
        (_with(select={"filters": [{"kind": "skip"}]}), r"'skip_top'"),
        (_with(retrieve={"dense": {"k": 0}}), r"`retrieve.dense.k`.*greater than or equal to 1"),
        (_with(retrieve={}), r"at least one source"),
        ({key: value for key, value in GOOD.items() if key != "positives"}, r"`positives` is missing"),
        ({key: value for key, value in GOOD.items() if key != "embed"}, r"`retrieve.dense` needs `embed.model`"),
        (_with(select={"filters": [{"kind": "max_score", "value": 1, "score": "teacher"}]}), r"asks for `teacher`"),
        (_with(select={"filters": [{"kind": "margin", "value": 1, "spare_random": True}]}), r"needs `retrieve.random`"),
        (
            _with(
                retrieve={"dense": {"k": 50}}, select={"filters": [{"kind": "margin", "value": 1, "spare_beyond": 50}]}
            ),
            r"`spare_beyond: 50` spares nothing[\s\S]*first 50",
        ),
        (_with(corpus={"path": "x", "vectors": "x.npy"}), r"for the corpus and for the queries alike"),
        (_with(positives={"path": "x", "query_column": "q"}), r"go together"),
        (_with(corpus={}), r"give `path`"),
        (_with(embed={"model": "m", "query_prompt": "a", "query_prompt_name": "b"}), r"not both"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_a_fault_is_one_clear_error(raw: dict[str, Any], message: str) -> None:
    """Each names the key and what to write instead."""
    with pytest.raises(ConfigError, match=message):
        make_config(raw)


def test_paths_are_relative_to_the_config_file(tmp_path: Path) -> None:
    """Wherever the command runs; URLs and hub names stay as they are."""
    (tmp_path / "model").mkdir()
    path = _write(
        tmp_path, _with(exclude=["qrels/test.tsv"], queries={"path": "s3://bucket/q.jsonl"}, embed={"model": "model"})
    )
    config = load_config(path)
    assert config.corpus is not None and config.corpus.path == str(tmp_path / "corpus.jsonl")
    assert config.exclude == (str(tmp_path / "qrels/test.tsv"),)
    assert config.queries is not None and config.queries.path == "s3://bucket/q.jsonl"
    assert config.embed is not None and config.embed.model == str(tmp_path / "model")
    hub = load_config(_write(tmp_path, GOOD))
    assert hub.embed is not None and hub.embed.model == "some/model"


def test_overrides_are_yaml_values_at_a_path(tmp_path: Path) -> None:
    """They make sections that are not there, and are checked like the file."""
    path = _write(tmp_path, GOOD)
    config = load_config(
        path, ("retrieve.dense.k=7", "select.sample.n=2", "embed.query_prompt='query: '", "retrieve.bm25={k: 3}")
    )
    assert config.retrieve.dense is not None and config.retrieve.dense.k == 7
    assert config.select.sample.n == 2
    assert config.retrieve.bm25 is not None and config.retrieve.bm25.k == 3
    with pytest.raises(ConfigError, match=r"unknown key `select\.smaple`"):
        load_config(path, ("select.smaple.n=2",))
    with pytest.raises(ConfigError, match="no `=`"):
        load_config(path, ("seed",))


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("- 1", "not a mapping")])
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    """Broken YAML and YAML of another shape."""
    with pytest.raises(ConfigError, match=message):
        load_config(_write(tmp_path, text))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """`raymine init` is named."""
    with pytest.raises(ConfigError, match="raymine init"):
        load_config(str(tmp_path / "none.yaml"))


def test_the_dump_is_the_config(tmp_path: Path) -> None:
    """What is written into a round reads back as the same config."""
    config = load_config(_write(tmp_path, _with(select={"filters": [{"kind": "margin", "value": 0.1}]})))
    assert make_config(yaml.safe_load(dump_yaml(config))) == config


def test_with_a_teacher_the_default_is_what_wins() -> None:
    """Neither filters nor a scale given: the recipe `calibrated`. Either given: nothing is added."""
    with_teacher = {**GOOD, "embed": {"model": "m"}, "retrieve": {"dense": {}}, "rescore": {"model": "t"}}
    got = make_config(with_teacher).select
    wanted = make_config({**with_teacher, "select": yaml.safe_load(recipe("calibrated"))["select"]}).select
    assert got == wanted and got.calibrate == "percentile"
    assert make_config({**with_teacher, "select": {"sample": {"n": 3}}}).select.sample.score == "dense"
    assert make_config({**with_teacher, "select": {"filters": []}}).select.filters == ()
    assert make_config({**with_teacher, "select": {"calibrate": "sigmoid"}}).select.filters == ()
    assert make_config({**with_teacher, "rescore": None}).select.filters == ()
