"""Static embedders without sentence-transformers, whose import takes five seconds and 0.3 GB more than torch's.

A model that is nothing but sentence-transformers' StaticEmbedding (a tokenizer, and the mean of a vector per token),
and perhaps a Normalize after it, is read from its folder as sentence-transformers would; its vectors are the same to
the bit. Any other is left to sentence-transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn.functional import normalize

MODULE_KEYS = {"idx", "name", "path", "type"}
WEIGHTS = ({"embedding.weight"}, {"embeddings"})  # as saved by sentence-transformers; by model2vec
NORMALIZE: tuple[dict[str, str], ...] = (  # what its file says, of older versions and of newer ones
    {},
    {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
)


class StaticModel(torch.nn.Module):
    """As much of a SentenceTransformer as inference.Runner and SentenceTransformerEncoder use.

    Args:
        tokenizer: of the model.
        weight: [tokens, dim].
        is_normalized: whether vectors are made to have length 1.
        config: what config_sentence_transformers.json says.
    """

    def __init__(self, tokenizer: Tokenizer, weight: torch.Tensor, is_normalized: bool, config: dict[str, Any]) -> None:
        super().__init__()
        self.tokenizer, self.is_normalized = tokenizer, is_normalized
        self.tokenizer.no_padding()
        self.embedding = torch.nn.EmbeddingBag.from_pretrained(weight)
        self.prompts: dict[str, str] = {"query": "", "document": "", **(config.get("prompts") or {})}
        self.default_prompt_name: str | None = config.get("default_prompt_name")
        self.similarity_fn_name: str = config.get("similarity_fn_name") or "cosine"

    def __getitem__(self, index: int) -> StaticModel:
        """Its only module."""
        return self

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def forward(self, features: dict[str, torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
        vectors = self.embedding(features["input_ids"], features["offsets"])
        return {**features, "sentence_embedding": normalize(vectors, dim=1) if self.is_normalized else vectors}


def load_static(folder: str) -> StaticModel | None:
    """The model in a local folder, on the CPU; None where it is not plainly a static one, or anything is amiss."""
    try:
        return _load(Path(folder))
    except Exception:  # tokenizers raises nothing narrower; what is wrong, sentence-transformers says
        return None


def _load(folder: Path) -> StaticModel | None:
    first, *others = _json(folder / "modules.json")
    config = _json(folder / "config_sentence_transformers.json")
    is_plain = (
        _is(first, "StaticEmbedding")
        and len(others) <= 1
        and all(
            _is(other, "Normalize") and _json(folder / other["path"] / "config.json") in NORMALIZE for other in others
        )
        and config.get("model_type", "SentenceTransformer") == "SentenceTransformer"
    )
    if not is_plain:
        return None
    weights = load_file(folder / first["path"] / "model.safetensors")
    if set(weights) not in WEIGHTS:
        return None
    tokenizer = Tokenizer.from_file(str(folder / first["path"] / "tokenizer.json"))
    made = StaticModel(tokenizer, next(iter(weights.values())), bool(others), config)
    return made if made.default_prompt_name in {None, *made.prompts} else None


def _is(module: dict[str, Any], name: str) -> bool:
    """Whether an entry of modules.json is sentence-transformers' own module of that name, under any of its paths."""
    kind = module["type"].split(".")
    return kind[0] == "sentence_transformers" and kind[-1] == name and set(module) == MODULE_KEYS


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}
