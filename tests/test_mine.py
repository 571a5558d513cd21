"""The whole main job on a small folder: every source, every format, checked by an auditor that shares no code."""

import json
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pyarrow.parquet as pq
import pytest
from auditor import Auditor

import raymine
from raymine.config_file import make_config
from raymine.pipeline import sizes
from raymine.write import FORMATS

# What a later round does with the negatives of the one before.
LINEAGE = {"carry_lineage", "score_earlier", "measure_earlier", "trace_lineage"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def auditor(data: Path) -> Auditor:
    return Auditor(data, data / "qrels" / "train.tsv", [data / "qrels" / "test.tsv"])


@pytest.fixture(scope="module")
def mined(
    data: Path, static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory
) -> raymine.Round:
    values = mining.config(data, static_model, cross_encoder_model)
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("workspace")))


@pytest.mark.parametrize("name", mining.FORMATS)
def test_every_format_is_clean(mined: raymine.Round, auditor: Auditor, name: str) -> None:
    """No positive, no twin of one, no excluded pair, no empty document, no repetition, only finite scores."""
    counts = auditor.check_format(Path(mined.path) / "shards" / name, name, scores=True)
    assert counts["rows"] > 30


def test_verdicts_account_for_every_candidate(mined: raymine.Round, auditor: Auditor) -> None:
    """Kept plus dropped is all; the negatives are among the kept."""
    counts = auditor.check_tables(Path(mined.path), Path(mined.workspace))
    assert counts["negatives"] == mined.negatives().num_rows > 100
    assert mined.facts["selection"]["num_negatives"] == counts["negatives"]
    reasons = set(mined.verdicts().to_table(columns=["dropped_by"])["dropped_by"].to_pylist())
    expected = {None, "positive", "excluded", "empty_document", "duplicate_of_positive", "duplicate"}
    assert expected | {"max_relative_score", "skip_top"} >= reasons >= {None, "positive", "duplicate_of_positive"}


