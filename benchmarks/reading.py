"""Is reading flat in memory? Reads 100k, 1M and 10M documents of JSONL and compares the peaks of the process.

    python benchmarks/reading.py --data ../shared/data

The documents are sentences of arxiv's abstracts, numbered so that no two are equal. Each size is read by a process of
its own, which runs the stage that `raymine mine` runs, into shards in a temporary folder (4 GB of disk for 10M).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import measure
import models

SIZES = (100_000, 1_000_000, 10_000_000)
READ = """
import sys
from raymine.artifacts import Task
from raymine.config import CorpusConfig
from raymine.corpus.read import ReadDocuments, splits
from raymine.storage import HashCache
config = CorpusConfig(path=sys.argv[1])
num_rows = 0
for number, split in enumerate(splits(config, HashCache())):
    record = ReadDocuments(config)(Task("read", split, output=f"{sys.argv[2]}/{number}"))
    assert not record.problems, record.problems
    num_rows += record.rows_out
assert num_rows == int(sys.argv[3]), num_rows
"""


def write_documents(path: Path, sentences: list[str], count: int) -> None:
    """Writes `count` documents, the sentences over and over with a number before each."""
    with path.open("w", encoding="utf-8") as file:
        for number, sentence in zip(range(count), itertools.cycle(sentences), strict=False):
            file.write(json.dumps({"_id": f"d{number}", "text": f"{number} {sentence}"}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    arguments = parser.parse_args()
    texts = itertools.islice(models.documents(arguments.data / "arxiv").values(), 20_000)
    sentences = [sentence.strip() for text in texts for sentence in text.split(". ") if sentence.strip()]
    runs = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corpus.jsonl"
            write_documents(path, sentences, size)
            runs[str(size)] = measure.run([sys.executable, "-c", READ, str(path), folder, str(size)])
            print(f"{size:,} documents: {runs[str(size)]}", flush=True)
    measure.keep("reading", {"runs": runs})


if __name__ == "__main__":
    main()
