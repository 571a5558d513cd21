"""Stored tokens give the batches that the texts give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymine import storage
from raymine.batching import Padding, Tokens, tokenize
from raymine.stored_tokens import from_table, num_texts, to_table

PADDING = Padding({"input_ids": 7}, left=True)


def preprocess(layout: str, largest: int) -> Any:
    """Of texts that are their own numbers of tokens; ids up to `largest`."""

    def ids(text: int) -> list[int]:
        return [(text * i * 7919 + largest) % (largest + 1) for i in range(text)]

    def bag(texts: list[int]) -> dict[str, Any]:
        offsets = np.cumsum([0, *texts[:-1]])
        return {
            "input_ids": torch.tensor([token for text in texts for token in ids(text)], dtype=torch.long),
            "offsets": torch.tensor(offsets),
        }

    def padded(texts: list[int]) -> dict[str, Any]:
        width = max(texts)
        rows = [[7] * (width - text) + ids(text) for text in texts]
        mask = [[0] * (width - text) + [1] * text for text in texts]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask), "modality": "text"}

    return {"bag": bag, "padded": padded}[layout]


def plain(tokens: Tokens) -> list[tuple[list[int], dict[str, Any]]]:
    return [
        (positions.tolist(), {name: getattr(value, "tolist", lambda v=value: v)() for name, value in features.items()})
        for positions, features in tokens.batches()
    ]


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    layout=st.sampled_from(["bag", "padded"]),
    largest=st.sampled_from([100, 65_535, 200_000]),
    budget=st.integers(1, 200),
)
def test_batches_are_those_of_the_texts(lengths: list[int], layout: str, largest: int, budget: int) -> None:
    """The same texts in the same batches with the same features, whatever the tokenizer sorted them by."""
    tokens = tokenize(preprocess(layout, largest), lengths, np.array(lengths) * 5, PADDING, budget)
    rows = np.arange(len(lengths)) * 2
    table = to_table(tokens, rows, 500)
    assert table is not None and table["row"].to_pylist() == rows.tolist() and num_texts(table) == 500
    restored = from_table(table, PADDING, budget)
    assert restored.lengths.tolist() == tokens.lengths.tolist() == lengths
    assert plain(restored) == plain(tokens)


@pytest.mark.parametrize(("largest", "width"), [(65_535, 16), (65_536, 32)])
def test_small_vocabularies_take_two_bytes_a_token(tmp_path: Path, largest: int, width: int) -> None:
    """And come back from a file as they were."""
    tokens = tokenize(preprocess("bag", largest), [9] * 20_000, np.full(20_000, 9), PADDING, 512)
    table = to_table(tokens, np.arange(20_000), 20_000)
    assert table is not None and table["input_ids"].type.value_type.bit_width == width
    shard = storage.write_arrow(str(tmp_path / "tokens.arrow"), table)
    assert shard.num_bytes < 180_000 * width / 8 + 20_000 * 12 + 4096
    assert plain(from_table(storage.read_arrow(shard.path), PADDING, 512)) == plain(tokens)


def test_what_cannot_be_taken_apart_is_not_stored() -> None:
    """Features of unknown shape, and constants that JSON has no words for."""

    def opaque(texts: list[str]) -> dict[str, Any]:
        return {"sentence_embedding": torch.zeros(len(texts), 2)}

    def odd(texts: list[int]) -> dict[str, Any]:
        return {**preprocess("bag", 9)(texts), "when": object()}

    for made, texts in ((opaque, ["a", "b"]), (odd, [1, 2])):
        tokens = tokenize(made, texts, np.array([1, 1]), PADDING, 10)
        assert to_table(tokens, np.arange(2), 2) is None
