"""Content hashes: of configs, of input files and of model weights.

A fingerprint names what something *is*, never what it is called: a model's is made of the bytes of its files, an
input's of its content. What cannot be hashed stably (an object, a set, a NaN) is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel

from raymine import storage

LENGTH = 16  # hex digits: 64 bits, so that a workspace of a million artifacts has a chance of 3e-8 of one collision
# Files that change nothing about what a model computes; a trainer writes most of them anew at each save.
NOT_MODEL = (".md", ".png", ".gitattributes", ".gitignore", "optimizer.pt", "scheduler.pt", "rng_state.pth")
NOT_MODEL_NAMES = ("trainer_state.json", "training_args.bin", "scaler.pt")
WEIGHTS = (".safetensors", ".bin", ".pt", ".h5", ".msgpack", ".index.json")
TOKENIZING = ("tokenizers", "transformers", "sentence-transformers")
NOT_MODEL_FOLDERS = ("onnx/", "openvino/", ".git/", ".cache/", "eval/", "runs/")


def plain(value: Any) -> Any:
    """Reduces a value to JSON with one spelling, or refuses it.

    Raises:
        TypeError: the value has no stable spelling.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"cannot fingerprint the number {value!r}: only finite numbers have one spelling")
        return value
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("cannot fingerprint a mapping whose keys are not all strings")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    raise TypeError(f"cannot fingerprint a {type(value).__name__}: only JSON-like values and pydantic models")


def fingerprint(value: Any) -> str:
    """Hash of a JSON-like value or pydantic model; key order does not matter.

    Returns:
        LENGTH hex digits of the SHA-256 of its canonical JSON.
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def model_files(folder: str) -> list[str]:
    """Relative paths of the files that decide what a model computes: weights, configs, tokenizer, modules."""
    names = [storage.relative(url, folder) for url in storage.list_files(folder)]
    return [
        name
        for name in names
        if not name.endswith(NOT_MODEL)
        and name.rsplit("/", 1)[-1] not in NOT_MODEL_NAMES
        and not name.startswith(NOT_MODEL_FOLDERS)
    ]


def tokenizer_fingerprint(folder: str, cache: storage.HashCache) -> str:
    """Hash of everything that decides a model's tokens: all of its files but the weights, and the libraries' versions.

    Args:
        folder: local folder or URL of a saved model.
        cache: remembers the hashes of files that did not change.
    """
    names = [name for name in model_files(folder) if not name.endswith(WEIGHTS)]
    files = {name: cache.content_hash(storage.join(folder, name)) for name in names}
    return fingerprint({"files": files, "versions": {name: version(name) for name in TOKENIZING}})


def model_fingerprint(folder: str, cache: storage.HashCache) -> str:
    """Hash of a model folder: the names and bytes of weights, configs and tokenizer.

    Args:
        folder: local folder or URL of a saved sentence-transformers or transformers model.
        cache: remembers the hashes of files that did not change.
    """
    return fingerprint({name: cache.content_hash(storage.join(folder, name)) for name in model_files(folder)})
