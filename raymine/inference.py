"""Loading a sentence-transformers model, and running one over a shard in two halves that overlap.

The first half (tokens, CPU) and the second (the model's forward pass) have a lock each: with two calls in flight one
shard is tokenised while the other is encoded, and neither the tokenizer (which is not safe to share) nor the device
ever serves two at once. On a CPU the batches of a shard are shared out to threads, one each (raymine.threads).
Outputs stay on the device until the shard is through, so a GPU does not wait for copies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymine import batching, models, stored_tokens
from raymine.bags import Bags
from raymine.batching import Batch, Features, Padding, Tokens
from raymine.config import EmbedConfig, RescoreConfig
from raymine.errors import ConfigError
from raymine.threads import in_threads, num_threads

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

# A tokenizer without a limit says 1e30.
UNLIMITED = 10**9
# Padded tokens per batch. A GPU needs many to be busy. On a CPU the activations of a batch should stay in its caches: a
# BERT of 6 layers of 384 on two threads took 11.3 s with 1024, 11.8 with 2048, 12.6 with 4096, 12.7 with 8192 and 14.4
# with 16384 (13.5 by `encode`, 32 texts a batch). A static model has no activations: the fewer batches the better.
BATCH_TOKENS = 16384
CPU_BATCH_TOKENS = 2048


class Runner:
    """A loaded sentence-transformers model with its two locks.

    Args:
        model: SentenceTransformer or CrossEncoder, on its device, in evaluation mode.
        batch_tokens: padded tokens per batch; None: what suits the model and its device.
        head: what is wanted of the model's output features, as a tensor [rows, ...] of float32.
    """

    def __init__(self, model: Any, batch_tokens: int | None, head: Callable[[Features], torch.Tensor]) -> None:
        self.model, self.batch_tokens, self.head = model, batch_tokens or default_batch_tokens(model), head
        self.padding = Padding.of(getattr(model[0], "tokenizer", None))
        self.bags = Bags(model[0].tokenizer) if is_static(model) else None
        self._tokenizing, self._running = threading.Lock(), threading.Lock()

    def tokenize(self, texts: Sequence[Any], sizes: NDArray[np.int64], **options: Any) -> Tokens:
        """Tokens of n >= 1 texts (or pairs of texts).

        Args:
            texts: what the model's `preprocess` takes.
            sizes: int64 [n], characters of each.
            options: keyword arguments of the model's `preprocess`.
        """

        def preprocess(chunk: list[Any]) -> Features:
            return dict(self.model.preprocess(chunk, **options))

        with self._tokenizing:
            if self.bags is not None:
                rows = self.bags.tokens(texts, options.get("prompt") or "")
                return batching.planned(rows, np.arange(len(texts)), self.padding, self.batch_tokens)
            return batching.tokenize(preprocess, texts, sizes, self.padding, self.batch_tokens)

    def restored(self, table: pa.Table) -> Tokens:
        """Tokens that were stored (raymine.stored_tokens)."""
        return stored_tokens.from_table(table, self.padding, self.batch_tokens)

    def run(self, tokens: Tokens, **options: Any) -> tuple[NDArray[np.float32], float]:
        """Runs the model.

        Args:
            tokens: of n >= 1 texts.
            options: keyword arguments of the model's forward pass.

        Returns:
            float32 [n, ...], row i of text i; and the seconds that the device was held.
        """
        import torch

        def forward(batch: Batch) -> tuple[NDArray[np.int64], torch.Tensor]:
            with torch.inference_mode():
                moved = {name: self._moved(value) for name, value in batch[1].items()}
                return batch[0], self.head(self.model(moved, **options)).float()

        with self._running:
            begin = time.perf_counter()
            on_cpu = self.model.device.type == "cpu"
            done = in_threads(forward, tokens.batches(), num_threads()) if on_cpu else map(forward, tokens.batches())
            positions, outputs = zip(*done, strict=True)
            made = torch.cat(outputs).cpu().numpy()
            values = np.empty_like(made)
            values[np.concatenate(positions)] = made
            return values, time.perf_counter() - begin

    def _moved(self, value: Any) -> Any:
        return value.to(self.model.device, non_blocking=True) if hasattr(value, "to") else value


def is_static(model: Any) -> bool:
    """Whether a model's first module is sentence-transformers' own StaticEmbedding, or what stands for it."""
    from raymine.embed.static import StaticModel

    if isinstance(model, StaticModel):
        return True
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return type(model[0]) is StaticEmbedding


def default_batch_tokens(model: Any) -> int:
    """Padded tokens per batch that suit a model and its device."""
    return CPU_BATCH_TOKENS if model.device.type == "cpu" and not is_static(model) else BATCH_TOKENS


def load(family: str, config: EmbedConfig | RescoreConfig) -> Any:
    """Loads a model onto the GPU where there is one, in the config's number format, in evaluation mode.

    Args:
        family: SentenceTransformer or CrossEncoder.
        config: embed or rescore; names its model.

    Raises:
        ConfigError: there is no such model, or it is not of that family.
    """
    import torch

    folder = models.local_model(config.model or "", config.revision)
    dtype = getattr(torch, config.dtype)
    static = _static(folder) if family == "SentenceTransformer" else None
    model = static if static is not None else _loaded(family, folder, config, dtype)
    weight = next(model.parameters(), None)
    if weight is not None and weight.dtype != dtype:
        model.to(dtype)  # modules that are not transformers (StaticEmbedding) ignore model_kwargs
    set_max_length(model, config.max_length, config.model or "")
    return model.eval()


def _static(folder: str) -> Any:
    """A static model without sentence-transformers; None where it is not one, or there is a GPU."""
    import torch

    from raymine.embed.static import load_static

    return None if torch.cuda.is_available() else load_static(folder)


def _loaded(family: str, folder: str, config: EmbedConfig | RescoreConfig, dtype: torch.dtype) -> Any:
    import sentence_transformers
    import torch
    from safetensors import SafetensorError

    try:
        with _quiet():
            return getattr(sentence_transformers, family)(
                folder,
                device="cuda" if torch.cuda.is_available() else "cpu",
                trust_remote_code=config.trust_remote_code,
                local_files_only=not config.trust_remote_code,
                model_kwargs={"dtype": dtype},
            )
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, SafetensorError) as error:
        raise ConfigError(
            f"model {config.model!r} cannot be loaded as a {family}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected=f"a model that sentence_transformers.{family} loads",
            fix="check the path; for a model with code of its own set trust_remote_code: true if you trust it",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of transformers: raymine shows its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def set_max_length(model: Any, max_length: int | None, name: str) -> None:
    """Limits the tokens per text; None leaves the model's own limit.

    Raises:
        ConfigError: the model has fewer positions, or does not say how to limit it.
    """
    if max_length is None:
        return
    positions = num_positions(model)
    if max_length > positions:
        raise ConfigError(
            f"max_length is more than model {name!r} has positions",
            got=str(max_length),
            expected=f"at most {positions}",
            fix="lower max_length, or leave it out for the model's own",
        )
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    if hasattr(tokenizer, "enable_truncation"):  # a bare `tokenizers.Tokenizer`, as StaticEmbedding has
        tokenizer.enable_truncation(max_length)
        return
    try:
        model.max_seq_length = max_length
    except AttributeError as error:
        raise ConfigError(
            f"max_length cannot be set for model {name!r}",
            got=f"a first module of type {type(model[0]).__name__}",
            expected="one with a max_seq_length",
            fix="leave max_length out",
        ) from error


def max_length(model: Any) -> int | None:
    """Tokens per text at which the model cuts; None: it does not cut."""
    truncation = getattr(getattr(model[0], "tokenizer", None), "truncation", None)
    if isinstance(truncation, dict):
        return int(truncation["max_length"])
    length = getattr(model, "max_seq_length", None)
    return int(length) if length is not None and length < UNLIMITED else None


def num_positions(model: Any) -> int:
    """The most tokens that the model's position embeddings allow; UNLIMITED where it has none."""
    positions: Any = getattr(getattr(model[0], "config", None), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return UNLIMITED
    for module in model.modules():
        # RoBERTa counts positions from its padding index on: 514 positions hold 512 tokens.
        padding = getattr(getattr(module, "position_embeddings", None), "padding_idx", None)
        if padding is not None and isinstance(getattr(module, "padding_idx", None), int):
            return positions - int(padding) - 1
    return positions


def device_name(model: Any) -> str:
    """The model's device, e.g. `cuda:0 NVIDIA H200` or `cpu`."""
    import torch

    device = model.device
    if device.type != "cuda":
        return str(device.type)
    index = device.index or 0
    return f"cuda:{index} {torch.cuda.get_device_name(index)}"


def characters(texts: Sequence[str]) -> NDArray[np.int64]:
    """Length of each text, int64 [n]."""
    return np.fromiter((len(text) for text in texts), np.int64, len(texts))
