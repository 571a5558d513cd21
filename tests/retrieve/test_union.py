"""The union of the sources, against dictionaries in plain Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.retrieve.base import HitFiles
from raymine.retrieve.random import draw
from raymine.retrieve.union import Found, Union, unite

PAIR = st.tuples(st.integers(10, 13), st.integers(0, 9))


def positives_table(rows):
    columns = [
        [row[0] for row in rows],
        [row[1] for row in rows],
        [1 + row[1] for row in rows],
        [bytes(16)] * len(rows),
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schemas.POSITIVES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schemas.POSITIVES)


def hits_table(rows):
    arrays = [pa.array([r[i] for r in rows], field.type) for i, field in enumerate(schemas.HITS)]
    return pa.Table.from_arrays(arrays, schema=schemas.HITS)


@given(st.sets(PAIR), st.sets(PAIR), st.sets(PAIR))
@settings(deadline=None)
def test_unite_has_each_pair_once_with_what_each_source_says(dense, random, positives):
    """Rows are the union, sorted; ranks and scores are null where a source did not find the pair."""

    def found(pairs, with_scores):
        ordered = sorted(pairs, reverse=True)  # not the order of the result
        columns = [np.array([pair[i] for pair in ordered], np.int64) for i in (0, 1)]
        ranks = np.arange(len(ordered), dtype=np.int32)
        return Found(*columns, ranks, ranks.astype(np.float32) / 2 if with_scores else None), ordered

    (dense_found, dense_order), (random_found, random_order) = found(dense, True), found(random, False)
    table = unite({"random": random_found, "dense": dense_found}, positives_table(sorted(positives)))
    schemas.check(table, schemas.candidates(["random", "dense"]))
    expected = [
        {
            "query_row": pair[0],
            "doc_row": pair[1],
            "relevance": 1 + pair[1] if pair in positives else None,
            "random_rank": random_order.index(pair) if pair in random else None,
            "random_score": None,
            "dense_rank": dense_order.index(pair) if pair in dense else None,
            "dense_score": dense_order.index(pair) / 2 if pair in dense else None,
        }
        for pair in sorted(dense | random | positives)
    ]
    assert table.to_pylist() == expected


def block_inputs(tmp_path, query_ids, positives):
    queries = storage.write_table(
        str(tmp_path / "queries.parquet"), schemas.query_table(query_ids, ["text"] * len(query_ids))
    )
    judged = storage.write_table(str(tmp_path / "positives.parquet"), positives_table(positives))
    return {"positives": judged.path, "queries": queries.path}


def write_hits(tmp_path, name, *blocks):
    path = str(tmp_path / f"{name}.arrow")
    storage.write_buckets(path, schemas.HITS, [hits_table(rows) for rows in blocks])
    return path


def test_stage_merges_parts_ranks_runs_and_draws_random(tmp_path):
    """Parts' hits are cut to k together, a run gets its ranks by (score, doc_row), random ones are drawn by id."""
    first = write_hits(tmp_path, "a", [], [(5, 1, 0, 0.9), (5, 4, 1, 0.5), (6, 0, 0, 0.1)])
    second = write_hits(tmp_path, "b", [], [(5, 8, 0, 0.9), (5, 7, 1, 0.7)])
    run_of_last = write_hits(tmp_path, "r", [(6, 9, 0, 2.0), (6, 3, 0, 2.0), (6, 2, 0, 3.0)])
    sources = {
        "dense": {"hits": [HitFiles(0, [first, second])], "k": 3},
        "run": {"hits": [HitFiles(0, []), HitFiles(1, [run_of_last])], "k": 2},
        "random": {"k": 2, "hits": None},
    }
    stage = Union(sources, shard_starts=[0, 5], num_documents=10, seed=3)
    inputs = {"bucket": 1, "first_row": 5, **block_inputs(tmp_path, ["x", "y"], [(5, 4), (6, 1)])}
    record = stage(Task("key", inputs, str(tmp_path / "out")))
    rows = storage.read_table(record.outputs[0].path).to_pylist()
    said = {(row["query_row"], row["doc_row"]): row for row in rows}

    assert {p: r["dense_rank"] for p, r in said.items() if r["dense_rank"] is not None} == {
        (5, 1): 0,
        (5, 8): 1,
        (5, 7): 2,
        (6, 0): 0,
    }
    assert {p: r["run_rank"] for p, r in said.items() if r["run_rank"] is not None} == {(6, 2): 0, (6, 3): 1}
    drawn = draw(["x", "y"], 10, 2, seed=3).tolist()
    expected = {(5 + i, doc): rank for i, docs in enumerate(drawn) for rank, doc in enumerate(docs)}
    assert {p: r["random_rank"] for p, r in said.items() if r["random_rank"] is not None} == expected
    assert {p: r["relevance"] for p, r in said.items() if r["relevance"] is not None} == {(5, 4): 5, (6, 1): 2}
    pairs = [storage.read_bucket(record.outputs[1].path, shard).to_pylist() for shard in (0, 1)]
    assert [all(pair["doc_row"] < 5 for pair in pairs[0]), all(pair["doc_row"] >= 5 for pair in pairs[1])] == [True] * 2
    assert sorted((p["query_row"], p["doc_row"]) for p in [*pairs[0], *pairs[1]]) == sorted(said)


@pytest.mark.parametrize("num_documents", [3, 0])
def test_random_takes_all_documents_where_there_are_no_more_than_k(tmp_path, num_documents):
    """k of at least the corpus: every document, once."""
    stage = Union({"random": {"k": 8}}, [0], num_documents, seed=0)
    inputs = {"bucket": 0, "first_row": 0, **block_inputs(tmp_path, ["x"], [])}
    record = stage(Task("key", inputs, str(tmp_path / "out")))
    table = storage.read_table(record.outputs[0].path)
    assert table["doc_row"].to_pylist() == list(range(num_documents))
    assert sorted(table["random_rank"].to_pylist()) == list(range(num_documents))
