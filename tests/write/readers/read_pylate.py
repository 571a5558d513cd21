"""PyLate's own processing for knowledge distillation: prints a JSON array of its rows.

python read_pylate.py FOLDER
"""

import json
import sys
import tempfile
from pathlib import Path

import datasets
from pylate.utils import KDProcessing

folder = Path(sys.argv[1])
with tempfile.TemporaryDirectory() as cache:
    train, queries, documents = (
        datasets.load_dataset(kind, data_files=[str(path) for path in sorted(files)], split="train", cache_dir=cache)
        for kind, files in (
            ("parquet", folder.glob("*.parquet")),
            ("json", (folder / "queries").glob("*.jsonl")),
            ("json", (folder / "documents").glob("*.jsonl")),
        )
    )
    train.set_transform(KDProcessing(queries=queries, documents=documents).transform)
    rows = [
        {"query": row["query"], "documents": dict(zip(row["documents"], row["scores"], strict=True))} for row in train
    ]
    print(json.dumps(rows))
