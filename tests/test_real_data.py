"""Real sets (scifact, squad) mined through both executors, audited by code that shares nothing with the engine.

The sets are read from the folder in RAYMINE_DATA, else from `shared/data` beside the checkout; without them these tests
are skipped. The embedder is a real one (token vectors over a WordPiece tokenizer of the set), its weights drawn and not
trained: what is tested is that its scores come out right, not that they are good. squad takes minutes, so it is in
`make test-slow`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import mining
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models
from auditor import Auditor

import raymine
from raymine.config_file import make_config

DATA = Path(os.environ.get("RAYMINE_DATA", Path(__file__).parents[2] / "shared" / "data"))
FORMATS = ["triplet", "n-tuple", "flagembedding"]
EXECUTORS = ["local", "ray"]
K_DENSE, K_BM25 = 12, 12
SETS = {"scifact": {"rescore": True, "method": "lucene"}, "squad": {"rescore": False, "method": "okapi"}}


def qrels(name: str, split: str) -> Path:
    folder = DATA / name / "qrels"
    return next(path for path in (folder / f"{split}.tsv", folder / f"{split}.tsv.gz") if path.exists())


class Mined:
    """One set, mined by both executors from one config."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.auditor = Auditor(DATA / name, qrels(name, "train"), [qrels(name, "test")])
        self.model = tiny_models.save_static(
            str(folder / "model"), dim=64, corpus=list(self.auditor.documents.values())
        )
        self.teacher = tiny_models.save_cross_encoder(
            str(folder / "teacher"), corpus=list(self.auditor.documents.values())
        )
        self.config = mining.write_config(folder / "mine.yaml", self._config())
        for executor in EXECUTORS:
            self._mine(executor)

    def _config(self) -> dict[str, Any]:
        facts = SETS[self.name]
        values: dict[str, Any] = {
            "corpus": {"path": str(DATA / self.name), "shard_documents": 2048 if self.name == "scifact" else 8192},
            "queries": {"path": str(DATA / self.name)},
            "positives": {"path": str(qrels(self.name, "train"))},
            "exclude": [str(qrels(self.name, "test"))],
            "embed": {"model": self.model, "store": "float32"},
            "resources": {"memory_gb": 0.01},
            "retrieve": {
                "dense": {"k": K_DENSE},
                "bm25": {"k": K_BM25, "method": facts["method"]},
                "random": {"k": 3},
            },
            "select": {
                "filters": [{"kind": "max_relative_score", "of_positive": 0.95}, {"kind": "skip_top", "n": 1}],
                "sample": {"n": 4},
            },
            "write": {"formats": FORMATS, "scores": True},
        }
        if facts["rescore"]:
            values["rescore"] = {"model": self.teacher, "max_length": 64}
        return values

    def _mine(self, executor: str) -> None:
        command = [
            sys.executable,
            "-m",
            "raymine",
            "mine",
            str(self.config),
            "--workspace",
            str(self.workspace(executor)),
        ]
        done = subprocess.run([*command, "--executor", executor], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr

    def workspace(self, executor: str) -> Path:
        return self.folder / executor

    def round(self, executor: str) -> Path:
        return self.workspace(executor) / "rounds" / "0001"


@pytest.fixture(scope="module", params=["scifact", pytest.param("squad", marks=pytest.mark.slow)])
def mined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not (DATA / request.param).is_dir():
        pytest.skip(f"no {request.param} in {DATA}: set RAYMINE_DATA to the folder of the sets")
    folder = tmp_path_factory.mktemp(request.param)
    yield Mined(request.param, folder)
    shutil.rmtree(folder)


def test_both_executors_give_the_same_bytes(mined: Mined) -> None:
    """Every verdict, negative and shard."""
    found = mining.bytes_of_round(mined.round("local"))
    assert found == mining.bytes_of_round(mined.round("ray")) and len(found) > 5


def test_the_shards_are_clean(mined: Mined) -> None:
    """Every row of every format, every verdict and every negative, on the input; all executors have its bytes."""
    executor = "ray"
    counts = mined.auditor.check_tables(mined.round(executor), mined.workspace(executor))
    assert counts["negatives"] > 3 * len(mined.auditor.positives)
    for name in FORMATS:
        assert mined.auditor.check_format(mined.round(executor) / "shards" / name, name, scores=True)["rows"] > 500


def test_dense_scores_and_ranks_are_those_of_numpy(mined: Mined) -> None:
    """Candidates' scores against the whole matrix of a sample of queries; the top k against its sort."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(mined.model, device="cpu")
    table, query_ids, doc_ids = _verdicts(mined, every=200)
    documents = model.encode_document([mined.auditor.documents[name] for name in doc_ids], normalize_embeddings=True)
    for rows in table:
        query = model.encode_query([mined.auditor.queries[query_ids[rows[0]["query_row"]]]], normalize_embeddings=True)[
            0
        ]
        scores = documents.astype(np.float64) @ query.astype(np.float64)
        for row in rows:
            assert row["dense_score"] == pytest.approx(scores[row["doc_row"]], abs=1e-5)
        ranked = sorted((row for row in rows if row["dense_rank"] is not None), key=lambda row: row["dense_rank"])
        assert [row["dense_rank"] for row in ranked] == list(range(K_DENSE))
        best = np.sort(scores)[::-1][:K_DENSE]
        assert [row["dense_score"] for row in ranked] == pytest.approx(best.tolist(), abs=1e-5)


def test_bm25_is_that_of_one_unsharded_index(mined: Mined) -> None:
    """scifact: bm25s itself over the whole corpus; squad: rank-bm25's BM25Okapi, over the same words."""
    import bm25s

    table, query_ids, doc_ids = _verdicts(mined, every=800)
    texts = [mined.auditor.documents[name] for name in doc_ids]
    words = bm25s.tokenize(texts, return_ids=False, show_progress=False)
    queries = [mined.auditor.queries[query_ids[rows[0]["query_row"]]] for rows in table]
    asked = bm25s.tokenize(queries, return_ids=False, show_progress=False)
    if SETS[mined.name]["method"] == "okapi":
        from rank_bm25 import BM25Okapi

        okapi = BM25Okapi(words)
        scores = [okapi.get_scores(terms) for terms in asked]
    else:
        index = bm25s.BM25(method="lucene")
        index.index(words, show_progress=False)
        scores = [index.get_scores(terms) for terms in asked]
    for rows, expected in zip(table, scores, strict=True):
        ranked = sorted((row for row in rows if row["bm25_rank"] is not None), key=lambda row: row["bm25_rank"])
        order = sorted((int(doc) for doc in np.flatnonzero(expected > 0)), key=lambda doc: (-expected[doc], doc))
        best = [expected[doc] for doc in order[:K_BM25]]
        assert [row["bm25_score"] for row in ranked] == pytest.approx(best, rel=1e-5)
        assert all(expected[row["doc_row"]] == pytest.approx(row["bm25_score"], rel=1e-5) for row in ranked)


def _verdicts(mined: Mined, every: int) -> tuple[list[list[dict[str, Any]]], list[str], list[str]]:
    """Verdicts of every n-th query, with the ids of queries and documents by row."""
    facts = json.loads((mined.round("local") / "round.json").read_text())

    def ids(table: str, column: str) -> list[str]:
        files = [mined.workspace("local") / shard["path"] for shard in facts["tables"][table]]
        return [name for file in files for name in pq.read_table(file)[column].to_pylist()]

    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((mined.round("local") / "verdicts").iterdir()):
        table = pq.read_table(path)
        keep = table["query_row"].to_numpy() % every == 0
        for row in table.filter(keep).to_pylist():
            grouped[row["query_row"]].append(row)
    return [grouped[row] for row in sorted(grouped)], ids("queries", "query_id"), ids("corpus", "doc_id")


def test_scifact_bm25_is_as_good_as_published(tmp_path: Path) -> None:
    """nDCG@10 of the candidates' BM25 ranks on the test queries, as Anserini sets it: its flat index has 0.679."""
    if not (DATA / "scifact").is_dir():
        pytest.skip(f"no scifact in {DATA}")
    config = make_config(
        {
            "corpus": {"path": str(DATA / "scifact")},
            "queries": {"path": str(DATA / "scifact")},
            "positives": {"path": str(qrels("scifact", "test"))},
            "retrieve": {"bm25": {"k": 10, "k1": 0.9, "b": 0.4, "stemmer": "english"}},
            "write": {"formats": ["triplet"]},
        }
    )
    rows = raymine.mine(config, str(tmp_path)).verdicts().to_table().to_pylist()
    gains: dict[int, float] = defaultdict(float)
    ideals: dict[int, int] = defaultdict(int)
    for row in rows:
        ideals[row["query_row"]] += bool(row["relevance"])
        if row["relevance"] and row["bm25_rank"] is not None:
            gains[row["query_row"]] += 1 / np.log2(2 + row["bm25_rank"])
    ndcg = [gains[q] / sum(1 / np.log2(2 + i) for i in range(min(n, 10))) for q, n in ideals.items()]
    assert float(np.mean(ndcg)) == pytest.approx(0.679, abs=0.005)


def test_the_auditor_notices(tmp_path: Path) -> None:
    """The auditor itself: a positive's twin among the negatives, or an unknown text, does not pass."""
    data = mining.write_beir(tmp_path / "data")
    auditor = Auditor(data, data / "qrels" / "train.tsv", [])
    query, positives = next(iter(auditor.positives.items()))
    positive = auditor.documents[next(iter(positives))]
    other = next(
        text for name, text in auditor.documents.items() if name not in positives and text and text != positive
    )
    auditor.check_negative(auditor.queries[query], positive, [other])
    for wrong in ([positive], [positive.upper() + " "], ["no such text"], [other, other], [""]):
        with pytest.raises(AssertionError):
            auditor.check_negative(auditor.queries[query], positive, wrong)
