"""Is embedding as fast as the model allows? raymine's embed step against `model.encode_document` of the same texts.

    python benchmarks/embedding.py static --data ../shared/data
    python benchmarks/embedding.py bert --data ../shared/data

static: arxiv abstracts and the static model of models.py. bert: titles, questions, abstracts and answers in a seeded
mix of lengths, and a randomly initialised BERT, 6 layers of 384. raymine runs EmbedShard over corpus shards, two calls
in flight, by the local executor and on Ray (there without the start of the cluster); it reads and writes
files. The peer has the texts in memory and keeps the vectors there. All have the same number of threads and a loaded
model. Vectors must agree to 1e-3: raymine stores 16-bit floats. Writes benchmarks/results/embedding-<case>.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import steps

from raymine import storage
from raymine.artifacts import Step, Task
from raymine.config import EmbedConfig
from raymine.embed import EmbedShard
from raymine.vectors import read_vectors

TOLERANCE = 1e-3  # 16-bit floats of numbers below 1 are off by 2.4e-4 at most; the rest is for batches of another shape
DOCUMENTS = {"static": 120_036, "bert": 384}
SHARDS = {"static": 8, "bert": 2}
GOALS = {
    "static": {"local": ">= 1.0x", "ray": ">= 0.95x"},
    "bert": {"local": ">= 1.3x", "ray": ">= 0.95x"},
}
LAYERS, WIDTH, MAX_LENGTH = 6, 384, 256
MIXED_SETS = ("squad", "arxiv", "medquad")


def abstracts(data: Path, count: int) -> list[str]:
    return list(itertools.islice(models.documents(data / "arxiv").values(), count))


def mixed_texts(data: Path, count: int, seed: int = 0) -> list[str]:
    """As many queries as documents, of three sets."""
    each = count // (2 * len(MIXED_SETS)) + 1
    draw, texts = random.Random(seed), []
    for name in MIXED_SETS:
        for found in (models.queries(data / name), models.documents(data / name)):
            texts += draw.sample([text for text in found.values() if text.strip()], each)
    draw.shuffle(texts)
    return texts[:count]


def prepare(arguments: argparse.Namespace, folder: Path) -> Path:
    """Makes model and shards; the model's folder."""
    case, count = arguments.case, arguments.documents or DOCUMENTS[arguments.case]
    texts = (abstracts if case == "static" else mixed_texts)(arguments.data, count)
    shards = steps.corpus_shards(texts, folder / "shards", -(-count // SHARDS[case]))
    (folder / "paths").write_text("\n".join(shard.path for shard in shards))
    first = steps.corpus_shards(texts[:1], folder / "first", 1)
    (folder / "first-path").write_text(first[0].path)
    if case == "static":
        kept = Path(tempfile.gettempdir()) / "raymine-benchmarks" / "squad-static"
        return arguments.model or models.train_static(arguments.data / "squad", kept)
    return arguments.model or models.save_bert(folder / "bert", texts, LAYERS, WIDTH, MAX_LENGTH)


def child(side: str, folder: Path, model: str, threads: int, batch_size: int) -> None:
    """One side, in its own process."""
    paths = (folder / "paths").read_text().splitlines()
    if side == "peer":
        measure.serve(peer(paths, model, batch_size), lambda vectors, path: np.save(path, vectors))
        return
    settings = {"config": EmbedConfig(model=model), "side": "document", "model_fingerprint": "benchmark"}
    step = Step("embed_documents", EmbedShard, settings, side, ())
    out = folder / side
    first = Task("first", {"table": (folder / "first-path").read_text()}, str(out / "first"))
    tasks = [Task(f"{n}", {"table": path}, str(out / f"{n}"), n) for n, path in enumerate(paths)]
    made = [f"{task.output}.arrow" for task in tasks]
    steps.serve(side, step, first, tasks, threads, lambda path: np.save(path, vectors_of(made)))


def peer(paths: list[str], model: str, batch_size: int) -> Callable[[], Any]:
    """The plain loop: texts in memory, one call."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device="cpu")
    texts = [text for path in paths for text in storage.read_table(path, ["text"])["text"].to_pylist()]

    def work() -> Any:
        return loaded.encode_document(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)

    return work


def vectors_of(paths: list[str]) -> Any:
    """All vectors of some shards, float32 [n, dim]."""
    return np.concatenate([read_vectors(path).matrix for path in paths]).astype(np.float32)


def same(answers: dict[str, Path]) -> None:
    """Ends if a side's vectors differ from the peer's."""
    expected = np.load(answers["peer"])
    for side in ("local", "ray"):
        worst = float(np.abs(np.load(answers[side]) - expected).max())
        print(f"{side}: largest difference {worst:.1e}", file=sys.stderr)
        if not worst <= TOLERANCE:
            sys.exit(f"{side}: vectors differ by {worst}, more than {TOLERANCE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=list(DOCUMENTS))
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: it is made")
    parser.add_argument("--documents", type=int, help=f"default: {DOCUMENTS}")
    parser.add_argument("--batch-size", type=int, default=32, help="of the peer; default: its own")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--side", choices=steps.SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        child(arguments.side, arguments.folder, str(arguments.model), arguments.threads, arguments.batch_size)
        return
    with tempfile.TemporaryDirectory() as made:
        compare(arguments, Path(made))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Runs the sides in turns and keeps the result."""
    case, count = arguments.case, arguments.documents or DOCUMENTS[arguments.case]
    model = prepare(arguments, folder).absolute()
    given = ["--model", str(model), "--folder", str(folder), "--threads", str(arguments.threads)]
    given += ["--batch-size", str(arguments.batch_size)]
    commands = {side: [sys.executable, __file__, case, *given, "--side", side] for side in steps.SIDES}
    compared = steps.compare(commands, folder, same, arguments.threads, arguments.repeats)
    what = {"static": "arxiv abstracts, static model", "bert": f"texts of mixed length, BERT {LAYERS} x {WIDTH}"}[case]
    rows = [
        compared.row(
            f"embed {count:,} {what} ({steps.NAMES[side]})", side, "`model.encode_document`", GOALS[case][side]
        )
        for side in ("local", "ray")
    ]
    facts = {"threads": arguments.threads, "peer_batch_size": arguments.batch_size, "tolerance": TOLERANCE}
    measure.keep(f"embedding-{case}", {"rows": rows, **facts, **asdict(compared)})


if __name__ == "__main__":
    main()
