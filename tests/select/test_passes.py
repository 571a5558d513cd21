"""What goes over all queries: counted scores, calibrated scales, documents that serve many queries, fetched vectors."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from select_cases import SOURCES, positives_of, random_rows, row, verdicts

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.select.base import Candidates
from raymine.select.judged import Selection, judge
from raymine.select.passes import CapReuse, CountScores, FetchVectors, Shortlist, fetched_vectors
from raymine.select.reuse import overused
from raymine.select.scales import Scales, SumCounts, count_scores, distribution
from raymine.select.verdict import KEPT, REASONS
from raymine.select_config import MaxReuse, PercentileBand, SampleConfig

BAND = PercentileBand(kind="percentile_band", score="teacher", over="all")


def selection(filters=(), calibrate=None, **sample):
    return Selection(list(filters), SampleConfig(**sample), 0, 1, SOURCES, "teacher", calibrate)


@pytest.mark.parametrize("seed", range(3))
def test_counts_of_blocks_sum_to_those_of_the_whole(seed, tmp_path):
    """Counted block by block and summed, percentiles are those of all scores together."""
    blocks = [random_rows(seed + 10 * block, 4, 4 * block) for block in range(3)]
    how = selection([BAND])
    paths = []
    for number, rows in enumerate(blocks):
        verdict_path = str(tmp_path / f"{number}.parquet")
        storage.write_table(verdict_path, verdicts(rows))
        stage = CountScores({"teacher_scores": None, "how": how})
        task = Task("k", {"verdicts": verdict_path, "bucket": number}, output=str(tmp_path / "counts" / str(number)))
        paths.append(stage(task).outputs[0].path)
    record = SumCounts()(Task("k", {"files": paths}, output=str(tmp_path / "sum")))
    counts = storage.read_table(record.outputs[0].path)
    schemas.check(counts, schemas.SCORE_COUNTS)
    everything = [one for rows in blocks for one in rows]
    scores = [one["teacher_score"] for one in everything if not (one["relevance"] or 0) > 0]
    scores = [score for score in scores if score is not None]
    of_all = distribution(counts, "teacher", of_positives=False)
    got = of_all.share_below(np.array(scores), others=True)
    expected = [sum(other < score for other in scores) / (len(scores) - 1) for score in scores]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_close_scores_count_as_one_and_others_do_not():
    """Within 0.05 % they are equal; 0.1 % apart they are not; below zero too, and across it."""
    scores = np.array([-2.0, -1.0, -1.0002, -1.002, -0.5, 0.0, -0.0, 1.0, 1.0002, 1.001, 1e-30])
    counts = count_scores("dense", scores, np.zeros(len(scores), bool))
    below = distribution(counts, "dense", of_positives=False).share_below(scores, others=False) * len(scores)
    expected = [0, 2, 2, 1, 4, 5, 5, 8, 8, 10, 7]
    assert np.round(below).astype(int).tolist() == expected


def test_unknown_scores_have_no_percentile():
    scores = np.array([1.0, float("nan"), 2.0])
    counts = count_scores("dense", scores, np.zeros(3, bool))
    got = distribution(counts, "dense", of_positives=False).share_below(scores, others=True)
    assert math.isnan(got[1]) and got[[0, 2]].tolist() == [0, 1]
    nothing = distribution(counts, "dense", of_positives=True)
    assert np.isnan(nothing.share_up_to(scores)).all()


def calibrated_oracle(how, one, rows):
    """One candidate's teacher score on a scale."""
    score = one["teacher_score"]
    if score is None:
        return math.nan
    if how == "sigmoid":
        return 1 / (1 + math.exp(-score))
    if how == "min_max":
        known = [r["teacher_score"] for r in rows if r["query_row"] == one["query_row"]]
        known = [value for value in known if value is not None]
        return (score - min(known)) / (max(known) - min(known)) if max(known) > min(known) else 0.5
    known = [p["teacher_score"] for query in {r["query_row"] for r in rows} for p in positives_of(rows, query)]
    known = [value for value in known if value is not None]
    return sum(value <= score for value in known) / len(known)


@pytest.mark.parametrize("how", ["sigmoid", "min_max", "percentile"])
@pytest.mark.parametrize("seed", range(4))
def test_calibrated_scores_are_those_of_the_oracle(how, seed):
    """The teacher's scores are seen on the scale; other scores, and the table, stay as they are."""
    rows = random_rows(seed)
    table = verdicts(rows)
    plain = Candidates(table)
    counts = count_scores("teacher", plain.score("teacher"), plain.is_positive)
    candidates = Candidates(table, Scales(how, counts))
    ordered = sorted(rows, key=lambda one: (one["query_row"], one["doc_row"]))
    expected = [calibrated_oracle(how, one, rows) for one in ordered]
    np.testing.assert_allclose(candidates.score("teacher"), expected, rtol=1e-6, equal_nan=True)
    np.testing.assert_array_equal(candidates.score("dense"), plain.score("dense"))
    assert candidates.table.equals(table)


