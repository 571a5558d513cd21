"""Tevatron's own data set, version 2: prints a JSON array of its rows. Reads both kinds of lines.

python read_tevatron_v2.py FOLDER
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from tevatron.retriever.arguments import DataArguments
from tevatron.retriever.dataset import TrainDataset

EPOCHS = 12  # the positives take turns, of the negatives 4 come at a time


def row(data, item):
    """All that comes in some epochs."""
    epochs = []
    for data.trainer.state.epoch in range(EPOCHS):
        epochs.append(data[item])
    texts = [[text for text, *_ in documents] for _, documents in epochs]
    return {
        "query": epochs[0][0][0],
        "positives": sorted({each[0] for each in texts}),
        "negatives": sorted({text for each in texts for text in each[1:]}),
    }


folder = Path(sys.argv[1])
documents = sorted(map(str, (folder / "documents").glob("*.jsonl")))
with tempfile.TemporaryDirectory() as cache:
    arguments = DataArguments(
        dataset_path=sorted(map(str, folder.glob("*.jsonl"))),
        dataset_cache_dir=cache,
        corpus_name="json" if documents else None,
        corpus_path=documents or None,
        train_group_size=5,
    )
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=0))
    data = TrainDataset(arguments, trainer)
    print(json.dumps([row(data, item) for item in range(len(data))]))