def test_dense_scores_are_those_of_the_model(mined: raymine.Round, auditor: Auditor, static_model: str) -> None:
    """Every verdict's dense score against sentence-transformers' own; its rank against numpy's."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(static_model, device="cpu")
    tables = mined.tables()
    doc_ids = [name for shard in tables.corpus for name in pq.read_table(shard.path)["doc_id"].to_pylist()]
    query_ids = [name for shard in tables.queries for name in pq.read_table(shard.path)["query_id"].to_pylist()]
    documents = model.encode_document([auditor.documents[name] or "x" for name in doc_ids], normalize_embeddings=True)
    queries = model.encode_query([auditor.queries[name] for name in query_ids], normalize_embeddings=True)
    scores = queries @ documents.T
    empty = np.array([not auditor.documents[name] for name in doc_ids])
    scores[:, empty] = -np.inf
    kth = np.sort(scores, axis=1)[:, -30]
    table = mined.verdicts().to_table().to_pydict()
    found = 0
    for query, doc, rank, score in zip(
        table["query_row"], table["doc_row"], table["dense_rank"], table["dense_score"], strict=True
    ):
        if empty[doc]:
            assert score is None and rank is None
            continue
        assert score == pytest.approx(scores[query, doc], abs=2e-3)
        if rank is not None:
            found += 1
            assert scores[query, doc] >= kth[query] - 1e-5
            assert (scores[query] > score + 1e-5).sum() <= rank < (scores[query] >= score - 1e-5).sum()
    assert found == 30 * len(query_ids)


def test_the_second_run_does_nothing(mined: raymine.Round) -> None:
    """The same config finds the finished round."""
    config = raymine.load_config(f"{mined.path}/config.yaml")
    again = raymine.mine(config, mined.workspace)
    assert not again.is_new and again.number == mined.number == 1


def test_another_filter_is_another_round_that_reuses_the_rest(
    mined: raymine.Round, data: Path, static_model: str, cross_encoder_model: str
) -> None:
    """Nothing is embedded, searched or scored again, and the first round stays as it was."""
    before = mining.bytes_of_round(Path(mined.path))
    select = {"filters": [{"kind": "margin", "value": 0.0}], "sample": {"n": 2, "strategy": "random"}}
    values = mining.config(data, static_model, cross_encoder_model, select=select)
    second = raymine.mine(make_config(values), mined.workspace)
    assert second.number == 2
    done = {cost.step for cost in second.cost if cost.tasks}
    chosen = {"prefilter", "rescore", "select", "fetch_texts", "total"} | {f"write_{n}" for n in mining.FORMATS}
    assert done <= chosen | LINEAGE
    saved = {cost.step: cost for cost in second.cost}["embed_documents"]
    spent = {cost.step: cost for cost in mined.cost}["embed_documents"]
    assert (saved.reused, saved.wall_s, saved.usd) == (spent.tasks, 0, 0)
    assert saved.saved_s == pytest.approx(spent.wall_s)
    rescore = [cost for cost in second.cost if cost.step == "rescore" and cost.tasks]
    assert all(cost.cache_hits > 0 for cost in rescore)
    assert mining.bytes_of_round(Path(mined.path)) == before


@pytest.mark.parametrize(
    ("shard_documents", "block_queries", "limits", "num_tasks"),
    [
        (100, 1000, {}, (1, 1)),
        (30, 8, {"EXACT_PART_DOCUMENTS": 100, "EXACT_OPERATIONS": 32 * 2000.0, "BM25_PAIRS": 5000.0}, (6, 4)),
    ],
    ids=["one task", "many tasks"],
)
def test_shard_and_part_sizes_change_nothing_but_rounding(
    mined: raymine.Round,
    data: Path,
    static_model: str,
    cross_encoder_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard_documents: int,
    block_queries: int,
    limits: dict[str, float],
    num_tasks: tuple[int, int],
) -> None:
    """Other shards, blocks, parts and tasks give the same negatives."""
    for name, value in limits.items():
        monkeypatch.setattr(sizes, name, value)
    values = mining.config(data, static_model, cross_encoder_model, resources={"memory_gb": 2})
    values["corpus"]["shard_documents"], values["queries"]["block_queries"] = shard_documents, block_queries
    other = raymine.mine(make_config(values), str(tmp_path))
    tasks = {cost.step: cost.tasks for cost in other.cost}
    assert (tasks["search_exact"], tasks["search_bm25"]) == num_tasks
    columns = ["query_row", "doc_row", "slot", "kind"]
    assert other.negatives().select(columns).to_pydict() == mined.negatives().select(columns).to_pydict()


def test_cost_closes_over_the_ledger(mined: raymine.Round) -> None:
    """Sums per step are those of the rows, and money is CPU seconds at the price."""
    rows = mined.ledger().to_pylist()
    total = mined.cost[-1]
    assert total.step == "total" and total.tasks == len(rows)
    assert total.wall_s == pytest.approx(sum(row["wall_s"] for row in rows))
    assert total.peak_bytes == max(row["peak_bytes"] for row in rows) > 100_000_000
    assert total.usd is not None and total.usd > 0
    embedded = next(cost for cost in mined.cost if cost.step == "embed_documents")
    assert embedded.rows_in == 260 and embedded.rows_out == 256 and embedded.tokens > 1000


def test_training_sets_load(mined: raymine.Round) -> None:
    """As datasets, with the columns of sentence-transformers; an unwritten format says what there is."""
    triplets = mined.training_set("triplet")
    assert triplets.column_names == ["anchor", "positive", "negative", "scores"]
    with pytest.raises(raymine.WorkspaceError, match="no shards of format 'dpr'"):
        mined.training_set("dpr")


def test_every_other_format_has_the_same_negatives_and_the_texts_it_names(
    mined: raymine.Round, data: Path, static_model: str, cross_encoder_model: str
) -> None:
    """Only the writing is done anew; what rows name by id lies beside them with its text, each document once."""
    names = [name for name in FORMATS if name not in mining.FORMATS]
    values = mining.config(data, static_model, cross_encoder_model, write={"formats": names, "scores": True})
    again = raymine.mine(make_config(values), mined.workspace)
    done = {cost.step for cost in again.cost if cost.tasks} - LINEAGE
    assert all(step.startswith(("select", "fetch", "write", "total")) for step in done)
    folder, wanted = Path(again.path) / "shards", by_ids(again)
    documents = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in json_lines(data / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in json_lines(data / "queries.jsonl")}
    for name in names:
        files = sorted(path for path in (folder / name).iterdir() if path.is_file())
        assert [path.suffix[1:] for path in files] == [FORMATS[name].extension] * len(again.tables().queries)
        companions = FORMATS[name].companions
        for kind, keys, texts in (("documents", 0, documents), ("queries", 1, queries)):
            named = (companions.documents, companions.queries)[keys] if companions else None
            if named is None:
                assert not (folder / name / kind).exists()
                continue
            shards = set((folder / name / kind).iterdir())
            if companions.about:
                about = folder / name / kind / companions.about[0]
                assert json.loads(about.read_text()) == companions.about[1]
                shards.remove(about)
            rows = [row for path in shards for row in rows_of(path)]
            ids = [row[named[0]] for row in rows]
            assert len(ids) == len(set(ids)) and all(row[named[1]] == texts[row[named[0]]] for row in rows)
            assert set(ids) >= ({doc for pair in wanted for doc in wanted[pair]} if keys == 0 else set(wanted))
    run: dict[str, dict[str, float]] = {}
    for qid, _, docid, _, score, _ in fields_of(folder / "trec"):
        run.setdefault(qid, {})[docid] = float(score)
    assert {qid: sorted(of) for qid, of in run.items()} == {qid: sorted(docs) for qid, docs in wanted.items()}
    assert all(list(of.values()) == sorted(of.values(), reverse=True) for of in run.values())
    apart = fields_of(folder / "tevatron-run" / "positives")
    signed = [(qid, docid, -1, score) for qid, of in run.items() for docid, score in of.items()]
    signed += [(qid, docid, 1, float(score)) for qid, docid, score in apart]
    arctic = [tuple(row.values()) for path in (folder / "arctic").glob("*.parquet") for row in rows_of(path)]
    assert sorted((*row[:3], np.float32(row[3])) for row in signed) == sorted(arctic)
    contexts = [row for path in sorted((folder / "dpr").iterdir()) for row in json.loads(path.read_text())]
    by_text = {queries[qid]: docs for qid, docs in wanted.items()}
    assert all([c["passage_id"] for c in row["hard_negative_ctxs"]] == by_text[row["question"]] for row in contexts)
    for name in ("listwise", "dpr", "automodel-corpus"):
        assert again.training_set(name).num_rows == len(contexts)
    with pytest.raises(raymine.WorkspaceError, match="file of lines"):
        again.training_set("trec")


def test_documents_in_parquet_load_as_a_folder(data: Path, static_model: str, tmp_path: Path) -> None:
    """As Automodel loads its corpus: with facts beside the shards, and shards that nobody names a document of."""
    import datasets

    values = mining.config(data, static_model, write={"formats": ["automodel-corpus"]})
    values["select"] = {"sample": {"n": 1}}
    values["corpus"]["shard_documents"] = 8
    values["retrieve"] = {"bm25": {"k": 2}}
    folder = Path(raymine.mine(make_config(values), str(tmp_path / "workspace")).path) / "shards" / "automodel-corpus"
    loaded = datasets.load_dataset(str(folder / "documents"), cache_dir=str(tmp_path / "cache"))["train"]
    shards = [pq.read_table(path) for path in (folder / "documents").glob("*.parquet")]
    assert sum(map(len, shards)) == len(loaded) and min(map(len, shards)) == 0
    rows = [row for path in folder.glob("*.json") for row in json.loads(path.read_text())["data"]]
    assert {each["id"] for row in rows for each in (*row["pos_doc"], *row["neg_doc"])} <= set(loaded["id"])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else json_lines(path)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fields_of(folder: Path) -> list[list[str]]:
    return [line.split() for path in sorted(folder.glob("*.tsv")) for line in path.read_text().splitlines()]


def by_ids(found: raymine.Round) -> dict[str, list[str]]:
    """The negatives' ids of each query's id, by slot."""
    tables = found.tables()
    doc_ids = [name for shard in tables.corpus for name in pq.read_table(shard.path)["doc_id"].to_pylist()]
    query_ids = [name for shard in tables.queries for name in pq.read_table(shard.path)["query_id"].to_pylist()]
    made: dict[str, list[str]] = {}
    for row in found.negatives().to_pylist():
        made.setdefault(query_ids[row["query_row"]], []).append(doc_ids[row["doc_row"]])
    return made


def test_the_index_lists_the_shards_with_checksums(mined: raymine.Round) -> None:
    """shards/index.json is enough to verify a copy."""
    import hashlib

    folder = Path(mined.path) / "shards"
    index = json.loads((folder / "index.json").read_text())
    assert set(index["formats"]) == set(mining.FORMATS)
    for shards in index["formats"].values():
        for shard in shards:
            content = (folder / shard["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == shard["sha256"] and len(content) == shard["num_bytes"]


@pytest.mark.parametrize(
    "sections",
    [
        {"retrieve": {"bm25": {"k": 20}}, "embed": None, "write": {"formats": ["triplet"]},
         "select": {"filters": [{"kind": "skip_top", "n": 2, "source": "bm25"}], "sample": {"n": 3}}},
        {"retrieve": {"random": {"k": 10}}, "embed": None, "write": {"formats": ["triplet"]},
         "select": {"sample": {"n": 3, "strategy": "random"}}},
        {"index": {"kind": "ivfpq", "nlist": 4, "nprobe": 4}},
        {"index": {"kind": "ivfflat", "nlist": 4, "nprobe": 2}},
        {"rescore": None, "write": {"formats": mining.FORMATS, "scores": False}},
    ],
    ids=["bm25_only", "random_only", "ivfpq", "ivfflat", "no_teacher_no_scores"],
)  # fmt: skip
def test_other_jobs_are_as_clean(
    data: Path, auditor: Auditor, static_model: str, tmp_path: Path, sections: dict[str, Any]
) -> None:
    """A source alone, without embeddings, over codes, over some lists, without a teacher."""
    values = mining.config(data, static_model, **sections)
    mined = raymine.mine(make_config({k: v for k, v in values.items() if v is not None}), str(tmp_path))
    auditor.check_tables(Path(mined.path), tmp_path)
    for name in values["write"]["formats"]:
        auditor.check_format(Path(mined.path) / "shards" / name, name, values["write"].get("scores", False))


def test_common_terms_are_pruned_by_the_search_alone(data: Path, tmp_path: Path) -> None:
    """With retrieve.bm25.max_df only the search is done anew; its ranks are those of the queries without the terms."""
    values = mining.config(data, "unused", write={"formats": ["triplet"]}, select={"sample": {"n": 3}})
    del values["embed"]
    values["retrieve"] = {"bm25": {"k": 20}}
    whole = raymine.mine(make_config(values), str(tmp_path / "workspace"))
    values["retrieve"] = {"bm25": {"k": 20, "max_df": 0.3}}
    pruned = raymine.mine(make_config(values), str(tmp_path / "workspace"))
    steps = {cost.step for cost in pruned.cost if cost.tasks}
    assert "search_bm25" in steps and not steps & {"query_terms", "tokenize_documents", "bm25_statistics"}
    texts = [f"{row['title']} {row['text']}" for row in json_lines(data / "corpus.jsonl")]
    words = [set(text.lower().split()) for text in texts]
    queries = json_lines(data / "queries.jsonl")
    for query in queries:
        asked = query["text"].split()
        rare = [word for word in asked if sum(word.lower() in of for of in words) <= 0.3 * len(words)]
        query["text"] = " ".join([*rare, "the"])  # a stop word, for a query must have a text
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    values["queries"]["path"] = str(tmp_path / "queries.jsonl")
    values["retrieve"] = {"bm25": {"k": 20}}
    rewritten = raymine.mine(make_config(values), str(tmp_path / "rewritten"))
    assert bm25_ranks(pruned) == bm25_ranks(rewritten) != bm25_ranks(whole)


def bm25_ranks(found: raymine.Round) -> dict[tuple[int, int], int]:
    rows = found.verdicts().to_table().to_pylist()
    return {(row["query_row"], row["doc_row"]): row["bm25_rank"] for row in rows}


def test_an_imported_run_is_a_source(data: Path, auditor: Auditor, tmp_path: Path) -> None:
    """A TREC run alone: its ranks follow its scores, and only its documents (and the positives) are candidates."""
    lines = [f"q{q} Q0 d{(q * 7 + 13 * i) % 240} 0 {(i * 37) % 20}.5 tag" for q in range(60) for i in range(20)]
    (tmp_path / "run.trec").write_text("\n".join(lines) + "\n")
    values = mining.config(data, "unused", write={"formats": ["triplet"]}, select={"sample": {"n": 3}})
    values["retrieve"] = {"run": {"path": str(tmp_path / "run.trec"), "k": 10}}
    del values["embed"]
    mined = raymine.mine(make_config(values), str(tmp_path / "workspace"))
    auditor.check_tables(Path(mined.path), Path(mined.workspace))
    auditor.check_format(Path(mined.path) / "shards" / "triplet", "triplet", scores=False)
    table = mined.verdicts().to_table().to_pylist()
    ranked = [row for row in table if row["run_rank"] is not None]
    assert {row["run_rank"] for row in ranked} == set(range(10))
    assert all(row["run_rank"] is not None or row["relevance"] for row in table)
    for query in {row["query_row"] for row in ranked}:
        scores = [
            row["run_score"] for row in sorted(ranked, key=lambda row: row["run_rank"]) if row["query_row"] == query
        ]
        assert scores == sorted(scores, reverse=True) and scores[0] == 19.5


def test_vectors_without_texts_are_mined(tmp_path: Path) -> None:
    """Images or products: .npy files and judgements by row number; scores are numpy's."""
    draw = np.random.default_rng(0)
    documents, queries = draw.standard_normal((90, 8), np.float32), draw.standard_normal((12, 8), np.float32)
    np.save(tmp_path / "documents.npy", documents)
    np.save(tmp_path / "queries.npy", queries)
    lines = ["query-id\tcorpus-id\tscore", *(f"{i}\t{i * 3}\t1" for i in range(12))]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines) + "\n")
    config = make_config(
        {
            "corpus": {"vectors": str(tmp_path / "documents.npy"), "shard_documents": 40},
            "queries": {"vectors": str(tmp_path / "queries.npy"), "block_queries": 5},
            "positives": {"path": str(tmp_path / "qrels.tsv")},
            "embed": {"similarity": "dot", "store": "float32"},
            "retrieve": {"dense": {"k": 6}},
            "select": {"sample": {"n": 4}},
        }
    )
    mined = raymine.mine(config, str(tmp_path / "workspace"))
    scores = queries.astype(np.float64) @ documents.T.astype(np.float64)
    negatives = mined.negatives().to_pylist()
    for query in range(12):
        expected = [doc for doc in np.argsort(-scores[query])[:6].tolist() if doc != query * 3][:4]
        found = sorted((row for row in negatives if row["query_row"] == query), key=lambda row: row["slot"])
        assert [row["doc_row"] for row in found] == expected
        assert [row["dense_score"] for row in found] == pytest.approx(scores[query][expected].tolist(), rel=1e-6)


def test_one_file_of_questions_and_answers_is_enough(tmp_path: Path, static_model: str) -> None:
    """Several answers of one question are pooled: none is a negative of it, though each is on a row of its own."""
    rows = [
        {"q": f"question {i % 15} heart valve", "a": f"answer {i} protein sodium {'star ' * (i % 4)}"}
        for i in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config(
        {
            "positives": {"path": str(tmp_path / "pairs.jsonl"), "query_column": "q", "positive_column": "a"},
            "embed": {"model": static_model},
            "retrieve": {"dense": {"k": 30}},
            "select": {"sample": {"n": 5}},
        }
    )
    mined = raymine.mine(config, str(tmp_path / "workspace"))
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row["q"], set()).add(row["a"])
    triplets = mined.training_set("triplet").to_list()
    assert len(triplets) == 40 * 5
    for row in triplets:
        assert row["positive"] in answers[row["anchor"]] and row["negative"] not in answers[row["anchor"]]
