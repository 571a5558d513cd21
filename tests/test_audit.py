"""Audits: ours are clean in every format; each fault is found, counted and located; a peer's known faults too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mining
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raymine
from raymine.audit import audit
from raymine.audit.evaluation import ids_of, texts_of
from raymine.audit.readers import rows
from raymine.config_file import make_config
from raymine.write import FORMATS

# These repeat negatives for each positive, or (labeled-pair and labeled-list-all with scores, pylate) do not tell the
# sides apart.
NOT_ONCE = {
    "triplet", "n-tuple", "labeled-list", "labeled-list-all", "margin", "ms-swift", "labeled-pair", "pylate", "ance",
    "gpl-margins",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def mined(
    data: Path, static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory
) -> raymine.Round:
    write = {"formats": list(FORMATS), "scores": True}
    values = mining.config(data, static_model, cross_encoder_model, write=write)
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("workspace")))


def found(result: Any) -> dict[str, int]:
    return {check.name: check.found for check in result.checks if check.found}


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_raymine_writes_is_clean(name: str, mined: raymine.Round, data: Path) -> None:
    """In every format, against the evaluation, with every id resolved; all negatives are seen."""
    queries, documents = texts_of([str(data)])
    ids = {json.loads(line)["_id"] for line in (data / "corpus.jsonl").read_text().splitlines()}
    result = audit([str(Path(mined.path) / "shards" / name)], [], [], ids)
    assert result.is_clean, result.checks
    assert queries and documents and result.num_rows > 30
    looked_at = next(check.of for check in result.checks if check.name == "scores that are not finite")
    assert looked_at >= mined.negatives().num_rows
    if name not in NOT_ONCE:
        assert result.num_negatives == mined.negatives().num_rows
    if name == "flagembedding":
        above = [row for row in mined.negatives().to_pylist() if row["kind"] == "ranking_error"]
        assert found(result).get("negatives that score above the positive", 0) == len(above)


def write(path: Path, made: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


CLEAN = [
    {"query": f"q{i}", "pos": [f"answer number {i} of many"], "neg": [f"other {i} {j}" for j in range(3)]}
    for i in range(4)
]


@pytest.mark.parametrize(
    "change, name, example",
    [
        ({"neg": ["Answer  NUMBER 1 of many", "b", "c"]}, "positives among the negatives", "row 1: 'Answer  NUMBER"),
        ({"neg": ["a", "b", "a "]}, "negatives twice in a row", "row 1: 'a '"),
        ({"neg": ["a"]}, "rows with fewer negatives than most", "row 1"),
        (
            {"pos_scores": [1.0], "neg_scores": [0.5, float("-inf"), 0.1]},
            "scores that are not finite",
            "row 1: '-inf'",
        ),
        (
            {"pos_scores": [1.0], "neg_scores": [0.5, 2.0, 3.0]},
            "negatives that score above the positive",
            "row 1: '2.0'",
        ),
        ({"neg": ["answer number 1 of many.", "b", "c"]}, None, ""),
        (
            {"pos": ["one two three four five six seven eight nine ten"],
             "neg": ["one two three four five six seven eight nine ten !", "b", "c"]},
            "near duplicates of a positive",
            "row 1: 'one two",
        ),
        (
            {"neg": ["one two three four five six seven eight nine ten", "b",
                     "one two three four five six seven eight nine ten !"]},
            "near duplicates of another negative",
            "row 1: 'one two",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_fault_is_found_and_located(tmp_path: Path, change: dict[str, Any], name: str | None, example: str) -> None:
    """And nothing else is."""
    changed = [row | change if i == 1 else row for i, row in enumerate(CLEAN)]
    result = audit([write(tmp_path / "train.jsonl", changed)])
    expected = {name: 2 if name == "negatives that score above the positive" else 1} if name else {}
    assert found(result) == expected
    located = [each for check in result.checks for each in check.examples]
    assert all(example in each for each in located) and len(located) == sum(map(bool, expected.values()))


def test_siblings_in_other_rows_are_positives_too(tmp_path: Path) -> None:
    """A peer's fault: the same query on two rows, each positive mined as the other's negative."""
    made = [
        {"anchor": "q", "positive": "p1", "negative": "p2"},
        {"anchor": "Q ", "positive": "p2", "negative": "p1"},
        {"anchor": "other", "positive": "p3", "negative": "p1"},
    ]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "train.parquet")
    result = audit([str(tmp_path)])
    assert found(result) == {"positives among the negatives": 2} and result.num_queries == 2 and not result.is_clean


def test_the_evaluation_must_not_leak(tmp_path: Path, data: Path) -> None:
    """Test queries among the training queries, their answers among the negatives."""
    test = [line.split("\t") for line in (data / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    texts = {row["_id"]: row["text"] for row in map(json.loads, (data / "queries.jsonl").read_text().splitlines())}
    documents = {row["_id"]: row for row in map(json.loads, (data / "corpus.jsonl").read_text().splitlines())}
    leaked = next(documents[row[1]] for row in test if documents[row[1]]["text"] and documents[row[1]]["title"])
    made = [
        {"query": texts[test[0][0]].upper(), "pos": ["p"], "neg": ["n"]},
        {"query": "mine", "pos": ["p"], "neg": [f"{leaked['title']} {leaked['text']}"]},
        {"query": "yours", "pos": ["p"], "neg": ["n"]},
    ]
    result = audit([write(tmp_path / "train.jsonl", made)], *texts_of([str(data)]))
    assert found(result) == {"queries of the evaluation": 1, "documents of the evaluation among the negatives": 1}


def test_ids_resolve(tmp_path: Path) -> None:
    """Against a corpus in any of its spellings."""
    made = [{"qid": 1, "pos": [7], "neg": {"bm25": [8, 9], "dense": [{"pid": 10, "ce-score": 1.0}][:0]}}]
    corpus = write(tmp_path / "corpus.jsonl", [{"docid": str(i), "text": "x"} for i in (7, 8)])
    (tmp_path / "train").mkdir()
    result = audit([write(tmp_path / "train" / "a.jsonl", made)], document_ids=ids_of(corpus))
    assert found(result) == {"ids that do not resolve": 1} and result.num_negatives == 2


def test_label_lists_and_pairs_have_sides(tmp_path: Path) -> None:
    """By their labels."""
    listed = [{"anchor": "q", "docs": ["p", "n", "m"], "labels": [1, 0, 0]}]
    paired = [{"anchor": "q", "doc": doc, "label": label} for doc, label in (("p", 1), ("n", 0))]
    ((_, row),) = rows(write(tmp_path / "list.jsonl", listed))
    assert (row.positives, row.negatives) == (["p"], ["n", "m"])
    both = list(rows(write(tmp_path / "pair.jsonl", paired)))
    assert [(row.positives, row.negatives) for _, row in both] == [(["p"], []), ([], ["n"])]


def test_what_is_no_training_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(raymine.InputError, match="no training set there"):
        audit([str(tmp_path)])
    with pytest.raises(raymine.InputError, match="columns a, b"):
        audit([write(tmp_path / "x.jsonl", [{"a": 1, "b": 2}])])


def test_the_command_fails_on_a_broken_rule(tmp_path: Path) -> None:
    """Exit code 1, one table; 0 and the same facts as JSON where all is well."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raymine", "audit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "150"}, timeout=60)

    clean = write(tmp_path / "clean.jsonl", CLEAN)
    broken = write(tmp_path / "broken.jsonl", [*CLEAN, {"query": "q", "pos": ["p"], "neg": ["p", "x", "y"]}])
    bad, good = run(broken), run(clean, "--json")
    assert bad.returncode == 1 and "broken" in bad.stdout and "row 4: 'p'" in bad.stdout and not bad.stderr
    facts = json.loads(good.stdout)
    assert good.returncode == 0 and facts["is_clean"] and facts["num_rows"] == 4


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


