"""Prefilter: the always-reasons against an oracle that goes query by query, and the stage on files."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.select.prefilter import Prefilter, prefilter
from raymine.select_config import MaxScore, SkipTop

SOURCES = ["dense", "bm25", "random"]
FAR = 10**12


def hashed(text):
    return schemas.text_hash(schemas.fold(text))


class Block:
    """One query block made by chance: few distinct texts, so that there are duplicates of everything."""

    def __init__(self, seed, first_row=0, num_queries=8):
        rng = random.Random(seed)
        texts = ["", "one", "One ", "two", "three", "four", "five", "six"]
        self.text = {doc: rng.choice(texts) for doc in range(40)}
        self.rows, self.positives, self.excluded = [], [], []
        for query in range(first_row, first_row + num_queries):
            docs = rng.sample(range(40), rng.randint(1, 20))
            positives = {docs[0], *rng.sample(docs, rng.randint(0, min(2, len(docs))))}
            self.positives += [(query, doc) for doc in sorted(positives)]
            self.excluded += [(query, doc) for doc in rng.sample(range(40), 2)]
            for doc in docs:
                ranks = {s: rng.choice([None, rng.randint(0, 50)]) for s in SOURCES}
                self.rows.append(
                    {"query_row": query, "doc_row": doc, "relevance": 1 if doc in positives else None, **ranks}
                )
        self.rows.sort(key=lambda row: (row["query_row"], row["doc_row"]))
        self.rng = rng

    def tables(self):
        candidates = pa.Table.from_pylist(
            [
                {"query_row": row["query_row"], "doc_row": row["doc_row"], "relevance": row["relevance"]}
                | {f"{s}_rank": row[s] for s in SOURCES}
                | {f"{s}_score": None if row[s] is None or s == "random" else -float(row[s]) for s in SOURCES}
                for row in self.rows
            ],
            schema=schemas.candidates(SOURCES),
        )
        notes = [
            {
                "query_row": row["query_row"],
                "doc_row": row["doc_row"],
                "fold_hash": hashed(self.text[row["doc_row"]]),
                "is_empty": not self.text[row["doc_row"]].strip(),
                "dense_score": None if not self.text[row["doc_row"]].strip() else row["doc_row"] / 64,
            }
            for row in self.rows
        ]
        self.rng.shuffle(notes)
        positives = [
            {"query_row": q, "doc_row": d, "relevance": 1, "fold_hash": hashed(self.text[d])} for q, d in self.positives
        ]
        excluded = [{"query_row": q, "doc_row": d} for q, d in sorted(set(self.excluded))]
        return (
            candidates,
            pa.Table.from_pylist(notes, schema=schemas.NOTES),
            pa.Table.from_pylist(positives, schema=schemas.POSITIVES),
            pa.Table.from_pylist(excluded, schema=schemas.EXCLUDED),
        )

    def oracle(self):
        """The always-reason of each row, query by query."""
        reasons = {}
        for query in {row["query_row"] for row in self.rows}:
            rows = [row for row in self.rows if row["query_row"] == query]
            folded = {row["doc_row"]: schemas.fold(self.text[row["doc_row"]]) for row in rows}
            positives = [d for q, d in self.positives if q == query]
            excluded = [d for q, d in self.excluded if q == query]
            forbidden = {folded[d] for d in excluded if d in folded} - {""}
            seen = set()

            def best(row):
                ranks = [row[s] if s != "random" else row[s] + FAR for s in SOURCES if row[s] is not None]
                return min(ranks, default=FAR * FAR), row["doc_row"]

            for row in sorted(rows, key=best):
                doc = row["doc_row"]
                if doc in positives:
                    reason = "positive"
                elif doc in excluded or folded[doc] in forbidden:
                    reason = "excluded"
                elif not folded[doc]:
                    reason = "empty_document"
                elif folded[doc] in {folded[d] for d in positives}:
                    reason = "duplicate_of_positive"
                elif folded[doc] in seen:
                    reason = "duplicate"
                else:
                    reason = None
                    seen.add(folded[doc])
                reasons[query, doc] = reason
        return [reasons[row["query_row"], row["doc_row"]] for row in self.rows]


@pytest.mark.parametrize("seed", range(25))
def test_always_reasons_are_those_of_the_oracle(seed):
    """Positives, excluded, empty, same text as a positive, same text as a better candidate: in this order."""
    block = Block(seed, first_row=seed * 3)
    verdicts = prefilter(*block.tables(), [], SOURCES).verdicts
    assert verdicts["dropped_by"].to_pylist() == block.oracle()
    schemas.check(verdicts, schemas.verdicts(SOURCES))


def test_the_configs_filters_come_after_the_always_reasons():
    """They name only what those left."""
    block = Block(1)
    filters = [SkipTop(kind="skip_top", n=10), MaxScore(kind="max_score", value=0.3, score="dense")]
    verdicts = prefilter(*block.tables(), filters, SOURCES).verdicts
    for row, reason, got in zip(block.rows, block.oracle(), verdicts.to_pylist(), strict=True):
        expected = reason
        if reason is None and row["dense"] is not None and row["dense"] < 10:
            expected = "skip_top"
        elif reason is None and row["doc_row"] / 64 > 0.3:
            expected = "max_score"
        assert got["dropped_by"] == expected
        assert got["teacher_score"] is None


def test_dense_scores_come_from_the_notes():
    """Every row has one, whoever found it; where there is no vector, what the source said stays."""
    block = Block(2)
    candidates, notes, *rest = block.tables()
    verdicts = prefilter(candidates, notes, *rest, [], SOURCES).verdicts.to_pylist()
    for row, got in zip(block.rows, verdicts, strict=True):
        has_text = bool(block.text[row["doc_row"]].strip())
        said = None if row["dense"] is None else -float(row["dense"])
        assert got["dense_score"] == (row["doc_row"] / 64 if has_text else said)


def test_dense_scores_without_a_dense_source():
    """Embeddings may score what other sources found: the verdicts then have a dense score and no dense rank."""
    block = Block(3)
    candidates, *rest = block.tables()
    candidates = candidates.drop_columns(["dense_rank", "dense_score"])
    verdicts = prefilter(candidates, *rest, [MaxScore(kind="max_score", value=0.3, score="dense")], SOURCES).verdicts
    assert verdicts["dense_rank"].null_count == len(block.rows)
    assert "max_score" in verdicts["dropped_by"].to_pylist()


def test_a_candidate_without_a_note_is_a_bug():
    """Annotate covers every pair; half a join must not pass as a whole one."""
    candidates, notes, *rest = Block(4).tables()
    with pytest.raises(ValueError, match="1 candidates have no note"):
        prefilter(candidates, notes.slice(1), *rest, [], SOURCES)


def test_a_block_without_candidates():
    """It gives empty tables."""
    empty = [schemas.candidates(SOURCES), schemas.NOTES, schemas.POSITIVES, schemas.EXCLUDED]
    result = prefilter(*[schema.empty_table() for schema in empty], [SkipTop(kind="skip_top", n=1)], SOURCES)
    assert result.verdicts.num_rows == result.pairs.num_rows == 0


@pytest.mark.parametrize("has_teacher", [True, False], ids=["teacher", "no-teacher"])
def test_stage_writes_verdicts_and_the_teachers_pairs(tmp_path, has_teacher):
    """Pairs: what is kept, and the positives with a text, bucketed by document shard; filters of the teacher wait."""
    block = Block(5)
    candidates, notes, positives, excluded = block.tables()
    for name, table in (("candidates", candidates), ("positives", positives), ("excluded", excluded)):
        storage.write_table(str(tmp_path / f"{name}.parquet"), table)
    nothing = schemas.NOTES.empty_table()
    storage.write_buckets(str(tmp_path / "0.arrow"), schemas.NOTES, [nothing, notes.slice(0, 10)])
    storage.write_buckets(str(tmp_path / "1.arrow"), schemas.NOTES, [nothing, notes.slice(10)])
    stage = Prefilter(
        notes=[str(tmp_path / "0.arrow"), str(tmp_path / "1.arrow")],
        filters=[MaxScore(kind="max_score", value=0.2)],
        sources=SOURCES,
        shard_starts=[0, 15, 30],
        has_teacher=has_teacher,
        default_score="teacher" if has_teacher else "dense",
    )
    paths = {name: str(tmp_path / f"{name}.parquet") for name in ("candidates", "positives", "excluded")}
    paths["near"] = None
    record = stage(Task("k", {"bucket": 1, **paths}, output=str(tmp_path / "out" / "k")))
    verdicts = storage.read_table(record.outputs[0].path)
    reasons = verdicts["dropped_by"].to_pylist()
    assert ("max_score" in reasons) == (not has_teacher)
    assert record.info["dropped"]["kept"] == record.rows_out == reasons.count(None)
    assert sum(record.info["dropped"].values()) == record.rows_in == len(block.rows)
    expected = [
        (row["query_row"], row["doc_row"])
        for row, reason in zip(block.rows, reasons, strict=True)
        if reason is None or (reason == "positive" and block.text[row["doc_row"]].strip())
    ]
    for bucket, (start, stop) in enumerate([(0, 15), (15, 30), (30, 40)]):
        pairs = storage.read_bucket(record.outputs[1].path, bucket).to_pylist()
        got = [(pair["query_row"], pair["doc_row"]) for pair in pairs]
        assert got == ([pair for pair in expected if start <= pair[1] < stop] if has_teacher else [])
