"""Every format, with and without scores, against rows made by loops; the stage on files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from write_cases import Case

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import SCORED_FORMATS, WriteConfig
from raymine.write import FORMATS
from raymine.write.stage import Counts, WriteShard, groups, training_rows, whole_group

NAMES = list(FORMATS)
MADE = [(name, scores) for name, form in FORMATS.items() for scores in (False, True) if scores or not form.needs_scores]


def made(case, name, scores):
    """Rows and counts of a case in a format."""
    counts = Counts()
    tables = training_rows(case.block(), FORMATS[name], "teacher" if scores else None, counts)
    return [row for table in tables for row in table.to_pylist()], counts


def close(rows):
    """Rows with scores rounded to what a float32 holds."""
    return json.loads(json.dumps(rows), parse_float=lambda text: float(np.float32(text)))


@pytest.mark.parametrize("name, scores", MADE)
@pytest.mark.parametrize("seed", range(6))
def test_rows_are_those_of_loops(name, scores, seed):
    """Same rows, same order, same columns, whatever is short, dropped, unscored or forbidden."""
    case = Case(seed)
    rows, counts = made(case, name, scores)
    assert close(rows) == close(case.rows(name, scores))
    assert counts.num_rows == len(rows)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.positives_apart])
@pytest.mark.parametrize("seed", range(6))
def test_positives_apart_are_those_of_loops(name, seed):
    """Every emitted positive that has a score, with it, best first."""
    case = Case(seed)
    tables = training_rows(case.block(), FORMATS[name], "teacher", Counts(), of_positives=True)
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows and close(rows) == close(case.rows(name, True, of_positives=True))


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_all_positives_and_negatives(name):
    """Whatever the format calls them, each score of an emitted document stands in its rows, or their differences do."""
    case = Case(0, gaps=False)
    text = json.dumps(made(case, name, True)[0])
    if FORMATS[name].positives_apart:
        tables = training_rows(case.block(), FORMATS[name], "teacher", Counts(), of_positives=True)
        text += json.dumps([row for table in tables for row in table.to_pylist()])
    numbers = {np.float32(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)}
    for query, positives in case.positives.items():
        scores = [np.float32(case.score[query, doc]) for doc in positives + case.negatives[query]]
        if name in ("margin", "gpl-margins"):
            scores = [
                np.float32(float(p) - float(n)) for p in scores[: len(positives)] for n in scores[len(positives) :]
            ]
        assert numbers >= set(scores)


def test_every_format_of_the_config_has_a_writer():
    """The dict of formats and the config know the same names."""
    assert {name for name, form in FORMATS.items() if form.needs_scores} == set(SCORED_FORMATS)
    assert set(FORMATS) == set(get_args(get_args(WriteConfig.model_fields["formats"].annotation)[0]))


@pytest.mark.parametrize(
    "name, scores, columns",
    [
        ("triplet", False, {"anchor": "string", "positive": "string", "negative": "string"}),
        ("n-tuple", True, {"anchor": "string", "positive": "string", "negative_1": "string", "scores": "list<float>"}),
        ("labeled-pair", False, {"anchor": "string", "positive": "string", "label": "int64"}),
        ("labeled-pair", True, {"anchor": "string", "positive": "string", "score": "float"}),
        ("labeled-list", False, {"anchor": "string", "positive": "list<string>", "labels": "list<int64>"}),
        ("labeled-list", True, {"anchor": "string", "positive": "list<string>", "scores": "list<float>"}),
    ],
)
def test_columns_are_those_that_trainers_know(name, scores, columns):
    """Names and types, of a block with rows and of one without."""
    for case in (Case(0, n=1, gaps=False), Case(0, n=1, num_queries=0)):
        if not case.num_queries:
            case.num_queries, case.positives[50], case.negatives[50] = 1, [], []
        table = next(training_rows(case.block(), FORMATS[name], "teacher" if scores else None, Counts()))
        types = {field.name: str(field.type).replace("element: ", "") for field in table.schema}
        assert types == columns


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("name", NAMES)
def test_groups_change_nothing(name, size):
    """Rows made some queries at a time are the rows made at once."""
    case = Case(3)
    scores = FORMATS[name].needs_scores
    whole = whole_group(case.block(), "teacher" if scores else None, Counts())
    parts = [FORMATS[name].make(part, scores).table.to_pylist() for part in groups(whole, size)]
    assert close([row for part in parts for row in part]) == close(case.rows(name, scores))


def test_a_text_is_repeated_in_the_rows_of_a_group_only():
    """A block's documents point at its texts, each of which is there once; a group's are texts."""
    block = Case(3).block()
    whole = whole_group(block, None, Counts())
    for side in (whole.positives, whole.negatives):
        assert len(side.text.dictionary) == len(side.doc_id.dictionary) == block.texts.num_rows
    for group in groups(whole, 2):
        assert group.negatives.text.type == pa.large_string() and group.negatives.doc_id.type == pa.string()


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u00a0\u2003", None, "a", " a ", "\u200b"])
@pytest.mark.parametrize("needs_texts", [True, False])
def test_documents_without_text_are_left_out(text, needs_texts):
    """Empty ones and white space always; those that are vectors only where texts are needed."""
    case = Case(3)
    case.text = lambda doc: text
    whole = whole_group(case.block(), None, Counts(), needs_texts)
    is_left_out = needs_texts if text is None else not text.strip()
    assert (len(whole.negatives) == 0) == is_left_out


def test_what_is_left_out_is_counted():
    """A positive with too few negatives, a document without score, a positive without text."""
    case = Case(0, n=2, num_queries=3, gaps=False)
    case.positives = {50: [1], 51: [2], 52: [3, 4]}
    case.negatives = {50: [10, 11], 51: [12], 52: []}
    pairs = [(q, d) for side in (case.positives, case.negatives) for q, docs in side.items() for d in docs]
    case.score = dict.fromkeys(pairs, 0.5) | {(50, 10): None}
    case.text = lambda doc: " " if doc == 4 else f"text {doc}"
    assert vars(made(case, "n-tuple", False)[1]) == {
        "num_rows": 1,
        "num_left_out": 2,
        "num_without_text": 1,
        "num_without_score": 0,
    }
    assert vars(made(case, "triplet", True)[1]) == {
        "num_rows": 2,
        "num_left_out": 1,
        "num_without_text": 1,
        "num_without_score": 1,
    }
    assert made(case, "labeled-pair", False)[1].num_rows == 6
    assert made(case, "flagembedding", False)[1].num_left_out == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [" ", None], ids=["blank", "vector"])
def test_a_document_without_text_stands_only_where_ids_do(name, text):
    """A blank one nowhere, or a reader of ids would train on an empty text; a vector without text where ids suffice."""
    case = Case(0, n=2, num_queries=1, gaps=False)
    case.positives, case.negatives = {50: [1, 2]}, {50: [10, 11]}
    case.score = dict.fromkeys([(50, doc) for doc in (1, 2, 10, 11)], 0.5)
    case.text = lambda doc: text if doc in (2, 11) else f"text {doc}"
    rows, counts = made(case, name, FORMATS[name].needs_scores)
    is_there = text is None and not FORMATS[name].needs_texts
    assert counts.num_without_text == (0 if is_there else 2)
    if not FORMATS[name].needs_texts:
        assert ("11" in json.dumps(rows)) == is_there


def test_a_text_that_was_not_fetched_is_a_bug():
    """A row must not go missing because its text did."""
    block = Case(0, gaps=False).block()
    broken = type(block)(**{**vars(block), "texts": block.texts.slice(1)})
    with pytest.raises(ValueError, match="1 emitted documents were not fetched"):
        whole_group(broken, None, Counts())


def run_stage(folder, case, name, score, out="out", of_positives=False):
    """The case through files and the stage."""
    block = case.block()
    paths = {n: str(folder / f"{n}.parquet") for n in ("queries", "verdicts", "negatives", "shortfall", "forbidden")}
    for n, path in paths.items():
        storage.write_table(path, getattr(block, n))
    empty = schemas.TEXTS.empty_table()
    for number, texts in enumerate((block.texts.slice(0, 5), block.texts.slice(5))):
        storage.write_buckets(str(folder / f"{number}.arrow"), schemas.TEXTS, [empty, texts])
    stage = WriteShard(name, score, [str(folder / "0.arrow"), str(folder / "1.arrow")], of_positives)
    inputs = {"bucket": 1, "first_row": case.first_row, **paths}
    return stage(Task("part-0", inputs, output=str(folder / out / "part-0")))


def read(path, extension, rows):
    """The rows of a file, or the lines of a tsv beside those that the rows should give."""
    if extension == "parquet":
        return storage.read_table(str(path)).to_pylist(), rows
    text = path.read_text()
    if extension == "tsv":
        return text.splitlines(), ["\t".join(" ".join(str(value).split()) for value in row.values()) for row in rows]
    if extension == "jsonl":
        return [json.loads(line) for line in text.splitlines()], rows
    content = json.loads(text)
    return content["data"] if isinstance(content, dict) else content, rows


@pytest.mark.parametrize("name, scores", MADE)
def test_stage_writes_a_shard(tmp_path, name, scores):
    """A file with the case's rows; the same bytes again."""
    case, score = Case(4), "teacher" if scores else None
    record = run_stage(tmp_path, case, name, score)
    path = record.outputs[0].path
    assert path == str(tmp_path / "out" / f"part-0.{FORMATS[name].extension}")
    rows, expected = read(Path(path), FORMATS[name].extension, case.rows(name, scores))
    assert close(rows) == close(expected)
    assert record.rows_out == record.info["num_rows"] == len(rows)
    assert run_stage(tmp_path, case, name, score, "again").outputs[0].sha256 == record.outputs[0].sha256


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.positives_apart])
def test_a_shard_of_positives_counts_positives(tmp_path, name):
    """What a progress line shows of it is not how many negatives there are."""
    record = run_stage(tmp_path, Case(4), name, "teacher", of_positives=True)
    num_rows = len(Path(record.outputs[0].path).read_text().splitlines())
    assert record.rows_in == record.rows_out == num_rows != Case(4).block().negatives.num_rows


