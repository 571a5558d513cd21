"""The same job as the peer: hard negatives of whole sets, raymine against sentence-transformers' mine_hard_negatives.

    python benchmarks/peer.py --data ../shared/data --sets scifact squad arxiv short-500000

Both read the same files, embed them with the same static model (models.train_static on squad), take the 100 nearest
documents of each query, drop those that score above 0.95 of the positive's score, and write up to 8 negatives per
positive as triplets. Each run is a process of its own, from its start to its end; raymine uses the local executor and
a new workspace each time, the peer is run with faiss and without, and the better of the two counts (the other is run
once only). The peer's texts are embedded in batches of 1,024, and its scores are held to 2 GB at a time: its own
defaults are slower and run out of memory.

`short-N` is N sentences of the sets with 100,000 queries (benchmarks/sentences.py); there raymine searches lists of
vectors (`index: {kind: ivfflat}`) to a recall@100 of 0.95, which is measured over all queries against a run of its own
with exact search. The same answer: of the peer's rows, the share that raymine wrote too is at least 0.98 (vectors are
stored as float16, so near ties may swap), with lists 0.95. Writes benchmarks/results/peer-<set>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import sentences
import yaml

K, NEGATIVES, OF_POSITIVE = 100, 8, 0.95
PEERS = ("torch", "faiss")
QUERIES_OF_SHORT = 100_000
LEAST_SHARED = {"exact": 0.98, "ivfflat": 0.95}
LEAST_RECALL = 0.95
SCORES_BYTES = 2_000_000_000  # of the peer's score matrix: its default of 16,384 queries at a time takes 33 GB at 500k
GOALS = {"scifact": ">= 1.0x", "squad": ">= 1.0x", "arxiv": ">= 1.2x", "short": ">= 4x, a third of the memory"}


def peer(folder: Path, model: str, use_faiss: bool, out: Path) -> None:
    """In a child: the peer's whole job."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    documents, queries = models.documents(folder), models.queries(folder)
    pairs = models.judgements(folder, "train")
    dataset = Dataset.from_dict(
        {"anchor": [queries[query] for query, _ in pairs], "positive": [documents[document] for _, document in pairs]}
    )
    found = mine_hard_negatives(
        dataset,
        SentenceTransformer(model, device="cpu"),
        corpus=list(dict.fromkeys(documents.values())),
        range_max=K,
        relative_margin=1 - OF_POSITIVE,
        num_negatives=NEGATIVES,
        batch_size=1024,
        faiss_batch_size=min(16384, SCORES_BYTES // (4 * len(documents))),
        use_faiss=use_faiss,
        verbose=False,
    )
    pq.write_table(pa.table(found.to_dict()), out)


def config(folder: Path, model: str, index: str) -> dict[str, Any]:
    """raymine's config of the same job, with an index."""
    qrels = next(path for path in (folder / "qrels/train.tsv", folder / "qrels/train.tsv.gz") if path.exists())
    return {
        "corpus": {"path": str(folder)},
        "queries": {"path": str(folder)},
        "positives": {"path": str(qrels)},
        "embed": {"model": model},
        "index": {"kind": index},
        "retrieve": {"dense": {"k": K}},
        "select": {
            "filters": [{"kind": "max_relative_score", "of_positive": OF_POSITIVE}],
            "sample": {"n": NEGATIVES},
        },
        "write": {"formats": ["triplet"]},
    }


def rows(paths: list[Path]) -> set[int]:
    """Hashes of the triplets in some Parquet files."""
    import pyarrow.parquet as pq

    found: set[int] = set()
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches():
            found.update(map(hash, zip(*(column.to_pylist() for column in batch.columns), strict=True)))
    return found


class Sides:
    """Runs either side once, and remembers memory and answers.

    Args:
        folder: of the set.
        model: folder of the embedder.
        scratch: for workspaces and answers.
        index: of raymine.
    """

    def __init__(self, folder: Path, model: str, scratch: Path, index: str) -> None:
        self.folder, self.model, self.scratch, self.index = folder, model, scratch, index
        self.memory: dict[str, float] = {}
        self.number = 0

    def raymine(self) -> float:
        return self._raymine("raymine", self.index)

    def exact(self) -> float:
        return self._raymine("raymine exact", "exact")

    def _raymine(self, name: str, index: str) -> float:
        self.number += 1
        self.workspace = self.scratch / f"workspace-{self.number}"
        path = self.scratch / f"{index}.yaml"
        path.write_text(yaml.safe_dump(config(self.folder, self.model, index)))
        options = ["--workspace", str(self.workspace), "--json"]
        return self._run(name, [sys.executable, "-m", "raymine", "mine", str(path), *options])

    def peer(self, use_faiss: bool) -> float:
        name = "faiss" if use_faiss else "torch"
        out = self.scratch / f"{name}.parquet"
        command = [sys.executable, __file__, "--peer", name, str(self.folder), self.model, str(out)]
        return self._run(name, command)

    def _run(self, name: str, command: list[str]) -> float:
        done = measure.run(command)
        self.memory[name] = max(self.memory.get(name, 0.0), done["tree_mb"])
        return float(done["wall_s"])

    def shared(self, peers: Sequence[str]) -> dict[str, float]:
        """Of the rows of each of the peers' last answers, the share that raymine's last one has."""
        ours = rows(sorted((self.workspace / "rounds/0001/shards/triplet").glob("*.parquet")))
        answers = {name: rows([self.scratch / f"{name}.parquet"]) for name in peers}
        return {name: len(theirs & ours) / len(theirs) for name, theirs in answers.items()}


def hits(workspace: Path) -> Any:
    """The pairs that dense search found, as integers, int64 [n]."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = []
    for path in sorted((workspace / "rounds/0001/verdicts").glob("*.parquet")):
        table = pq.read_table(path, columns=["query_row", "doc_row", "dense_rank"])
        table = table.filter(pc.is_valid(table["dense_rank"]))
        found.append((table["query_row"].to_numpy() << 32) + table["doc_row"].to_numpy())
    return np.concatenate(found)


def compare(name: str, folder: Path, model: str, repeats: int, peers: Sequence[str]) -> None:
    """One set, against each of the peers once and the best of them `repeats` times; keeps the result."""
    with tempfile.TemporaryDirectory(prefix="raymine-peer-") as scratch:
        index = "ivfflat" if name.startswith("short") else "exact"
        sides = Sides(folder, model, Path(scratch), index)
        runs = {"raymine": sides.raymine}
        runs |= {each: partial(sides.peer, use_faiss=each == "faiss") for each in peers}
        seconds = measure.turns(runs, 1)
        best = min(peers, key=lambda each: seconds[each][0])
        more = measure.turns({name: runs[name] for name in ("raymine", best)}, repeats - 1)
        seconds = {name: [*first, *more.get(name, [])] for name, first in seconds.items()}
        shared, recall = sides.shared(peers), 1.0
        if index != "exact":
            ours = hits(sides.workspace)
            seconds["raymine exact"] = [sides.exact()]
            recall = float(np.isin(hits(sides.workspace), ours).mean())
    if min(shared.values()) < LEAST_SHARED[index] or recall < LEAST_RECALL:
        sys.exit(f"{name}: the answers differ: raymine has {shared} of the peer's rows, recall {recall}")
    memory = {each: {"tree_mb": mb} for each, mb in sides.memory.items()}
    row = measure.row(
        f"mine {name}",
        measure.figures(seconds["raymine"], memory["raymine"]),
        measure.figures(seconds[best], memory[best]),
        f"mine_hard_negatives, {best}",
        measure.ratio(seconds, peer=best),
        GOALS[name.split("-")[0]],
    )
    facts = {"seconds": seconds, "tree_mb": sides.memory, "rows_shared": shared, "recall": round(recall, 4)}
    facts["memory_ratio"] = round(sides.memory["raymine"] / sides.memory[best], 3)
    measure.keep(f"peer-{name}", {"rows": [row], **facts})
    print(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sets", nargs="+", default=["scifact", "squad", "arxiv", "short-500000", "short-1000000"])
    parser.add_argument("--model", type=Path, help="folder of an embedder; default: one is trained on squad")
    parser.add_argument("--repeats", type=int, default=measure.REPEATS)
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=PEERS, help="leave one out that is known as slower"
    )
    parser.add_argument("--peer", nargs=4, metavar=("KIND", "SET", "MODEL", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        kind, folder, model, out = arguments.peer
        peer(Path(folder), model, kind == "faiss", Path(out))
        return
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks"
    model = str((arguments.model or models.train_static(arguments.data / "squad", kept / "squad-static")).absolute())
    for name in arguments.sets:
        folder = (arguments.data / name).absolute()
        if name.startswith("short-"):
            size = int(name.removeprefix("short-"))
            folder = sentences.write(arguments.data, kept / name, size, QUERIES_OF_SHORT)
        compare(name, folder, model, arguments.repeats, arguments.peers)


if __name__ == "__main__":
    main()
