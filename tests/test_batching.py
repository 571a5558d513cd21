"""Batches of tokens: what goes in comes out once, padded as the tokenizer pads, within the budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymine import batching
from raymine.batching import MAX_BATCH_ROWS, Padding, budgeted, tokenize

PAD = 7


def padded(lengths: list[int], left: bool = False, types: bool = True) -> Any:
    """A preprocess function: text i, of lengths[i] tokens, becomes the ids 1000 i, 1000 i + 1, ..."""

    def preprocess(texts: list[int]) -> dict[str, Any]:
        width = max(lengths[i] for i in texts)
        rows = [_pad(list(range(1000 * i, 1000 * i + lengths[i])), width, PAD, left) for i in texts]
        masks = [_pad([1] * lengths[i], width, 0, left) for i in texts]
        made: dict[str, Any] = {
            "input_ids": torch.tensor(rows),
            "attention_mask": torch.tensor(masks),
            "modality": "text",
        }
        if types:
            made["token_type_ids"] = torch.tensor([_pad([1] * lengths[i], width, 0, left) for i in texts])
        return made

    return preprocess


def _pad(row: list[int], width: int, value: int, left: bool) -> list[int]:
    filler = [value] * (width - len(row))
    return filler + row if left else row + filler


def bag(texts: list[str]) -> dict[str, Any]:
    """A preprocess function of StaticEmbedding's kind: one token per character, none for an empty text."""
    offsets = np.cumsum([0, *(len(text) for text in texts[:-1])])
    ids = torch.tensor([ord(letter) for text in texts for letter in text], dtype=torch.long)
    return {"input_ids": ids, "offsets": torch.tensor(offsets)}


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=200),
    batch_tokens=st.integers(1, 500),
)
def test_budgeted_batches_hold_every_row_once_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    """Rows go longest first, equal ones by position; only a row longer than the budget exceeds it."""
    positions = np.arange(len(lengths))
    batches = list(budgeted(np.array(lengths), positions, batch_tokens))
    order = np.concatenate(batches).tolist()
    assert order == sorted(positions.tolist(), key=lambda row: (-lengths[row], row))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens
        assert len(batch) <= MAX_BATCH_ROWS


def test_budgeted_batches_are_as_large_as_the_budget_allows() -> None:
    """Texts of 3 tokens and a budget of 10: three to a batch."""
    sizes = [len(batch) for batch in budgeted(np.full(8, 3), np.arange(8), 10)]
    assert sizes == [3, 3, 2]


def test_budgeted_batches_have_a_limit_of_rows() -> None:
    """One-token texts do not make batches of ten thousand."""
    sizes = [len(batch) for batch in budgeted(np.ones(2500, np.int64), np.arange(2500), 10**6)]
    assert sizes == [1024, 1024, 452]


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padded_features_are_those_of_the_tokenizer_for_the_same_texts(left: bool) -> None:
    """A batch taken apart and padded anew equals what the tokenizer gives for just these texts."""
    lengths = [3, 9, 1, 9, 4, 12, 2, 5]
    preprocess = padded(lengths, left)
    padding = Padding({"input_ids": PAD, "token_type_ids": 0}, left)
    tokens = tokenize(preprocess, list(range(8)), np.array(lengths) * 5, padding, batch_tokens=20)
    assert tokens.lengths.tolist() == lengths
    assert tokens.num_tokens == sum(lengths)
    seen = []
    for positions, features in tokens.batches():
        expected = preprocess(positions.tolist())
        assert features["modality"] == "text"
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert features[name].tolist() == expected[name].tolist(), name
        seen += positions.tolist()
    assert seen == [5, 1, 3, 7, 4, 0, 6, 2]


def test_sizes_only_group_texts_for_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches go by tokens, whatever the characters, and however many chunks were tokenised."""
    lengths = [3, 9, 1, 9, 4, 12, 2, 5]
    monkeypatch.setattr(batching, "CHUNK_TEXTS", 3)
    for sizes in (np.arange(8), np.arange(8)[::-1], np.zeros(8, np.int64)):
        tokens = tokenize(padded(lengths, types=False), list(range(8)), sizes, Padding({"input_ids": PAD}), 20)
        assert tokens.lengths.tolist() == lengths
        assert [positions.tolist() for positions, _ in tokens.batches()] == [[5], [1, 3], [7, 4, 0, 6], [2]]


def test_bags_keep_each_texts_tokens_together() -> None:
    """Tokens of a batch lie one text after the other, with their offsets; a text may have none."""
    texts = ["heart", "", "of", "glass", "x"]
    tokens = tokenize(bag, texts, np.array([len(text) for text in texts]), Padding({}), batch_tokens=12)
    assert tokens.lengths.tolist() == [5, 0, 2, 5, 1]
    found = {}
    for positions, features in tokens.batches():
        ends = [*features["offsets"].tolist()[1:], len(features["input_ids"])]
        for position, begin, end in zip(positions.tolist(), features["offsets"].tolist(), ends, strict=True):
            found[position] = "".join(map(chr, features["input_ids"][begin:end].tolist()))
    assert [found[i] for i in range(5)] == texts


def test_features_of_unknown_shape_are_run_as_they_came() -> None:
    """A bag-of-words vector cannot be taken apart into tokens: chunks of 32 texts are the batches."""

    def preprocess(texts: list[str]) -> dict[str, Any]:
        return {"sentence_embedding": torch.tensor([[float(len(text)), 1.0] for text in texts])}

    texts = ["a" * (i % 50) for i in range(70)]
    tokens = tokenize(preprocess, texts, np.array([len(text) for text in texts]), Padding({}), batch_tokens=1)
    batches = list(tokens.batches())
    assert [len(positions) for positions, _ in batches] == [32, 32, 6]
    for positions, features in batches:
        assert features["sentence_embedding"][:, 0].tolist() == [float(len(texts[i])) for i in positions]
    assert sorted(np.concatenate([positions for positions, _ in batches])) == list(range(70))


def test_padding_is_read_from_the_tokenizer() -> None:
    """Values and side come from the tokenizer; what it does not say is zero, at the right."""

    class Tokenizer:
        pad_token_id, pad_token_type_id, padding_side = 1, 3, "left"

    assert Padding.of(Tokenizer()) == Padding({"input_ids": 1, "token_type_ids": 3}, left=True)
    assert Padding.of(None) == Padding({"input_ids": 0, "token_type_ids": 0}, left=False)
