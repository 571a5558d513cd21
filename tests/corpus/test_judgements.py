"""Judgements: what a file is taken for, what is refused, and that rows come out as they went in."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import PositivesConfig
from raymine.corpus.judgements import ReadJudgements, id_text, integral, judgement_faults, judgement_files

Row = tuple[str, str, int]


def read(tmp_path: Path, path: Path, exclude: list[Path] | None = None, **settings: object) -> Record:
    config = PositivesConfig.model_validate({"path": str(path), **settings})
    stage = ReadJudgements(config, [str(file) for file in exclude or []])
    return stage(Task("key", {}, str(tmp_path / "out" / "judgements")))


def rows_of(record: Record) -> list[tuple[object, ...]]:
    assert not record.problems
    table = schemas.check(storage.read_table(record.outputs[0].path), schemas.JUDGEMENTS)
    return [tuple(row.values()) for row in table.to_pylist()]


def random_rows(seed: int) -> list[Row]:
    generator = random.Random(seed)
    return [
        (f"q{generator.randrange(5)}", f"dé{generator.randrange(9)}", generator.randrange(-2, 4))
        for _ in range(generator.randrange(1, 40))
    ]


SPELLINGS = {
    "beir": lambda rows: "".join(["query-id\tcorpus-id\tscore\n", *(f"{q}\t{d}\t{r}\n" for q, d, r in rows)]),
    "beir, other order": lambda rows: "".join(
        ["score\tcorpus-id\tquery-id\n", *(f"{r}\t{d}\t{q}\n" for q, d, r in rows)]
    ),
    "trec": lambda rows: "\n" + "".join(f"{q} 0  {d} {r}\n" for q, d, r in rows),
    "trec, tabs and Q0": lambda rows: "\n" + "".join(f"{q}\tQ0\t{d}\t{r}\n" for q, d, r in rows),
    "three columns": lambda rows: "\n" + "\r\n".join(f"{q}\t{d}\t{r}.0" for q, d, r in rows),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("seed", range(5))
def test_qrels_are_read_in_every_spelling(tmp_path: Path, spelling: str, seed: int) -> None:
    """Each spelling of qrels gives the same rows, with the lines they stand in (here the first row is in line 2)."""
    rows = random_rows(seed)
    path = tmp_path / "qrels.txt"
    path.write_text(SPELLINGS[spelling](rows), "utf-8", newline="")
    assert rows_of(read(tmp_path, path)) == [(*row, False, 0, line) for line, row in enumerate(rows, 2)]


@pytest.mark.parametrize("seed", range(3))
def test_jsonl_and_parquet_give_the_rows_of_a_tsv(tmp_path: Path, seed: int) -> None:
    """Columns are found by their configured names; integer ids become their decimal strings."""
    rows = [(index, doc_id, relevance) for index, (_, doc_id, relevance) in enumerate(random_rows(seed))]
    names = {"query_id_column": "q", "doc_id_column": "d", "relevance_column": "r"}
    columns = [dict(zip("qdr", row, strict=True)) for row in rows]
    (tmp_path / "j.jsonl").write_text("".join(json.dumps(row) + "\n" for row in columns))
    pq.write_table(pa.Table.from_pylist(columns), tmp_path / "j.parquet")
    expected = [(str(q), d, r, False, 0) for q, d, r in rows]
    for first_line, name in ((1, "j.jsonl"), (0, "j.parquet")):
        found = rows_of(read(tmp_path, tmp_path / name, **names))
        assert [row[:5] for row in found] == expected
        assert [row[5] for row in found] == list(range(first_line, first_line + len(rows)))


def test_excluded_files_follow_the_positives(tmp_path: Path) -> None:
    """Files to exclude are read after the positives, each by its own format, and counted in that order."""
    (tmp_path / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    with gzip.open(tmp_path / "test.tsv.gz", "wt") as file:
        file.write("q2 0 d2 0\n")
    (tmp_path / "dev.jsonl").write_text('{"query-id": "q3", "corpus-id": "d3", "score": 2}\n')
    exclude = [tmp_path / "test.tsv.gz", tmp_path / "dev.jsonl"]
    assert rows_of(read(tmp_path, tmp_path / "train.tsv", exclude)) == [
        ("q1", "d1", 1, False, 0, 2),
        ("q2", "d2", 0, True, 1, 1),
        ("q3", "d3", 2, True, 2, 1),
    ]
    files = judgement_files(PositivesConfig(path=str(tmp_path / "train.tsv")), [str(path) for path in exclude])
    assert [file.path for file in files] == [str(tmp_path / "train.tsv"), *map(str, exclude)]


def test_a_folder_of_parquet_files_is_read_in_order_of_names(tmp_path: Path) -> None:
    """A folder stands for its files; each is counted."""
    for name in ("b", "a"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        table = pa.table({"query-id": [name], "corpus-id": ["d"], "score": [1]})
        pq.write_table(table, tmp_path / "folder" / f"{name}.parquet")
    assert rows_of(read(tmp_path, tmp_path / "folder")) == [("a", "d", 1, False, 0, 0), ("b", "d", 1, False, 1, 0)]


def test_without_a_relevance_column_every_row_is_positive(tmp_path: Path) -> None:
    """relevance_column null: relevance 1, whatever else a row holds."""
    path = tmp_path / "pairs.tsv"
    path.write_text("query-id\tcorpus-id\nq\td\n")
    assert rows_of(read(tmp_path, path, relevance_column=None)) == [("q", "d", 1, False, 0, 2)]
    path.write_text("q 0 d 0\n")
    assert rows_of(read(tmp_path, path, relevance_column=None)) == [("q", "d", 1, False, 0, 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "qid\tpid\tlabel\nq\td\t1\n", ["{path}:1: not judgements", "qid, pid, label", "`query-id`"], id="names"
        ),
        pytest.param("query-id\tcorpus-id\tlabel\n", ["{path}:1: no column `score`", "label"], id="no relevance"),
        pytest.param("q 7 d 1\n", ["{path}:1: not judgements", "TREC"], id="four columns that are not TREC's"),
        pytest.param("q d\n", ["{path}:1: not judgements", "2 columns"], id="two columns"),
        pytest.param("q 0 d 1\nq 0 d\n", ["{path}:2: 3 columns, expected 4"], id="a short row"),
        pytest.param(
            "q 0 d 1\n\nq 0 d 0.5\n", ["{path}:3: '0.5' is no relevance, expected an integer"], id="a fraction"
        ),
        pytest.param("q 0 d 1\nq 0 d many\n", ["{path}:2: 'many' is no relevance"], id="a word"),
        pytest.param("q 0 d 1\nq 0 d 3000000000\n", ["{path}:2: '3000000000' is no relevance"], id="beyond int32"),
        pytest.param("query-id\tcorpus-id\tscore\n\td\t1\n", ["{path}:2: '' is no query id"], id="empty query id"),
        pytest.param("query-id\tcorpus-id\tscore\nq\t\t1\n", ["{path}:2: '' is no document id"], id="empty doc id"),
        pytest.param("query-id\tcorpus-id\tscore\n", ["{path}: no judgements in the file"], id="only a header"),
        pytest.param("", ["{path}: no judgements in the file"], id="empty"),
    ],
)
def test_wrong_qrels_are_problems_with_their_line(tmp_path: Path, text: str, expected: list[str]) -> None:
    """Every fault of a qrels file names the file and the line, what came and what would be right."""
    path = tmp_path / "qrels.tsv"
    path.write_text(text)
    (problem,) = read(tmp_path, path).problems
    assert "\n" not in problem
    for part in expected:
        assert part.format(path=path) in problem


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "j.jsonl",
            {"query-id": "q", "doc": "d", "score": 1},
            "no column `corpus-id`; got: columns query-id, doc, score",
        ),
        ("j.jsonl", {"query-id": None, "corpus-id": "d", "score": 1}, "1: None is no query id"),
        ("j.jsonl", {"query-id": "q", "corpus-id": 1.5, "score": 1}, "1: 1.5 is no document id"),
        ("j.jsonl", {"query-id": "q", "corpus-id": "d", "score": True}, "1: True is no relevance"),
        ("j.parquet", {"query-id": "q", "corpus-id": "d", "score": 0.5}, ": row 0: 0.5 is no relevance"),
        ("j.parquet", {"query-id": "q", "corpus-id": "d"}, "no column `score`; got: columns query-id, corpus-id"),
    ],
)
def test_wrong_rows_of_jsonl_and_parquet_are_problems(
    tmp_path: Path, name: str, row: dict[str, object], expected: str
) -> None:
    """A missing column names those there are; a value of a wrong kind names its place."""
    if name.endswith("jsonl"):
        (tmp_path / name).write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    (problem,) = read(tmp_path, tmp_path / name).problems
    assert problem.startswith(str(tmp_path / name))
    assert expected in problem


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """So is one to exclude."""
    assert "no.tsv: no such file" in read(tmp_path, tmp_path / "no.tsv").problems[0]


def test_reading_stops_after_twenty_problems(tmp_path: Path) -> None:
    """The list is cut, and says so."""
    path = tmp_path / "qrels.txt"
    path.write_text("q 0 d 1\n" + "q 0 d x\n" * 50)
    problems = read(tmp_path, path).problems
    assert len(problems) == 21
    assert "stopped" in problems[-1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(1, 1), (2.0, 2), ("3", 3), (" -1 ", -1), ("4.00", 4)],
        *[
            (value, None)
            for value in ("1.5", 0.5, "1e0", "", None, True, float("nan"), float("inf"), "1_0", "٣", 2**31)
        ],
    ],
)
def test_integral_takes_whole_numbers_only(value: object, expected: int | None) -> None:
    """Integers may be written as floats or text; nothing is rounded."""
    assert integral(value) == expected


def test_ids_are_strings_or_integers() -> None:
    """Nothing else is turned into an id."""
    assert [id_text(value) for value in ("a", 7, "", None, 1.0, True)] == ["a", "7", None, None, None, None]


def test_faults_are_listed_up_to_twenty_and_counted_beyond() -> None:
    """A judgement file of the wrong corpus does not fill the screen."""
    columns = [["q"] * 25, [f"d{i}" for i in range(25)], [1] * 25, [False] * 25, [1] * 25, list(range(25))]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schemas.JUDGEMENTS.types, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schemas.JUDGEMENTS)
    lines = judgement_faults(table, ["a.tsv", "b.tsv"], "doc_id", "is unknown")
    assert lines[:2] == ["b.tsv:0: 'd0' is unknown", "b.tsv:1: 'd1' is unknown"]
    assert (len(lines), lines[-1]) == (21, "b.tsv: 5 more such judgements")
    assert judgement_faults(table.slice(0, 0), [], "doc_id", "is unknown") == []
