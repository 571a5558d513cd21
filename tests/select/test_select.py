"""Select: the teacher's filters, `against: each`, shortfalls and their policies, and the stage on files."""

from __future__ import annotations

import pyarrow as pa
import pytest
from select_cases import SOURCES, TRAITS, goes, limit, passes_for, positives_of, random_rows, row, verdicts

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.select.judged import Selection, judge
from raymine.select.stage import Select, select
from raymine.select_config import Margin, MaxRelativeScore, MaxScore, MinScore, SampleConfig

IDS = [f"q{i}" for i in range(6)]
LIMIT = MaxScore(kind="max_score", value=1, score="teacher")


def run(rows, filters=(), teacher=None, ids=IDS, first_row=0, **sample):
    how = Selection(list(filters), SampleConfig(**sample), 0, 1, SOURCES, "teacher")
    return select(judge(verdicts(rows), teacher, how), ids, first_row, how)


def each(score, of_positive=0.9):
    return MaxRelativeScore(kind="max_relative_score", of_positive=of_positive, against="each", score=score)


@pytest.mark.parametrize("seed", range(5))
def test_teacher_scores_come_in_and_their_filters_run(seed):
    """What Prefilter dropped keeps its reason; the rest goes by the first of the teacher's filters that takes it."""
    rows = random_rows(seed)
    for number, one in enumerate(rows):
        if number % 5 == 4 and one["dropped_by"] is None:
            one["dropped_by"] = "skip_top"
    scores = [
        {name: one[name] for name in schemas.TEACHER_SCORES.names} for one in reversed(rows) if one["teacher_score"]
    ]
    blank = [{**one, "teacher_score": None} for one in rows]
    filters = [Margin(kind="margin", value=0.5, score="teacher"), MinScore(kind="min_score", value=-1, score="teacher")]
    got = run(blank, filters, pa.Table.from_pylist(scores, schema=schemas.TEACHER_SCORES))
    rows = [{**one, "teacher_score": one["teacher_score"] or None} for one in rows]
    for one, verdict in zip(
        sorted(rows, key=lambda r: (r["query_row"], r["doc_row"])), got.verdicts.to_pylist(), strict=True
    ):
        taken = [config.kind for config in filters if goes(config, one, rows)]
        assert verdict["dropped_by"] == (one["dropped_by"] or next(iter(taken), None))
        assert verdict["teacher_score"] == one["teacher_score"]


def test_a_teacher_that_overflows_gives_no_score():
    """Regression of a peer that emitted -inf: a non-finite score is unknown, in verdicts and in negatives."""
    rows = [row(0, 1, relevance=1), row(0, 2), row(0, 3)]
    scores = [(0, 1, 1.0), (0, 2, float("nan")), (0, 3, float("-inf"))]
    table = pa.Table.from_pylist(
        [dict(zip(schemas.TEACHER_SCORES.names, score, strict=True)) for score in scores], schema=schemas.TEACHER_SCORES
    )
    got = run(rows, teacher=table, ids=["q"])
    assert got.verdicts["teacher_score"].to_pylist() == [1.0, None, None]
    assert got.negatives["teacher_score"].to_pylist() == [None, None]


@pytest.mark.parametrize("seed", range(8))
def test_each_forbids_the_pairs_that_the_oracle_forbids(seed):
    """A candidate goes if it passes for no positive; a negative has its forbidden positives listed."""
    rows = random_rows(seed)
    filters = [each("teacher"), each("dense", 0.5)]
    got = run(rows, filters, n=100)
    # The filter on dense is Prefilter's; here only the teacher's and the two together drop.
    forbidden = {(r["query_row"], r["positive_row"], r["doc_row"]) for r in got.forbidden.to_pylist()}
    dropped = {(r["query_row"], r["doc_row"]): r["dropped_by"] for r in got.verdicts.to_pylist()}
    expected = set()
    for one in rows:
        positives = positives_of(rows, one["query_row"])
        if one["dropped_by"]:
            continue
        passing = [p for p in positives if all(passes_for(config, one, p) for config in filters)]
        is_kept = dropped[one["query_row"], one["doc_row"]] is None
        assert is_kept == bool(passing or not positives)
        if is_kept:
            failing = [p for p in positives if p not in passing]
            expected |= {(one["query_row"], p["doc_row"], one["doc_row"]) for p in failing}
    assert forbidden == expected


