"""The drop-in beside the original: same columns, same rows, same scores, on small random datasets with stub models."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives as original

import raymine
from raymine.hard_negatives import weights_of

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")


@cache
def drawn(text: str, dim: int) -> np.ndarray:
    """A vector that texts with the same beginning (before `|`) share in part."""
    topic, own = (np.random.default_rng(list(part.encode())) for part in (text.split("|")[0], text))
    return topic.standard_normal(dim) + 0.5 * own.standard_normal(dim)


@cache
def judged(query: str, document: str) -> float:
    return float(np.random.default_rng(list(f"{query}#{document}".encode())).standard_normal())


class Card:
    base_model = None


class Stub(SentenceTransformer):
    """Texts to fixed vectors, another one for each prompt.

    Args:
        dim: of the vectors.
        shift: added to queries and taken off documents, so that most similarities are negative.
    """

    def __init__(self, dim: int = 16, shift: float = 0.0) -> None:
        super().__init__(modules=[torch.nn.Identity()], device="cpu")
        self.dim, self.shift = dim, shift
        self.model_card_data = Card()
        self.num_encoded = 0

    def _vectors(self, texts: list[str], prompt: str | None, sign: float) -> np.ndarray:
        self.num_encoded += len(texts)
        vectors = np.array([drawn(f"{prompt or ''}{text}", self.dim) for text in texts], np.float32) + sign * self.shift
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_query(
        self, texts: list[str], prompt: str | None = None, prompt_name: str | None = None, **_: Any
    ) -> Any:
        return self._vectors(texts, prompt or prompt_name, 1)

    def encode_document(
        self, texts: list[str], prompt: str | None = None, prompt_name: str | None = None, **_: Any
    ) -> Any:
        return self._vectors(texts, prompt or prompt_name, -1)

    def get_embedding_dimension(self) -> int:
        return self.dim


class Teacher:
    """Pairs to fixed scores."""

    def predict(self, pairs: list[tuple[str, str]], **_: Any) -> torch.Tensor:
        return torch.tensor([judged(query, document) for query, document in pairs], dtype=torch.float32)


@st.composite
def cases(draw: Any) -> tuple[Dataset, dict[str, Any]]:
    """A small dataset (several positives, repeated rows, topics shared) and arguments that are valid together."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    num_topics = chance.randint(1, 6)
    num_rows = chance.randint(1, 30)
    anchors = [f"topic {chance.randrange(num_topics)}|q{chance.randrange(12)}" for _ in range(num_rows)]
    positives = [f"topic {chance.randrange(num_topics)}|d{chance.randrange(20)}" for _ in range(num_rows)]
    corpus = [f"topic {chance.randrange(num_topics)}|d{chance.randrange(60)}" for _ in range(chance.randint(0, 60))]
    n = chance.randint(1, 5)
    arguments: dict[str, Any] = {
        "num_negatives": n,
        "range_min": chance.choice([0, 0, 1, 4]),
        "output_format": chance.choice(FORMATS),
        "output_scores": chance.random() < 0.5,
        "use_faiss": chance.random() < 0.3,
        "faiss_batch_size": chance.choice([1, 3, 16384]),
        "corpus": chance.choice([None, corpus]),
        "include_positives": chance.random() < 0.15,
        "cross_encoder": Teacher() if chance.random() < 0.4 else None,
    }
    if chance.random() < 0.5:
        arguments["range_max"] = arguments["range_min"] + n + chance.randint(0, 20)
    for name, values in (
        ("absolute_margin", (0.0, 0.2, -0.3)),
        ("relative_margin", (0.05, 0.5)),
        ("max_score", (0.3, 0.8)),
        ("min_score", (-0.2, 0.2)),
        ("query_prompt", ("ask: ",)),
        ("corpus_prompt_name", ("document",)),
    ):
        if chance.random() < 0.3:
            arguments[name] = chance.choice(values)
    if arguments["include_positives"] and arguments.get("absolute_margin") == 0:
        del arguments["absolute_margin"]  # whether a positive is above its own score is left to rounding
    return Dataset.from_dict({"question": anchors, "answer": positives}), arguments


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores apart from the rest: rows, and flat scores."""
    return [{name: value for name, value in row.items() if name not in ("scores", "score")} for row in rows]


def scores(rows: list[dict[str, Any]]) -> list[float]:
    found: list[float] = []
    for row in rows:
        value = row.get("scores", row.get("score", []))
        found += value if isinstance(value, list) else [value]
    return found


@settings(max_examples=500, deadline=None)
@given(case=cases(), shift=st.sampled_from([0.0, 0.4]))
def test_rows_and_scores_are_those_of_the_original(case: tuple[Dataset, dict[str, Any]], shift: float) -> None:
    """Same columns, same rows in the same order, scores to 1e-5."""
    dataset, arguments = case
    model = Stub(shift=shift)
    ours = raymine.mine_hard_negatives(dataset, model, verbose=False, **arguments)
    try:
        theirs = original(dataset, model, verbose=False, **arguments)
    except ZeroDivisionError:  # it counts what a margin leaves for the next bound, and divides by it
        return
    assert ours.column_names == theirs.column_names
    assert rounded(ours.to_list()) == rounded(theirs.to_list())
    np.testing.assert_allclose(scores(ours.to_list()), scores(theirs.to_list()), rtol=1e-5, atol=1e-6)


DATASET = Dataset.from_dict(
    {"question": [f"topic {i % 4}|q{i}" for i in range(12)], "answer": [f"topic {i % 4}|d{i}" for i in range(12)]}
)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_negatives": 0},
        {"range_min": -1},
        {"range_min": 5, "range_max": 5},
        {"range_min": 1, "range_max": 3, "num_negatives": 3},
        {"faiss_batch_size": 0},
        {"output_format": "triples"},
    ],
    ids=str,
)
def test_wrong_arguments_are_the_same_errors(arguments: dict[str, Any]) -> None:
    """The first sentence of the message too."""
    messages = []
    for function in (original, raymine.mine_hard_negatives):
        with pytest.raises(ValueError) as error:
            function(DATASET, Stub(), verbose=False, **arguments)
        messages.append(str(error.value).split(". ")[0])
    assert messages[0] == messages[1]


def test_empty_and_narrow_datasets_are_the_same_errors() -> None:
    for dataset in (Dataset.from_dict({"a": [], "b": []}), Dataset.from_dict({"a": ["x"]})):
        messages = []
        for function in (original, raymine.mine_hard_negatives):
            with pytest.raises(ValueError) as error:
                function(dataset, Stub(), verbose=False)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_a_misspelt_column_is_an_error() -> None:
    """The original takes the first two columns instead."""
    assert original(DATASET, Stub(), anchor_column_name="qestion", verbose=False).num_rows
    with pytest.raises(ValueError, match=r"no column 'qestion'. It has \['question', 'answer'\]"):
        raymine.mine_hard_negatives(DATASET, Stub(), anchor_column_name="qestion", verbose=False)


def test_columns_are_found_by_name() -> None:
    """Others may lie around them, and are dropped."""
    wider = DATASET.add_column("id", list(range(12))).select_columns(["id", "answer", "question"])
    names = {"anchor_column_name": "question", "positive_column_name": "answer"}
    theirs = original(wider, Stub(), verbose=False, **names).to_list()
    assert raymine.mine_hard_negatives(wider, Stub(), verbose=False, **names).to_list() == theirs


def test_deprecated_arguments_still_work_and_warn() -> None:
    for old, new in (
        ({"as_triplets": False}, {"output_format": "n-tuple"}),
        ({"margin": 0.1}, {"absolute_margin": 0.1}),
        ({"output_format": "n-tuple-scores"}, {"output_format": "n-tuple", "output_scores": True}),
    ):
        with pytest.warns(DeprecationWarning):
            found = raymine.mine_hard_negatives(DATASET, Stub(), verbose=False, **old)
        assert found.to_list() == raymine.mine_hard_negatives(DATASET, Stub(), verbose=False, **new).to_list()
        np.testing.assert_array_equal(
            rounded(found.to_list()), rounded(original(DATASET, Stub(), verbose=False, **old).to_list())
        )


def test_models_do_not_share_a_cache(tmp_path: Any) -> None:
    """Nor prompts, texts and sides; the same again is not embedded again."""
    first, same, other = Stub(), Stub(), Stub()
    for model, value in ((first, 1.0), (same, 1.0), (other, 2.0)):
        model.register_parameter("weight", torch.nn.Parameter(torch.full((2,), value, dtype=torch.bfloat16)))
    assert weights_of(first) == weights_of(same) != weights_of(other)
    plain = raymine.mine_hard_negatives(DATASET, first, verbose=False).to_list()
    for model, expected in ((first, 24), (same, 0), (other, 24)):
        model.num_encoded = 0
        found = raymine.mine_hard_negatives(DATASET, model, verbose=False, cache_folder=str(tmp_path))
        assert found.to_list() == plain and model.num_encoded == expected
    raymine.mine_hard_negatives(DATASET, same, verbose=False, cache_folder=str(tmp_path), query_prompt="ask: ")
    assert same.num_encoded == 12


def test_random_has_a_seed_and_draws_from_what_is_allowed() -> None:
    """The global generator does not matter; another seed draws others."""
    arguments: dict[str, Any] = {"sampling_strategy": "random", "range_max": 8, "num_negatives": 2, "verbose": False}
    random.seed(1)
    first = raymine.mine_hard_negatives(DATASET, Stub(), **arguments).to_list()
    random.seed(2)
    assert raymine.mine_hard_negatives(DATASET, Stub(), **arguments).to_list() == first
    assert raymine.mine_hard_negatives(DATASET, Stub(), seed=1, **arguments).to_list() != first
    allowed = raymine.mine_hard_negatives(DATASET, Stub(), range_max=8, num_negatives=8, verbose=False).to_list()
    assert {tuple(row.values()) for row in first} < {tuple(row.values()) for row in allowed}


def test_identical_texts_and_ties_go_by_the_corpus_order() -> None:
    """Texts that have one vector come in the order of the corpus."""

    class Flat(Stub):
        def _vectors(self, texts: list[str], prompt: str | None, sign: float) -> np.ndarray:
            return np.ones((len(texts), 4), np.float32) / 2

    rows = raymine.mine_hard_negatives(
        DATASET, Flat(), corpus=["c", "b", "c", "a"], num_negatives=3, verbose=False
    ).to_list()
    assert [row["negative"] for row in rows[:3]] == ["c", "b", "a"]


def test_statistics_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, scores, what the bounds dropped and what is missing."""
    raymine.mine_hard_negatives(DATASET, Stub(), max_score=0.1, num_negatives=8)
    shown = capsys.readouterr().out
    assert "Setting range_max to 81" in shown and "due to max_score" in shown and "negatives are missing" in shown
    assert shown.count("\n") > 10
