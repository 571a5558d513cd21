"""Any sentence-transformers model gives the vectors that its own encode_query and encode_document give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny_models
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)

from raymine import inference
from raymine.config import EmbedConfig
from raymine.embed import describe, static
from raymine.embed.sentence_transformer import SentenceTransformerEncoder, Side
from raymine.embed.static import load_static
from raymine.errors import ConfigError

TEXTS = tiny_models.texts(90, seed=1)
SIDES: tuple[Side, ...] = ("query", "document")


def encoded(config: EmbedConfig, side: Side, texts: list[str] = TEXTS) -> np.ndarray:
    encoder = SentenceTransformerEncoder(config, side)
    return encoder.encode(encoder.tokenize(texts))[0]


def oracle(folder: str, side: Side, texts: list[str] = TEXTS, **options: Any) -> np.ndarray:
    model = SentenceTransformer(folder, device="cpu")
    return np.asarray(getattr(model, f"encode_{side}")(texts, **options))


@pytest.mark.parametrize("side", SIDES)
def test_bert_equals_the_models_own_encoding(bert_model: str, side: Side) -> None:
    """Prompts of the model, dot similarity: the raw vectors, whatever the batches."""
    expected = oracle(bert_model, side)
    for batch_tokens in (1, 200, 16384):
        made = encoded(EmbedConfig(model=bert_model, batch_tokens=batch_tokens), side)
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_static_embedding_equals_the_models_own_encoding(static_model: str, side: Side) -> None:
    """A model without a transformer: cosine by default, so the vectors have length 1."""
    made = encoded(EmbedConfig(model=static_model, batch_tokens=200), side)
    np.testing.assert_allclose(made, oracle(static_model, side, normalize_embeddings=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


def saved_static(folder: Path, *more: Any, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    """A static model of words' vectors with modules after it, as sentence-transformers saves it."""
    draw = torch.Generator().manual_seed(3)
    tokenizer = tiny_models.wordpiece()
    weights = torch.randn(tokenizer.get_vocab_size(), 24, generator=draw).to(dtype)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights), *more], **options)
    model.save(str(folder))
    return str(folder)


@pytest.mark.parametrize("name", ["plain", "normalized", "half", "prompts", "model2vec"])
def test_a_static_model_is_read_without_sentence_transformers(tmp_path: Path, name: str) -> None:
    """And has the same vectors to the bit, prompts and similarity, in either number format."""
    options = {"prompts": {"query": "heart graph: ", "title": "t"}, "similarity_fn_name": "dot"}
    folder = saved_static(
        tmp_path,
        *([Normalize()] if name in ("normalized", "model2vec") else []),
        dtype=torch.float16 if name == "half" else torch.float32,
        **(options if name == "prompts" else {}),
    )
    if name == "model2vec":
        weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
        safetensors.torch.save_file({"embeddings": weights["embedding.weight"]}, tmp_path / "model.safetensors")
    ours, own = load_static(folder), SentenceTransformer(folder, device="cpu")
    assert ours is not None and type(own[0]) is StaticEmbedding
    assert (ours.prompts, ours.default_prompt_name) == (own.prompts, own.default_prompt_name)
    assert ours.similarity_fn_name == own.similarity_fn_name == ("dot" if name == "prompts" else "cosine")
    for side in SIDES:
        features = own[0].preprocess(TEXTS, prompt=ours.prompts[side])
        expected = own(dict(features))["sentence_embedding"]
        assert (
            torch.equal(ours(features)["sentence_embedding"], expected)
            and expected.dtype == ours.embedding.weight.dtype
        )
        made = encoded(EmbedConfig(model=folder), side)
        np.testing.assert_allclose(made, oracle(folder, side, normalize_embeddings=name != "prompts"), atol=1e-3)


