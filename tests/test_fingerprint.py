"""Fingerprints name contents: equal for equal content, different for any change, refused where not stable."""

import math
import tempfile
from pathlib import Path

import pytest

from raymine import fingerprint as fp
from raymine import storage
from raymine.config import Bm25Config, DenseConfig
from raymine.models import local_model
from raymine.storage import HashCache


def test_key_order_and_container_type_do_not_matter() -> None:
    """A mapping is its items, a tuple is a list."""
    assert fp.fingerprint({"a": 1, "b": (1, 2)}) == fp.fingerprint({"b": [1, 2], "a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), ([1, 2], [2, 1]), (1, "1"), (1, 1.5), (None, False), ("a", "A")],
    ids=repr,
)
def test_any_difference_changes_it(one: object, other: object) -> None:
    """Values, keys, order and types count."""
    assert fp.fingerprint(one) != fp.fingerprint(other)


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), math.nan, math.inf, b"x", {1: 2}, lambda: 0],
    ids=["set", "object", "nan", "inf", "bytes", "number as key", "function"],  # the same in all processes
)
def test_what_has_no_stable_spelling_is_refused(value: object) -> None:
    """Sets, objects, NaN, bytes and non-string keys."""
    with pytest.raises(TypeError, match="cannot fingerprint"):
        fp.fingerprint({"x": value})


def test_models_of_config_are_their_values() -> None:
    """Two configs with the same values are the same, with another value they are not."""
    assert fp.fingerprint(DenseConfig(k=3)) == fp.fingerprint(DenseConfig(k=3)) != fp.fingerprint(DenseConfig(k=4))
    assert fp.fingerprint(Bm25Config(k=3)) != fp.fingerprint(Bm25Config(k=3, k1=1.2))


def _model(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_two_models_of_one_name_differ_by_their_weights(tmp_path: Path) -> None:
    """The bug of a peer's cache: another checkpoint in a folder of the same name is another model."""
    one, other = _model(tmp_path / "a" / "model"), _model(tmp_path / "b" / "model", b"weightz")
    assert fp.model_fingerprint(str(one), HashCache()) != fp.model_fingerprint(str(other), HashCache())


def test_one_model_in_two_places_is_the_same(tmp_path: Path) -> None:
    """Neither the folder's name nor files that do not compute anything count."""
    one, other = _model(tmp_path / "a"), _model(tmp_path / "b")
    (other / "README.md").write_text("hello")
    (other / "optimizer.pt").write_bytes(b"state")
    (other / "trainer_state.json").write_text("{}")
    assert fp.model_fingerprint(str(one), HashCache()) == fp.model_fingerprint(str(other), HashCache())


def test_a_file_rewritten_in_place_is_hashed_again(tmp_path: Path) -> None:
    """The cache goes by size and time of change, and survives in its file."""
    path, kept = tmp_path / "x", str(tmp_path / "hashes.json")
    path.write_bytes(b"one")
    first = HashCache(kept).content_hash(str(path))
    assert HashCache(kept).content_hash(str(path)) == first
    path.write_bytes(b"two!")
    assert HashCache(kept).content_hash(str(path)) != first


def test_of_a_checkpoint_elsewhere_only_the_model_is_fetched(
    static_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint is that of the folder it was copied from; a trainer's optimizer stays where it is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    url = "memory://checkpoints/one"
    for path in Path(static_model).rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{url}/{path.relative_to(static_model)}", path.read_bytes())
    storage.write_bytes(f"{url}/optimizer.pt", b"much")
    fetched = local_model(url)
    assert fp.model_fingerprint(fetched, HashCache()) == fp.model_fingerprint(static_model, HashCache())
    assert not (Path(fetched) / "optimizer.pt").exists()
    assert local_model(url) == fetched
