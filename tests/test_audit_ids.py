"""Audits of rows that name documents by id: lines of fields, runs, and any format with its texts beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raymine
from raymine.audit import audit
from raymine.audit.readers import rows

# Of each format three clean rows, and the position of the row that a fault is planted in.
FILES = {
    "ance": [f"q{i}\tp{i}\tn{i},m{i},o{i}" for i in range(3)],
    "simans": [f"q{i}\tquery {i}\tp{i} 0.9\tn{i} 0.5,m{i} 0.25,o{i} -1e-3" for i in range(3)],
    "gpl-margins": [f"q{i}\tp{i}\tn{i}\t{i}.5" for i in range(3)],
    "tevatron-run": [
        f"q{i}\t{doc}{i}\t{score}" for i in range(3) for doc, score in zip("nmo", (3, 2.5, 1), strict=True)
    ],
    "trec": [f"q{i} Q0 {doc}{i} {rank} {4 - rank} raymine" for i in range(3) for rank, doc in enumerate("nmo", 1)],
}
FIRST = {"tevatron-run": 3, "trec": 3}  # line of the second query; else 1

POSITIVE, TWICE = "positives among the negatives", "negatives twice in a row"
INFINITE, SHORT = "scores that are not finite", "rows with fewer negatives than most"
ABOVE, RESOLVES = "negatives that score above the positive", "ids that do not resolve"
EVALUATED, LEAKED = "queries of the evaluation", "documents of the evaluation among the negatives"
NEAR = "near duplicates of a positive"
FAULTS = [
    ("ance", 1, "q1\tp1\tn1,p1,o1", POSITIVE, "'p1'"),
    ("ance", 1, "q1\tp1\tn1,m1,n1", TWICE, "'n1'"),
    ("ance", 1, "q1\tp1\tn1", SHORT, "'1'"),
    ("simans", 1, "q1\tquery 1\tp1 0.9\tn1 0.5,p1 0.25,o1 0.1", POSITIVE, "'p1'"),
    ("simans", 1, "q1\tquery 1\tp1 0.9\tn1 0.5,n1 0.25,o1 0.1", TWICE, "'n1'"),
    ("simans", 1, "q1\tquery 1\tp1 0.9\tn1 0.5,m1 nan,o1 0.1", INFINITE, "'nan'"),
    ("simans", 1, "q1\tquery 1\tp1 0.9\tn1 0.95,m1 0.2,o1 0.1", ABOVE, "'0.95'"),
    ("simans", 1, "q1\tquery 1\tp1 0.9\tn1 0.5", SHORT, "'1'"),
    ("gpl-margins", 1, "q1\tp1\tp1\t0.0", POSITIVE, "'p1'"),
    ("gpl-margins", 1, "q1\tp1\tn1\t-inf", INFINITE, "'-inf'"),
    ("gpl-margins", 1, "q1\tp1\tn1\tnone", INFINITE, "'none'"),
    ("gpl-margins", 1, "q1\tp1\tn1\t-0.5", ABOVE, "'0.0'"),
    ("tevatron-run", 4, "q1\tn1\t2.5", TWICE, "'n1'"),
    ("tevatron-run", 4, "q1\tm1\tinf", INFINITE, "'inf'"),
    ("tevatron-run", 4, None, SHORT, "'2'"),
    ("trec", 4, "q1 Q0 n1 2 2 raymine", TWICE, "'n1'"),
    ("trec", 4, "q1 Q0 m1 2 nan raymine", INFINITE, "'nan'"),
    ("trec", 4, None, SHORT, "'2'"),
]


def write(path: Path, lines: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def faults(result: Any) -> dict[str, list[str]]:
    return {check.name: check.examples for check in result.checks if check.found}


@pytest.mark.parametrize("name", FILES)
def test_clean_lines_are_clean(name: str, tmp_path: Path) -> None:
    """Whatever separates the fields; every query and negative is seen."""
    result = audit([write(tmp_path / "train.tsv", FILES[name])])
    assert not faults(result) and result.is_clean
    assert (result.num_rows, result.num_queries) == (3, 3)
    assert result.num_negatives == (3 if name == "gpl-margins" else 9)


@pytest.mark.parametrize("name, line, changed, check, example", FAULTS)
def test_a_fault_in_lines_is_found(
    name: str, line: int, changed: str | None, check: str, example: str, tmp_path: Path
) -> None:
    """With the file and the line, or a run's first line of the query; and nothing else is found."""
    lines = list(FILES[name])
    lines[line : line + 1] = [] if changed is None else [changed]
    path = write(tmp_path / "train.tsv", lines)
    result = audit([path])
    assert faults(result) == {check: [f"{path}, row {FIRST.get(name, 1)}: {example}"]}
    assert result.is_clean == (check in (SHORT, ABOVE))


def test_positives_of_a_run_are_those_of_other_files(tmp_path: Path) -> None:
    """A run names none itself."""
    run = write(tmp_path / "a.run", FILES["trec"])
    pairs = write(tmp_path / "b.tsv", ["q1\tm1\tx", "q0\tp0\tx,y"])
    assert faults(audit([run, pairs]))[POSITIVE] == [f"{run}, row 3: 'm1'"]


