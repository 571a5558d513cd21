"""Steps that tokenise each word once (raymine.bags): what they take goes by the words that no text before had.

The more texts, the fewer of these there are for each: a round has fewer than any sample of it. They are counted, in the
samples and in the round's own shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raymine import bags, inference, storage
from raymine.planning import sample
from raymine.planning.fit import DRIVERS, NOISE_S, TASKS, Point, Rate, non_negative
from raymine.storage import Shard


def tokenises_words(embedder: Any) -> bool:
    """Whether a loaded embedder is one that tokenises each word once."""
    return embedder is not None and inference.is_static(embedder) and bags.cuts_at_spaces(embedder[0].tokenizer)


def rate_by_words(
    name: str, rate: Rate, points: Sequence[Point], words: Sequence[float], per_text: float
) -> tuple[Rate, float]:
    """The rate of a step that embeds, in a round whose texts have other numbers of words that none before them had.

    Args:
        name: of the step.
        rate: by texts and tasks alone.
        points: of samples; the last is of the largest.
        words: to tokenise for a text of each sample.
        per_text: words to tokenise for a text of the round.

    Returns:
        What a text and a task of the round take; what its text takes as a share of one of the largest sample.
    """
    driver = DRIVERS[name][0]
    texts = np.array([point.units[driver] for point in points])
    units = np.stack([texts, texts * words, [point.units[TASKS] for point in points]], axis=1)
    of_text, of_word, of_task = non_negative(units, np.array([point.seconds for point in points]), NOISE_S).tolist()
    seconds = {driver: of_text + of_word * per_text, TASKS: of_task}
    largest = of_text + of_word * words[-1]
    return replace(rate, seconds=seconds), seconds[driver] / largest if largest else 1.0


def words_per_text(shards: Sequence[Shard]) -> float:
    """Words to tokenise for each text of as many of the shards as a sample is drawn from."""
    chosen = [shards[number] for number in sample.evenly(len(shards), sample.MOST_SHARDS)]
    texts = (storage.read_table(shard.path, ["text"])["text"].drop_null().to_pylist() for shard in chosen)
    num_texts: int = sum(shard.num_rows for shard in chosen)
    return max(1, bags.num_words_to_tokenise(texts)) / num_texts
