"""Tokenising against bm25s.tokenize and Python's own lowercase and regular expressions."""

import re
import sys

import bm25s
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymine.config import Bm25Config
from raymine.errors import ConfigError
from raymine.index.bm25_text import Tokenizer, Words, folded_code_points, load_stemmer

TEXTS = [
    "The QUICK brown foxes, jumping_over 12 x y lazy-dogs' cafés!",
    "",
    "ΟΔΥΣΣΕΥΣ και Σ ΣΣ; ΑΣ. Σαββας",
    "İstanbul DİYARBAKIR ı I",
    "Ⱥbc K Å ẞ straße ＡＢＣ １２３ ٣٤٥ नमस्ते 日本語 テキスト 한국어",
    "𐐀𐐁 𝔘𝔫𝔦 😀😀 a😀b ab😀cd",
    "a b c",
    "the and of",
    "under_score __ _a 9a don't o'neill e\u0301te\u0301 naïve",
    "running runs ran easily fairly the being",
]


def terms_of(words: Words) -> list[list[str]]:
    terms = words.terms.to_pylist()
    texts = np.split(words.words, words.text_starts[1:-1])
    return [[terms[word] for word in text if terms[word] is not None] for text in texts]


def column(texts: list[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


@pytest.mark.parametrize("stopwords", ["english", None])
@pytest.mark.parametrize("stemmer", [None, "english"])
def test_terms_equal_bm25s(stopwords: str | None, stemmer: str | None) -> None:
    """Terms of every script, with and without stop words and stems, are those of bm25s.tokenize."""
    stem = None if stemmer is None else pytest.importorskip("Stemmer").Stemmer(stemmer)
    words = Tokenizer(Bm25Config(stopwords=stopwords, stemmer=stemmer))(column(TEXTS))
    expected = bm25s.tokenize(TEXTS, stopwords=stopwords, stemmer=stem, return_ids=False, show_progress=False)
    assert terms_of(words) == expected
    assert words.lengths().tolist() == [len(text) for text in expected]


@settings(max_examples=200, deadline=None)
@example(["ΑΣ", "Σ Σ"])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=5))
def test_any_text_is_split_as_python_does(texts: list[str]) -> None:
    """Lowercase and word boundaries are Python's for any Unicode text."""
    words = Tokenizer(Bm25Config(stopwords=None))(column([*texts, "end"]))
    assert terms_of(words)[: len(texts)] == [re.findall(r"(?u)\b\w\w+\b", text.lower()) for text in texts]


def test_every_code_point() -> None:
    """The table of code points agrees with Python on each one, but for the two letters that it leaves to Python."""
    folded = folded_code_points().tolist()
    points = [point for point in range(sys.maxunicode + 1) if point not in (0x3A3, 0x130)]
    lowered = [chr(point).lower() for point in points]
    assert all(len(letter) == 1 for letter in lowered)
    assert [folded[point] for point in points] == [
        ord(letter) if letter.isalnum() or letter == "_" else -1 for letter in lowered
    ]


def test_columns_in_chunks_slices_and_with_nulls() -> None:
    """A column cut into chunks and slices gives the words of the whole; a null is an empty text."""
    chunks = [pa.array(["zero", "alpha beta", None], pa.large_string()).slice(1), pa.array(["beta gamma"])]
    chunks[1] = chunks[1].cast(pa.large_string())
    words = Tokenizer(Bm25Config())(pa.chunked_array(chunks))
    assert terms_of(words) == [["alpha", "beta"], [], ["beta", "gamma"]]
    assert terms_of(Tokenizer(Bm25Config())(pa.chunked_array([], pa.large_string()))) == [[]]


def test_many_distinct_and_long_words() -> None:
    """The tables grow as words come: more distinct words than at first, and words of thousands of letters."""
    texts = [" ".join(f"w{number}x{text}" for number in range(3000)) for text in range(8)]
    texts += ["A" * 100_000, "b" * 100_000 + " " + "A" * 100_000]
    words = Tokenizer(Bm25Config())(column(list(texts)))
    assert terms_of(words) == [text.lower().split() for text in texts]


def test_unknown_stemmer_language() -> None:
    """A language that PyStemmer lacks is named together with those it has."""
    pytest.importorskip("Stemmer")
    with pytest.raises(ConfigError, match="klingon") as caught:
        load_stemmer("klingon")
    assert "english" in str(caught.value)


def test_missing_stemmer_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyStemmer the error says what to install."""
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ConfigError, match="pip install PyStemmer"):
        load_stemmer("english")
