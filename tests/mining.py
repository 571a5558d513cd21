"""Small real jobs for tests: a BEIR folder with everything that can go wrong in it, and a config for it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny_models
import yaml

FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding"]


def write_beir(folder: Path, num_documents: int = 240, num_queries: int = 60, seed: int = 0) -> Path:
    """Topical texts with twins of positives, repeated and empty documents, several positives, test judgements."""
    draw = random.Random(seed)
    documents = tiny_models.texts(num_documents, seed)
    documents[5] = documents[9] = ""
    rows = [
        {"_id": f"d{i}", "title": f"title {i % 7}" if i % 3 else "", "text": text} for i, text in enumerate(documents)
    ]
    rows[5]["title"] = rows[9]["title"] = ""
    rows += [{"_id": f"twin{i}", "title": rows[i]["title"], "text": rows[i]["text"].upper() + "  "} for i in range(20)]
    queries, train, test = [], [], []
    for i in range(num_queries):
        positive = draw.choice([n for n in range(num_documents) if n not in (5, 9)])
        words = documents[positive].split()
        queries.append({"_id": f"q{i}", "text": " ".join(draw.sample(words, min(5, len(words)))) + f" {i}"})
        (test if i % 10 == 9 else train).append((f"q{i}", f"d{positive}", 1))
        if i % 4 == 0:
            train.append((f"q{i}", f"d{(positive + 11) % num_documents}", 2))
        if i % 6 == 0:
            test.append((f"q{i}", f"d{(positive + 23) % num_documents}", 1))
    (folder / "qrels").mkdir(parents=True)
    _write_jsonl(folder / "corpus.jsonl", rows)
    _write_jsonl(folder / "queries.jsonl", queries)
    for name, judged in (("train", train), ("test", test)):
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(data: Path, model: str, teacher: str | None = None, **sections: Any) -> dict[str, Any]:
    """A config that uses every source, several shards and blocks, and writes every format."""
    made: dict[str, Any] = {
        "corpus": {"path": str(data), "shard_documents": 64},
        "queries": {"path": str(data), "block_queries": 25},
        "positives": {"path": str(data / "qrels" / "train.tsv")},
        "exclude": [str(data / "qrels" / "test.tsv")],
        "embed": {"model": model, "store": "float32"},
        "retrieve": {"dense": {"k": 30}, "bm25": {"k": 20}, "random": {"k": 4}},
        "select": {
            "filters": [{"kind": "max_relative_score", "of_positive": 0.95}, {"kind": "skip_top", "n": 2}],
            "sample": {"n": 4},
        },
        "write": {"formats": FORMATS, "scores": True},
        "resources": {"memory_gb": 2.5e-4},  # so little that a part is two shards
        "cost": {"cpu_hour_usd": 0.04, "gpu_hour_usd": 2.5},
    }
    if teacher:
        made["rescore"] = {"model": teacher, "activation": "model"}
    return {**made, **sections}


class Dies:
    """An executor whose run ends after so many tasks, as if it were killed: the last one is done, and nobody was told.

    Args:
        inner: does the work.
        num_tasks: until then.
    """

    def __init__(self, inner: Any, num_tasks: int) -> None:
        self.inner, self.left = inner, num_tasks
        self.name, self.job_id, self.resolve = inner.name, inner.job_id, inner.resolve

    def run(self, step: Any, tasks: Any, make_work: Any) -> Iterator[dict[str, Any]]:
        for marker in self.inner.run(step, tasks, make_work):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield marker


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def bytes_of_round(round_folder: Path) -> dict[str, str]:
    """SHA-256 of every table and shard of a round: what must not depend on who ran it."""
    names = ("verdicts", "negatives", "queries", "shards")
    files = [
        path for name in names for path in (round_folder / name).rglob("*") if path.suffix in (".parquet", ".jsonl")
    ]
    return {
        str(path.relative_to(round_folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }
