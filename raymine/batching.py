"""Tokens of one shard's texts, and batches of them in which no long text is padded against a short one.

A shard's texts are tokenised in chunks of similar length by whatever the model's first module uses, and what comes
back is taken apart into rows of tokens without padding. Those are sorted by their exact number of tokens, longest
first (so that a batch too large for the device fails at once), and batches are cut from them by a budget of padded
tokens. The batches depend on the shard's texts and the budget alone, never on who runs them or on what ran before.

Three layouts of features are known: `padded` (input_ids and attention_mask [texts, tokens], every transformer), `bag`
(input_ids [tokens] and offsets [texts], StaticEmbedding), and `opaque` (anything else: a chunk as it came is a batch).

Cost: 4 bytes per token and feature; the padding of a batch is what its longest text has over the others, in a shard
of thousands of texts next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Texts per call of the tokenizer: enough for its threads to share.
CHUNK_TEXTS = 1024
# Texts per batch of features that cannot be taken apart: sentence-transformers' own default.
OPAQUE_TEXTS = 32
# Rows per batch at most: beyond it short texts gain nothing, and a batch's output still is small.
MAX_BATCH_ROWS = 1024
PADDED_FEATURES = {"input_ids", "attention_mask", "token_type_ids"}
BAG_FEATURES = {"input_ids", "offsets"}

Features = dict[str, Any]
Batch = tuple[NDArray[np.int64], Features]


@dataclass(frozen=True)
class Padding:
    """How a tokenizer pads: the value per feature, and whether at the left."""

    values: dict[str, int]
    left: bool = False

    @classmethod
    def of(cls, tokenizer: Any) -> Padding:
        """The padding of a transformers tokenizer; zeros at the right where it does not say."""
        named = {"input_ids": "pad_token_id", "token_type_ids": "pad_token_type_id"}
        values = {feature: getattr(tokenizer, name, None) or 0 for feature, name in named.items()}
        return cls(values, getattr(tokenizer, "padding_side", "right") == "left")


@dataclass(frozen=True)
class Tokens:
    """The tokens of n texts, ready to be run in batches.

    Args:
        lengths: int64 [n], tokens per text.
        batches: yields (positions int64 [rows], features); over all batches every position occurs once.
        rows: the tokens themselves; None where they cannot be taken apart.
        order: int64 [n], which text each of the rows is.
    """

    lengths: NDArray[np.int64]
    batches: Callable[[], Iterator[Batch]]
    rows: Rows | None = None
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())


def tokenize(
    preprocess: Callable[[list[Any]], Features],
    texts: Sequence[Any],
    sizes: NDArray[np.int64],
    padding: Padding,
    batch_tokens: int,
) -> Tokens:
    """Tokenises texts and plans their batches.

    Args:
        preprocess: texts to features, as a model's own `preprocess`.
        texts: n >= 1 texts, or pairs of texts.
        sizes: int64 [n], characters of each.
        padding: how the model pads.
        batch_tokens: padded tokens per batch (at least one text, whatever its length).
    """
    order = np.argsort(-sizes, kind="stable")
    layout = _layout(preprocess([texts[order[-1]]]))
    step = OPAQUE_TEXTS if layout == "opaque" else CHUNK_TEXTS
    chunks = [order[begin : begin + step] for begin in range(0, len(order), step)]
    made = (preprocess([texts[i] for i in chunk]) for chunk in chunks)
    if layout == "opaque":
        return _opaque(chunks, list(made), order)
    rows = Rows.joined([_padded_rows(features) if layout == "padded" else _bag_rows(features) for features in made])
    return planned(rows, order, padding, batch_tokens)


def planned(rows: Rows, order: NDArray[np.int64], padding: Padding, batch_tokens: int) -> Tokens:
    """Plans the batches of texts whose tokens are there.

    Args:
        rows: of n texts.
        order: int64 [n], which text each row is.
        padding: how the model pads.
        batch_tokens: padded tokens per batch (at least one text, whatever its length).
    """
    build = rows.padded if rows.layout == "padded" else rows.bag

    def batches() -> Iterator[Batch]:
        for members in budgeted(rows.lengths, order, batch_tokens):
            yield order[members], build(members, padding)

    return Tokens(_by_row(order, rows.lengths), batches, rows, order)


def budgeted(
    lengths: NDArray[np.int64], positions: NDArray[np.int64], batch_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Cuts rows into batches, longest first, whose rows times longest row stay within a budget.

    Args:
        lengths: int64 [n], tokens per row.
        positions: int64 [n]; decides between rows of equal length, the smaller first.
        batch_tokens: the budget; a row longer than it is a batch of its own.

    Yields:
        int64 indexes into `lengths`, at most MAX_BATCH_ROWS.
    """
    order = np.lexsort((positions, -lengths))
    begin = 0
    while begin < len(order):
        longest = max(1, int(lengths[order[begin]]))
        rows = min(MAX_BATCH_ROWS, max(1, batch_tokens // longest))
        yield order[begin : begin + rows]
        begin += rows


@dataclass(frozen=True)
class Rows:
    """Rows of tokens without padding: one flat array per feature, row i from starts[i] on, lengths[i] long.

    Args:
        flat: int32 [tokens] per feature.
        lengths: int64 [n], tokens per row.
        constants: what the model wants to know of a batch as a whole.
        layout: padded or bag.
    """

    flat: dict[str, NDArray[np.int32]]
    lengths: NDArray[np.int64]
    constants: Features
    layout: str

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        flat = {name: np.concatenate([part.flat[name] for part in parts]) for name in parts[0].flat}
        return cls(flat, np.concatenate([part.lengths for part in parts]), parts[0].constants, parts[0].layout)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths) - self.lengths

    def padded(self, members: NDArray[np.int64], padding: Padding) -> Features:
        """Features [rows, longest] of some rows."""
        import torch

        lengths, starts = self.lengths[members], self.starts[members]
        width = max(1, int(lengths.max()))
        column = np.arange(width)[None, :] - (width - lengths[:, None] if padding.left else 0)
        mask = (column >= 0) & (column < lengths[:, None])
        where = (starts[:, None] + column)[mask]
        made: Features = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, flat in self.flat.items():
            values = np.full(mask.shape, padding.values.get(name, 0), dtype=np.int64)
            values[mask] = flat[where]
            made[name] = torch.from_numpy(values)
        return {**self.constants, **made}

    def bag(self, members: NDArray[np.int64], padding: Padding) -> Features:
        """Features of some rows one after the other, with the offset of each."""
        import torch

        lengths, starts = self.lengths[members], self.starts[members]
        offsets = np.cumsum(lengths) - lengths
        where = np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())
        ids = torch.from_numpy(self.flat["input_ids"][where].astype(np.int64))
        return {**self.constants, "input_ids": ids, "offsets": torch.from_numpy(offsets)}


