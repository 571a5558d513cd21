"""The demonstration's models and folder: small, but trained, saved, loaded and found again for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raymine import demo
from raymine.config_file import load_config
from raymine.demo import embedder, teacher

torch = pytest.importorskip("torch")
SIZE = demo.Size(documents=600, mined_queries=40, vocabulary=600, dim=64, epochs=3, hidden=32, teacher_queries=100)
ROOTS = [Path(json.__file__).parent.parent / name for name in ("asyncio", "email", "logging", "json", "concurrent")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished folder, and what was said while it was made."""
    folder = tmp_path_factory.mktemp("demo") / "made"
    lines: list[str] = []
    demo.prepare(folder, lines.append, SIZE, ROOTS)
    return folder, lines


def test_says_what_came_out(built: tuple[Path, list[str]]) -> None:
    """A line each for corpus, embedder and teacher, with the figures that were measured."""
    assert [line.split()[0] for line in built[1]] == ["corpus", "embedder", "teacher"]
    assert "Recall@10" in built[1][1]
    assert "MRR" in built[1][2]


def test_a_finished_folder_is_used_as_it_is(built: tuple[Path, list[str]]) -> None:
    """A second call touches nothing, says the same, and names the same config."""
    folder, lines = built
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again: list[str] = []
    assert demo.prepare(folder, again.append, SIZE, ROOTS) == folder / "mine.yaml"
    assert again == lines
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_unfinished_folder_is_made_anew_with_the_same_bytes(built: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Without its marker a folder is built again; models and data come out as before, elsewhere too."""
    folder, _ = built
    unfinished = tmp_path / "unfinished"
    (unfinished / "models" / "teacher").mkdir(parents=True)
    (unfinished / "models" / "teacher" / "config.json").write_text("half a")
    demo.prepare(unfinished, lambda line: None, SIZE, ROOTS)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "demo.json"]
    assert len(files) > 8
    assert {file for file in files if (folder / file).read_bytes() != (unfinished / file).read_bytes()} == set()


def test_the_config_is_right(built: tuple[Path, list[str]]) -> None:
    """The config loads, names what is in the folder, and leaves the test half out."""
    config = load_config(str(built[0] / "mine.yaml"))
    assert config.embed is not None and config.rescore is not None and config.corpus is not None
    assert config.embed.model == str(built[0] / "models" / "embedder")
    assert config.rescore.model == str(built[0] / "models" / "teacher")
    assert config.retrieve.sources == ["dense", "bm25", "random"]
    assert [Path(path).name for path in config.exclude] == ["test.tsv"]
    mined, train = ((built[0] / "qrels" / f"{name}.tsv").read_text().splitlines() for name in ("mine", "train"))
    assert mined == train[:41]


def test_saved_models_are_the_trained_ones(built: tuple[Path, list[str]]) -> None:
    """sentence-transformers loads both, and computes what was trained: vectors by the mean, scores by the sigmoid."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    texts = ["Return the running event loop", "logging.getLogger(name)"]
    model = SentenceTransformer(str(built[0] / "models" / "embedder"), device="cpu")
    weights = model[0].embedding.weight.detach()
    ids = embedder.tokenize(model[0].tokenizer, texts)
    oracle = np.stack([weights[torch.tensor(row)].numpy().mean(axis=0) for row in ids])
    oracle /= np.linalg.norm(oracle, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(texts, normalize_embeddings=True), oracle, atol=1e-6)

    cross = CrossEncoder(str(built[0] / "models" / "teacher"), device="cpu")
    documents = ["Only a few words.", "word " * 300]
    batch = teacher.pack(
        list(zip(ids, embedder.tokenize(model[0].tokenizer, documents), strict=True)),
        *(model[0].tokenizer.token_to_id(token) for token in (embedder.CLS, embedder.SEP)),
    )
    with torch.inference_mode():
        logits = cross.model(**batch).logits[:, 0].numpy()
    scores = cross.predict(list(zip(texts, documents, strict=True)), show_progress_bar=False)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_an_untrained_teacher_already_compares_words() -> None:
    """By construction a document with the query's words scores above one without them."""
    random = np.random.default_rng(0)
    weights = torch.from_numpy(random.normal(size=(200, 64)).astype(np.float32))
    model = teacher.build_teacher(weights, hidden=64, seed=0).eval()
    queries = random.integers(5, 200, size=(50, 6))
    others = random.integers(5, 200, size=(50, 40))
    matching = others.copy()
    matching[:, 10:16] = queries
    with torch.inference_mode():
        high, low = (
            model(**teacher.pack([*zip(queries.tolist(), rows.tolist(), strict=True)], 2, 3)).logits[:, 0]
            for rows in (matching, others)
        )
    assert float((high > low).float().mean()) > 0.9


def test_the_vocabulary_depends_on_the_texts_alone() -> None:
    """Regression: the trainer's hash map gave other tokens at every call."""
    texts = [f"{a}{b} walking talks {b}{a}" for a in "abcdefghij" for b in ("ing", "ed", "er", "est")]
    first = embedder.train_tokenizer(texts, 80).get_vocab()
    assert all(embedder.train_tokenizer(texts, 80).get_vocab() == first for _ in range(5))


def test_recall_counts_text_equal_documents() -> None:
    """A copy of the positive is as good as the positive itself."""
    numbers = embedder.number_texts(["a", "b", "a", "c"])
    collection = embedder.Collection([[1]] * 4, [[1], [1]], np.array([0, 1]), numbers)
    assert embedder.recall(np.array([[2, 3], [0, 3]]), collection) == 0.5


def test_training_pairs_hold_no_equal_of_the_positive() -> None:
    """A document that equals the positive is never a negative; the positive itself stands once, with label 1."""
    numbers = np.array([0, 0, 1, 2, 3])
    collection = embedder.Collection([[1]] * 5, [[1]] * 3, np.array([0, 2, 4]), numbers)
    hits = np.tile(np.arange(5), (3, 1))
    for seed in range(20):
        pairs, labels = teacher.training_pairs(collection, hits, np.arange(3), np.random.default_rng(seed))
        for (query, document), label in zip(pairs, labels, strict=True):
            is_equal = numbers[document] == numbers[collection.positives[query]]
            assert is_equal == (label == 1)
        assert labels.sum() == 3


def test_reciprocal_ranks_count_misses_and_copies() -> None:
    """The positive's copy is as good as itself; a query whose positive is not found counts 0 on both sides."""

    class ByDocument(teacher.PairScorer):
        def __init__(self, collection: embedder.Collection) -> None:
            self.collection = collection

        def scores(self, pairs: np.ndarray, batch: int = 128) -> np.ndarray:
            return pairs[:, 1].astype(np.float32)

    numbers = embedder.number_texts(["a", "b", "a", "c"])
    collection = embedder.Collection([[1]] * 4, [[1]] * 3, np.array([0, 1, 3]), numbers)
    hits = np.array([[1, 2, 0], [1, 3, 0], [0, 1, 2]])
    teachers, embedders = teacher.reciprocal_ranks(ByDocument(collection), hits)
    assert teachers == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert embedders == pytest.approx((1 / 2 + 1 + 0) / 3)


@pytest.mark.slow
def test_the_command_mines_the_whole_way(tmp_path: Path) -> None:
    """`raymine demo` at its full size: it builds, mines, and shows examples and the cost."""
    command = [sys.executable, "-m", "raymine", "demo", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    for text in ("negatives:", "What it cost", "rescore", "3 examples", "positive  ", "See why: raymine inspect"):
        assert text in done.stdout
