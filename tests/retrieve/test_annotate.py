"""What the documents say of each candidate."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.retrieve.annotate import Annotate
from raymine.topk import pair_scores

TEXTS = ["A text", " \t\n ", None, "a  TEXT", ""]
PAIRS = [[(20, 103), (21, 100), (20, 101), (21, 103)], [(23, 102), (22, 100)]]
FOUND = {(21, 103)}  # by dense search


@pytest.fixture
def files(tmp_path):
    """A shard of five documents at row 100 (bucket 1 of 2), two blocks of queries at row 20, and their vectors."""
    rng = np.random.default_rng(0)
    corpus = schemas.corpus_table([f"d{i}" for i in range(5)], TEXTS)
    docs, queries = rng.standard_normal((3, 8)).astype(np.float16), rng.standard_normal((4, 8)).astype(np.float16)
    tables = {
        "docs": schemas.vector_table(np.array([0, 2, 3], np.int64), docs),
        "q0": schemas.vector_table(np.arange(2), queries[:2]),
        "q1": schemas.vector_table(np.arange(2), queries[2:]),
    }
    paths = {name: storage.write_arrow(str(tmp_path / f"{name}.arrow"), t).path for name, t in tables.items()}
    paths["corpus"] = storage.write_table(str(tmp_path / "corpus.parquet"), corpus).path
    for block, rows in enumerate(PAIRS):
        columns = [[r[0] for r in rows], [r[1] for r in rows], [r in FOUND for r in rows]]
        pairs = pa.table(columns, schema=schemas.CANDIDATE_PAIRS)
        paths[f"p{block}"] = str(tmp_path / f"p{block}.arrow")
        storage.write_buckets(paths[f"p{block}"], pairs.schema, [pairs.slice(0, 0), pairs])
    return paths, corpus, docs, queries


def notes(tmp_path, files, with_vectors):
    paths = files[0]
    query_vectors = [paths["q0"], paths["q1"]] if with_vectors else None
    stage = Annotate([paths["p0"], paths["p1"]], query_vectors, [20, 22])
    vectors = paths["docs"] if with_vectors else None
    inputs = {"corpus": paths["corpus"], "vectors": vectors, "first_row": 100, "bucket": 1}
    path = stage(Task("key", inputs, str(tmp_path / "out"))).outputs[0].path
    tables = [schemas.check(storage.read_bucket(path, block), schemas.NOTES) for block in (0, 1)]
    return [row for table in tables for row in table.to_pylist()], tables


@pytest.mark.parametrize("with_vectors", [True, False], ids=["vectors", "texts only"])
def test_notes_say_hash_emptiness_and_score(tmp_path, files, with_vectors):
    """White space is empty, a null text is not; there is no score without a vector, nor for what has one already."""
    rows, tables = notes(tmp_path, files, with_vectors)
    _, corpus, docs, queries = files
    wanted = [pair for block in PAIRS for pair in block]
    folds = corpus["fold_hash"].to_pylist()
    vector_of = {0: 0, 2: 1, 3: 2}
    expected = [
        {
            "query_row": q,
            "doc_row": d,
            "fold_hash": folds[d - 100],
            "is_empty": d - 100 in (1, 4),
            "dense_score": float(pair_scores(queries[[q - 20]], docs[[vector_of[d - 100]]])[0])
            if with_vectors and d - 100 in vector_of and (q, d) not in FOUND
            else None,
        }
        for q, d in wanted
    ]
    assert rows == expected
    assert [table.num_rows for table in tables] == [4, 2]


def test_texts_that_fold_alike_share_a_hash(tmp_path, files):
    """'A text' and 'a  TEXT' are the same text to the duplicate filters."""
    rows, _ = notes(tmp_path, files, with_vectors=False)
    of_doc = {row["doc_row"]: row["fold_hash"] for row in rows}
    assert of_doc[100] == of_doc[103]


def test_no_text_is_read(tmp_path, files):
    """A corpus' texts are most of its bytes: hashes alone say what is empty."""
    expected, _ = notes(tmp_path, files, with_vectors=False)
    storage.write_table(files[0]["corpus"], files[1].select(["fold_hash"]))
    assert notes(tmp_path, files, with_vectors=False)[0] == expected
