"""Tokens of texts for static embedders, which spend most of their time on them.

A BERT tokenizer cuts a text at its spaces before anything else, so the tokens of a text are those of its words, one
after the other, and words recur, within a shard and from shard to shard: each is tokenised once, while there are not
too many. Other tokenizers are given whole texts.

Cost: 16,384 sentences (0.5 M tokens, 53,000 distinct words) took two cores 0.27 s, as whole texts 0.63 (medians of
nine). PIECE_CHARS characters at a time are in memory with their words and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine.batching import Rows

PIECE_CHARS = 1 << 23  # of texts whose words are tokenised together
GROUP_WORDS = 256  # that the tokenizer's threads take at once
# Words whose tokens are kept, with those of the latest texts: some 8 MB. 31 shards of 16,384 sentences took 6.0 s, with
# twice as many words 5.6, with half as many 6.6 and with none kept 8.3 (medians of four): looking them up takes longer.
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
        self.tokenizer, self.known = tokenizer, Known()
        self.flat, self.lengths = np.empty(0, np.int32), np.empty(0, np.int64)

    def tokens(self, texts: list[str]) -> TokensOf:
        """Tokens of texts, word by word."""
        words = _words_of(texts)
        distinct = words.values.dictionary_encode()
        numbers, new = self.known.add(distinct.dictionary)
        if len(new):
            flat, lengths = _tokens_of_words(self.tokenizer, new.to_pylist())
            before = self.lengths[: len(self.known.words) - len(new)]  # none where all were forgotten
            self.flat = np.concatenate([self.flat[: before.sum()], flat])
            self.lengths = np.concatenate([before, lengths])
        starts, numbers = np.cumsum(self.lengths) - self.lengths, numbers[distinct.indices.to_numpy()]
        of_words = self.lengths[numbers]
        ends = np.cumsum(of_words)
        where = np.repeat(starts[numbers] - (ends - of_words), of_words) + np.arange(ends[-1])
        last = words.offsets.to_numpy()[1:] - 1  # an empty text too has a word, an empty one
        return self.flat[where], np.diff(ends[last], prepend=0)


class Known:
    """Words in the order in which they were met; where they would be too many, only those of the latest texts."""

    def __init__(self) -> None:
        self.words = pa.array([], pa.large_string())

    def add(self, words: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
        """The numbers of distinct words, int64, and those of them that are new."""
        if len(self.words) + len(words) > MOST_WORDS:
            self.words = self.words[:0]
        numbers: NDArray[np.int64] = pc.index_in(words, value_set=self.words).fill_null(-1).to_numpy().astype(np.int64)
        is_new = numbers < 0
        new = words.filter(pa.array(is_new))
        numbers[is_new] = len(self.words) + np.arange(len(new))
        self.words = pa.concat_arrays([self.words, new])
        return numbers, new


def num_words_to_tokenise(shards: Iterable[Sequence[str]]) -> int:
    """Words of the texts of shards that are not known from those before."""
    known = Known()
    pieces = (piece for texts in shards for piece in _pieces(list(texts)))
    return sum(len(known.add(pc.unique(_words_of(piece).values))[1]) for piece in pieces)


def _words_of(texts: list[str]) -> pa.Array:
    return pc.split_pattern(pa.array(texts, pa.large_string()), " ")


def _tokens_of_words(tokenizer: Any, words: list[str]) -> TokensOf:
    groups = [words[begin : begin + GROUP_WORDS] for begin in range(0, len(words), GROUP_WORDS)]
    made = tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
    counts = [
        np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
        for encoding, group in zip(made, groups, strict=True)
    ]
    return np.fromiter(chain.from_iterable(encoding.ids for encoding in made), np.int32), np.concatenate(counts)
