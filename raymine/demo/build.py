"""Everything the demonstration needs, in one folder: corpus, queries, judgements, two models and a config.

The folder is finished when its marker is there, which is written last; a finished one is used as it is, an unfinished
one is made anew. Measured on one of two cores that others used too: corpus 12 s, embedder 25 s, teacher 70 s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raymine import storage
from raymine.demo import docstrings, embedder, teacher
from raymine.demo.docstrings import Docstring, Query

VERSION = 2
MARKER = "demo.json"
CONFIG = "mine.yaml"
# One thread trains these small models in 80 s and gives the same bits on every number of cores; two are faster on an
# idle machine only (beside other work they wait for each other: 400 s).
NUM_THREADS = 1
# Figures are of the last test queries: the teacher's settings were chosen on the first 1,400.
NUM_JUDGED = 2_000
NUM_TEACHER_JUDGED = 500
NUM_RERANKED = 30


@dataclass(frozen=True)
class Size:
    """How much is built.

    Args:
        documents: at most.
        mined_queries: queries of the training half that are mined for, at most.
        vocabulary: tokens.
        dim: of the embedder.
        epochs: of the embedder's training.
        hidden: width of the teacher.
        teacher_queries: queries the teacher learns from, at most.
    """

    documents: int = docstrings.MAX_DOCUMENTS
    mined_queries: int = 1_500
    vocabulary: int = 8_000
    dim: int = 256
    epochs: int = 5
    hidden: int = teacher.HIDDEN
    teacher_queries: int = 6_000
    seed: int = 0


CONFIG_TEXT = """\
# Hard negatives for docstring search. Run it again with:  raymine mine {name}
# Paths are relative to this file.
seed: 0

corpus:    {{path: corpus.jsonl.gz, shard_documents: 4096}}      # small shards, so that there are several to watch
queries:   {{path: queries.jsonl.gz, block_queries: 512}}
positives: {{path: qrels/mine.tsv}}            # {num_mined} queries of qrels/train.tsv, so that it takes about a minute
exclude:   [qrels/test.tsv]                  # evaluation judgements: never mined for, never emitted against

embed:     {{model: ./models/embedder}}        # trained a moment ago on qrels/train.tsv
retrieve:                                    # where candidates come from, and how many per query
  dense:   {{k: 40}}
  bm25:    {{k: 20}}
  random:  {{k: 5}}

rescore:                                     # the teacher, a cross-encoder, reads every candidate with its query
  model: ./models/teacher
  activation: model                          # its sigmoid: a probability, so that a share of it means something

select:
  filters:
    # What the teacher finds nearly as good as the labelled positive may be a positive without a label. This little
    # teacher ranks no better than the embedder, and has learned from these very queries: it shows how, not how well.
    - {{kind: max_relative_score, of_positive: 0.95}}
  sample:  {{n: 8, strategy: top}}             # the eight hardest of what is left

