"""The teacher's pass over a shard: scores per pair, by query block; known pairs are never scored again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import torch
from sentence_transformers import CrossEncoder

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.batching import Tokens
from raymine.config import RescoreConfig
from raymine.rescore import Rescore
from raymine.rescore import stage as rescore_stage
from raymine.rescore.stage import score_pairs

BLOCKS = ([0, 4, 10], 15)  # first rows of three query blocks, and the number of queries
FIRST_ROW = 100  # of the second of two document shards
DOCUMENTS = ["", *tiny_models.texts(18, seed=5, longest=60)]
DOCUMENTS.append(DOCUMENTS[3])  # the same text twice
QUERIES = [*tiny_models.texts(14, seed=6, longest=6)]
QUERIES.append(QUERIES[2])


class Workspace:
    """Queries, one document shard and pairs on disk; runs the stage on them.

    The pairs are those of `pairs`: (query row, position in the shard).
    """

    def __init__(self, folder: Path, pairs: Sequence[tuple[int, int]], num_files: int = 2) -> None:
        self.folder, self.pairs = folder, sorted(pairs)
        starts, end = BLOCKS
        self.queries = [str(folder / f"queries-{b}.parquet") for b in range(len(starts))]
        for path, begin, stop in zip(self.queries, starts, [*starts[1:], end], strict=True):
            rows = range(begin, stop)
            storage.write_table(path, schemas.query_table([f"q{i}" for i in rows], [QUERIES[i] for i in rows]))
        self.corpus = str(folder / "corpus.parquet")
        ids = [f"d{i}" for i in range(len(DOCUMENTS))]
        storage.write_table(self.corpus, schemas.corpus_table(ids, DOCUMENTS))
        self.files = [self._write_pairs(pairs[i::num_files], i) for i in range(num_files)]

    def _write_pairs(self, pairs: Sequence[tuple[int, int]], number: int) -> str:
        rows = {"query_row": [query for query, _ in pairs], "doc_row": [FIRST_ROW + doc for _, doc in pairs]}
        other = pa.table({"query_row": [1], "doc_row": [7]}, schema=schemas.PAIRS)
        path = str(self.folder / f"pairs-{number}.arrow")
        storage.write_buckets(path, schemas.PAIRS, [other, pa.table(rows, schema=schemas.PAIRS)])
        return path

    def stage(self, config: RescoreConfig, fingerprint: str = "t1") -> Rescore:
        cache = str(self.folder / "cache" / fingerprint)
        return Rescore(config, fingerprint, self.files, self.queries, BLOCKS[0], cache)

    def task(self, key: str = "k1") -> Task:
        inputs = {"corpus": self.corpus, "first_row": FIRST_ROW, "bucket": 1, "shard_sha256": "abc"}
        return Task(key, inputs, str(self.folder / f"out-{key}"))

    def scores(self, key: str = "k1") -> dict[tuple[int, int], float]:
        path = str(self.folder / f"out-{key}.arrow")
        rows = [row for block in range(3) for row in storage.read_bucket(path, block).to_pylist()]
        return {(row["query_row"], row["doc_row"] - FIRST_ROW): row["teacher_score"] for row in rows}


def every_third() -> list[tuple[int, int]]:
    pairs = [(query, doc) for query in range(BLOCKS[1]) for doc in range(len(DOCUMENTS)) if (query + doc) % 3 == 0]
    return pairs[::-1]


def oracle(folder: str, pairs: Sequence[tuple[int, int]]) -> list[float]:
    texts = [(QUERIES[query], DOCUMENTS[doc]) for query, doc in pairs]
    model = CrossEncoder(folder, device="cpu")
    return model.predict(texts, activation_fn=torch.nn.Identity()).tolist()  # type: ignore[no-any-return]


@pytest.fixture
def config(cross_encoder_model: str) -> RescoreConfig:
    return RescoreConfig(model=cross_encoder_model, batch_tokens=500)


def test_every_pair_gets_the_scores_of_predict(config: RescoreConfig, tmp_path: Path) -> None:
    """The shard's own pairs of all files, empty documents too; sorted, in the bucket of their query's block."""
    workspace = Workspace(tmp_path, every_third())
    record = workspace.stage(config)(workspace.task())
    made = workspace.scores()
    assert list(made) == workspace.pairs
    np.testing.assert_allclose(list(made.values()), oracle(config.model, workspace.pairs), atol=1e-5)
    for block, (begin, end) in enumerate([(0, 4), (4, 10), (10, 15)]):
        rows = storage.read_bucket(record.outputs[0].path, block)
        assert rows.schema.equals(schemas.TEACHER_SCORES)
        assert all(begin <= row < end for row in rows["query_row"].to_pylist())
    assert (record.rows_in, record.rows_out, record.cache_hits) == (len(made), len(made), 0)
    assert record.info == {"activation": "raw"}
    assert record.device == "cpu" and record.device_s > 0


def test_the_models_activation_is_used_and_recorded(config: RescoreConfig, tmp_path: Path) -> None:
    """Asked for `model`, scores are its sigmoid's."""
    workspace = Workspace(tmp_path, [(0, 1), (5, 2), (11, 3)])
    record = workspace.stage(config.model_copy(update={"activation": "model"}))(workspace.task())
    logits = np.array(oracle(config.model, workspace.pairs))
    np.testing.assert_allclose(list(workspace.scores().values()), 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert record.info == {"activation": "model"}


def test_the_same_pair_of_texts_is_scored_once(config: RescoreConfig, tmp_path: Path) -> None:
    """Two queries with one text and two documents with one text: four rows, one pair."""
    twins = [(query, doc) for query in (2, 14) for doc in (3, 19)]
    workspace = Workspace(tmp_path, twins)
    record = workspace.stage(config)(workspace.task())
    single = Workspace(tmp_path / "single", [(2, 3)])
    assert record.tokens == single.stage(config)(single.task()).tokens
    assert set(workspace.scores().values()) == set(single.scores().values())
    assert len(workspace.scores()) == 4


def test_known_pairs_are_not_scored_again(
    config: RescoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second pass is all hits, loads no model, and gives the same bytes."""
    workspace = Workspace(tmp_path, every_third())
    first = workspace.stage(config)(workspace.task("k1"))
    monkeypatch.setattr(rescore_stage, "CrossEncoderTeacher", _never)
    again = workspace.stage(config)(workspace.task("k2"))
    assert again.cache_hits == again.rows_in == first.rows_in
    assert (again.tokens, again.device_s) == (0, 0.0)
    assert again.outputs[0].sha256 == first.outputs[0].sha256
    assert [Path(path).name for path in storage.list_files(str(tmp_path / "cache"))] == ["k1.parquet"]


def _never(config: RescoreConfig) -> Any:
    raise AssertionError("the teacher was loaded")


def test_only_new_pairs_are_scored(config: RescoreConfig, tmp_path: Path) -> None:
    """A later round's pairs: the known ones from the cache (changed here, to see it), the others from the teacher."""
    pairs = every_third()
    before = Workspace(tmp_path, pairs[:30])
    before.stage(config)(before.task("k1"))
    path = str(tmp_path / "cache" / "t1" / "abc" / "k1.parquet")
    table = storage.read_table(path)
    storage.write_table(path, table.set_column(2, table.schema.field(2), pa.array([77.0] * len(table), pa.float32())))
    after = Workspace(tmp_path, pairs[20:60])
    record = after.stage(config)(after.task("k2"))
    made = after.scores("k2")
    known = set(pairs[:30])
    texts = {(QUERIES[query], DOCUMENTS[doc]) for query, doc in known}
    hits = [pair for pair in after.pairs if (QUERIES[pair[0]], DOCUMENTS[pair[1]]) in texts]
    assert record.cache_hits == len(hits) >= 10
    assert all(made[pair] == 77.0 for pair in hits)
    others = [pair for pair in after.pairs if pair not in hits]
    np.testing.assert_allclose([made[pair] for pair in others], oracle(config.model, others), atol=1e-5)


def test_a_task_that_runs_again_keeps_what_its_cache_file_knew(config: RescoreConfig, tmp_path: Path) -> None:
    """Its file is rewritten with more; a regression would forget the first scores."""
    pairs = every_third()
    for count in (10, 30):
        workspace = Workspace(tmp_path, pairs[:count])
        workspace.stage(config)(workspace.task("k1"))
    table = storage.read_table(str(tmp_path / "cache" / "t1" / "abc" / "k1.parquet"))
    assert len(table) == len({(QUERIES[query], DOCUMENTS[doc]) for query, doc in pairs[:30]})


def test_another_teacher_knows_nothing_of_it(config: RescoreConfig, tmp_path: Path) -> None:
    """Its fingerprint names another folder."""
    workspace = Workspace(tmp_path, every_third())
    workspace.stage(config, "t1")(workspace.task())
    assert workspace.stage(config, "t2")(workspace.task("k2")).cache_hits == 0


def test_a_shard_without_pairs_has_an_empty_output(config: RescoreConfig, tmp_path: Path) -> None:
    """Nothing is loaded, and the buckets are all there."""
    workspace = Workspace(tmp_path, [])
    record = workspace.stage(RescoreConfig(model="/no/such/model"))(workspace.task())
    assert [storage.read_bucket(record.outputs[0].path, block).num_rows for block in range(3)] == [0, 0, 0]


class CountingTeacher:
    """A teacher whose score is the document's length; remembers how many pairs came at once."""

    device = "cpu"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        self.calls.append(len(pairs))
        return Tokens(np.ones(len(pairs), np.int64), lambda: iter([(np.arange(len(pairs)), {"pairs": pairs})]))

    def score(self, tokens: Tokens) -> tuple[np.ndarray, float]:
        (_, features), *_ = tokens.batches()
        return np.array([len(document) for _, document in features["pairs"]], np.float32), 0.5


def test_pairs_go_to_the_teacher_in_bounded_chunks() -> None:
    """A shard with millions of pairs is tokenised a chunk at a time, and sums its figures."""
    teacher = CountingTeacher()
    documents = ["x" * i for i in range(10)]
    scored = score_pairs(["q"] * 10, documents, teacher, chunk_pairs=4)
    assert teacher.calls == [4, 4, 2]
    assert scored.scores.tolist() == list(range(10))
    assert (scored.num_tokens, scored.device_s) == (10, 1.5)


class BrokenTeacher(CountingTeacher):
    """Gives no number for the longest document."""

    def score(self, tokens: Tokens) -> tuple[np.ndarray, float]:
        scores, device_s = super().score(tokens)
        scores[scores == max(map(len, DOCUMENTS))] = np.nan
        return scores, device_s


def rescored_by(teacher: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setattr(rescore_stage, "CrossEncoderTeacher", lambda config: teacher)
    return workspace.stage(RescoreConfig(model="any"))(workspace.task())


def test_a_score_that_is_not_finite_names_its_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not cached either, nor is anything written."""
    longest = max(range(len(DOCUMENTS)), key=lambda i: len(DOCUMENTS[i]))
    workspace = Workspace(tmp_path, [(3, 1), (7, longest)])
    record = rescored_by(BrokenTeacher(), workspace, monkeypatch)
    assert record.problems == [f"query 'q7', document 'd{longest}': the teacher's score is not finite"]
    assert not storage.list_files(str(tmp_path / "cache"))
    assert not (tmp_path / "out-k1.arrow").exists()


def test_a_document_without_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher cannot read a vector."""
    workspace = Workspace(tmp_path, [(3, 1)])
    storage.write_table(workspace.corpus, schemas.corpus_table([f"d{i}" for i in range(20)], ["a", None] * 10))
    record = rescored_by(CountingTeacher(), workspace, monkeypatch)
    assert record.problems == ["query 'q3', document 'd1': the teacher needs both texts, and one is missing"]


def test_bytes_do_not_depend_on_what_else_a_worker_does(config: RescoreConfig, tmp_path: Path) -> None:
    """Two shards' tasks in flight at once on one stage: the same files as alone."""
    alone = Workspace(tmp_path / "alone", every_third())
    expected = alone.stage(config)(alone.task()).outputs[0].sha256
    shared = Workspace(tmp_path / "shared", every_third())
    stage = shared.stage(config)
    tasks = [shared.task(f"k{i}") for i in range(4)]
    tasks = [Task(task.key, {**task.inputs, "shard_sha256": task.key}, task.output) for task in tasks]
    with ThreadPoolExecutor(Rescore.calls_in_flight) as pool:
        records = list(pool.map(stage, tasks))
    assert [record.outputs[0].sha256 for record in records] == [expected] * 4
