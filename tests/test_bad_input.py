"""Bad input ends with one message that names file and line, before anything is embedded, and costs no finished work."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pytest

import raymine
from raymine.config_file import make_config
from raymine.errors import InputError


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def replace_line(path: Path, number: int, line: str) -> None:
    lines = lines_of(path)
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")


def misspell_text(data: Path) -> None:
    rows = [json.loads(line) for line in lines_of(data / "corpus.jsonl")]
    (data / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": row["_id"], "txet": row["text"]}) + "\n" for row in rows)
    )


def repeat_a_document(data: Path) -> None:
    replace_line(data / "corpus.jsonl", 8, lines_of(data / "corpus.jsonl")[2])


def repeat_a_query(data: Path) -> None:
    replace_line(data / "queries.jsonl", 8, lines_of(data / "queries.jsonl")[2])


def judge_an_unknown_document(data: Path) -> None:
    replace_line(data / "qrels" / "train.tsv", 4, "q1\tnowhere\t1")


def judge_an_unknown_query(data: Path) -> None:
    replace_line(data / "qrels" / "train.tsv", 4, "nobody\td1\t1")


def judge_with_a_word(data: Path) -> None:
    replace_line(data / "qrels" / "train.tsv", 4, "q1\td1\tyes")


def rename_a_column_of_the_judgements(data: Path) -> None:
    replace_line(data / "qrels" / "train.tsv", 1, "query-id\tdoc\tscore")


def empty_a_query(data: Path) -> None:
    replace_line(data / "queries.jsonl", 5, '{"_id": "q4", "text": "  "}')


def break_utf8(data: Path) -> None:
    content = (data / "corpus.jsonl").read_bytes().split(b"\n")
    content[5] = content[5].replace(b"text", b"te\xff\xfext", 1)
    (data / "corpus.jsonl").write_bytes(b"\n".join(content))


def break_json(data: Path) -> None:
    replace_line(data / "corpus.jsonl", 6, '{"_id": "d5", "text": ')


def truncate_gzip(data: Path) -> None:
    content = gzip.compress((data / "corpus.jsonl").read_bytes())
    (data / "corpus.jsonl").unlink()
    (data / "corpus.jsonl.gz").write_bytes(content[: len(content) // 2])


def empty_the_corpus(data: Path) -> None:
    (data / "corpus.jsonl").write_text("")


def judge_nothing_relevant(data: Path) -> None:
    head, *rows = lines_of(data / "qrels" / "train.tsv")
    (data / "qrels" / "train.tsv").write_text("\n".join([head, *(row[:-1] + "0" for row in rows)]) + "\n")


BROKEN: dict[Callable[[Path], None], str] = {
    misspell_text: r"corpus\.jsonl:1: [\s\S]*text[\s\S]*_id, txet",
    repeat_a_document: r"corpus\.jsonl:8: document id 'd2' is not unique[\s\S]*corpus\.jsonl:3",
    repeat_a_query: r"queries\.jsonl:8: query id 'q2' is not unique[\s\S]*queries\.jsonl:3",
    judge_an_unknown_document: r"train\.tsv:4: [\s\S]*nowhere",
    judge_an_unknown_query: r"train\.tsv:4: [\s\S]*nobody",
    judge_with_a_word: r"train\.tsv:4: [\s\S]*yes",
    rename_a_column_of_the_judgements: r"train\.tsv:1: [\s\S]*query-id, doc, score[\s\S]*`corpus-id`",
    empty_a_query: r"queries\.jsonl:5: the query's text is empty",
    break_utf8: r"corpus\.jsonl:6: [\s\S]*UTF-8",
    break_json: r"corpus\.jsonl:6: [\s\S]*JSON",
    truncate_gzip: r"corpus\.jsonl\.gz:\d+: [\s\S]*(truncated|end)",
    empty_the_corpus: r"data: empty: it has no documents",
    judge_nothing_relevant: r"no query has a positive",
}


@pytest.mark.parametrize("breaking", list(BROKEN), ids=lambda function: function.__name__)
def test_each_fault_is_found_and_named(breaking: Callable[[Path], None], static_model: str, tmp_path: Path) -> None:
    """And mended, the same workspace goes on."""
    data = mining.write_beir(tmp_path / "data", 120, 30)
    good = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    breaking(data)
    values = mining.config(data, static_model, write={"formats": ["triplet"]})
    with pytest.raises(InputError, match=BROKEN[breaking]):
        raymine.mine(make_config(values), str(tmp_path / "workspace"))
    assert not list(tmp_path.glob("workspace/artifacts/embed_documents-*"))
    (data / "corpus.jsonl.gz").unlink(missing_ok=True)
    for path, content in good.items():
        path.write_bytes(content)
    assert raymine.mine(make_config(values), str(tmp_path / "workspace")).number == 1


def not_a_number(vectors: np.ndarray) -> np.ndarray:
    vectors[17, 3] = np.nan
    return vectors


def zero(vectors: np.ndarray) -> np.ndarray:
    vectors[17] = 0
    return vectors


def too_few(vectors: np.ndarray) -> np.ndarray:
    return vectors[:-1]


def too_short(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :-1]


BROKEN_VECTORS: dict[Callable[[Any], Any], str] = {
    not_a_number: r"documents\.npy: row 17: [\s\S]*(NaN|finite)",
    zero: r"documents\.npy: row 17: [\s\S]*zero",
    too_few: r"documents\.npy[\s\S]*139[\s\S]*140",
    too_short: r"dimension",
}


@pytest.mark.parametrize("breaking", list(BROKEN_VECTORS), ids=lambda function: function.__name__)
def test_faults_of_vectors_are_found_and_named(breaking: Callable[[Any], Any], tmp_path: Path) -> None:
    """With the row, counted from 0."""
    data = mining.write_beir(tmp_path / "data", 120, 30)
    draw = np.random.default_rng(0)
    np.save(tmp_path / "documents.npy", breaking(draw.standard_normal((140, 8), np.float32)))
    np.save(tmp_path / "queries.npy", draw.standard_normal((30, 8), np.float32))
    values = mining.config(data, "none", write={"formats": ["triplet"]})
    del values["embed"]
    values["corpus"]["vectors"], values["queries"]["vectors"] = (
        str(tmp_path / f"{n}.npy") for n in ("documents", "queries")
    )
    with pytest.raises(InputError, match=BROKEN_VECTORS[breaking]):
        raymine.mine(make_config(values), str(tmp_path / "workspace"))


def test_a_query_without_a_positive_is_kept_out_counted_and_reported(static_model: str, tmp_path: Path) -> None:
    """It is no fault: queries of other splits lie in the same file."""
    data = mining.write_beir(tmp_path / "data", 120, 30)
    mined = raymine.mine(make_config(mining.config(data, static_model)), str(tmp_path / "workspace"))
    assert mined.facts["num_queries"] + mined.facts["num_without_positive"] == 30
    assert mined.facts["num_without_positive"] == 3
    assert set(mined.facts["example_without_positive"]) == {"q9", "q19", "q29"}
