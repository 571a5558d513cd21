"""What do mined negatives gain, and at what cost? Mine, train, evaluate, re-mine, against other ways to choose them.

    python benchmarks/training_gain.py --data ../shared/data --sets squad wordnet medquad --seeds 0 1 2
    python benchmarks/training_gain.py --data ../shared/data --sets wordnet --embedder transformer --queries 5000
    python benchmarks/training_gain.py --data ../shared/data --embedder static-further --queries 30000 \\
        --strategies random naive "sentence-transformers, relative margin" raymine "raymine, rounds, masked" \\
        "raymine, ten rounds, pairs, drawn"
    python benchmarks/training_gain.py --data ../shared/data --questions dev --sets squad --batch-sizes 1024 \\
        --strategies naive raymine "raymine, first judged" "raymine, rounds" "raymine, rounds, first judged" \\
        "raymine, judged by a teacher"

Every strategy starts from an embedder that has learned, by in-batch negatives only, from other queries than those that
negatives are mined for (10,000 at most, three quarters of the set's): a static one from a third as many, a transformer
from all others, as it knows nothing when it has seen few. It is trained on with what was mined. (One that
has learned the very pairs that it mines for puts nearly every positive first: squad's, after two epochs of all pairs,
has a Recall@10 of 0.688, and neither random negatives nor a relative margin took it above 0.689. `static-further` is
such a one, of fewer pairs, with two negatives for each.) The strategies are in training_strategies.py. All train on the
same queries for the same number of steps, one epoch, with eight negatives for each, by sentence-transformers' trainer
and MultipleNegativesRankingLoss, at the same learning rate; but for two that show what more negatives bring: four times
as many by chance, and every document in every step. Measured on test questions (2,000 at most) over the whole corpus.
A seed decides the order of the pairs and all that is drawn by chance; the sets and the first embedder are the same for
all seeds.

Seconds are the ledger's (what one strategy finds in a workspace because another has made it counts as if it had made it
itself), the wall time of the peer's miner, and the trainer's; dollars are seconds times USD_PER_HOUR. Every finished
cell (set, embedder, batch size, learning rate, strategy, seed) is kept at once in benchmarks/results/training_gain.json
and not measured again: the matrix may be stopped and gone on with. Plots: training_gain_rounds.png and _dollars.png.

To choose among strategies by other questions than they are then measured on, and by more of them: `--questions dev`
measures on training queries (12,000 at most) that neither the embedder nor the miner sees, and writes
training_gain_dev.json. (The first embedder leaves it half of the queries that nothing is mined for, if there are no
more.) `--questions all` measures on all test questions of the set (squad has 10,570): training_gain_all.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from training_distillation import Distilled, train_teacher, with_scores
from training_limit import EveryDocument, texts_of
from training_strategies import (
    DENSE,
    DEPTH,
    GOALS,
    IN_BATCH,
    MARGIN,
    NEGATIVES,
    PEER,
    SHARED,
    STRATEGIES,
    Strategy,
)
from training_summary import USD_PER_HOUR, comparisons, dollars, key, plot, summary

import raymine
from raymine import loop, online, rounds
from raymine.evaluate import MEASURES, evaluate
from raymine.executor import make_executor
from raymine.online.clusters import query_rows_of

TRAIN_QUERIES, TEST_QUERIES, DEV_QUERIES = 10_000, 2000, 12_000
SEED = 0  # of the pairs, of the test questions and of the first embedder
# By the questions that are measured on.
RESULT_OF = {"test": "training_gain", "all": "training_gain_all", "dev": "training_gain_dev"}


@dataclass(frozen=True)
class Embedder:
    """A kind of embedder, and how it is trained.

    Args:
        train_first: makes the first one.
        others: queries that it first learns from, in multiples of those that negatives are mined for; None: the same.
        learning_rate: with mined negatives.
        negatives: for each query.
    """

    train_first: Callable[[Path, Path, int, str], Path]
    others: float | None
    learning_rate: float
    negatives: int = NEGATIVES

    @property
    def first(self) -> str:
        """The judgements that the first one learns from."""
        return "train" if self.others is None else "first"


# A static one's learning rate, for all sets: with random negatives the Recall@10 of squad, medquad and wordnet was
# 0.590, 0.785 and 0.330 at 0.1, 0.602, 0.791 and 0.327 at 0.2, and no better at 0.4 (batches of 32, one seed, a plain
# loop in place of the trainer). Of the further epoch in that loop: medquad 0.688, 0.699 and 0.700 at 0.02, 0.05 and
# 0.1, squad 0.605, 0.611 and 0.605, wordnet 0.381 and 0.364 at 0.05 and 0.1. By the trainer, wordnet's embedder is
# better to begin with, 0.382, and 0.05 is too high for random negatives: 0.382 at 0.01, 0.362 at 0.05.
EMBEDDERS = {
    "static": Embedder(models.train_static, 1 / 3, 0.2),
    "static-further": Embedder(models.train_static, None, 0.05, negatives=2),
    "transformer": Embedder(models.train_transformer, math.inf, 3e-4),
}


@dataclass(frozen=True)
class Case:
    """What one set is trained and measured on.

    Args:
        name: of the set.
        folder: in BEIR layout; of the judgements, `first` is what the first embedder learns from.
        embedder: folder of the model that all strategies start from.
        shared: folder of a workspace; what is mined with that model is kept there for all strategies.
        negatives: for each query, where the strategy has no number of its own.
        questions: of the judgements, what is measured on.
    """

    name: str
    folder: Path
    embedder: Path
    shared: Path
    negatives: int
    questions: str = "test"

    @property
    def teacher(self) -> Path:
        """A cross-encoder that has learned from all queries but the test questions, trained when it is first needed."""
        words = models.train_static(self.folder, self.folder / "static", SEED, "first")  # it begins with their vectors
        return train_teacher(self.folder, words, ("train", "first"), self.folder / "teacher")


def prepare(data: Path, name: str, kind: str, num_queries: int, made: Path, questions: str) -> Case:
    """Writes the part of a set that is used and trains the first embedder, unless they are there."""
    is_dev, how = questions == "dev", EMBEDDERS[kind]
    folder = made / f"{name}-{kind}-{num_queries}{'-dev' if is_dev else ''}"
    if not (folder / "qrels").exists():
        write_set(data / name, folder, num_queries, how.others or 0.0, DEV_QUERIES if is_dev else 0)
    if not models.judgements(folder, questions):
        raise SystemExit(
            f"{name} has no queries left for {questions} questions: ask for fewer --queries than {num_queries}"
        )
    embedder = how.train_first(folder, folder / kind, SEED, how.first)
    return Case(name, folder, embedder, folder / f"{kind}-workspace", how.negatives, questions)


def write_set(data: Path, folder: Path, num_queries: int, first: float, num_dev: int) -> None:
    """The corpus and, drawn by chance, the queries to mine for, those for the first embedder, dev and test questions.

    Args:
        data: folder of the set.
        folder: to write to.
        num_queries: to mine for; at most three quarters of the set's.
        first: queries for the first embedder, in multiples of these; all others but dev's, if they are fewer.
        num_dev: dev questions, at most; they are half of the others, if those are few.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(SEED)
    train, test = models.judgements(data, "train"), models.judgements(data, "test")
    asked = sorted({query for query, _ in train})
    draw.shuffle(asked)
    num_queries = min(num_queries, 3 * len(asked) // 4)
    tested = sorted({query for query, _ in test})
    others = len(asked) - num_queries
    seen = num_queries + int(min(num_queries * first, others - min(num_dev, others // 2)))
    splits = {
        "train": _judged(train, asked[:num_queries]),
        "first": _judged(train, asked[num_queries:seen]),
        "dev": _judged(train, asked[seen : seen + num_dev]),
        "test": _judged(test, draw.sample(tested, min(TEST_QUERIES, len(tested)))),
        "all": _judged(test, tested),
    }
    used = {query for split in splits.values() for query, _ in split}
    models.write_texts(folder / "corpus.jsonl", models.documents(data))
    models.write_texts(folder / "queries.jsonl", {q: text for q, text in models.queries(data).items() if q in used})
    made = folder / "qrels.partial"
    made.mkdir(exist_ok=True)
    for split, rows in splits.items():
        models.write_judgements(made / f"{split}.tsv", rows)
    made.rename(folder / "qrels")


def _judged(pairs: Sequence[tuple[str, str]], queries: Iterable[str]) -> list[tuple[str, str]]:
    chosen = set(queries)
    return [pair for pair in pairs if pair[0] in chosen]


def config(case: Case, model: Path, strategy: Strategy, seed: int, positives: Path | None = None) -> raymine.Config:
    return raymine.Config.model_validate(
        {
            "seed": seed,
            "corpus": {"path": str(case.folder / "corpus.jsonl")},
            "queries": {"path": str(case.folder / "queries.jsonl")},
            "positives": {"path": str(positives or case.folder / "qrels" / "train.tsv")},
            "exclude": [str(case.folder / "qrels" / f"{case.questions}.tsv")],
            "embed": {"model": str(model)},
            **({"rescore": {"model": str(case.teacher)}} if strategy.has_teacher else {}),
            "retrieve": strategy.retrieve or DENSE,
            "select": {
                "filters": strategy.filters,
                "sample": {"n": strategy.negatives or case.negatives, **strategy.sample},
            },
            "write": {"formats": ["trec"]},
        }
    )


@dataclass(frozen=True)
class Lesson:
    """What a round trains on.

    Args:
        rows: datasets.Dataset.
        mine_s: seconds that it took to make it.
        loss: of loop.train.
    """

    rows: Any
    mine_s: float
    loss: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Cell:
    """One strategy with one seed, from the first embedder to the last.

    Args:
        case: the set.
        strategy: of STRATEGIES.
        how: of the whole training; its seed is the cell's.
        folder: for the workspace and the checkpoints; goes afterwards.
    """

    case: Case
    strategy: str
    how: loop.Training
    folder: Path

    def run(self) -> dict[str, Any]:
        """The measures at the end, seconds and dollars, and all of it after every round (the first row: before)."""
        shared = self._mine_shared()
        checkpoint, num_rounds = self.case.embedder, STRATEGIES[self.strategy].rounds
        found: list[dict[str, Any]] = [{"mine_s": 0.0, "train_s": 0.0, **self._measured(checkpoint, shared)}]
        for number in range(num_rounds):
            lesson = self._lesson(checkpoint, number, shared)
            begin, out = time.perf_counter(), self.folder / f"round-{number + 1}"
            taken, end = (self.how.steps * each // num_rounds for each in (number, number + 1))
            how, rows = replace(self.how, steps=end - taken), lesson.rows
            batches = self._batches(checkpoint, rows)
            loop.train(str(checkpoint), rows, str(out), how, lesson.loss, taken, self.how.steps, batches)
            train_s = time.perf_counter() - begin
            cost = {"mine_s": round(lesson.mine_s, 2), "train_s": round(train_s, 2), "rows": len(lesson.rows)}
            checkpoint = out
            found.append({**cost, **self._measured(checkpoint, self.folder / "workspace")})
        seconds = sum(each["mine_s"] + each["train_s"] for each in found)
        measures = {name: found[-1][name] for name in MEASURES}
        return {**measures, "seconds": round(seconds, 2), "usd": dollars(seconds), "by_round": found}

    def _mine_shared(self) -> Path:
        """Mines with the first embedder what the other cells need too; the workspace, from which they all copy."""
        strategy, shared = SHARED, self.case.shared
        if STRATEGIES[self.strategy].has_teacher and STRATEGIES[self.strategy].rounds == 1:  # it scores all queries'
            strategy, shared = STRATEGIES[self.strategy], shared.with_name(f"{shared.name}-teacher")
        with make_executor("local") as executor:
            rounds.mine(config(self.case, self.case.embedder, strategy, SEED), str(shared), executor)
        return shared

    def _lesson(self, checkpoint: Path, number: int, shared: Path) -> Lesson:
        """What a round trains on, and the seconds that it took to mine it."""
        if self.strategy == IN_BATCH:
            return Lesson(Dataset.from_dict(self._pairs()), 0.0)
        if self.strategy == PEER:
            return self._peer()
        strategy, workspace = STRATEGIES[self.strategy], self.folder / "workspace"
        if number == 0:
            for name in ("artifacts", "cache"):
                shutil.copytree(shared / name, workspace / name)
        positives = self._positives(number) if strategy.has_teacher else None
        with make_executor("local") as executor:
            asked = config(self.case, checkpoint, strategy, self.how.seed, positives)
            mined = rounds.mine(asked, str(workspace), executor)
        total, rows = mined.cost[-1], self._part(mined, number)
        # What was copied would have taken this strategy as long.
        lesson = Lesson(rows, total.wall_s + (total.saved_s if number == 0 else 0.0))
        if strategy.is_distilled:
            return Lesson(with_scores(rows, mined), lesson.mine_s, loss=Distilled)
        if strategy.is_limit:
            texts, positives = texts_of(mined), online.false_negatives(mined, reasons=())
            return Lesson(rows, lesson.mine_s, lambda model: EveryDocument(model, texts, positives))
        if not strategy.is_masked:
            return lesson
        begin, masked = time.perf_counter(), online.false_negatives(mined)
        seconds = lesson.mine_s + time.perf_counter() - begin
        return Lesson(rows, seconds, lambda model: online.MaskedInBatchLoss(model, masked))

    def _batches(self, checkpoint: Path, rows: Any) -> online.ClusterBatches | None:
        """How a round's rows come into batches; None: by chance."""
        group_size = STRATEGIES[self.strategy].group_size
        if group_size is None:
            return None
        vectors = SentenceTransformer(str(checkpoint)).encode_query(rows["anchor"])
        return online.ClusterBatches.of_vectors(rows, vectors, seed=self.how.seed, group_size=group_size)

    def _positives(self, number: int) -> Path:
        """Those of the queries whose turn it is: a teacher, most of the cost, is asked of no others."""
        pairs, num_rounds = models.judgements(self.case.folder, "train"), STRATEGIES[self.strategy].rounds
        queries = np.array(sorted({query for query, _ in pairs}))
        turn = np.random.default_rng(self.how.seed).permutation(len(queries)) * num_rounds // len(queries)
        path = self.folder / f"positives-{number}.tsv"
        models.write_judgements(path, _judged(pairs, queries[turn == number]))
        return path

    def _part(self, mined: rounds.Round, number: int) -> Any:
        """The rows of the queries whose turn it is; each comes in one round."""
        strategy = STRATEGIES[self.strategy]
        rows, num_rounds = online.training_set(mined, 0 if strategy.is_limit else None), strategy.rounds
        if strategy.has_teacher:  # mined for no others
            return rows
        num_queries = mined.facts["num_queries"]
        turn = np.random.default_rng(self.how.seed).permutation(num_queries)[query_rows_of(rows)]
        return rows.select(np.flatnonzero(turn * num_rounds // num_queries == number))

    def _pairs(self) -> dict[str, list[str]]:
        documents, queries = models.documents(self.case.folder), models.queries(self.case.folder)
        pairs = models.judgements(self.case.folder, "train")
        return {"anchor": [queries[query] for query, _ in pairs], "positive": [documents[doc] for _, doc in pairs]}

    def _peer(self) -> Lesson:
        """The peer's rows: it draws nothing by chance, so what it mined for one seed is kept for the others."""
        kept = self.case.shared / "peer"
        if not kept.exists():
            model, corpus = SentenceTransformer(str(self.case.embedder)), models.documents(self.case.folder)
            begin = time.perf_counter()
            rows = mine_hard_negatives(
                Dataset.from_dict(self._pairs()),
                model,
                corpus=list(corpus.values()),
                num_negatives=self.case.negatives,
                relative_margin=MARGIN,
                range_max=DEPTH,
                sampling_strategy="top",
                output_format="n-tuple",
                use_faiss=True,
                verbose=False,
            )
            (self.case.shared / "peer.json").write_text(json.dumps(time.perf_counter() - begin))
            rows.save_to_disk(str(kept))
        return Lesson(Dataset.load_from_disk(str(kept)), json.loads((self.case.shared / "peer.json").read_text()))

    def _measured(self, checkpoint: Path, workspace: Path) -> dict[str, float]:
        with make_executor("local") as executor:
            found = evaluate(
                config(self.case, checkpoint, STRATEGIES[IN_BATCH], 0),
                str(workspace),
                str(self.case.folder / "qrels" / f"{self.case.questions}.tsv"),
                executor,
            )
        return {name: round(found[name], 4) for name in MEASURES}


def measured(arguments: argparse.Namespace, made: Path) -> Iterator[dict[str, Any]]:
    """All cells that were asked for and are not there yet, one after the other."""
    known = {key(cell) for cell in kept_cells(arguments.questions)}
    asked = itertools.product(arguments.seeds, arguments.sets, arguments.batch_sizes, arguments.strategies)
    for seed, name, batch_size, strategy in asked:
        case = prepare(arguments.data, name, arguments.embedder, arguments.queries, made, arguments.questions)
        pairs = len(models.judgements(case.folder, "train"))
        rate = arguments.learning_rate or EMBEDDERS[arguments.embedder].learning_rate
        how = loop.Training(pairs // batch_size, batch_size, rate, seed=seed)
        cell = {"set": name, "embedder": arguments.embedder, "batch_size": batch_size, "learning_rate": rate}
        cell |= {"steps": how.steps, "strategy": strategy, "seed": seed}
        if key(cell) in known or (STRATEGIES[strategy].is_limit and arguments.embedder == "transformer"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield {**cell, **Cell(case, strategy, how, Path(folder)).run()}


def kept_cells(questions: str) -> list[dict[str, Any]]:
    path = measure.RESULTS / f"{RESULT_OF[questions]}.json"
    return json.loads(path.read_text())["cells"] if path.exists() else []


def keep(cells: Sequence[Mapping[str, Any]], questions: str) -> None:
    """Writes the result and, of test questions, its plots."""
    found = summary(cells)
    facts = {
        "train_queries_at_most": TRAIN_QUERIES,
        "questions_at_most": {"test": TEST_QUERIES, "dev": DEV_QUERIES, "all": None}[questions],
        "negatives": {name: each.negatives for name, each in EMBEDDERS.items()},
        "usd_per_hour": USD_PER_HOUR,
    }
    compared = {"goals": GOALS, "comparisons": comparisons(found)}
    measure.keep(RESULT_OF[questions], {**facts, **compared, "strategies": found, "cells": cells})
    if questions == "test":
        plot(found, "round", measure.RESULTS / "training_gain_rounds.png")
        plot(found, "usd", measure.RESULTS / "training_gain_dollars.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sets", nargs="+", default=["squad", "wordnet", "medquad"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--embedder", default="static", choices=EMBEDDERS)
    parser.add_argument("--learning-rate", type=float, help="default: by embedder")
    parser.add_argument("--queries", type=int, default=TRAIN_QUERIES)
    parser.add_argument("--questions", default="test", choices=RESULT_OF, help="what is measured on")
    parser.add_argument("--models", type=Path, help="where models and what is mined first are kept for the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for cell in measured(arguments, (arguments.models or Path(scratch)).absolute()):
            print(
                {name: cell[name] for name in ("set", "batch_size", "strategy", "seed", *MEASURES, "seconds")},
                flush=True,
            )
            keep([*kept_cells(arguments.questions), cell], arguments.questions)


if __name__ == "__main__":
    main()