def _padded_rows(features: Features) -> Rows:
    mask = features["attention_mask"].numpy().astype(bool)
    names = [name for name in features if name in PADDED_FEATURES and name != "attention_mask"]
    flat = {name: features[name].numpy()[mask].astype(np.int32) for name in names}
    return Rows(flat, mask.sum(axis=1, dtype=np.int64), _constants(features), "padded")


def _bag_rows(features: Features) -> Rows:
    ids = features["input_ids"].numpy().astype(np.int32)
    lengths = np.diff(features["offsets"].numpy(), append=len(ids)).astype(np.int64)
    return Rows({"input_ids": ids}, lengths, _constants(features), "bag")


def _opaque(chunks: list[NDArray[np.int64]], made: list[Features], order: NDArray[np.int64]) -> Tokens:
    lengths = [_opaque_lengths(features, len(chunk)) for chunk, features in zip(chunks, made, strict=True)]
    batches = [(chunk, dict(features)) for chunk, features in zip(chunks, made, strict=True)]
    return Tokens(_by_row(order, np.concatenate(lengths)), lambda: iter(batches))


def _layout(features: Features) -> str:
    tensors = {name: value for name, value in features.items() if hasattr(value, "ndim") and value.ndim > 0}
    if set(tensors) == BAG_FEATURES and all(value.ndim == 1 for value in tensors.values()):
        return "bag"
    two_dimensional = all(value.ndim == 2 for value in tensors.values())
    if {"input_ids", "attention_mask"} <= set(tensors) <= PADDED_FEATURES and two_dimensional:
        return "padded"
    return "opaque"


def _constants(features: Features) -> Features:
    """What a model wants to know of the batch as a whole, e.g. the length of the prompt."""
    return {name: value for name, value in features.items() if not (hasattr(value, "ndim") and value.ndim > 0)}


def _opaque_lengths(features: Features, count: int) -> NDArray[np.int64]:
    for name in ("attention_mask", "input_ids"):
        value: Any = features.get(name)
        if hasattr(value, "ndim") and value.ndim == 2 and value.shape[0] == count:
            return np.asarray(np.count_nonzero(value.numpy(), axis=1), np.int64)
    return np.zeros(count, np.int64)


def _by_row(order: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """values[i] belongs to row order[i]: the same by row."""
    by_row = np.empty_like(values)
    by_row[order] = values
    return by_row
