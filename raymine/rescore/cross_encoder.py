"""Any sentence-transformers CrossEncoder with one label as a teacher; same scores as its own `predict`.

`activation: raw` gives the logit, which keeps its order where a sigmoid in float32 has long become 1.0 (from a logit
of 17 on); `model` gives what the model itself puts on top.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymine import inference, models
from raymine.batching import Features, Tokens
from raymine.config import RescoreConfig
from raymine.errors import ConfigError

if TYPE_CHECKING:
    import torch

# transformers leaves the labels out of a saved config where there are as many as it takes for granted.
DEFAULT_NUM_LABELS = 2
KEPT_LENGTHS = 4  # texts are cut to so many times max_length: which of a pair is longer decides which keeps more
CUT_TEXTS = 1024
WHITE_SPACE = re.compile(r"\s")


class CrossEncoderTeacher:
    """A loaded CrossEncoder that scores pairs; see `Teacher` for the attributes.

    Args:
        config: names the model, its activation, limits and number format.

    Raises:
        ConfigError: the model cannot be loaded or used as the config asks.
    """

    def __init__(self, config: RescoreConfig) -> None:
        import torch

        model = inference.load("CrossEncoder", config)
        _check_labels(model.num_labels, config)
        self.device = inference.device_name(model)
        self._activation: Any = torch.nn.Identity() if config.activation == "raw" else model.activation_fn
        self._prompt = model.prompts.get(model.default_prompt_name)
        self._tokenizing = threading.Lock()
        self._tokenizer, self._max_length = getattr(model, "tokenizer", None), model.max_seq_length
        self._runner = inference.Runner(model, config.batch_tokens, self._scores)

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        """Tokens of n >= 1 (query, document) pairs. One call at a time: a tokenizer keeps its truncation as state."""
        with self._tokenizing:
            if self._max_length is not None:
                cut = cut_texts({text for pair in pairs for text in pair}, self._tokenizer, self._max_length)
                pairs = [(cut.get(query, query), cut.get(text, text)) for query, text in pairs]
            sizes = np.fromiter((len(query) + len(text) for query, text in pairs), np.int64, len(pairs))
            return self._runner.tokenize(pairs, sizes, prompt=self._prompt or None)

    def score(self, tokens: Tokens) -> tuple[NDArray[np.float32], float]:
        """Scores float32 [n], and the seconds that the device was held."""
        return self._runner.run(tokens)

    def _scores(self, features: Features) -> torch.Tensor:
        logits: torch.Tensor = features["scores"].float()
        scores: torch.Tensor = self._activation(logits)
        return scores.reshape(-1)


def cut_texts(texts: Iterable[str], tokenizer: Any, max_length: int) -> dict[str, str]:
    """Cuts the texts that are far longer than the model reads, behind the last word that it could read.

    A pair is truncated to `max_length` tokens in all, so nothing behind the first `max_length` tokens of either text
    counts. But a fast tokenizer keeps what it cut off, and for a pair it keeps every combination of both texts' rests:
    scifact's abstracts, cut into letters by a tiny vocabulary, took 9 GB at a max_length of 32.
    Cut at white space, where tokenizers begin a new word, the first tokens stay the same.

    Args:
        texts: any texts, each tokenised once here however many pairs it is in.
        tokenizer: of the model; one that is not fast cuts nothing.
        max_length: tokens per pair.

    Returns:
        The texts that were cut: text to its beginning.
    """
    kept = KEPT_LENGTHS * max_length
    long = sorted(text for text in texts if len(text) > kept)
    if not getattr(tokenizer, "is_fast", False) or not long:
        return {}
    cut = {}
    for begin in range(0, len(long), CUT_TEXTS):
        chunk = long[begin : begin + CUT_TEXTS]
        options = {"add_special_tokens": False, "truncation": True, "max_length": kept}
        ends = tokenizer(chunk, return_offsets_mapping=True, **options)["offset_mapping"]
        for text, offsets in zip(chunk, ends, strict=True):
            space = WHITE_SPACE.search(text, offsets[-1][1]) if len(offsets) == kept else None
            if space:
                cut[text] = text[: space.start()]
    return cut


def check(config: RescoreConfig) -> None:
    """Looks at a teacher's files, without loading it, before anything expensive is begun.

    What the files do not say (models with a modules.json of their own) is checked when the model is loaded.

    Raises:
        ConfigError: there is no such model, or it is no cross-encoder with one label.
    """
    folder = Path(models.local_model(config.model, config.revision))
    if (folder / "modules.json").is_file():
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"rescore.model: {config.model!r} is not a saved model",
            got=f"{folder} has no config.json",
            expected="a CrossEncoder, as sentence-transformers saves it",
            fix="give the folder that holds config.json",
        )
    facts = json.loads((folder / "config.json").read_text())
    architecture = (facts.get("architectures") or ["unknown"])[0]
    if architecture.endswith("ForSequenceClassification"):
        _check_labels(len(facts.get("id2label") or range(DEFAULT_NUM_LABELS)), config)
    elif not architecture.endswith("ForCausalLM"):
        raise ConfigError(
            f"rescore.model: {config.model!r} is not a cross-encoder",
            got=f"architecture {architecture}, whose classifier would be random numbers",
            expected="...ForSequenceClassification with one label",
            fix="give a trained CrossEncoder",
        )


def _check_labels(num_labels: int, config: RescoreConfig) -> None:
    if num_labels != 1:
        raise ConfigError(
            f"rescore.model: {config.model!r} does not give one score per pair",
            got=f"{num_labels} labels",
            expected="a CrossEncoder with one label",
            fix="give a model trained for ranking, e.g. cross-encoder/ms-marco-MiniLM-L6-v2",
        )