write:     {{formats: [triplet, n-tuple], scores: true}}
cost:      {{gpu_hour_usd: 2.5, cpu_hour_usd: 0.04}}
"""


def prepare(folder: Path, say: Callable[[str], None], size: Size | None = None, roots: Sequence[Path] = ()) -> Path:
    """Builds the demonstration's data, models and config, or finds them built.

    Args:
        folder: where to; made if need be.
        say: takes a line per part done, with its figures.
        size: how much; left out: what takes a minute or two.
        roots: folders with Python sources; left out: the installed packages and the standard library.

    Returns:
        The path of the config to mine with.

    Raises:
        InputError: there are no docstrings on this machine.
    """
    size = size or Size()
    state = {"version": VERSION, "size": asdict(size), "roots": [str(root) for root in roots]}
    marker = str(folder / MARKER)
    if storage.exists(marker) and (known := storage.read_json(marker))["state"] == state:
        for line in known["lines"]:
            say(line)
        return folder / CONFIG
    Path(marker).unlink(missing_ok=True)
    lines = []
    for line in _build(folder, size, roots or docstrings.default_roots()):
        lines.append(line)
        say(line)
    storage.write_json(marker, {"state": state, "lines": lines})
    return folder / CONFIG


def _build(folder: Path, size: Size, roots: Sequence[Path]) -> Iterator[str]:
    """Does the work, part by part, and says of each what came out."""
    begin = time.perf_counter()
    entries = docstrings.collect(roots, size.documents)
    queries = docstrings.make_queries(entries)
    docstrings.write_beir(folder, entries, queries)
    train = [query for query in queries if not query.is_test]
    test = [query for query in queries if query.is_test]
    docstrings.write_judgements(folder, "mine", train[: size.mined_queries])
    num_copies = len(entries) - len({entry.text for entry in entries})
    yield (
        f"corpus    {len(entries):,} docstrings ({num_copies:,} of them copies), "
        f"queries: {len(train):,} training, {len(test):,} test; {_seconds(begin)}"
    )
    with _quiet(), _threads(NUM_THREADS):
        yield from _train(folder, size, entries, train, test)
    config = CONFIG_TEXT.format(name=CONFIG, num_mined=len(train[: size.mined_queries]))
    storage.write_bytes(str(folder / CONFIG), config.encode())


def _train(folder: Path, size: Size, entries: list[Docstring], train: list[Query], test: list[Query]) -> Iterator[str]:
    begin = time.perf_counter()
    texts = [entry.text for entry in entries]
    tokenizer = embedder.train_tokenizer([*texts, *(query.text for query in train)], size.vocabulary)
    known, held_out = (
        _collection(tokenizer, entries, documents, half)
        for documents in [embedder.tokenize(tokenizer, texts)]
        for half in (train, test[-NUM_JUDGED:])
    )
    weights = embedder.train_embedder(known, tokenizer.get_vocab_size(), size.dim, size.epochs, size.seed)
    embedder.save_embedder(tokenizer, weights, folder / "models" / "embedder")
    hits = embedder.nearest(weights, held_out, k=100)
    yield (
        f"embedder  Recall@10 {embedder.recall(hits[:, :10], held_out):.3f}, Recall@100 "
        f"{embedder.recall(hits, held_out):.3f} on {len(hits):,} test queries; {_seconds(begin)}"
    )
    begin = time.perf_counter()
    model = teacher.build_teacher(weights, size.hidden, size.seed)
    near = embedder.nearest(weights, known, teacher.NEAREST)
    teacher.train_teacher(teacher.PairScorer(model, tokenizer, known), near, size.teacher_queries, size.seed)
    teacher.save_teacher(model, tokenizer, folder / "models" / "teacher")
    scorer = teacher.PairScorer(model, tokenizer, held_out)
    judged = hits[:NUM_TEACHER_JUDGED, :NUM_RERANKED]
    reranked, as_it_was = teacher.reciprocal_ranks(scorer, judged)
    yield (
        f"teacher   MRR {reranked:.3f} re-ranking the embedder's {judged.shape[1]} best (embedder: {as_it_was:.3f}) "
        f"on {len(judged)} test queries; {_seconds(begin)}"
    )


def _collection(
    tokenizer: Any, entries: list[Docstring], documents: list[list[int]], queries: list[Query]
) -> embedder.Collection:
    rows = {entry.doc_id: row for row, entry in enumerate(entries)}
    return embedder.Collection(
        documents=documents,
        queries=embedder.tokenize(tokenizer, [query.text for query in queries]),
        positives=np.array([rows[query.doc_id] for query in queries], dtype=np.int64),
        text_numbers=embedder.number_texts([entry.text for entry in entries]),
    )


def _seconds(begin: float) -> str:
    return f"{time.perf_counter() - begin:.0f} s"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and notes of the libraries: what there is to say is said in lines."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