def beside(folder: Path, lines: list[str], documents: dict[str, str], queries: dict[str, str]) -> str:
    """ANCE's lines with their texts, as raymine writes them."""
    for kind, texts in (("documents", documents), ("queries", queries)):
        key = "pid" if kind == "documents" else "qid"
        write(folder / kind / "part-0.jsonl", [json.dumps({key: name, "text": text}) for name, text in texts.items()])
    return write(folder / "part-0.tsv", lines)


LONG = "one two three four five six seven eight nine ten"
DOCUMENTS = {f"{side}{i}": f"text {side} of {i}" for side in "pnmo" for i in range(3)}
QUERIES = {f"q{i}": f"question {i}" for i in range(3)}


@pytest.mark.parametrize(
    "documents, queries, check, example",
    [
        ({}, {}, None, ""),
        ({"m1": " TEXT  p of 1"}, {}, POSITIVE, "'m1'"),
        ({"m1": "text N of 1"}, {}, TWICE, "'m1'"),
        ({"p1": LONG, "m1": LONG + " eleven"}, {}, NEAR, "'m1'"),
        ({"m1": None}, {}, RESOLVES, "'m1'"),
        ({"p1": None}, {}, RESOLVES, "'p1'"),
        ({}, {"q1": None}, RESOLVES, "'q1'"),
        ({}, {"q1": "The  test"}, EVALUATED, "'q1'"),
        ({"o1": "the answer"}, {}, LEAKED, "'o1'"),
    ],
    ids=str,
)
def test_ids_are_looked_at_by_the_texts_beside_them(
    documents: dict[str, Any], queries: dict[str, Any], check: str | None, example: str, tmp_path: Path
) -> None:
    """And what does not resolve is a broken rule."""
    named = [{k: v for k, v in (both | new).items() if v} for both, new in ((DOCUMENTS, documents), (QUERIES, queries))]
    path = beside(tmp_path, FILES["ance"], *named)
    result = audit([str(tmp_path)], ["the test"], ["The answer"])
    assert faults(result) == ({check: [f"{path}, row 1: {example}"]} if check else {})
    assert result.is_clean == (check in (None, NEAR)) and result.num_rows == 3


def test_without_texts_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    """Documents that are vectors only have no texts: empty files lie beside the rows."""
    result = audit([beside(tmp_path, FILES["ance"], {}, {})])
    assert result.is_clean and RESOLVES not in {check.name for check in result.checks}


def test_numbers_are_ids_where_texts_lie_beside(tmp_path: Path) -> None:
    """A single negative per row, and every id a number: a run, or ANCE's with its documents."""
    lines = [f"{i}\t{i + 10}\t{i + 20}" for i in range(3)]
    ((_, first), *_) = rows(write(tmp_path / "run.tsv", lines))
    assert (first.positives, first.negatives, first.negative_scores) == ([], ["10"], [20.0])
    ((_, first), *_) = rows(beside(tmp_path / "ance", lines, {str(i): "x" for i in range(40)}, {}), has_texts=True)
    assert (first.positives, first.negatives, first.negative_scores) == (["10"], ["20"], [])


def test_an_object_with_a_corpus_is_read(tmp_path: Path) -> None:
    """Automodel's: its own miner leaves `-inf` negatives where a margin took too many; documents are Parquet."""
    made = [
        {"question_id": f"q{i}", "question": f"query {i}", "corpus_id": "c", "pos_doc": [{"id": f"p{i}", "score": 1.0}],
         "neg_doc": [{"id": f"{side}{i}", "score": score} for side, score in (("n", 0.5), ("m", 0.1 if i else bad))]}
        for i, bad in enumerate((float("-inf"), 0, 0))
    ]  # fmt: skip
    path = write(tmp_path / "train.json", [json.dumps({"corpus": {"path": "documents"}, "data": made})])
    assert faults(audit([path])) == {INFINITE: [f"{path}, row 0: '-inf'"]}
    (tmp_path / "documents").mkdir()
    texts = {name: text for name, text in (DOCUMENTS | {"m1": "text p of 1"}).items() if name != "n2"}
    pq.write_table(pa.table({"id": list(texts), "text": list(texts.values())}), tmp_path / "documents" / "a.parquet")
    found = {POSITIVE: [f"{path}, row 1: 'm1'"], RESOLVES: [f"{path}, row 2: 'n2'"]}
    assert faults(audit([path])) == {INFINITE: [f"{path}, row 0: '-inf'"], **found}


def test_a_margin_is_a_score(tmp_path: Path) -> None:
    """raymine's `margin`: not finite, and below zero."""
    made = [
        {"anchor": "q", "positive": "p", "negative": f"n{i}", "label": m} for i, m in enumerate((1, -1, float("nan")))
    ]
    path = write(tmp_path / "train.jsonl", [json.dumps(row) for row in made])
    assert faults(audit([path])) == {INFINITE: [f"{path}, row 2: 'nan'"], ABOVE: [f"{path}, row 1: '0.0'"]}


@pytest.mark.parametrize(
    "lines, place",
    [(["a\tb"], "train.tsv:1"), (["q\tp\tn,m", "q\tp"], "train.tsv:2"), (["a b c d e f"], "train.tsv:1")],
    ids=["two-fields", "one-line", "no-run"],
)
def test_other_lines_are_an_error(lines: list[str], place: str, tmp_path: Path) -> None:
    """Which names the first that is not like the others."""
    with pytest.raises(raymine.InputError, match=place):
        audit([write(tmp_path / "train.tsv", lines)])