def test_a_threshold_is_on_the_calibrated_scale():
    """RocketQA's "below 0.1" for a teacher that gives logits."""
    from raymine.select_config import MaxScore

    rows = [row(0, 1, relevance=1, teacher=5.0), row(0, 2, teacher=-2.0), row(0, 3, teacher=-2.5)]
    low = MaxScore(kind="max_score", value=0.1, score="teacher")
    codes = judge(verdicts(rows), None, selection([low], "sigmoid")).codes
    assert codes.tolist()[1:] == [REASONS.index("max_score"), KEPT]
    assert judge(verdicts(rows), None, selection([low])).codes.tolist()[1:] == [KEPT, KEPT]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_document_stays_for_the_queries_where_it_ranks_best(n):
    rng = np.random.default_rng(n)
    pairs = sorted({(int(q), int(d)) for q, d in rng.integers(0, 30, (400, 2))})
    query_rows, doc_rows = np.array(pairs).T
    ranks = rng.integers(0, 6, len(pairs))
    goes = overused(query_rows, doc_rows, ranks, n)
    for doc in set(doc_rows.tolist()):
        of_doc = sorted((ranks[i], query_rows[i], bool(goes[i])) for i in np.flatnonzero(doc_rows == doc))
        assert [gone for _, _, gone in of_doc] == [False] * min(n, len(of_doc)) + [True] * max(0, len(of_doc) - n)


def test_max_reuse_caps_what_all_blocks_keep(tmp_path):
    """Through the stages: two blocks, two shards; what one query loses it loses with the reason max_reuse."""
    blocks = [random_rows(3, 4, 0), random_rows(4, 4, 4)]
    for rows in blocks:
        for one in rows:
            one["doc_row"] %= 40
    blocks = [list({(one["query_row"], one["doc_row"]): one for one in rows}.values()) for rows in blocks]
    how, block_starts, shard_starts = selection([MaxReuse(kind="max_reuse", n=2)]), [0, 4], [0, 20]
    given = {"teacher_scores": None, "how": how}
    pairs, inputs = [], []
    for number, rows in enumerate(blocks):
        path = str(tmp_path / f"{number}.parquet")
        storage.write_table(path, verdicts(rows))
        inputs.append({"verdicts": path, "bucket": number})
        stage = Shortlist(given, shard_starts, is_pool=False)
        pairs.append(stage(Task("k", inputs[-1], output=str(tmp_path / "pairs" / str(number)))).outputs[0].path)
    gone = []
    for shard in range(2):
        stage = CapReuse(pairs, block_starts, 2)
        gone.append(stage(Task("k", {"bucket": shard}, output=str(tmp_path / "gone" / str(shard)))).outputs[0].path)
    kept, taken = {}, 0
    for number, rows in enumerate(blocks):
        overused_pairs = storage.read_buckets(gone, number, schemas.PAIRS)
        judged = judge(verdicts(rows), None, how, overused=overused_pairs)
        taken += int((judged.codes == REASONS.index("max_reuse")).sum())
        for at in judged.kept:
            kept[judged.candidates.doc_row[at]] = kept.get(judged.candidates.doc_row[at], 0) + 1
    free = [one["doc_row"] for rows in blocks for one in rows if one["dropped_by"] is None]
    assert kept == {doc: min(2, free.count(doc)) for doc in set(free)}
    assert taken == len(free) - sum(kept.values()) > 0


def test_vectors_come_for_the_pool_only(tmp_path):
    """Each once per block, by doc_row, as stored; a document without a vector has none."""
    rows = [row(q, d, teacher=float(d)) for q in range(2) for d in range(10)]
    storage.write_table(str(tmp_path / "v.parquet"), verdicts(rows))
    matrix = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float16)
    vectors = schemas.vector_table(np.arange(9), matrix)  # document 9 is empty
    storage.write_arrow(str(tmp_path / "vectors.arrow"), vectors)
    given = {"teacher_scores": None, "how": selection(strategy="spread", n=1)}
    task = Task("k", {"verdicts": str(tmp_path / "v.parquet"), "bucket": 0}, output=str(tmp_path / "pairs"))
    pairs = Shortlist(given, [0], is_pool=True)(task).outputs[0].path
    inputs = {"bucket": 0, "vectors": str(tmp_path / "vectors.arrow"), "first_row": 0}
    path = FetchVectors([pairs], [0, 2])(Task("k", inputs, output=str(tmp_path / "fetched"))).outputs[0].path
    got = fetched_vectors([path], 0)
    assert got.rows.tolist() == [6, 7, 8]
    np.testing.assert_array_equal(got.matrix, matrix[6:9].astype(np.float32))
    assert len(fetched_vectors([path], 1).rows) == 0


def test_the_band_over_all_waits_for_the_counts():
    with pytest.raises(ValueError, match="teacher scores have not been counted"):
        judge(verdicts(random_rows(0)), None, selection([BAND]))


def test_no_scores_give_an_empty_table():
    counts = count_scores("dense", np.array([math.nan]), np.array([False]))
    assert counts.num_rows == 0 and schemas.check(counts, schemas.SCORE_COUNTS) is counts
    assert isinstance(counts, pa.Table)
