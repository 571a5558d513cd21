"""Queries with several positives: a positive of a query is never a negative of it, in any format.

The positives of a query are its nearest neighbours, so every source finds them as candidates of each other. The oracle
is the judgements, and a few lines per format that know nothing of the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mining
import pyarrow.parquet as pq
import pytest
import tiny_models

import raymine
from raymine.config_file import make_config
from raymine.write import FORMATS

NUM_QUERIES, SIBLINGS = 12, 3
AGAINST = ("min", "max", "each")

Row = dict[str, Any]
Sides = tuple[str, list[str], list[str]]  # query, positives, negatives: texts or ids


def _fields(row: Row) -> list[str]:
    return row["line"].split("\t") if "\t" in row["line"] else row["line"].split()


def _ids(pairs: str) -> list[str]:
    return [pair.split(" ")[0] for pair in pairs.split(",")]


def _labeled(row: Row) -> Sides:
    pairs = list(zip(row["positive"], row["labels"], strict=True))
    return row["anchor"], *([text for text, label in pairs if label == wanted] for wanted in (1, 0))


def _contents(messages: list[list[Row]]) -> list[str]:
    return [each[0]["content"] for each in messages]


def _named(key: str, *names: str) -> Callable[[Row], list[list[str]]]:
    return lambda row: [[each[key] for each in row[name]] for name in names]


READ: dict[str, Callable[[Row], Any]] = {
    "triplet": lambda row: (row["anchor"], [row["positive"]], [row["negative"]]),
    "n-tuple": lambda row: (row["anchor"], [row["positive"]], [row[f"negative_{i}"] for i in (1, 2, 3)]),
    "labeled-pair": lambda row: (row["anchor"], *[[row["positive"]] * (row["label"] == w) for w in (1, 0)]),
    "labeled-list": _labeled,
    "labeled-list-all": _labeled,
    "margin": lambda row: (row["anchor"], [row["positive"]], [row["negative"]]),
    "listwise": lambda row: (
        row["query"], row["documents"][: row["num_positives"]], row["documents"][row["num_positives"] :]
    ),
    "flagembedding": lambda row: (row["query"], row["pos"], row["neg"]),
    "tevatron": lambda row: (row["query"], *_named("text", "positive_passages", "negative_passages")(row)),
    "tevatron-v2": lambda row: (row["query_id"], row["positive_document_ids"], row["negative_document_ids"]),
    "tevatron-run": lambda row: (_fields(row)[0], [], [_fields(row)[1]]),
    "dpr": lambda row: (row["question"], *_named("text", "positive_ctxs", "hard_negative_ctxs")(row)),
    "gpl": lambda row: (row["qid"], row["pos"], row["neg"]["raymine"]),
    "gpl-margins": lambda row: (_fields(row)[0], [_fields(row)[1]], [_fields(row)[2]]),
    "pylate": lambda row: (row["query_id"], row["document_ids"][:SIBLINGS], row["document_ids"][SIBLINGS:]),
    "automodel": lambda row: (row["question"], row["pos_doc"], row["neg_doc"]),
    "automodel-corpus": lambda row: (row["question_id"], *_named("id", "pos_doc", "neg_doc")(row)),
    "arctic": lambda row: (row["QUERY_ID"], *[[row["DOCUMENT_ID"]] * (row["RELEVANCE"] == w) for w in (1, -1)]),
    "simlm": lambda row: (row["query_id"], row["positives"]["doc_id"], row["negatives"]["doc_id"]),
    "ms-swift": lambda row: (
        row["messages"][0]["content"], _contents(row["positive_messages"]), _contents(row["negative_messages"])
    ),
    "ance": lambda row: (_fields(row)[0], [_fields(row)[1]], _fields(row)[2].split(",")),
    "simans": lambda row: (_fields(row)[0], _ids(_fields(row)[2]), _ids(_fields(row)[3])),
    "msmarco": lambda row: (row["qid"], *[[each["pid"] for each in s] for s in (row["pos"], row["neg"]["raymine"])]),
    "trec": lambda row: (_fields(row)[0], [], [_fields(row)[2]]),
}  # fmt: skip
WITH_LABELS = ("labeled-pair", "labeled-list", "labeled-list-all")
ALL_IN_A_ROW = (
    "labeled-list-all", "listwise", "flagembedding", "tevatron", "tevatron-v2", "dpr", "gpl", "pylate", "automodel",
    "automodel-corpus", "simlm", "simans", "msmarco",
)  # fmt: skip


def write_siblings(folder: Path) -> dict[str, list[str]]:
    """Each query with three answers that differ in a word, one of them twice under other ids; the positives by id."""
    filler = tiny_models.texts(200, seed=3)
    documents = {f"d{i}": text for i, text in enumerate(filler)}
    queries, positives = {}, {}
    for i, topic in enumerate(tiny_models.texts(NUM_QUERIES, seed=4)):
        queries[f"q{i}"] = topic
        positives[f"q{i}"] = [f"q{i}-p{j}" for j in range(SIBLINGS)]
        documents |= {name: f"{topic} {j}" for j, name in enumerate(positives[f"q{i}"])}
        documents[f"q{i}-twin"] = f"{topic.upper()}  0"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = [f"{query}\t{name}\t1" for query, names in positives.items() for name in names]
    (folder / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return positives


@pytest.fixture(scope="module", params=AGAINST)
def mined(
    request: pytest.FixtureRequest, static_model: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[str]], dict[str, Path]]:
    """The data, its positives, and the folder of every format."""
    data = tmp_path_factory.mktemp("data")
    positives = write_siblings(data)
    select = {
        "filters": [{"kind": "margin", "value": 0.0, "against": request.param}], "sample": {"n": 3},
    }  # fmt: skip
    values = mining.config(data, static_model, select=select, exclude=[], write={"formats": ["triplet"]})
    workspace = str(tmp_path_factory.mktemp("workspace"))
    folders = {}
    for scores in (True, False):
        names = [name for name in FORMATS if (name not in WITH_LABELS) == scores]
        config = make_config({**values, "write": {"formats": names, "scores": scores}})
        folder = Path(raymine.mine(config, workspace).path) / "shards"
        folders |= {name: folder / name for name in names}
    return data, positives, folders


def rows_of(folder: Path) -> list[Row]:
    found: list[Row] = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        elif path.suffix == ".json":
            content = json.loads(path.read_text())
            found += content["data"] if isinstance(content, dict) else content
        else:
            lines = path.read_text().splitlines()
            found += [json.loads(line) if path.suffix == ".jsonl" else {"line": line} for line in lines]
    return found


@pytest.mark.parametrize("name", list(FORMATS))
def test_siblings_are_never_negatives(name: str, mined: Any) -> None:
    """By id and by text, twins included; all siblings are positives, in one row where the format has it so."""
    data, positives, folders = mined
    texts = {
        kind: {row["_id"]: row["text"] for row in map(json.loads, (data / f"{kind}.jsonl").read_text().splitlines())}
        for kind in ("corpus", "queries")
    }
    query_ids = {text: query for query, text in texts["queries"].items()}
    found: dict[str, set[str]] = {}
    rows = [READ[name](row) for row in rows_of(folders[name])]
    assert rows
    for query, given, negatives in rows:
        query = query_ids.get(query, query)
        known = {texts["corpus"][each] for each in positives[query]}
        answers, others = ([texts["corpus"].get(each, each) for each in side] for side in (given, negatives))
        assert set(answers) <= known and not {" ".join(text.lower().split()) for text in others} & known
        assert all(text in texts["corpus"].values() for text in others)
        assert name not in ALL_IN_A_ROW or len(answers) == SIBLINGS
        found.setdefault(query, set()).update(answers)
    assert len(found) == NUM_QUERIES
    if name not in ("trec", "tevatron-run"):
        assert all(len(answers) == SIBLINGS for answers in found.values())
