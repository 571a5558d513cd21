"""Any CrossEncoder with one label gives the scores that its own predict gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from sentence_transformers import CrossEncoder

from raymine.config import RescoreConfig
from raymine.errors import ConfigError
from raymine.rescore import CrossEncoderTeacher, check
from raymine.rescore.cross_encoder import cut_texts

PAIRS = list(zip(tiny_models.texts(80, seed=2, longest=8), tiny_models.texts(80, seed=3, longest=90), strict=True))


def scored(config: RescoreConfig) -> np.ndarray:
    teacher = CrossEncoderTeacher(config)
    return teacher.score(teacher.tokenize(PAIRS))[0]


def test_raw_scores_are_the_logits(cross_encoder_model: str) -> None:
    """Whatever the batches: predict with the identity as activation."""
    expected = CrossEncoder(cross_encoder_model, device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    for batch_tokens in (1, 300, 16384):
        made = scored(RescoreConfig(model=cross_encoder_model, batch_tokens=batch_tokens))
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, expected, atol=1e-5)
    assert np.abs(expected).max() > 1  # and not a probability


def test_the_models_own_activation_is_kept_where_asked_for(cross_encoder_model: str) -> None:
    """A CrossEncoder with one label squashes by a sigmoid unless it says otherwise."""
    made = scored(RescoreConfig(model=cross_encoder_model, activation="model"))
    np.testing.assert_allclose(made, CrossEncoder(cross_encoder_model, device="cpu").predict(PAIRS), atol=1e-5)
    assert (made > 0).all() and (made < 1).all()


def test_raw_scores_keep_their_order_where_a_sigmoid_is_one() -> None:
    """Two logits that float32 probabilities cannot tell apart: why raw is the default."""
    logits = torch.tensor([18.0, 20.0])
    assert len(set(torch.sigmoid(logits).tolist())) == 1


def test_max_length_cuts_as_predict_does(cross_encoder_model: str) -> None:
    """The longer text of a pair is cut first."""
    made = scored(RescoreConfig(model=cross_encoder_model, max_length=20))
    model = CrossEncoder(cross_encoder_model, device="cpu", max_length=20)
    np.testing.assert_allclose(made, model.predict(PAIRS, activation_fn=torch.nn.Identity()), atol=1e-5)
    assert np.abs(made - scored(RescoreConfig(model=cross_encoder_model))).max() > 0.01


def test_a_saved_cross_encoder_with_a_prompt(tmp_path: Path, cross_encoder_model: str) -> None:
    """As sentence-transformers saves it, with modules.json, an activation and a default prompt."""
    model = CrossEncoder(cross_encoder_model, device="cpu", activation_fn=torch.nn.Tanh())
    model.prompts, model.default_prompt_name = {"rank": "graph theory: "}, "rank"
    model.save_pretrained(str(tmp_path / "made"))
    expected = CrossEncoder(str(tmp_path / "made"), device="cpu").predict(PAIRS)
    config = RescoreConfig(model=str(tmp_path / "made"), activation="model")
    check(config)
    np.testing.assert_allclose(scored(config), expected, atol=1e-5)
    assert expected.min() < 0  # the tanh was saved and found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computing_in_half_precision_is_close(cross_encoder_model: str, dtype: Any) -> None:
    """Half precision keeps the scores' order nearly as it was, and the scores are float32."""
    made = scored(RescoreConfig(model=cross_encoder_model, dtype=dtype))
    assert made.dtype == np.float32
    assert np.corrcoef(made, scored(RescoreConfig(model=cross_encoder_model)))[0, 1] > 0.99


def test_two_labels_are_refused(tmp_path: Path) -> None:
    """Before it is loaded, and when it is."""
    folder = tiny_models.save_cross_encoder(str(tmp_path), num_labels=3)
    for attempt in (check, CrossEncoderTeacher):
        with pytest.raises(ConfigError, match="one score per pair") as error:
            attempt(RescoreConfig(model=folder))
        assert error.value.got == "3 labels"
    # transformers does not write the labels of a model with two, its default.
    folder = tiny_models.save_cross_encoder(str(tmp_path / "two"), num_labels=2)
    with pytest.raises(ConfigError, match="one score per pair"):
        check(RescoreConfig(model=folder))


