"""Is the drop-in as fast as what it stands in for? `raymine.mine_hard_negatives` against sentence-transformers' own.

    python benchmarks/drop_in.py --data ../shared/data

Both are called with the same arguments in a process of their own that has loaded the model and the texts: 10,000
questions and titles with a positive each, 100,000 sentences as the corpus (sentences.py), five negatives that score at
most 0.95 of the positive, n-tuples with scores. The peer is called with `use_faiss` and without; the row is against
the faster of the two. Rows must be the same, but where two documents score the same; scores to 1e-5. Writes
benchmarks/results/drop-in.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import pyarrow.parquet as pq
import sentences
import steps

DOCUMENTS, QUERIES = 100_000, 10_000
ARGUMENTS = {"num_negatives": 5, "relative_margin": 0.05, "output_format": "n-tuple", "output_scores": True}
TOLERANCE = 1e-5
LEAST_SAME = 0.999  # of the rows: the others have documents that tie
GOAL = ">= 1.0x"
SIDES = {"raymine": {}, "torch": {"use_faiss": False}, "faiss": {"use_faiss": True}}


def child(side: str, folder: Path, model: str) -> None:
    """One side, in its own process."""
    measure.serve(mine(side, folder, model), lambda rows, path: rows.to_parquet(path))


def mine(side: str, folder: Path, model: str) -> Callable[[], Any]:
    """The call, with model and texts loaded."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    import raymine

    loaded = SentenceTransformer(model, device="cpu")
    corpus, queries = models.documents(folder), models.queries(folder)
    pairs = [(queries[query], corpus[document]) for query, document in models.judgements(folder, "train")]
    dataset = Dataset.from_dict(dict(zip(("anchor", "positive"), map(list, zip(*pairs, strict=True)), strict=True)))
    function = raymine.mine_hard_negatives if side == "raymine" else mine_hard_negatives
    given: dict[str, Any] = {"corpus": list(corpus.values()), "verbose": False, **ARGUMENTS, **SIDES[side]}
    return lambda: function(dataset, loaded, **given)


def same(answers: dict[str, Path]) -> None:
    """Ends if a side's rows differ from raymine's."""
    tables = {side: pq.read_table(path) for side, path in answers.items()}
    ours = tables.pop("raymine")
    scores = np.stack(ours["scores"].to_numpy())
    texts = ours.drop_columns("scores").to_pylist()
    for side, table in tables.items():
        if table.num_rows != ours.num_rows:
            sys.exit(f"{side}: {table.num_rows} rows, not {ours.num_rows}")
        worst = float(np.abs(scores - np.stack(table["scores"].to_numpy())).max())
        share = statistics.fmean(a == b for a, b in zip(texts, table.drop_columns("scores").to_pylist(), strict=True))
        print(f"{side}: {share:.4%} of {len(texts):,} rows the same, scores to {worst:.1e}", file=sys.stderr)
        if share < LEAST_SAME or not worst <= TOLERANCE:
            sys.exit(f"{side}: the answers differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        child(arguments.side, arguments.folder, str(arguments.model))
        return
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    folder = sentences.write(arguments.data, kept / f"drop-in-{DOCUMENTS}-{QUERIES}", DOCUMENTS, QUERIES)
    model = (arguments.model or models.train_static(arguments.data / "squad", kept / "squad-static")).absolute()
    compare(folder, model, arguments.threads, arguments.repeats)


def compare(folder: Path, model: Path, threads: int, repeats: int) -> None:
    """Runs the sides in turns and keeps the result."""
    given = ["--folder", str(folder), "--model", str(model)]
    commands = {side: [sys.executable, __file__, *given, "--side", side] for side in SIDES}
    with tempfile.TemporaryDirectory() as made:
        compared = steps.compare(commands, Path(made), same, threads, repeats)
    best = min(("torch", "faiss"), key=lambda side: statistics.median(compared.seconds[side]))
    what = f"mine_hard_negatives, {DOCUMENTS:,} documents, {QUERIES:,} queries"
    row = compared.row(what, "raymine", f"sentence-transformers, {best}", GOAL, best)
    facts = {"threads": threads, "arguments": ARGUMENTS, "tolerance": TOLERANCE}
    measure.keep("drop-in", {"rows": [row], **facts, **asdict(compared)})


if __name__ == "__main__":
    main()
