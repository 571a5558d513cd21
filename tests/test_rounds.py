"""Rounds that build on one another, recomputed from their files: lineage, difficulty, merging, settled queries."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mining
import pyarrow as pa
import pytest
import tiny_models
from sentence_transformers import SentenceTransformer

import raymine
from raymine import rounds, storage
from raymine.config_file import make_config
from raymine.executor import make_executor
from raymine.export import export
from raymine.inspect import inspect

Pair = tuple[str, str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three checkpoints that agree in part: each moves the token vectors a little."""
    folder = tmp_path_factory.mktemp("models")
    first = tiny_models.save_static(str(folder / "0"))
    return [first, *(tiny_models.save_moved(first, str(folder / str(step)), 0.4 * step, seed=step) for step in (1, 2))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    with make_executor("local") as executor:
        yield executor


def mined(
    data: Path, models: list[str], workspace: Path, runner: Any, how: dict[str, Any], **sections: Any
) -> list[raymine.Round]:
    """A round per checkpoint."""
    config = make_config(mining.config(data, models[0], rounds=how, **sections))
    return [rounds.remine(config, str(workspace), model, runner) for model in models]


@pytest.fixture(scope="module")
def replaced(
    data: Path, models: list[str], runner: Any, tmp_path_factory: pytest.TempPathFactory
) -> list[raymine.Round]:
    """Three rounds that owe nothing to one another."""
    return mined(data, models, tmp_path_factory.mktemp("replaced"), runner, {})


def ids(round_: raymine.Round) -> tuple[list[str], list[str]]:
    """Ids of queries and documents by row."""
    tables = round_.tables()
    queries = [name for shard in tables.queries for name in storage.read_table(shard.path)["query_id"].to_pylist()]
    documents = [name for shard in tables.corpus for name in storage.read_table(shard.path)["doc_id"].to_pylist()]
    return queries, documents


def named(round_: raymine.Round, rows: list[dict[str, Any]]) -> dict[Pair, dict[str, Any]]:
    queries, documents = ids(round_)
    return {(queries[row["query_row"]], documents[row["doc_row"]]): row for row in rows}


def negatives(round_: raymine.Round) -> dict[Pair, dict[str, Any]]:
    return named(round_, round_.negatives().to_pylist())


def verdicts(round_: raymine.Round) -> dict[Pair, dict[str, Any]]:
    return named(round_, round_.verdicts().to_table().to_pylist())


def bars(judged: dict[Pair, dict[str, Any]]) -> dict[str, float]:
    """The lowest dense score of each query's positives that have one (empty documents have no vector)."""
    found: dict[str, float] = {}
    for (query, _), row in judged.items():
        if row["relevance"] and row["dense_score"] is not None:
            found[query] = min(found.get(query, 2.0), row["dense_score"])
    return found


def check_lineage(made: list[raymine.Round]) -> None:
    """First round, last round and ranks of each pair of the last round's lineage, from what the rounds wrote."""
    chosen = [set(negatives(round_)) for round_ in made]
    ranks = [{pair: row["dense_rank"] for pair, row in verdicts(round_).items()} for round_ in made]
    found = named(made[-1], made[-1].lineage().to_pylist())
    queries, documents = map(set, ids(made[-1]))
    assert set(found) == {pair for each in chosen for pair in each if pair[0] in queries and pair[1] in documents}
    for pair, row in found.items():
        inside = [number for number, each in enumerate(chosen, start=1) if pair in each]
        assert (row["first_round"], row["last_round"]) == (inside[0], inside[-1])
        assert row["ranks"] == [known.get(pair) for known in ranks[inside[0] - 1 :]]


def scores_by(model: str, data: Path) -> Any:
    """The cosine of a query and a document, by ids."""
    embedder = SentenceTransformer(model, device="cpu")
    texts = {}
    for line in (data / "corpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        texts[row["_id"]] = f"{row.get('title', '')} {row['text']}".strip()
    queries = {row["_id"]: row["text"] for row in map(json.loads, (data / "queries.jsonl").read_text().splitlines())}
    names = [*queries, *texts]
    made = embedder.encode([*queries.values(), *texts.values()], normalize_embeddings=True)
    vectors = dict(zip(names, made, strict=True))
    return lambda query, document: float(vectors[query] @ vectors[document])


def test_lineage_and_difficulty_are_what_the_rounds_say(
    data: Path, models: list[str], replaced: list[raymine.Round]
) -> None:
    """Ranks over rounds, and the share of the last negatives that is still hard."""
    made = replaced
    check_lineage(made)
    score = scores_by(models[2], data)
    last = negatives(made[1])
    query, document = next(iter(last))
    (row,) = [row for row in inspect(made[2], query).candidates if row["doc_id"] == document] or [None]
    assert row is None or row["first_round"] == min(
        n for n, each in enumerate(made, 1) if (query, document) in negatives(each)
    )
    positives: dict[str, list[str]] = {}
    for (query, document), row in verdicts(made[2]).items():
        if row["relevance"] and document not in ("d5", "d9"):  # which are empty
            positives.setdefault(query, []).append(document)
    expected = {"ranking_error": 0, "semi_hard": 0, "hard": 0, "unscored": 0}
    for query, document in last:
        own, lowest = (
            score(query, document),
            min((score(query, each) for each in positives.get(query, [])), default=None),
        )
        if lowest is None:
            expected["unscored"] += 1
            continue
        semi_hard = own > lowest - 0.05 * abs(lowest)
        expected["ranking_error" if own > lowest else "semi_hard" if semi_hard else "hard"] += 1
    assert made[2].facts["difficulty"] == expected
    assert expected["ranking_error"] > 5 and expected["hard"] > 5
    assert "difficulty" not in made[0].facts


@pytest.mark.parametrize("policy", ["union", "keep_hard"])
def test_earlier_negatives_keep_slots(
    data: Path, models: list[str], tmp_path: Path, runner: Any, policy: str, replaced: list[raymine.Round]
) -> None:
    """None that a filter takes; of the others as many as the policy owes them; more than replacing would keep."""
    made = mined(data, models, tmp_path, runner, {"merge": policy})
    check_lineage(made)
    judged, last, now = verdicts(made[1]), set(negatives(made[0])), set(negatives(made[1]))
    assert all(pair in judged for pair in last)
    alive = {pair for pair in last if judged[pair]["dropped_by"] is None}
    assert now & last <= alive
    for query in {query for query, _ in last}:
        own = {pair for pair in alive if pair[0] == query}
        if policy == "union":
            assert len(now & own) >= min(2, len(own))
        else:
            bar = bars(judged).get(query, 2.0)
            assert {pair for pair in own if judged[pair]["dense_score"] > bar - abs(bar) * 0.05} <= now
    assert len(now & last) > len(set(negatives(replaced[1])) & last)
    exported = Path(export(made[1], ["triplet"], runner).path).parent / "negatives"
    again = pa.concat_tables([storage.read_table(str(path)) for path in sorted(exported.glob("*.parquet"))])
    assert again.equals(made[1].negatives())


def test_settled_queries_keep_their_negatives_and_are_not_searched_for(
    data: Path, models: list[str], tmp_path: Path, runner: Any, replaced: list[raymine.Round]
) -> None:
    """The others are mined as in a full round: their negatives are those of one."""
    margin = 0.1
    made = mined(data, models[:2], tmp_path, runner, {"queries": "unsettled", "margin": margin})
    judged, last, now = verdicts(made[1]), set(negatives(made[0])), set(negatives(made[1]))
    every = set(negatives(replaced[1]))
    settled = set()
    for query in {query for query, _ in last}:
        bar = bars(judged).get(query, 2.0)
        if any(judged[pair]["dense_score"] > bar - margin for pair in last if pair[0] == query):
            settled.add(query)
    assert 5 < len(settled) < 50
    assert made[1].facts["num_settled"] == len(settled)
    for query in {query for query, _ in judged}:
        mine = {pair for pair in now if pair[0] == query}
        if query in settled:
            alive = {pair for pair in last if pair[0] == query and judged[pair]["dropped_by"] is None}
            assert alive <= mine
            assert all(row["dense_rank"] is None for pair, row in judged.items() if pair[0] == query)
        else:
            own = {pair for pair in last if pair[0] == query}
            assert mine - own == {pair for pair in every if pair[0] == query} - own


POOL = {"scope": "pool", "top": 3, "probe": 0.1, "max_missed": 1.0}


def test_a_pool_is_embedded_instead_of_the_corpus(data: Path, models: list[str], tmp_path: Path, runner: Any) -> None:
    """What a source ranked near the top, positives, negatives and a probe: only these have vectors and are found."""
    made = mined(data, models, tmp_path / "pool", runner, POOL, retrieve={"dense": {"k": 8}})
    for before, now in itertools.pairwise(made):
        (tried,) = now.facts["pool"]
        assert tried["top"] == 3 and 0 <= tried["missed"] < 1
        judged = verdicts(before)
        wanted = {
            d
            for (_, d), row in judged.items()
            if row["relevance"] or (row["dense_rank"] is not None and row["dense_rank"] < 3)
        }
        wanted |= {document for _, document in negatives(before)}
        found = {d for (_, d), row in verdicts(now).items() if row["dense_rank"] is not None}
        cost = {each.step: each for each in now.cost}
        assert "embed_documents" not in cost
        embedded = cost["embed_pool"].rows_in
        assert len(wanted) <= tried["documents"] <= embedded < tried["documents"] + 60 < 260
        assert len(found - wanted) <= embedded - len(wanted)
    check_lineage(made)


def test_a_pool_of_everything_is_a_full_round(data: Path, models: list[str], tmp_path: Path, runner: Any) -> None:
    """With a probe of all others nothing is missing: the same negatives as embedding the corpus."""
    how = {**POOL, "probe": 1.0}
    wide = mined(data, models[:2], tmp_path / "pool", runner, how, retrieve={"dense": {"k": 8}})
    full = mined(data, models[:2], tmp_path / "full", runner, {}, retrieve={"dense": {"k": 8}})
    assert "embed_pool" in {each.step for each in wide[1].cost}
    assert wide[1].negatives().equals(full[1].negatives())


@pytest.mark.parametrize("how", [{"max_missed": 0.0}, {"top": 30}], ids=["misses too much", "is nearly all"])
def test_a_pool_that_does_not_pay_becomes_a_full_round(
    data: Path, models: list[str], tmp_path: Path, runner: Any, how: dict[str, Any]
) -> None:
    """It is made wider, then all documents are embedded; the bytes are those of a full round."""
    made = mined(data, models[:2], tmp_path / "pool", runner, {**POOL, **how}, retrieve={"dense": {"k": 40}})
    full = mined(data, models[:2], tmp_path / "full", runner, {}, retrieve={"dense": {"k": 40}})
    assert "embed_documents" in {each.step for each in made[1].cost if each.tasks}
    assert made[1].facts["pool"][0]["top"] == {**POOL, **how}["top"]
    assert mining.bytes_of_round(Path(made[1].path)) == mining.bytes_of_round(Path(full[1].path))


@pytest.mark.parametrize("kind", ["ivfpq", "ivfflat"])
def test_centroids_are_reused_while_they_serve(
    data: Path, models: list[str], tmp_path: Path, runner: Any, kind: str
) -> None:
    """Vectors that moved a little are searched by the last round's; where they now lie in one list, by new ones.

    What was decided, and why, is in the round's facts; recall is measured in any case.
    """
    others = {"near": (0.1, 0), "narrow": (0, 20)}
    made = [tiny_models.save_moved(models[0], str(tmp_path / name), *how) for name, how in others.items()]
    made.append(tiny_models.save_static(str(tmp_path / "small"), dim=8))
    index = {"kind": kind, "nlist": 8}
    first, near, narrow, small = mined(data, [models[0], *made], tmp_path / "ws", runner, {}, index=index)
    told = [round_.facts[kind]["centroids"] for round_ in (first, near, narrow, small)]
    assert [each["reused"] for each in told] == [False, True, False, False]
    assert [each["tried"] is None for each in told] == [True, False, False, True]
    assert told[1]["trained"] == told[0]["trained"]
    assert all(told[1]["tried"][name] <= 1.25 * told[0]["trained"][name] for name in ("imbalance", "distance"))
    assert told[2]["tried"]["imbalance"] > 2 * told[0]["trained"]["imbalance"] > 2
    costs = [{each.step: each for each in round_.cost} for round_ in (first, near, narrow)]
    assert [cost["train_centroids"].tasks for cost in costs] == [1, 0, 1]
    assert costs[1]["train_centroids"].saved_s == costs[0]["train_centroids"].wall_s > 0
    assert first.tables().centroids == near.tables().centroids != narrow.tables().centroids
    assert all(round_.facts[kind]["recall"] > 0.9 for round_ in (first, near, narrow, small))


@pytest.mark.parametrize("kind", ["ivfpq", "ivfflat"])
def test_centroids_are_trained_for_each_round_where_asked(
    data: Path, models: list[str], tmp_path: Path, runner: Any, kind: str
) -> None:
    """Then a later round is a first round with its checkpoint."""
    index = {"kind": kind, "nlist": 8, "reuse_centroids": 0}
    near = tiny_models.save_moved(models[0], str(tmp_path / "near"), 0.1)
    made = mined(data, [models[0], near], tmp_path / "ws", runner, {}, index=index)
    (alone,) = mined(data, [near], tmp_path / "alone", runner, {}, index=index)
    assert mining.bytes_of_round(Path(made[1].path)) == mining.bytes_of_round(Path(alone.path))


def test_lineage_follows_documents_and_queries_that_move(
    data: Path, models: list[str], tmp_path: Path, runner: Any
) -> None:
    """A corpus that loses a document in the middle and gains others in front, and queries in another order."""
    moved = mining.write_beir(tmp_path / "moved")
    made = mined(moved, models[:1], tmp_path / "ws", runner, {})
    lines = (moved / "corpus.jsonl").read_text().splitlines(keepends=True)
    removed = json.loads(lines[131])["_id"]
    fresh = [json.dumps({"_id": f"new{number}", "text": f"storm cloud {number}"}) + "\n" for number in range(3)]
    (moved / "corpus.jsonl").write_text("".join([*fresh, *lines[:131], *lines[132:]]))
    queries = (moved / "queries.jsonl").read_text().splitlines(keepends=True)
    (moved / "queries.jsonl").write_text("".join(reversed(queries)))
    for name in ("train", "test"):
        path = moved / "qrels" / f"{name}.tsv"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if f"\t{removed}\t" not in line))
    made += mined(moved, models[1:2], tmp_path / "ws", runner, {})
    assert made[1].number == 2
    check_lineage(made)