def test_a_model_without_a_trained_classifier_is_refused(tmp_path: Path, cross_encoder_model: str) -> None:
    """An encoder loads as a CrossEncoder with random scores: only its config tells."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    facts = json.loads((Path(cross_encoder_model) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "architectures": ["BertModel"]}))
    with pytest.raises(ConfigError, match="not a cross-encoder") as error:
        check(RescoreConfig(model=str(folder)))
    assert "BertModel" in error.value.got


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    """An empty folder is no saved model."""
    with pytest.raises(ConfigError, match="not a saved model"):
        check(RescoreConfig(model=str(tmp_path)))


def test_a_good_model_passes_the_check_without_being_loaded(cross_encoder_model: str, tmp_path: Path) -> None:
    """The check reads config.json and nothing else: it passes where the weights are missing."""
    (tmp_path / "config.json").write_bytes((Path(cross_encoder_model) / "config.json").read_bytes())
    check(RescoreConfig(model=str(tmp_path)))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        CrossEncoderTeacher(RescoreConfig(model=str(tmp_path)))


@pytest.mark.parametrize("num_pairs", [1, 5, 6, 7, 9, 11, 40])
def test_scoring_is_the_same_with_any_number_of_threads(
    cross_encoder_model: str, monkeypatch: pytest.MonkeyPatch, num_pairs: int
) -> None:
    """One bit of difference would make a shard's bytes depend on the machine's size.

    The bug: a last batch of 5 to 7 pairs went through a matrix product that two threads sum in another order than one.
    """
    teacher = CrossEncoderTeacher(RescoreConfig(model=cross_encoder_model))
    before, pairs = torch.get_num_threads(), (PAIRS * 40)[:num_pairs]
    made = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            monkeypatch.setenv("OMP_NUM_THREADS", str(count))
            made.append(teacher.score(teacher.tokenize(pairs))[0].tobytes())
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


def test_texts_far_longer_than_the_model_reads_are_cut_without_a_trace(cross_encoder_model: str) -> None:
    """The bug: a tokenizer keeps every combination of what it cut off both texts; 30,000 such pairs took 9 GB.

    Cut before, the scores are `predict`'s to the bit of rounding, and the cut texts are beginnings of the texts.
    """
    texts = [" ".join(tiny_models.texts(30, seed)) for seed in range(6)]
    pairs = [(texts[i][: 20 + 400 * i], texts[j]) for i in range(6) for j in range(6)]
    teacher = CrossEncoderTeacher(RescoreConfig(model=cross_encoder_model, max_length=16))
    scores, _ = teacher.score(teacher.tokenize(pairs))
    model = CrossEncoder(cross_encoder_model, max_length=16, device="cpu")
    expected = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    cut = cut_texts(texts, model.tokenizer, 16)
    assert set(cut) == set(texts)
    assert all(text.startswith(short) and len(short) < len(text) / 5 for text, short in cut.items())


def test_two_calls_at_once_do_not_disturb_each_other(cross_encoder_model: str) -> None:
    """The bug: cutting texts set the tokenizer's truncation while another call was padding a batch."""
    from concurrent.futures import ThreadPoolExecutor

    texts = [" ".join(tiny_models.texts(20, seed)) for seed in range(8)]
    pairs = [(tiny_models.texts(1, seed)[0], texts[seed % 8]) for seed in range(200)]
    teacher = CrossEncoderTeacher(RescoreConfig(model=cross_encoder_model, max_length=24))
    expected, _ = teacher.score(teacher.tokenize(pairs))
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: teacher.score(teacher.tokenize(pairs))[0], range(12)):
            np.testing.assert_array_equal(scores, expected)
