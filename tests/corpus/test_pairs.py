"""Text pairs: corpus, queries and judgements as a plain dict-based reading makes them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import PositivesConfig
from raymine.corpus.pairs import ReadPairs, SeenHashes

Pair = tuple[str, str, int]


def read(tmp_path: Path, path: Path, shard_documents: int = 1000, **settings: object) -> Record:
    names = {"query_column": "question", "positive_column": "answer"}
    config = PositivesConfig.model_validate({"path": str(path), **names, **settings})
    return ReadPairs(config, shard_documents)(Task("key", {}, str(tmp_path / "out" / "pairs")))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines), "utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def random_pairs(seed: int) -> list[Pair]:
    """Pairs in which queries, positives and whole rows repeat."""
    generator = random.Random(seed)
    return [
        (f"what is {generator.randrange(9)}é?", f" It is\u2028 {generator.randrange(14)}", generator.randrange(-1, 3))
        for _ in range(60)
    ]


def contents(record: Record) -> tuple[list[pa.Table], list[pa.Table], pa.Table]:
    assert not record.problems
    tables = [storage.read_table(shard.path) for shard in record.outputs]
    num_corpus = record.info["num_corpus"]
    assert len(tables) == num_corpus + record.info["num_queries"] + 1
    return tables[:num_corpus], tables[num_corpus:-1], schemas.check(tables[-1], schemas.JUDGEMENTS)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet", "pairs.tsv"])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_become_corpus_queries_and_judgements(tmp_path: Path, name: str, seed: int) -> None:
    """Each distinct text once, in the order met; a repeated query has the positives of all its rows."""
    pairs = random_pairs(seed)
    rows: list[dict[str, object]] = [{"question": q, "answer": a, "score": r} for q, a, r in pairs]
    record = read(tmp_path, write(tmp_path / name, rows), shard_documents=4)
    corpus, queries, judgements = contents(record)

    docs = list(dict.fromkeys(answer for _, answer, _ in pairs))
    asked = list(dict.fromkeys(question for question, _, _ in pairs))
    assert [table.num_rows for table in corpus[:-1]] == [4] * (len(corpus) - 1)
    doc_table, query_table = pa.concat_tables(corpus), pa.concat_tables(queries)
    assert doc_table["text"].to_pylist() == docs
    assert query_table["text"].to_pylist() == asked
    doc_ids = ["text-" + schemas.text_hash(text).hex() for text in docs]
    assert doc_table == schemas.corpus_table(doc_ids, docs)
    text_of = dict(zip(doc_ids, docs, strict=True))
    text_of |= dict(zip(query_table["query_id"].to_pylist(), asked, strict=True))
    found = [(text_of[row["query_id"]], text_of[row["doc_id"]], row["relevance"]) for row in judgements.to_pylist()]
    assert found == pairs
    first = {"pairs.jsonl": 1, "pairs.parquet": 0, "pairs.tsv": 2}[name]
    assert judgements["line"].to_pylist() == list(range(first, first + len(pairs)))


def test_the_default_relevance_column_may_be_absent(tmp_path: Path) -> None:
    """Nobody asked for `score`, so without it every row is positive; a column that was asked for must be there."""
    path = write(tmp_path / "p.jsonl", [{"question": "q", "answer": "a"}])
    assert contents(read(tmp_path, path))[2]["relevance"].to_pylist() == [1]
    (problem,) = read(tmp_path, path, relevance_column="label").problems
    assert "no column `label`; got: columns question, answer" in problem


def test_relevance_null_leaves_scores_alone(tmp_path: Path) -> None:
    """A column that is not asked for is not looked at."""
    path = write(tmp_path / "p.jsonl", [{"question": "q", "answer": "a", "score": 0.3}])
    assert contents(read(tmp_path, path, relevance_column=None))[2]["relevance"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": " ", "answer": "a"}, ":2: the query's text is empty"),
        ({"question": "q", "answer": ""}, ":2: the positive's text is empty"),
        ({"question": None, "answer": "a"}, ":2: the query is not a text; got None"),
        ({"question": "q", "answer": ["a"]}, ":2: the positive is not a text; got ['a']"),
        ({"question": "q", "answer": "a", "score": 0.5}, ":2: 0.5 is no relevance, expected an integer"),
        ({"question": "q", "positive": "a"}, ":2: no column `answer`; got: columns question, positive"),
    ],
)
def test_wrong_rows_are_problems_with_their_line(tmp_path: Path, row: dict[str, object], expected: str) -> None:
    """Each names the file and the line, and nothing is made of the file."""
    path = write(tmp_path / "p.jsonl", [{"question": "q", "answer": "a"}, row])
    record = read(tmp_path, path)
    assert record.outputs == []
    (problem,) = record.problems
    assert problem.startswith(f"{path}{expected}")


def test_an_empty_file_is_a_problem(tmp_path: Path) -> None:
    """Nothing to train on."""
    (tmp_path / "p.jsonl").write_text("")
    assert read(tmp_path, tmp_path / "p.jsonl").problems == [f"{tmp_path / 'p.jsonl'}: no pairs in the file"]


@pytest.mark.parametrize("seed", range(4))
def test_seen_hashes_equal_a_set(seed: int) -> None:
    """New are the first of each value that no earlier batch had, zero bytes at the end included."""
    generator = np.random.default_rng(seed)
    seen, oracle = SeenHashes(), set[bytes]()
    for size in generator.integers(0, 50, 30).tolist():
        hashes = [bytes(generator.integers(0, 2, 16, np.uint8) * (np.arange(16) > 7)) for _ in range(size)]
        new = [at for at, value in enumerate(hashes) if value not in oracle and value not in hashes[:at]]
        assert seen.add(hashes).tolist() == new
        oracle |= set(hashes)
