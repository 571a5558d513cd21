"""Tokens of texts for static embedders, which spend most of their time on them.

A BERT tokenizer cuts a text at its spaces before anything else, so the tokens of a text are those of its words, one
after the other, and words recur: of many texts each word is tokenised once. Other tokenizers are given whole texts.

Cost: 16,384 sentences (0.5 M tokens, 53,000 distinct words) took two cores 0.27 s, as whole texts 0.63 (medians of
nine). PIECE_CHARS characters at a time are in memory with their words and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine.batching import Rows

PIECE_CHARS = 1 << 23  # of texts whose words are tokenised together
GROUP_WORDS = 256  # that the tokenizer's threads take at once

TokensOf = tuple[NDArray[np.int32], NDArray[np.int64]]  # of some texts or words, and how many each has


def bag_of_tokens(tokenizer: Any, texts: Sequence[str], prompt: str = "") -> Rows:
    """The tokens that StaticEmbedding's own `preprocess` makes.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        texts: n >= 1 texts.
        prompt: put before each.
    """
    given = [prompt + text for text in texts] if prompt else list(texts)
    tokens_of = _by_words if cuts_at_spaces(tokenizer) else _whole
    made = [tokens_of(tokenizer, piece) for piece in _pieces(given)]
    flat, lengths = (np.concatenate(column) for column in zip(*made, strict=True))
    return Rows({"input_ids": flat}, lengths, {}, "bag")


def cuts_at_spaces(tokenizer: Any) -> bool:
    """Whether the tokens of a text are those of what lies between its spaces, one after the other."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and tokenizer.truncation is None
        and tokenizer.padding is None
        and not any(
            " " in token.content or token.lstrip or token.rstrip or token.normalized
            for token in tokenizer.get_added_tokens_decoder().values()
        )
    )


def _pieces(texts: list[str]) -> Iterator[list[str]]:
    """The texts, PIECE_CHARS characters or a text at a time."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    begin = 0
    while begin < len(texts):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + PIECE_CHARS, side="right")))
        yield texts[begin:end]
        begin = end


def _whole(tokenizer: Any, texts: list[str]) -> TokensOf:
    """Without offsets into the texts, which nobody asks for."""
    ids = [made.ids for made in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


def _by_words(tokenizer: Any, texts: list[str]) -> TokensOf:
    words = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
    distinct = words.values.dictionary_encode()
    flat, lengths = _tokens_of_words(tokenizer, distinct.dictionary.to_pylist())
    starts, numbers = np.cumsum(lengths) - lengths, distinct.indices.to_numpy()
    of_words = lengths[numbers]
    ends = np.cumsum(of_words)
    where = np.repeat(starts[numbers] - (ends - of_words), of_words) + np.arange(ends[-1])
    last = words.offsets.to_numpy()[1:] - 1  # an empty text too has a word, an empty one
    return flat[where], np.diff(ends[last], prepend=0)


def _tokens_of_words(tokenizer: Any, words: list[str]) -> TokensOf:
    groups = [words[begin : begin + GROUP_WORDS] for begin in range(0, len(words), GROUP_WORDS)]
    made = tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
    counts = [
        np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
        for encoding, group in zip(made, groups, strict=True)
    ]
    return np.fromiter(chain.from_iterable(encoding.ids for encoding in made), np.int32), np.concatenate(counts)