def test_a_folder_of_parquet_grows(models: list[str], tmp_path: Path, runner: Any) -> None:
    """Two appends: each is a round that embeds the new file alone, and equals a first round over all files."""
    data, folder = mining.write_beir(tmp_path / "data"), tmp_path / "corpus"
    folder.mkdir()
    documents = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    judged = [line.split("\t") for line in (data / "qrels" / "train.tsv").read_text().splitlines()[1:]]

    def write(number: int, rows: list[dict[str, Any]]) -> None:
        storage.write_table(str(folder / f"part-{number}.parquet"), pa.Table.from_pylist(rows))

    needed = {document for _, document, _ in judged} | {
        line.split("\t")[1] for line in (data / "qrels" / "test.tsv").read_text().splitlines()[1:]
    }
    later = [row for row in documents if row["_id"] not in needed]
    write(0, [row for row in documents if row["_id"] in needed])
    values = mining.config(data, models[0], corpus={"path": str(folder), "shard_documents": 64})
    made = [rounds.mine(make_config(values), str(tmp_path / "ws"), runner)]
    for number, rows in ((1, later[:40]), (2, later[40:])):
        write(number, rows)
        made.append(rounds.mine(make_config(values), str(tmp_path / "ws"), runner))
        cost = {each.step: each for each in made[-1].cost}["embed_documents"]
        assert (cost.rows_in, cost.reused) == (len(rows), len(made[-2].facts["tables"]["corpus"]))
    assert [round_.facts["num_documents"] for round_ in made] == [len(needed), len(needed) + 40, len(documents)]
    check_lineage(made)
    alone = rounds.mine(make_config(values), str(tmp_path / "alone"), runner)
    columns = ["query_row", "doc_row", "slot", "dense_score"]
    assert made[2].negatives().select(columns).equals(alone.negatives().select(columns))