def test_json_scores_are_short(tmp_path):
    """A float32 is written with the digits that it needs: 0.9, not 0.8999999761581421."""
    case = Case(0, n=1, num_queries=1, gaps=False)
    case.score = dict.fromkeys(case.score, 0.9)
    run_stage(tmp_path, case, "flagembedding", "teacher")
    line = (tmp_path / "out" / "part-0.jsonl").read_text()
    assert json.loads(line)["neg_scores"] == [0.9] and "ü" in line


@pytest.mark.parametrize("name, scores", MADE)
def test_a_shard_without_rows_can_be_read(tmp_path, name, scores):
    """All queries were dropped: the file says so, with its columns or its brackets."""
    case = Case(0)
    case.dropped = set(case.positives)
    case.negatives = {query: [] for query in case.positives}
    case.forbidden = set()
    shard = run_stage(tmp_path, case, name, "teacher" if scores else None).outputs[0]
    assert shard.num_rows == 0 and read(Path(shard.path), FORMATS[name].extension, [])[0] == []


def test_automodel_finds_its_corpus_beside_the_rows(tmp_path):
    """The path is relative to the file, the corpus' id is that of its metadata."""
    form = FORMATS["automodel-corpus"]
    run_stage(tmp_path, Case(4), "automodel-corpus", "teacher")
    content = json.loads((tmp_path / "out" / "part-0.json").read_text())
    assert list(content) == ["corpus", "data"] and content["corpus"] == {"path": "documents"}
    name, about = form.companions.about
    assert name == "merlin_metadata.json" and about["class"] == "TextQADataset"
    assert {row["corpus_id"] for row in content["data"]} == {about["corpus_id"]}