def test_reading_a_static_model_imports_no_sentence_transformers(static_model: str) -> None:
    """Its import takes longer than a small round."""
    script = (
        "import sys; from raymine.config import EmbedConfig; from raymine.embed import describe;"
        f"print(describe(EmbedConfig(model={static_model!r}))['dim'], 'sentence_transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["16", "False"]


def test_the_weights_of_other_models_are_not_read_twice(bert_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be large: what a model is made of is looked at first."""
    read: list[Any] = []
    monkeypatch.setattr(static, "load_file", read.append)
    assert load_static(bert_model) is None and read == []


@pytest.mark.parametrize("name", ["dense", "pickled", "mapped", "foreign", "default", "missing", "broken"])
def test_a_model_that_is_not_plainly_static_is_left_to_sentence_transformers(tmp_path: Path, name: str) -> None:
    folder = saved_static(tmp_path, *([Dense(24, 8)] if name == "dense" else []))
    weights = tmp_path / "model.safetensors"
    config = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    if name == "pickled":
        torch.save(safetensors.torch.load_file(weights), tmp_path / "pytorch_model.bin")
        weights.unlink()
    elif name == "mapped":
        table = safetensors.torch.load_file(weights)["embedding.weight"]
        mapping = torch.arange(len(table)).flip(0)
        safetensors.torch.save_file({"embeddings": table, "mapping": mapping}, weights)
    elif name in ("foreign", "default"):
        changed = {"model_type": "SparseEncoder"} if name == "foreign" else {"default_prompt_name": "none such"}
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({**config, **changed}))
    elif name == "missing":
        (tmp_path / "tokenizer.json").unlink()
    elif name == "broken":
        weights.write_bytes(b"no weights")
    assert load_static(folder) is None
    if name in ("dense", "pickled", "mapped"):
        np.testing.assert_allclose(
            encoded(EmbedConfig(model=folder), "query"), oracle(folder, "query", normalize_embeddings=True), atol=1e-5
        )
    elif name != "foreign":
        with pytest.raises(ConfigError, match="cannot be loaded"):
            describe(EmbedConfig(model=folder))


def test_batches_on_a_cpu_are_small_unless_there_is_nothing_to_multiply(bert_model: str, static_model: str) -> None:
    """And the config's own number counts, where it has one."""
    sizes = {
        folder: inference.default_batch_tokens(SentenceTransformer(folder, device="cpu"))
        for folder in (bert_model, static_model)
    }
    assert sizes == {bert_model: inference.CPU_BATCH_TOKENS, static_model: inference.BATCH_TOKENS}
    assert (
        inference.Runner(SentenceTransformer(bert_model, device="cpu"), 7, lambda features: features).batch_tokens == 7
    )


@pytest.mark.parametrize("side", SIDES)
def test_a_prompt_may_be_a_text_or_a_name(bert_model: str, static_model: str, side: Side) -> None:
    """The same vectors as with sentence-transformers' `prompt` and `prompt_name`; an empty text is no prompt."""
    for prompt in ("heart graph: ", ""):
        config = EmbedConfig(model=bert_model, **{f"{side}_prompt": prompt})
        np.testing.assert_allclose(encoded(config, side), oracle(bert_model, side, prompt=prompt), atol=1e-5)
    named = EmbedConfig(model=bert_model, **{f"{side}_prompt_name": "query"})
    np.testing.assert_allclose(encoded(named, side), oracle(bert_model, side, prompt_name="query"), atol=1e-5)
    config = EmbedConfig(model=static_model, **{f"{side}_prompt": "heart graph: "})
    expected = oracle(static_model, side, prompt="heart graph: ", normalize_embeddings=True)
    np.testing.assert_allclose(encoded(config, side), expected, atol=1e-5)


@pytest.mark.parametrize(
    "prompts",
    [{"passage": "a passage: "}, {"corpus": "a corpus: ", "passage": "a passage: "}, {"plain": "plain: "}],
    ids=["passage", "passage-before-corpus", "none-of-the-aliases"],
)
@pytest.mark.parametrize("default", [None, "plain"], ids=["no-default", "default"])
def test_the_models_prompts_are_found_as_it_finds_them(
    tmp_path: Path, prompts: dict[str, str], default: str | None
) -> None:
    """encode_document takes document, passage or corpus, in this order; else the default prompt."""
    folder = tiny_models.save_bert(str(tmp_path))
    model = SentenceTransformer(folder, device="cpu")
    model.prompts = {**prompts, "plain": "plain: "}
    model.default_prompt_name = default
    model.save(str(tmp_path / "changed"))
    for side in SIDES:
        made = encoded(EmbedConfig(model=str(tmp_path / "changed"), similarity="dot"), side)
        np.testing.assert_allclose(made, oracle(str(tmp_path / "changed"), side), atol=1e-5)


def test_max_length_cuts_where_the_model_would(bert_model: str, static_model: str) -> None:
    """max_length counts a transformer's special tokens and prompt, as max_seq_length does."""
    model = SentenceTransformer(bert_model, device="cpu")
    model.max_seq_length = 10
    made = encoded(EmbedConfig(model=bert_model, max_length=10), "query")
    np.testing.assert_allclose(made, model.encode_query(TEXTS), atol=1e-5)
    assert np.abs(made - oracle(bert_model, "query")).max() > 0.1

    model = SentenceTransformer(static_model, device="cpu")
    model[0].tokenizer.enable_truncation(4)
    made = encoded(EmbedConfig(model=static_model, max_length=4), "query")
    np.testing.assert_allclose(made, model.encode_query(TEXTS, normalize_embeddings=True), atol=1e-5)
    encoder = SentenceTransformerEncoder(EmbedConfig(model=static_model, max_length=4), "query")
    assert encoder.tokenize(TEXTS).lengths.max() == 4


def test_modules_after_pooling_are_run(tmp_path: Path, bert_model: str) -> None:
    """Dense and Normalize layers, a truncated dimension and a pooling without the prompt change the vectors too."""
    modules = list(SentenceTransformer(bert_model, device="cpu"))
    pooling = Pooling(32, "mean", include_prompt=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense = Dense(32, 12)
    model = SentenceTransformer(modules=[modules[0], pooling, dense, Normalize()], device="cpu", truncate_dim=8)
    model.prompts = {"query": "heart graph: ", "document": ""}
    model.save(str(tmp_path / "made"))
    config = EmbedConfig(model=str(tmp_path / "made"))
    for side in SIDES:
        made = encoded(config, side)
        assert made.shape == (90, 8)
        expected = oracle(config.model or "", side, normalize_embeddings=True, truncate_dim=8)
        np.testing.assert_allclose(made, expected, atol=1e-5)


def test_a_model_with_two_towers_uses_the_sides_own(tmp_path: Path) -> None:
    """A Router sends queries and documents through different modules."""
    towers = {}
    for side, seed in (("query", 1), ("document", 2)):
        folder = tiny_models.save_bert(str(tmp_path / side), seed=seed)
        towers[side] = [Transformer(folder), Pooling(32)]
    router = Router.for_query_document(towers["query"], towers["document"])
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "made"))
    config = EmbedConfig(model=str(tmp_path / "made"), similarity="dot")
    for side in SIDES:
        np.testing.assert_allclose(encoded(config, side), oracle(config.model or "", side), atol=1e-5)
    assert np.abs(encoded(config, "query") - encoded(config, "document")).max() > 0.1


def test_left_padding_is_kept(tmp_path: Path) -> None:
    """Decoder models pad at the left and pool the last token."""
    folder = tiny_models.save_decoder(str(tmp_path))
    assert SentenceTransformer(folder, device="cpu").tokenizer.padding_side == "left"
    config = EmbedConfig(model=folder, similarity="dot", batch_tokens=200)
    np.testing.assert_allclose(encoded(config, "query"), oracle(folder, "query"), atol=1e-5)


def test_a_model_without_tokens_is_run_as_it_is(tmp_path: Path) -> None:
    """A bag of words has no tokens to pad; it is encoded all the same."""
    vocabulary = sorted(set(tiny_models.WORDS.split()))
    SentenceTransformer(modules=[BoW(vocabulary)], device="cpu").save(str(tmp_path / "made"))
    made = encoded(EmbedConfig(model=str(tmp_path / "made"), similarity="dot"), "document")
    np.testing.assert_allclose(made, oracle(str(tmp_path / "made"), "document"), atol=1e-5)


def test_similarity_of_the_config_overrides_the_models(bert_model: str) -> None:
    """The bert model says dot; asked for cosine it gives unit vectors."""
    made = encoded(EmbedConfig(model=bert_model, similarity="cosine"), "query")
    np.testing.assert_allclose(made, oracle(bert_model, "query", normalize_embeddings=True), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computing_in_half_precision_is_close(bert_model: str, static_model: str, dtype: Any) -> None:
    """Half precision keeps two to three digits, and says float32 outside."""
    for folder in (bert_model, static_model):
        config = EmbedConfig(model=folder, similarity="cosine", dtype=dtype)
        made = encoded(config, "query")
        assert made.dtype == np.float32
        similarity = (made * oracle(folder, "query", normalize_embeddings=True)).sum(axis=1)
        assert similarity.min() > 0.999


def test_describe_says_what_the_model_will_do(bert_model: str, static_model: str) -> None:
    """Dimension, similarity, prompts and limit, from the model where the config is silent."""
    assert describe(EmbedConfig(model=bert_model)) == {
        "dim": 32,
        "similarity": "dot",
        "normalized": False,
        "query_prompt": "search query: ",
        "document_prompt": "search document: ",
        "max_length": 64,
    }
    config = EmbedConfig(model=static_model, query_prompt="q: ", max_length=9)
    assert describe(config) == {
        "dim": 16,
        "similarity": "cosine",
        "normalized": True,
        "query_prompt": "q: ",
        "document_prompt": "",
        "max_length": 9,
    }
    assert describe(EmbedConfig(model=static_model))["max_length"] is None


def test_an_unknown_prompt_name_lists_the_models(bert_model: str) -> None:
    """The message names the prompts that the model has."""
    with pytest.raises(ConfigError, match="no such prompt") as error:
        describe(EmbedConfig(model=bert_model, document_prompt_name="passages"))
    assert error.value.got == "passages"
    assert error.value.expected == "one of document, plain, query"


def test_a_distance_is_refused(tmp_path: Path) -> None:
    """Euclidean models need a decision by the user, and the message says which."""
    folder = tiny_models.save_static(str(tmp_path / "made"), similarity="euclidean")
    with pytest.raises(ConfigError, match="euclidean") as error:
        describe(EmbedConfig(model=folder))
    assert "embed.similarity" in error.value.fix
    assert describe(EmbedConfig(model=folder, similarity="dot"))["similarity"] == "dot"


def test_more_tokens_than_positions_is_refused(bert_model: str) -> None:
    """Otherwise the first long text would fail deep inside the model, hours later."""
    with pytest.raises(ConfigError, match="positions") as error:
        describe(EmbedConfig(model=bert_model, max_length=65))
    assert (error.value.got, error.value.expected) == ("65", "at most 64")


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    """A folder without a model, and a name that is neither a folder nor on the hub."""
    (tmp_path / "notes.txt").write_text("nothing here")
    for model in (str(tmp_path), str(tmp_path / "absent")):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            describe(EmbedConfig(model=model))


def test_encoding_is_the_same_with_any_number_of_threads(bert_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of difference would make a shard's bytes depend on the machine's size."""
    encoder = SentenceTransformerEncoder(EmbedConfig(model=bert_model, batch_tokens=200), "query")
    before = torch.get_num_threads()
    made = []
    for count in ("1", "2", "4"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        made.append(encoder.encode(encoder.tokenize(TEXTS))[0].tobytes())
    assert made[0] == made[1] == made[2]
    assert torch.get_num_threads() == before


def test_code_that_comes_with_a_model_is_not_run_unless_asked_for(tmp_path: Path, static_model: str) -> None:
    """A model folder may name a module of its own, which runs at import: refused, with the key that allows it."""
    folder = tmp_path / "model"
    SentenceTransformer(static_model, device="cpu").save(str(folder))
    (folder / "own_code.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'was-run')!r}).touch()\n"
        "from sentence_transformers.sentence_transformer.modules import StaticEmbedding as Own\n"
    )
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "own_code.Own"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="cannot be loaded") as error:
        describe(EmbedConfig(model=str(folder)))
    assert "trust_remote_code: true" in error.value.fix
    assert not (tmp_path / "was-run").exists()
    assert describe(EmbedConfig(model=str(folder), trust_remote_code=True))["dim"] == 16
    assert (tmp_path / "was-run").exists()
