"""Tevatron's own data set, version 1: prints a JSON array of its rows, with a token per character.

python read_tevatron.py FOLDER
"""

import json
import sys
import tempfile
from types import SimpleNamespace

from tevatron.arguments import DataArguments
from tevatron.data import TrainDataset
from tevatron.datasets import HFTrainDataset

EPOCHS = 12  # the positives take turns, of the negatives 4 come at a time


class Characters:
    """What the data set asks of a tokenizer."""

    def encode(self, text, **_):
        return [ord(character) for character in text]

    def encode_plus(self, tokens, **_):
        return "".join(map(chr, tokens))


def row(data, trainer, item):
    """All that comes in some epochs."""
    epochs = []
    for trainer.state.epoch in range(EPOCHS):
        epochs.append(data[item])
    texts = [texts for _, texts in epochs]
    return {
        "query": epochs[0][0],
        "positives": sorted({each[0] for each in texts}),
        "negatives": sorted({text for each in texts for text in each[1:]}),
    }


with tempfile.TemporaryDirectory() as cache:
    arguments = DataArguments(
        dataset_name=sys.argv[1], train_n_passages=5, dataset_proc_num=1, q_max_len=10**6, p_max_len=10**6
    )
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=0))
    loaded = HFTrainDataset(Characters(), arguments, cache).process()
    data = TrainDataset(arguments, loaded, Characters(), trainer)
    print(json.dumps([row(data, trainer, item) for item in range(len(data))]))
