"""NeMo Automodel's own data set for retrieval: prints a JSON array of its rows. Reads both kinds of files.

python read_automodel.py FOLDER
"""

import json
import os
import sys
import tempfile
from pathlib import Path

EPOCHS = 3  # the positives take turns


def row(epochs):
    """All that comes in some epochs, of one query."""
    texts = [each["doc_text"] for each in epochs]
    return {
        "query": epochs[0]["question"],
        "positives": sorted({each[0] for each in texts}),
        "negatives": sorted({text for each in texts for text in each[1:]}),
    }


with tempfile.TemporaryDirectory() as cache:
    os.environ["HF_DATASETS_CACHE"] = cache
    from nemo_automodel.components.datasets.llm.retrieval_dataset import make_retrieval_dataset

    files = sorted(str(path) for path in Path(sys.argv[1]).iterdir() if path.is_file())
    data = make_retrieval_dataset(files, n_passages=5, cycle_positive_docs=True)
    epochs = []
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        epochs.append(list(data))
    print(json.dumps([row(each) for each in zip(*epochs, strict=True)]))
