"""Any sentence-transformers CrossEncoder with one label as a teacher; same scores as its own `predict`.

`activation: raw` gives the logit, which keeps its order where a sigmoid in float32 has long become 1.0 (from a logit
of 17 on); `model` gives what the model itself puts on top.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        self._runner = inference.Runner(model, config.batch_tokens, self._scores)

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> Tokens:
        """Tokens of n >= 1 (query, document) pairs."""
        sizes = np.fromiter((len(query) + len(text) for query, text in pairs), np.int64, len(pairs))
        return self._runner.tokenize(pairs, sizes, prompt=self._prompt or None)

    def score(self, tokens: Tokens) -> tuple[NDArray[np.float32], float]:
        """Scores float32 [n], and the seconds that the device was held."""
        return self._runner.run(tokens)

    def _scores(self, features: Features) -> torch.Tensor:
        logits: torch.Tensor = features["scores"].float()
        scores: torch.Tensor = self._activation(logits)
        return scores.reshape(-1)


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
