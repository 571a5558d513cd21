"""Embedding a shard: which rows get vectors, what is recorded, and that nothing depends on who runs it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
from sentence_transformers import SentenceTransformer

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.batching import Tokens
from raymine.config import EmbedConfig
from raymine.embed import EmbedShard
from raymine.embed.stage import Embedded, embed_tokens, tokenize_texts


class LetterEncoder:
    """An encoder whose vector is (letters, number of a's); a text is cut at 5 letters."""

    dim, device, max_length, normalized, prompt = 2, "cpu", 5, False, ""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        lengths = np.array([min(5, len(text)) for text in texts])
        return Tokens(lengths, lambda: iter([(np.arange(len(texts)), {"texts": texts})]))

    def restored(self, table: pa.Table) -> Tokens:
        raise NotImplementedError

    def encode(self, tokens: Tokens) -> tuple[np.ndarray, float]:
        (_, features), *_ = tokens.batches()
        vectors = [[float(len(text)), 1e6 if text == "huge" else float(text.count("a"))] for text in features["texts"]]
        return np.array(vectors, dtype=np.float32), 0.25


def embed_texts(texts: list[str], encoder: LetterEncoder, store: str) -> Embedded:
    return embed_tokens(tokenize_texts(pa.chunked_array([texts]), encoder), encoder, store)


def test_empty_texts_get_no_row() -> None:
    """Rows keep their position in the shard; blank counts as empty."""
    made = embed_texts(["banana", "", " \n", "cat"], LetterEncoder(), "float16")
    assert made.table.schema.equals(schemas.embeddings(2, "float16"))
    assert made.table["row"].to_pylist() == [0, 3]
    assert made.table["vector"].to_pylist() == [[6.0, 3.0], [3.0, 1.0]]
    assert (made.num_tokens, made.num_truncated, made.device_s) == (8, 1, 0.25)


def test_a_shard_of_empty_texts_has_no_rows() -> None:
    """Nothing is run, and the table still has the model's dimension."""
    made = embed_texts(["", " "], LetterEncoder(), "float32")
    assert made.table.num_rows == 0
    assert made.table.schema.equals(schemas.embeddings(2, "float32"))


def test_what_float16_cannot_hold_is_found() -> None:
    """A million is finite in float32 and infinite in float16."""
    assert embed_texts(["ok", "", "huge"], LetterEncoder(), "float16").non_finite == [2]
    assert embed_texts(["ok", "", "huge"], LetterEncoder(), "float32").non_finite == []


def corpus(folder: Path, texts: Sequence[str | None], name: str = "corpus") -> str:
    path = str(folder / f"{name}.parquet")
    storage.write_table(path, schemas.corpus_table([f"doc-{i}" for i in range(len(texts))], texts))
    return path


def embed(config: EmbedConfig, side: str, table: str, output: Path) -> Record:
    stage = EmbedShard(config, side, "fingerprint-1")  # type: ignore[arg-type]
    return stage(Task("key", {"table": table}, str(output)))


@pytest.mark.parametrize(("store", "atol"), [("float16", 1e-3), ("float32", 1e-5)])
def test_a_document_shard_is_embedded_as_the_model_would(
    bert_model: str, tmp_path: Path, store: str, atol: float
) -> None:
    """Vectors equal encode_document's; the record counts texts, tokens and cuts; the file says what it holds."""
    texts = ["", *tiny_models.texts(60, longest=120)]
    config = EmbedConfig(model=bert_model, store=store, similarity="cosine")  # type: ignore[arg-type]
    record = embed(config, "document", corpus(tmp_path, texts), tmp_path / "out")
    table = storage.read_arrow(str(tmp_path / "out.arrow"))
    model = SentenceTransformer(bert_model, device="cpu")
    expected = model.encode_document(texts[1:], normalize_embeddings=True)
    np.testing.assert_allclose(schemas.vector_matrix(table["vector"]), expected, atol=atol)
    assert table["row"].to_pylist() == list(range(1, 61))
    assert table.schema.remove_metadata().equals(schemas.embeddings(32, store))
    assert table.schema.metadata == {
        b"num_rows": b"60",
        b"model": b"fingerprint-1",
        b"dim": b"32",
        b"normalized": b"true",
        b"prompt": b"search document: ",
    }
    lengths = [len(model.tokenizer("search document: " + text).input_ids) for text in texts[1:]]
    assert record.tokens == sum(min(64, length) for length in lengths)
    assert record.info == {"num_truncated": sum(length >= 64 for length in lengths)}
    assert (record.rows_in, record.rows_out, record.device) == (61, 60, "cpu")
    assert record.device_s > 0
    assert [shard.num_rows for shard in record.outputs] == [60]


def test_a_query_block_is_embedded_with_the_query_prompt(bert_model: str, tmp_path: Path) -> None:
    """Queries come from their own table, and as the model's queries."""
    texts = tiny_models.texts(10)
    path = str(tmp_path / "queries.parquet")
    storage.write_table(path, schemas.query_table([f"q{i}" for i in range(10)], texts))
    embed(EmbedConfig(model=bert_model, store="float32"), "query", path, tmp_path / "out")
    vectors = schemas.vector_matrix(storage.read_arrow(str(tmp_path / "out.arrow"))["vector"])
    expected = SentenceTransformer(bert_model, device="cpu").encode_query(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_vector_that_is_not_finite_names_its_document(tmp_path: Path) -> None:
    """A broken checkpoint is the user's fault, with the document that shows it; no output is written."""
    folder = tiny_models.save_static(str(tmp_path / "model"), similarity="dot")
    model = SentenceTransformer(folder, device="cpu")
    token = model[0].tokenizer.token_to_id("quantum")
    model[0].embedding.weight.data[token] = float("nan")
    model.save(folder)
    record = embed(EmbedConfig(model=folder), "document", corpus(tmp_path, ["heart", "quantum"]), tmp_path / "out")
    assert len(record.problems) == 1
    assert record.problems[0].startswith("document 'doc-1': the model's vector is not finite in float16")
    assert not (tmp_path / "out.parquet").exists()


def test_a_document_without_text_is_named(static_model: str, tmp_path: Path) -> None:
    """A model cannot embed what has only a vector."""
    record = embed(EmbedConfig(model=static_model), "document", corpus(tmp_path, ["heart", None]), tmp_path / "out")
    assert record.problems == ["document 'doc-1' has no text to embed"]


@pytest.mark.parametrize("model", ["static_model", "bert_model"])
def test_bytes_do_not_depend_on_what_else_a_worker_does(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Six shards, one after the other, backwards, and two in flight in threads: the same files."""
    config = EmbedConfig(model=request.getfixturevalue(model), batch_tokens=256)
    paths = [corpus(tmp_path, tiny_models.texts(40, seed=seed), f"shard-{seed}") for seed in range(6)]

    def digests(order: Sequence[int], threads: int, name: str) -> dict[int, str]:
        stage = EmbedShard(config, "document", "x")

        def run(number: int) -> str:
            task = Task(f"{number}", {"table": paths[number]}, str(tmp_path / f"{name}-{number}"))
            return stage(task).outputs[0].sha256

        with ThreadPoolExecutor(threads) as pool:
            return dict(zip(order, pool.map(run, order), strict=True))

    first = digests(range(6), 1, "first")
    assert digests(range(5, -1, -1), 1, "backwards") == first
    assert digests(range(6), EmbedShard.calls_in_flight, "overlapping") == first


def test_one_shard_is_tokenised_while_another_is_encoded(bert_model: str, tmp_path: Path) -> None:
    """While a call holds the device, the next one reads and tokenises, and only then waits."""
    stage = EmbedShard(EmbedConfig(model=bert_model), "document", "x")
    both_tokenized = threading.Event()
    num_tokenized = 0
    tokenize, encode = stage.encoder.tokenize, stage.encoder.encode

    def counted_tokenize(texts: Sequence[str]) -> Tokens:
        nonlocal num_tokenized
        tokens = tokenize(texts)
        num_tokenized += 1
        if num_tokenized == 2:
            both_tokenized.set()
        return tokens

    def patient_encode(tokens: Tokens) -> tuple[np.ndarray, float]:
        with stage.encoder._runner._running:  # type: ignore[attr-defined]  # as if the device were busy
            assert both_tokenized.wait(timeout=60)
        return encode(tokens)

    stage.encoder.tokenize, stage.encoder.encode = counted_tokenize, patient_encode  # type: ignore[method-assign]
    path = corpus(tmp_path, tiny_models.texts(10))
    with ThreadPoolExecutor(2) as pool:
        tasks = [Task(str(i), {"table": path}, str(tmp_path / f"out-{i}")) for i in range(2)]
        records = list(pool.map(stage, tasks))
    assert [record.rows_out for record in records] == [10, 10]


@pytest.mark.parametrize("kind", ["static", "bert"])
def test_kept_tokens_serve_the_next_checkpoint(kind: str, tmp_path: Path) -> None:
    """The second checkpoint's vectors are, bit for bit, those it makes of the texts, which it never reads."""
    save = {"static": tiny_models.save_static, "bert": tiny_models.save_bert}[kind]
    first, second = (EmbedConfig(model=save(str(tmp_path / f"model-{seed}"), seed=seed)) for seed in (0, 1))
    kept, texts = str(tmp_path / "tokens"), ["", *tiny_models.texts(50, longest=120), "  "]
    path = corpus(tmp_path, texts)

    def made(config: EmbedConfig, tokens: str | None, name: str, path: str = path) -> Record:
        stage = EmbedShard(config, "document", "x", tokens)
        return stage(Task("key", {"table": path}, str(tmp_path / name)))

    without = made(second, None, "without")
    assert made(first, kept, "first").cache_hits == 0
    record = made(second, kept, "second", path="no such file")
    assert record.outputs[0].sha256 == without.outputs[0].sha256
    assert (record.cache_hits, record.tokens, record.info) == (50, without.tokens, without.info)
    assert (record.rows_in, record.rows_out) == (52, 50)


def test_faults_of_texts_are_found_though_tokens_are_kept(static_model: str, tmp_path: Path) -> None:
    """A document without text is named each time: its shard's tokens are not kept."""
    path = corpus(tmp_path, ["heart", None])
    for _ in range(2):
        stage = EmbedShard(EmbedConfig(model=static_model), "document", "x", str(tmp_path / "tokens"))
        assert stage(Task("key", {"table": path}, str(tmp_path / "out"))).problems
