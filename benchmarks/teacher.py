"""Does the teacher score as fast as its model allows? raymine's rescore step against `CrossEncoder.predict`.

    python benchmarks/teacher.py --data ../shared/data

The same pairs of arxiv titles and abstracts, a randomly initialised cross-encoder (BERT, 4 layers of 256, one label).
raymine runs Rescore over document shards, two calls in flight, by the local executor and on Ray (there without the
start of the cluster); it reads texts and pairs from files and writes scores and the teacher cache. Then
the same pairs again with the same teacher, as a second round asks for them: all from the cache. All have the same
number of threads and a loaded model. Scores (logits) must agree to 1e-4. Writes benchmarks/results/teacher.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import pyarrow as pa
import steps

from raymine import schemas, storage
from raymine.artifacts import Step, Task
from raymine.config import RescoreConfig
from raymine.rescore import Rescore

TOLERANCE = 1e-4
LAYERS, WIDTH, MAX_LENGTH = 4, 256, 256
DOCUMENTS, SHARDS, PAIRS_PER_QUERY = 2000, 4, 10
GOALS = {"local": ">= 1.0x", "ray": ">= 0.95x", "cached": ">= 50x"}
SIDES = (*steps.SIDES, "cached")
FINGERPRINT = "benchmark"


def prepare(data: Path, num_pairs: int, folder: Path) -> Path:
    """Makes corpus shards, a query block, pairs and the model; the model's folder."""
    documents = dict(itertools.islice(models.documents(data / "arxiv").items(), DOCUMENTS))
    questions = list(itertools.islice(models.queries(data / "arxiv").items(), num_pairs // PAIRS_PER_QUERY))
    steps.corpus_shards(list(documents.values()), folder, DOCUMENTS // SHARDS)
    queries = schemas.query_table(*map(list, zip(*questions, strict=True)))
    storage.write_table(str(folder / "queries.parquet"), queries)
    draw = random.Random(0)
    docs = [sorted(draw.sample(range(DOCUMENTS), PAIRS_PER_QUERY)) for _ in questions]
    rows = np.repeat(np.arange(len(questions)), PAIRS_PER_QUERY)
    pairs = pa.table([rows, np.array(docs).reshape(-1)], schema=schemas.PAIRS)
    starts = range(0, DOCUMENTS, DOCUMENTS // SHARDS)
    alone = pa.table([[0], [0]], schema=schemas.PAIRS)
    buckets = [*storage.split_by(pairs["doc_row"].to_numpy(), starts, pairs), alone]
    storage.write_buckets(str(folder / "pairs.arrow"), schemas.PAIRS, buckets)
    texts = [*documents.values(), *(text for _, text in questions)]
    return models.save_cross_encoder(folder / "teacher", texts, LAYERS, WIDTH, MAX_LENGTH)


def document_tasks(folder: Path, out: Path) -> list[Task]:
    """A task per document shard, and one for the single pair in the last bucket."""
    paths = sorted(str(path) for path in folder.glob("corpus-*.parquet"))
    return [
        Task(
            f"{bucket}",
            {"corpus": path, "first_row": first_row, "bucket": bucket, "shard_sha256": f"{bucket}"},
            str(out / f"{bucket}"),
        )
        for bucket, (path, first_row) in enumerate(
            [*zip(paths, range(0, DOCUMENTS, DOCUMENTS // SHARDS), strict=True), (paths[0], 0)]
        )
    ]


def child(side: str, folder: Path, model: str, threads: int) -> None:
    """One side, in its own process."""
    if side == "peer":
        measure.serve(peer(folder, model), lambda scores, path: np.save(path, scores))
        return
    out = folder / side
    stage = Rescore if side == "cached" else Forgetful
    settings = {
        "config": RescoreConfig(model=model, max_length=MAX_LENGTH),
        "model_fingerprint": FINGERPRINT,
        "pairs": [str(folder / "pairs.arrow")],
        "queries": [str(folder / "queries.parquet")],
        "block_starts": [0],
        "cache": str(out / "cache"),
    }
    step = Step("rescore", stage, settings, side, ())
    *tasks, first = document_tasks(folder, out)

    def save(path: Path) -> None:
        tables = [storage.read_bucket(f"{task.output}.arrow", 0) for task in tasks]
        scores = pa.concat_tables(tables).sort_by([("query_row", "ascending"), ("doc_row", "ascending")])
        np.save(path, scores["teacher_score"].to_numpy())

    steps.serve("ray" if side == "ray" else "local", step, first, tasks, threads, save)


class Forgetful(Rescore):
    """Rescore that forgets a shard's scores before each task."""

    def __call__(self, task: Task) -> Any:
        shutil.rmtree(storage.join(self.cache, task.inputs["shard_sha256"]), ignore_errors=True)
        return super().__call__(task)


def peer(folder: Path, model: str) -> Callable[[], Any]:
    """The plain call, texts in memory."""
    import torch
    from sentence_transformers import CrossEncoder

    loaded = CrossEncoder(model, device="cpu", max_length=MAX_LENGTH)
    read = [storage.read_table(str(path), ["text"]) for path in sorted(folder.glob("corpus-*.parquet"))]
    documents = pa.concat_tables(read)["text"].to_pylist()
    queries = storage.read_table(str(folder / "queries.parquet"))["text"].to_pylist()
    buckets = [storage.read_bucket(str(folder / "pairs.arrow"), number) for number in range(SHARDS)]
    rows = pa.concat_tables(buckets).sort_by([("query_row", "ascending"), ("doc_row", "ascending")])
    pairs = [(queries[row["query_row"]], documents[row["doc_row"]]) for row in rows.to_pylist()]
    return lambda: loaded.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)


def same(answers: dict[str, Path]) -> None:
    """Ends if a side's scores differ from the peer's."""
    expected = np.load(answers["peer"])
    for side, path in answers.items():
        worst = float(np.abs(np.load(path) - expected).max())
        print(
            f"{side}: largest difference {worst:.1e}, scores from {expected.min()} to {expected.max()}", file=sys.stderr
        )
        if not worst <= TOLERANCE:
            sys.exit(f"{side}: scores differ by {worst}, more than {TOLERANCE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        child(arguments.side, arguments.folder, str(arguments.folder / "teacher"), arguments.threads)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(arguments.data, arguments.pairs, folder)
        given = ["--folder", made, "--threads", str(arguments.threads)]
        commands = {side: [sys.executable, __file__, *given, "--side", side] for side in SIDES}
        compared = steps.compare(commands, folder, same, arguments.threads, arguments.repeats)
    what = f"score {arguments.pairs:,} pairs, cross-encoder {LAYERS} x {WIDTH}"
    rows = [
        compared.row(f"{what} ({steps.NAMES[side]})", side, "`CrossEncoder.predict`", GOALS[side])
        for side in ("local", "ray")
    ]
    rows.append(compared.row(f"{what} (second round)", "cached", "raymine's first round", GOALS["cached"], "local"))
    facts = {"threads": arguments.threads, "num_pairs": arguments.pairs, "tolerance": TOLERANCE}
    measure.keep("teacher", {"rows": rows, **facts, **asdict(compared)})


if __name__ == "__main__":
    main()
