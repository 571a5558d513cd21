"""Rounds with the filters and samplers that look beyond one query's ranks and scores, against plain recomputation."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pytest

import raymine
from raymine import schemas, storage
from raymine.config_file import make_config
from raymine.errors import ConfigError
from raymine.executor import make_executor
from raymine.export import export

FILTERS: list[dict[str, Any]] = [
    {"kind": "near_duplicate", "threshold": 0.6, "words": 2},
    {"kind": "same_source_group", "column": "topic"},
    {"kind": "other_cluster", "clusters": 40},
    {"kind": "percentile_band", "low": 0.1, "high": 0.95, "over": "all"},
    {"kind": "max_score", "value": 0.9},
    {"kind": "max_reuse", "n": 3},
]
SELECT = {"calibrate": "percentile", "filters": FILTERS, "sample": {"n": 3, "strategy": "spread", "diversity": 0.4}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual job, with topics (numbers, strings, none), and texts of which a word or two differ."""
    folder = mining.write_beir(tmp_path_factory.mktemp("data"))
    path = folder / "corpus.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows[:60]):
        words = row["text"].split()
        if len(words) > 5:
            words[number % len(words)] = "changed"
            rows.append({"_id": f"near{number}", "title": row["title"], "text": " ".join(words)})
    for number, row in enumerate(rows):
        if number % 5:
            row["topic"] = number % 11 if number % 2 else str(number % 11)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def values(data: Path, static_model: str, cross_encoder_model: str) -> dict[str, Any]:
    made = mining.config(data, static_model, cross_encoder_model, select=SELECT)
    made["corpus"]["metadata"] = ["topic"]
    return {**made, "write": {"formats": ["triplet"]}}


@pytest.fixture(scope="module")
def mined(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> raymine.Round:
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("workspace")))


@pytest.fixture(scope="module")
def rows(mined: raymine.Round) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = mined.verdicts().to_table().to_pylist()
    return found


@pytest.fixture(scope="module")
def documents(mined: raymine.Round) -> list[dict[str, Any]]:
    """By doc_row: id and text."""
    found = []
    for shard in mined.tables().corpus:
        found += storage.read_table(shard.path, ["doc_id", "text"]).to_pylist()
    return found


def by_query(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row["query_row"]].append(row)
    return found


def is_positive(row: dict[str, Any]) -> bool:
    return (row["relevance"] or 0) > 0


def test_every_filter_took_something(mined: raymine.Round) -> None:
    dropped = mined.facts["selection"]["dropped"]
    assert all(dropped.get(each["kind"], 0) > 0 for each in FILTERS), dropped
    assert dropped["kept"] > 50


def test_groups_are_those_of_the_file(rows: list[dict[str, Any]], documents: list[dict[str, Any]], data: Path) -> None:
    """No kept candidate has the topic of a positive, whether written as a number or as a string."""
    topics = {}
    for line in (data / "corpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        topics[row["_id"]] = str(row["topic"]) if "topic" in row else None
    for of_query in by_query(rows).values():
        of_positives = {topics[documents[row["doc_row"]]["doc_id"]] for row in of_query if is_positive(row)} - {None}
        for row in of_query:
            shares = topics[documents[row["doc_row"]]["doc_id"]] in of_positives
            assert not (shares and row["dropped_by"] is None)
            assert shares or row["dropped_by"] != "same_source_group"


def test_clusters_are_those_of_the_positives(mined: raymine.Round, rows: list[dict[str, Any]]) -> None:
    assert mined.facts["clusters"] == 40
    for of_query in by_query(rows).values():
        of_positives = {row["cluster"] for row in of_query if is_positive(row)} - {None}
        for row in of_query:
            assert row["dropped_by"] is not None or row["cluster"] not in of_positives
            assert row["dropped_by"] != "other_cluster" or row["cluster"] in of_positives
    cluster_of = defaultdict(set)
    for row in rows:
        cluster_of[row["doc_row"]].add(row["cluster"])
    assert all(len(found) == 1 for found in cluster_of.values())


@pytest.mark.parametrize(("kind", "error"), [("ivfpq", 0.0), ("ivfflat", 0.02)])
def test_the_lists_of_an_index_are_the_clusters(
    values: dict[str, Any], tmp_path: Path, documents: list[dict[str, Any]], kind: str, error: float
) -> None:
    """Where no number of clusters is asked for: each document's is its nearest coarse centroid; none are trained.

    In ivfflat it is one that is as near but for the rounding to int8.
    """
    select = {"filters": [{"kind": "other_cluster"}], "sample": {"n": 3}}
    made = {**values, "index": {"kind": kind, "nlist": 6}, "select": select}
    mined = raymine.mine(make_config({key: value for key, value in made.items() if key != "rescore"}), str(tmp_path))
    assert mined.facts["clusters"] == 6
    assert not {"train_clusters", "assign_clusters"} & {cost.step for cost in mined.cost}
    tables = mined.tables()
    centroids = schemas.vector_matrix(storage.read_arrow(tables.centroids[0].path)["vector"]).astype(np.float64)
    known = {}
    for shard, vectors in zip(tables.corpus, tables.corpus_vectors, strict=True):
        table = storage.read_arrow(vectors.path)
        scores = schemas.vector_matrix(table["vector"]).astype(np.float64) @ centroids.T
        doc_rows = table["row"].to_numpy() + shard.first_row
        known |= dict(zip(doc_rows.tolist(), scores, strict=True))
    found: list[dict[str, Any]] = mined.verdicts().to_table().to_pylist()
    assert len(tables.corpus) > 3 and len({row["cluster"] for row in found} - {None}) == 6
    for row in found:
        scores = known.get(row["doc_row"])
        assert (row["cluster"] is None) == (scores is None)
        assert scores is None or scores[row["cluster"]] >= scores.max() - error
    for of_query in by_query(found).values():
        of_positives = {row["cluster"] for row in of_query if is_positive(row)} - {None}
        assert all(row["dropped_by"] is not None or row["cluster"] not in of_positives for row in of_query)


def test_no_two_negatives_and_no_positive_are_nearly_equal(
    mined: raymine.Round, rows: list[dict[str, Any]], documents: list[dict[str, Any]]
) -> None:
    def shingles(doc_row: int) -> set[tuple[str, ...]]:
        words = documents[doc_row]["text"].casefold().split()
        return {tuple(words[i : i + 2]) for i in range(max(1, len(words) - 1))}

    texts = defaultdict(list)
    for row in rows:
        if is_positive(row):
            texts[row["query_row"]].append(shingles(row["doc_row"]))
    for row in mined.negatives().to_pylist():
        own = shingles(row["doc_row"])
        assert all(len(own & other) / len(own | other) < 0.6 for other in texts[row["query_row"]])
        texts[row["query_row"]].append(own)


def test_the_band_is_over_all_candidates_and_the_scale_over_all_positives(rows: list[dict[str, Any]]) -> None:
    """Percentiles and the calibrated bound, counted one by one (no two scores here are within 0.05 % of each other)."""
    scored = [row for row in rows if row["teacher_score"] is not None]
    others = np.sort([row["teacher_score"] for row in scored if not is_positive(row)])
    positives = np.sort([row["teacher_score"] for row in scored if is_positive(row)])
    disagreeing = 0
    for row in scored:
        if is_positive(row) or row["dropped_by"] in ("near_duplicate", "same_source_group", "other_cluster"):
            continue
        share = np.searchsorted(others, row["teacher_score"]) / (len(others) - 1)
        scale = np.searchsorted(positives, row["teacher_score"], side="right") / len(positives)
        expected = "percentile_band" if not 0.1 <= share <= 0.95 else "max_score" if scale > 0.9 else None
        disagreeing += (row["dropped_by"] if row["dropped_by"] != "max_reuse" else None) != expected
    assert disagreeing <= len(scored) // 100


def test_no_document_serves_more_queries_than_it_may(mined: raymine.Round, rows: list[dict[str, Any]]) -> None:
    kept = Counter(row["doc_row"] for row in rows if row["dropped_by"] is None)
    gone = Counter(row["doc_row"] for row in rows if row["dropped_by"] == "max_reuse")
    assert max(kept.values()) == 3
    assert all(kept[doc] == 3 for doc in gone)


def test_negatives_are_spread(mined: raymine.Round, rows: list[dict[str, Any]]) -> None:
    """The first is one with the best score on the calibrated scale; all are kept candidates."""
    positives = np.sort([row["teacher_score"] for row in rows if is_positive(row) and row["teacher_score"] is not None])
    kept = by_query([row for row in rows if row["dropped_by"] is None])
    negatives = by_query(mined.negatives().to_pylist())
    assert len(negatives) > 20
    for query, chosen in negatives.items():
        assert {row["doc_row"] for row in chosen} <= {row["doc_row"] for row in kept[query]}
        assert len(chosen) == min(3, len(kept[query]))
        scores = [max(row["teacher_score"] for row in kept[query]), chosen[0]["teacher_score"]]
        best, first = np.searchsorted(positives, scores, side="right")
        assert chosen[0]["slot"] == 0 and best - first <= 1  # scores that are nearly equal count as one


def test_other_shards_and_blocks_give_the_same(mined: raymine.Round, values: dict[str, Any], tmp_path: Path) -> None:
    changed = {
        **values,
        "corpus": {**values["corpus"], "shard_documents": 10_000},
        "queries": {**values["queries"], "block_queries": 7},
    }
    again = raymine.mine(make_config(changed), str(tmp_path))
    names = ["query_row", "doc_row", "dropped_by"]
    got, wanted = (each.verdicts().to_table(columns=names).to_pylist() for each in (again, mined))
    same = sum(one == other for one, other in zip(got, wanted, strict=True))
    assert same >= 0.99 * len(wanted)  # the sample of k-means, and a teacher's last bit, may move a few


def test_an_export_with_other_settings_is_what_mining_gives(
    mined: raymine.Round, values: dict[str, Any], tmp_path: Path
) -> None:
    """A lower cap, a narrower band, another spread: from the finished verdicts, in seconds."""
    filters = [{**each} for each in FILTERS]
    filters[-1]["n"], filters[3]["low"] = 2, 0.3
    sample = {"n": 2, "strategy": "spread", "diversity": 0.9}
    again = raymine.mine(
        make_config({**values, "select": {**SELECT, "filters": filters, "sample": sample}}), str(tmp_path)
    )
    overrides = [f"select.filters={json.dumps(filters)}", f"select.sample={json.dumps(sample)}"]
    with make_executor("local") as executor:
        made = export(mined, ["triplet"], executor, overrides)
    assert made.num_negatives == again.negatives().num_rows > 40
    folder = Path(made.path).parent / "negatives"
    found = [storage.read_table(str(path)) for path in sorted(folder.iterdir())]
    columns = ["query_row", "doc_row", "slot"]
    got = [row for table in found for row in table.select(columns).to_pylist()]
    assert got == again.negatives().select(columns).to_pylist()


@pytest.mark.parametrize(
    "override, problem",
    [
        ("select.filters=[{kind: near_duplicate, threshold: 0.5, words: 2}]", "near duplicates of 2 words from 0.5 on"),
        ("select.filters=[{kind: near_duplicate, threshold: 0.9, words: 3}]", "near duplicates of 3 words from 0.9 on"),
        ("select.filters=[{kind: other_cluster, clusters: 7}]", "7 clusters"),
    ],
    ids=["lower", "other words", "other clusters"],
)
def test_an_export_by_what_was_not_found_out_is_refused(mined: raymine.Round, override: str, problem: str) -> None:
    with make_executor("local") as executor, pytest.raises(ConfigError, match=problem):
        export(mined, ["triplet"], executor, [override])


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a column that is not read": (
        {"select": {"filters": [{"kind": "same_source_group", "column": "product"}]}},
        "name it in corpus.metadata",
    ),
    "two caps": ({"select": {"filters": [{"kind": "max_reuse", "n": 1}] * 2}}, "`max_reuse` is there 2 times"),
    "clusters and a column": (
        {"select": {"filters": [{"kind": "other_cluster", "clusters": 3, "column": "topic"}]}},
        "not both",
    ),
    "calibrate without a teacher": ({"rescore": None, "select": {"calibrate": "sigmoid"}}, "needs `rescore`"),
    "clusters without vectors": (
        {"embed": None, "retrieve": {"bm25": {"k": 5}}, "select": {"filters": [{"kind": "other_cluster"}]}},
        "needs `embed.model`",
    ),
    "spread without vectors": (
        {"embed": None, "retrieve": {"bm25": {"k": 5}}, "select": {"sample": {"strategy": "spread"}}},
        "needs `embed.model`",
    ),
    "diversity of another strategy": ({"select": {"sample": {"diversity": 0.5}}}, "goes with `strategy: spread`"),
}


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_a_config_that_cannot_work_is_refused(values: dict[str, Any], case: str) -> None:
    changed, problem = FAULTS[case]
    with pytest.raises(ConfigError, match=problem):
        make_config({**values, **changed})


@pytest.mark.parametrize(
    "value, problem",
    [(["a"], "`topic` is neither a text nor a number; got list"), (None, "no row has the column `topic`")],
    ids=["a list", "no such column"],
)
def test_metadata_that_cannot_be_read_names_file_and_line(
    values: dict[str, Any], tmp_path: Path, value: Any, problem: str
) -> None:
    path = tmp_path / "corpus.jsonl"
    row = {"_id": "a", "text": "b"} | ({"topic": value} if value else {})
    path.write_text(json.dumps(row) + "\n")
    changed = {**values, "corpus": {"path": str(path), "metadata": ["topic"]}}
    with pytest.raises(raymine.InputError, match="corpus.jsonl.*" + problem.split(";")[0]):
        raymine.mine(make_config(changed), str(tmp_path / "workspace"))
