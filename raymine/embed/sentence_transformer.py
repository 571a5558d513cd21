"""Any sentence-transformers model as an encoder; same vectors as its own encode_query and encode_document.

Unlike `SentenceTransformer.encode` (batches of a fixed number of texts, sorted by characters, tokenised one batch at a
time in front of a waiting device), batches are cut by padded tokens from texts sorted by tokens, and a shard is
tokenised while another is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from raymine import inference
from raymine.batching import Features, Tokens
from raymine.config import EmbedConfig
from raymine.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

Side = Literal["query", "document"]
# The prompts that encode_query and encode_document look for, in this order, when none is asked for.
PROMPT_NAMES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


class Description(TypedDict):
    """What a round needs to know of an embedder before it runs (JSON-like, every part decides the vectors)."""

    dim: int
    similarity: str
    normalized: bool
    query_prompt: str
    document_prompt: str
    max_length: int | None


class SentenceTransformerEncoder:
    """A loaded model that encodes one side's texts; see `Encoder` for the attributes.

    Args:
        config: names the model, prompts, limits and number format.
        side: whose prompt is used, and which way through a model with two.

    Raises:
        ConfigError: the model cannot be loaded or used as the config asks.
    """

    def __init__(self, config: EmbedConfig, side: Side) -> None:
        model = inference.load("SentenceTransformer", config)
        self.similarity = similarity(model, config)
        self.normalized = self.similarity == "cosine"
        self.prompts: dict[Side, str] = {each: prompt(model, config, each) for each in PROMPT_NAMES}
        self.prompt = self.prompts[side]
        self.max_length = inference.max_length(model)
        self.device = inference.device_name(model)
        self._task = side
        self._truncate_dim = getattr(model, "truncate_dim", None)
        self._runner = inference.Runner(model, config.batch_tokens, self._vectors)
        # Asked of the model itself: not every module says what it puts out.
        self.dim = int(self.encode(self.tokenize(["a"]))[0].shape[1])

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens of n >= 1 texts, prompt included."""
        sizes = inference.characters(texts)
        return self._runner.tokenize(texts, sizes, prompt=self.prompt or None, task=self._task)

    def restored(self, table: pa.Table) -> Tokens:
        """Tokens from a table of raymine.stored_tokens."""
        return self._runner.restored(table)

    def encode(self, tokens: Tokens) -> tuple[NDArray[np.float32], float]:
        """Vectors float32 [n, dim], and the seconds that the device was held."""
        return self._runner.run(tokens, task=self._task)

    def _vectors(self, features: Features) -> torch.Tensor:
        import torch

        vectors: torch.Tensor = features["sentence_embedding"][..., : self._truncate_dim].float()
        return torch.nn.functional.normalize(vectors, dim=1) if self.normalized else vectors


def similarity(model: Any, config: EmbedConfig) -> str:
    """cosine or dot: the config's, else the model's own.

    Raises:
        ConfigError: the model's own is a distance.
    """
    found = config.similarity or str(model.similarity_fn_name)
    if found not in ("cosine", "dot"):
        raise ConfigError(
            f"model {config.model!r} compares vectors by {found}",
            got=found,
            expected="cosine or dot",
            fix="set embed.similarity: cosine (or dot) if the model may be used so",
        )
    return found


def prompt(model: Any, config: EmbedConfig, side: Side) -> str:
    """What is put before each text of a side: the config's prompt, or the one that the model's own encode_query
    or encode_document would use.

    Raises:
        ConfigError: the model has no prompt of that name.
    """
    known: dict[str, str | None] = model.prompts
    given, name = getattr(config, f"{side}_prompt"), getattr(config, f"{side}_prompt_name")
    if given is not None:
        return str(given)
    if name is not None and name not in known:
        raise ConfigError(
            f"embed.{side}_prompt_name: model {config.model!r} has no such prompt",
            got=name,
            expected=f"one of {', '.join(sorted(known))}" if known else "a model with prompts",
            fix=f"correct it, or give the text itself as embed.{side}_prompt",
        )
    names = [name] if name is not None else [*PROMPT_NAMES[side], model.default_prompt_name]
    return next((known[each] or "" for each in names if each in known), "")


def describe(config: EmbedConfig) -> Description:
    """Loads the model once and says what a round needs to know of it, before anything expensive is begun.

    Raises:
        ConfigError: the model cannot be loaded or used as the config asks.
    """
    encoder = SentenceTransformerEncoder(config, "query")
    return {
        "dim": encoder.dim,
        "similarity": encoder.similarity,
        "normalized": encoder.normalized,
        "query_prompt": encoder.prompts["query"],
        "document_prompt": encoder.prompts["document"],
        "max_length": encoder.max_length,
    }
