"""Tokens of bags, against the tokenizer's own of whole texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from raymine import bags

WORDS = ["heart", "graph", "rate", "hearts,", "(Héart)", "naïve", "it's", "3.14", "x\u0301y", "\u0301", "心臓", "a中b"]
WORDS += ["[UNK]", "[UNK]s", "a[PAD]b", "\u00a0", "\n", "a\tb", "\x1c", "a\x00b", "\u200b", "ǅ", "ΣΑΣ", "ﬁne", "İ"]
WORDS += ["\u2028", "", "y" * 120]
VOCABULARY = ["[PAD]", "[UNK]", "heart", "graph", "rate", "##s", "a", "b", "##y", "x", "3", "14", ".", ",", "(", ")"]
VOCABULARY += ["it", "'", "s", "心", "中", "臓", "##a", "naive", "σας", "##σ", "fine", "y", "i", "\u0301", "[", "]"]


def tokenizer(**changes: Any) -> Tokenizer:
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]"])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def random_texts(count: int) -> list[str]:
    draw = np.random.default_rng(7)
    texts = []
    for size in draw.integers(0, 12, count):
        words = draw.choice(WORDS, size).tolist()
        characters = map(chr, draw.choice([*range(32, 127), 0x0130, 0x0301, 0x0345, 0x4E2D, 0x1E9E, 0xFB01], size))
        texts.append(" ".join([*words, "".join(characters), ""]))
    return texts


def expected(of: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [made.ids for made in of.encode_batch(texts, add_special_tokens=False)]


def rows_of(made: bags.Rows) -> list[list[int]]:
    return [part.tolist() for part in np.split(made.flat["input_ids"], np.cumsum(made.lengths)[:-1])]


@pytest.mark.parametrize("piece_chars", [1, 100, bags.PIECE_CHARS])
@pytest.mark.parametrize("group_words", [3, bags.GROUP_WORDS])
@pytest.mark.parametrize("most_words", [0, 300, bags.MOST_WORDS])
def test_the_tokens_of_words_are_those_of_texts(
    monkeypatch: pytest.MonkeyPatch, piece_chars: int, group_words: int, most_words: int
) -> None:
    """Accents, controls, Chinese, special tokens inside of words and blanks of any kind included."""
    monkeypatch.setattr(bags, "PIECE_CHARS", piece_chars)
    monkeypatch.setattr(bags, "GROUP_WORDS", group_words)
    monkeypatch.setattr(bags, "MOST_WORDS", most_words)
    monkeypatch.setattr(bags, "_whole", None)  # not used
    texts, made = ["", " ", *WORDS, *random_texts(1500)], bags.Bags(tokenizer())
    assert rows_of(made.tokens(texts)) == expected(tokenizer(), texts)
    assert rows_of(made.tokens(texts[::-3])) == expected(tokenizer(), texts[::-3])


@pytest.mark.parametrize(("most_words", "again"), [(4, []), (3, [["rate"]])])
def test_each_word_is_tokenised_once(monkeypatch: pytest.MonkeyPatch, most_words: int, again: list[list[str]]) -> None:
    """Within a call and from call to call, until there would be too many of them."""
    given: list[list[str]] = []
    own = bags._tokens_of_words
    monkeypatch.setattr(bags, "_tokens_of_words", lambda of, words: given.append(words) or own(of, words))
    monkeypatch.setattr(bags, "MOST_WORDS", most_words)
    made = bags.Bags(tokenizer())
    made.tokens(["heart rate", "rate", "heart heart graph"])
    made.tokens(["rate"])
    assert given == [["heart", "rate", "graph"], *again]


@pytest.mark.parametrize("most_words", [0, 50, bags.MOST_WORDS])
def test_words_to_tokenise_are_those_that_are_given_to_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch, most_words: int
) -> None:
    given: list[int] = []
    own = bags._tokens_of_words
    monkeypatch.setattr(bags, "_tokens_of_words", lambda of, words: given.append(len(words)) or own(of, words))
    monkeypatch.setattr(bags, "MOST_WORDS", most_words)
    monkeypatch.setattr(bags, "PIECE_CHARS", 1000)
    made, shards = bags.Bags(tokenizer()), [random_texts(100), ["heart rate"], random_texts(150)]
    for texts in shards:
        made.tokens(texts)
    assert bags.num_words_to_tokenise(shards) == sum(given) > 0


def truncated() -> Tokenizer:
    made = tokenizer()
    made.enable_truncation(3)
    return made


def padded() -> Tokenizer:
    made = tokenizer()
    made.enable_padding()
    return made


def with_token(content: str, **options: Any) -> Tokenizer:
    made = tokenizer()
    made.add_tokens([AddedToken(content, **{"normalized": False, **options})])
    return made


OTHERS = {
    "normalizer": lambda: tokenizer(normalizer=normalizers.NFC()),
    "pre-tokenizer": lambda: tokenizer(pre_tokenizer=pre_tokenizers.Metaspace()),
    "truncated": truncated,
    "two-words": lambda: with_token("heart rate"),
    "left": lambda: with_token("graph", lstrip=True),
    "right": lambda: with_token("graph", rstrip=True),
    "normalized": lambda: with_token("graph", normalized=True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_are_given_whole_texts(name: str) -> None:
    texts = ["a heart rate graph", "", *random_texts(200)]
    assert rows_of(bags.Bags(OTHERS[name]()).tokens(texts)) == expected(OTHERS[name](), texts)
    assert not bags.cuts_at_spaces(OTHERS[name]()) and bags.cuts_at_spaces(tokenizer())


def test_a_tokenizer_that_pads_is_given_whole_texts() -> None:
    assert not bags.cuts_at_spaces(padded())


@pytest.mark.parametrize("prompt", ["", "heart graph: ", "hea"])
def test_they_are_those_of_sentence_transformers(static_model: str, prompt: str) -> None:
    model = SentenceTransformer(static_model, device="cpu")
    texts = ["rt of a graph", " ", "the rate of the heart", "graphs"]
    features = model.preprocess(texts, prompt=prompt)
    made = bags.Bags(model[0].tokenizer).tokens(texts, prompt)
    np.testing.assert_array_equal(made.flat["input_ids"], features["input_ids"])
    np.testing.assert_array_equal(made.starts, features["offsets"])