SCORED: dict[str, dict[str, Any]] = {
    "tevatron": {
        "query": "q",
        "positive_passages": [{"docid": "1", "text": "a", "score": 1.0}],
        "negative_passages": [{"docid": "2", "text": "b", "score": float("nan")}],
    },
    "tevatron-v2": {
        "query_text": "q",
        "positive_document_ids": ["1"],
        "negative_document_ids": ["2"],
        "positive_document_scores": [1.0],
        "negative_document_scores": [float("nan")],
    },
    "automodel": {
        "question": "q", "pos_doc": ["a"], "neg_doc": ["b"], "pos_scores": [1.0], "neg_scores": [float("nan")]
    },
    "dpr": {
        "question": "q",
        "positive_ctxs": [{"text": "a", "score": 1.0}],
        "negative_ctxs": [],
        "hard_negative_ctxs": [{"text": "b", "score": float("nan")}],
    },
    "arctic": {"QUERY_ID": "q", "DOCUMENT_ID": "b", "RELEVANCE": -1, "SCORE": float("nan")},
    "arctic positives": {"QUERY_ID": "q", "DOCUMENT_ID": "a", "RELEVANCE": 1, "SCORE": float("nan")},
    "ms-swift": {
        "messages": _message("q"),
        "positive_messages": [_message("a")],
        "negative_messages": [_message("b")],
        "positive_scores": [1.0],
        "negative_scores": [float("nan")],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCORED)
def test_scores_that_a_format_may_have_are_looked_at(tmp_path: Path, name: str) -> None:
    """Beside what the format asks for, too."""
    assert found(audit([write(tmp_path / "train.jsonl", [SCORED[name]])])) == {"scores that are not finite": 1}


def test_what_arctic_holds_for_neither_is_neither(tmp_path: Path) -> None:
    """A relevance above 0 is a positive, one below a negative."""
    made = [{"QUERY_ID": "q", "DOCUMENT_ID": str(n), "RELEVANCE": n, "SCORE": 0.5} for n in (-1, 0, 1)]
    read = [row for _, row in rows(write(tmp_path / "train.jsonl", made))]
    assert [(row.positives, row.negatives) for row in read] == [([], ["-1"]), ([], []), (["1"], [])]
    assert [(row.positive_scores, row.negative_scores) for row in read] == [([], [0.5]), ([], []), ([0.5], [])]
