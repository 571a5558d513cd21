"""Tokens of texts for static embedders, which spend most of their time on them.

A BERT tokenizer cuts a text at its spaces before anything else, so the tokens of a text are those of its words, one
after the other, and words recur, within a shard and from shard to shard: each is tokenised once, while there are not
too many. Other tokenizers are given whole texts.

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
# Words whose tokens are kept, with those of the latest texts: some 10 MB. Looking words up in twice as many takes as
# much longer as it saves (31 shards of 16,384 sentences: 5.5 to 6 s, half as many 6 to 6.5, none kept 8.2).
MOST_WORDS = 1 << 18

TokensOf = tuple[NDArray[np.int32], NDArray[np.int64]]  # of some texts or words, and how many each has


class Bags:
    """Makes the tokens that StaticEmbedding's own `preprocess` makes.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.words = tokenizer, Words(tokenizer) if cuts_at_spaces(tokenizer) else None

    def tokens(self, texts: Sequence[str], prompt: str = "") -> Rows:
        """Tokens of texts; one call at a time.

        Args:
            texts: n >= 1 texts.
            prompt: put before each.
        """
        given = [prompt + text for text in texts] if prompt else list(texts)
        made = [self.words.tokens(piece) if self.words else _whole(self.tokenizer, piece) for piece in _pieces(given)]
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


class Words:
    """The tokens of the words met so far.

    Args:
        tokenizer: a `tokenizers.Tokenizer` that cuts at spaces.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        self.known = pa.array([], pa.large_string())
        self.flat, self.lengths = np.empty(0, np.int32), np.empty(0, np.int64)

    def tokens(self, texts: list[str]) -> TokensOf:
        """Tokens of texts, word by word."""
        words = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
        distinct = words.values.dictionary_encode()
        numbers = self._numbers(distinct.dictionary)[distinct.indices.to_numpy()]
        starts, of_words = np.cumsum(self.lengths) - self.lengths, self.lengths[numbers]
        ends = np.cumsum(of_words)
        where = np.repeat(starts[numbers] - (ends - of_words), of_words) + np.arange(ends[-1])
        last = words.offsets.to_numpy()[1:] - 1  # an empty text too has a word, an empty one
        return self.flat[where], np.diff(ends[last], prepend=0)

    def _numbers(self, words: pa.Array) -> NDArray[np.int64]:
        """Those of distinct words among the known, which they are from now on."""
        if len(self.known) + len(words) > MOST_WORDS:
            self._forget()
        numbers: NDArray[np.int64] = pc.index_in(words, value_set=self.known).fill_null(-1).to_numpy().astype(np.int64)
        new = np.flatnonzero(numbers < 0)
        if len(new):
            numbers[new] = len(self.known) + np.arange(len(new))
            added = words.take(pa.array(new))
            flat, lengths = _tokens_of_words(self.tokenizer, added.to_pylist())
            self.flat, self.lengths = np.concatenate([self.flat, flat]), np.concatenate([self.lengths, lengths])
            self.known = pa.concat_arrays([self.known, added])
        return numbers


def _tokens_of_words(tokenizer: Any, words: list[str]) -> TokensOf:
    groups = [words[begin : begin + GROUP_WORDS] for begin in range(0, len(words), GROUP_WORDS)]
    made = tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
    counts = [
        np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
        for encoding, group in zip(made, groups, strict=True)
    ]
    return np.fromiter(chain.from_iterable(encoding.ids for encoding in made), np.int32), np.concatenate(counts)