def test_a_candidate_that_fits_no_positive_goes_though_every_filter_passes_it():
    """Above p1 for the teacher and above p2 for the embedder: each filter alone leaves it a positive."""
    rows = [
        row(0, 1, relevance=1, teacher=1.0, dense=9.0),
        row(0, 2, relevance=1, teacher=9.0, dense=1.0),
        row(0, 3, teacher=5.0, dense=5.0),
    ]
    got = run(rows, [each("teacher"), each("dense")], ids=["q"])
    assert got.verdicts["dropped_by"].to_pylist()[2] == "max_relative_score"
    assert got.negatives.num_rows == 0 and got.shortfall["top_reason"].to_pylist() == ["max_relative_score"]
    assert limit(each("teacher"), 1.0) < 5.0


def shortfall_oracle(rows, verdict_rows, n):
    """Per query: found, missing, candidates, and the reason that took most."""
    order = [
        "excluded",
        "empty_document",
        "duplicate_of_positive",
        "duplicate",
        "max_score",
        "min_score",
        "margin",
        "skip_top",
    ]
    expected = []
    for query in range(6):
        own = [one for one in verdict_rows if one["query_row"] == query]
        reasons = [one["dropped_by"] for one in own if one["dropped_by"] not in (None, "positive")]
        top = max(order, key=lambda reason: (reasons.count(reason), -order.index(reason))) if reasons else None
        found = min(n, sum(one["dropped_by"] is None for one in own))
        expected.append((query, found, n - found, sum((one["relevance"] or 0) <= 0 for one in own), top, True))
    return expected


@pytest.mark.parametrize("seed", range(6))
def test_shortfalls_are_those_of_the_oracle(seed):
    """One row per query, whether it has candidates or not."""
    rows = [one for one in random_rows(seed) if one["query_row"] != 3]
    got = run(rows, [LIMIT, MinScore(kind="min_score", value=0, score="teacher")], n=3)
    schemas.check(got.shortfall, schemas.SHORTFALL)
    assert [tuple(r.values()) for r in got.shortfall.to_pylist()] == shortfall_oracle(rows, got.verdicts.to_pylist(), 3)


def test_drop_emits_nothing_for_a_short_query():
    """Its verdicts stay; it has no negatives, and its positives' texts are not fetched."""
    rows = [
        row(q, doc, relevance=1 if doc == 0 else None, dense=0.0) for q, docs in ((0, 3), (1, 2)) for doc in range(docs)
    ]
    got = run(rows, ids=["a", "b"], n=2, shortfall="drop")
    assert got.verdicts.num_rows == 5 and got.verdicts["dropped_by"].null_count == 3
    assert got.negatives["query_row"].to_pylist() == [0, 0]
    assert got.shortfall.select(["num_negatives", "num_missing", "is_emitted"]).to_pylist() == [
        {"num_negatives": 2, "num_missing": 0, "is_emitted": True},
        {"num_negatives": 0, "num_missing": 2, "is_emitted": False},
    ]
    assert set(got.pairs["query_row"].to_pylist()) == {0}


def test_keep_emits_what_there_is():
    """The positives of a query without negatives are still emitted: labelled pairs need them."""
    rows = [row(0, 4, relevance=1), row(1, 4, relevance=1), row(1, 5, dense=1.0)]
    got = run(rows, ids=["a", "b"], n=2)
    assert [tuple(pair.values()) for pair in got.pairs.to_pylist()] == [(0, 4), (1, 4), (1, 5)]
    assert got.shortfall["is_emitted"].to_pylist() == [True, True]


def test_no_candidates_at_all():
    """Empty tables, and every query is short."""
    got = run([], [LIMIT, each("dense"), each("teacher")], n=2)
    assert got.negatives.num_rows == got.pairs.num_rows == got.forbidden.num_rows == 0
    assert got.shortfall["num_missing"].to_pylist() == [2] * 6


@pytest.fixture
def block(tmp_path):
    """Verdicts, queries and teacher scores of a block that begins at row 100, on disk."""
    rows = random_rows(3, num_queries=4, first_row=100)
    storage.write_table(str(tmp_path / "verdicts.parquet"), verdicts([{**one, "teacher_score": None} for one in rows]))
    queries = schemas.query_table([f"id-{i}" for i in range(4)], ["text"] * 4)
    storage.write_table(str(tmp_path / "queries.parquet"), queries)
    scores = pa.Table.from_pylist(
        [
            {name: one[name] for name in schemas.TEACHER_SCORES.names}
            for one in rows
            if one["teacher_score"] is not None
        ],
        schema=schemas.TEACHER_SCORES,
    )
    empty = schemas.TEACHER_SCORES.empty_table()
    for number, part in enumerate((scores.slice(0, 7), scores.slice(7))):
        storage.write_buckets(str(tmp_path / f"{number}.arrow"), schemas.TEACHER_SCORES, [empty, empty, part])
    return tmp_path, rows


def run_stage(folder, out="round", filters=(), **sample):
    how = Selection(list(filters), SampleConfig(**sample), 0, 1, SOURCES, "teacher")
    blocks = {"teacher_scores": [str(folder / "0.arrow"), str(folder / "1.arrow")], "how": how}
    stage = Select(blocks, shard_starts=[0, 500])
    inputs = {name: str(folder / f"{name}.parquet") for name in ("verdicts", "queries")}
    return stage(Task("k", {"bucket": 2, "first_row": 100, **inputs}, output=str(folder / out / "k")))


def test_stage_writes_one_file_per_table(block):
    """verdicts, negatives, queries, selected, forbidden: in this order, beside each other, named by the key."""
    folder, rows = block
    record = run_stage(folder, filters=[MaxScore(kind="max_score", value=1)], n=3)
    places = [
        "verdicts/k.parquet",
        "negatives/k.parquet",
        "queries/k.parquet",
        "selected/k.arrow",
        "forbidden/k.parquet",
    ]
    assert [shard.path for shard in record.outputs] == [str(folder / "round" / place) for place in places]
    tables = [storage.read_table(record.outputs[i].path) for i in (0, 1, 2, 4)]
    expected = [schemas.verdicts(SOURCES, TRAITS), schemas.negatives(SOURCES), schemas.SHORTFALL, schemas.FORBIDDEN]
    for table, schema in zip(tables, expected, strict=True):
        schemas.check(table, schema)
    assert {one["query_row"] for one in tables[2].to_pylist()} == {100, 101, 102, 103}
    assert tables[0]["teacher_score"].null_count == sum(one["teacher_score"] is None for one in rows)
    pairs = [storage.read_bucket(record.outputs[3].path, bucket)["doc_row"].to_pylist() for bucket in (0, 1)]
    assert all(doc < 500 for doc in pairs[0]) and all(doc >= 500 for doc in pairs[1])
    positives = sum(one["dropped_by"] == "positive" for one in rows)
    assert len(pairs[0]) + len(pairs[1]) == tables[1].num_rows + positives
    assert record.rows_out == tables[1].num_rows == sum(record.info["kinds"].values())
    assert sum(record.info["dropped"].values()) == len(rows) and record.info["dropped"]["max_score"] > 0


def test_stage_gives_the_same_bytes_again(block):
    """Equal inputs, equal files."""
    first, second = run_stage(block[0]), run_stage(block[0], out="again")
    assert [shard.sha256 for shard in first.outputs] == [shard.sha256 for shard in second.outputs]


def test_error_names_each_short_query(block):
    """The id, how many are missing, and what took most of its candidates; nothing is written."""
    record = run_stage(block[0], filters=[MinScore(kind="min_score", value=100)], n=3, shortfall="error")
    assert not record.outputs and not (block[0] / "round").exists()
    assert len(record.problems) == 4
    candidates = sum(one["query_row"] == 100 and one["dropped_by"] != "positive" for one in block[1])
    assert record.problems[0] == (
        f"query 'id-0': 3 of 3 negatives missing; {candidates} candidates, most of them dropped by min_score"
    )


def test_error_is_silent_when_nothing_is_missing(block):
    """It is a policy for short queries only."""
    assert not run_stage(block[0], n=1, shortfall="error").problems
