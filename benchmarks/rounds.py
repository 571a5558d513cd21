"""What does a later round cost, and does a cheaper one find what a full one finds? Three rounds with three checkpoints.

    python benchmarks/rounds.py --data ../shared/data --sets squad arxiv
    python benchmarks/rounds.py --data ../shared/data --sets arxiv --embedder-of squad

The checkpoints: a static embedder trained on the set's pairs (or on those of another, so that it has far to go), and
twice the same trained on with the negatives of the round before (raymine.loop.train). Queries are a seeded sample of
the training questions; candidates by the embedder and BM25, all scored by a small untrained teacher (its scores say
nothing, but their price is real), positive-aware filter and the nearest by the embedder. Then the same checkpoints
again with what makes later rounds cheaper, each from a copy of the first round's workspace. Cost is the ledger's
seconds of work, as a share of the first round's; overlap is the share of a full round's negatives that the cheaper one
has too. Writes benchmarks/results/rounds.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure
import models
import table

import raymine
from raymine import rounds
from raymine.executor import make_executor
from raymine.loop import Training, train

QUERIES = 5000
TEACHER = {"layers": 2, "width": 64, "max_length": 64}
TRAINING = Training(steps=20, batch_size=256, learning_rate=0.05)
ROUNDS = 3
HOW: dict[str, dict[str, Any]] = {
    "full": {},
    "tokens kept": {"resources": {"keep_tokens": True}},
    "pool": {"resources": {"keep_tokens": True}, "rounds": {"scope": "pool", "top": 20}},
    "unsettled": {"resources": {"keep_tokens": True}, "rounds": {"queries": "unsettled", "margin": 0.05}},
    "pool, unsettled": {
        "resources": {"keep_tokens": True},
        "rounds": {"scope": "pool", "top": 20, "queries": "unsettled", "margin": 0.05},
    },
}
COST_GOAL, FULL_GOAL, OVERLAP_GOAL = 0.25, 0.60, 0.90


def write_set(data: Path, num_queries: int, folder: Path) -> None:
    """The corpus, and a sample of the training queries, in BEIR layout."""
    folder.mkdir(parents=True)
    asked, pairs = models.queries(data), models.judgements(data, "train")
    chosen = set(random.Random(0).sample(sorted({query for query, _ in pairs}), num_queries))
    models.write_texts(folder / "corpus.jsonl", models.documents(data))
    models.write_texts(folder / "queries.jsonl", {each: asked[each] for each in sorted(chosen)})
    models.write_judgements(folder / "qrels.tsv", [pair for pair in pairs if pair[0] in chosen])


def config(folder: Path, model: str, teacher: str, how: Mapping[str, Any]) -> raymine.Config:
    """Dense and BM25 candidates, a teacher, a positive-aware filter."""
    return raymine.Config.model_validate(
        {
            "corpus": {"path": str(folder / "corpus.jsonl"), "shard_documents": 8192},
            "queries": {"path": str(folder / "queries.jsonl")},
            "positives": {"path": str(folder / "qrels.tsv")},
            "embed": {"model": model},
            "retrieve": {"dense": {"k": 50}, "bm25": {"k": 20}},
            "rescore": {"model": teacher},
            "select": {
                "filters": [{"kind": "max_relative_score", "of_positive": 0.95, "score": "dense"}],
                "sample": {"n": 8, "score": "dense"},
            },
            "write": {"formats": ["n-tuple"]},
            **how,
        }
    )


def negatives(found: rounds.Round) -> set[tuple[int, int]]:
    table = found.negatives()
    return set(zip(table["query_row"].to_pylist(), table["doc_row"].to_pylist(), strict=True))


def figures(found: rounds.Round, first: rounds.Round, full: rounds.Round) -> dict[str, Any]:
    """What a later round cost, and how much of a full one it found."""
    costs = {cost.step: cost for cost in found.cost}
    embedded = [costs[name] for name in ("embed_documents", "embed_pool") if name in costs]
    expected = negatives(full)
    return {
        "round": found.number,
        "seconds": round(found.cost[-1].wall_s, 2),
        "share": round(found.cost[-1].wall_s / first.cost[-1].wall_s, 3),
        "embedding_share": round(sum(cost.wall_s for cost in embedded) / found.cost[-1].wall_s, 3),
        "saved_s": round(found.cost[-1].saved_s, 2),
        "documents_embedded": sum(cost.rows_in for cost in embedded),
        "pairs_scored": costs["rescore"].rows_in - costs["rescore"].cache_hits,
        "overlap": round(len(negatives(found) & expected) / len(expected), 4),
        "num_settled": found.facts["num_settled"],
        "difficulty": found.facts["difficulty"],
        "pool": found.facts.get("pool"),
        "steps_s": {name: round(cost.wall_s, 2) for name, cost in costs.items() if cost.tasks},
    }


def compare(data: Path, name: str, taught: str, num_queries: int, made: Path) -> dict[str, Any]:
    """All ways on one set, from an embedder that another one (or the same) has taught."""
    kept = Path(tempfile.gettempdir()) / "raymine-benchmarks" / f"{taught}-static"
    model, folder = str(models.train_static(data / taught, kept)), made / name
    write_set(data / name, num_queries, folder)
    texts = itertools.islice(models.documents(data / name).values(), 2000)
    teacher = str(models.save_cross_encoder(folder / "teacher", texts, **TEACHER))
    checkpoints, full, result = [model], [], {}
    with make_executor("local") as executor:
        for number in range(1, ROUNDS + 1):
            asked = config(folder, model, teacher, HOW["full"])
            full.append(rounds.remine(asked, str(folder / "full"), checkpoints[-1], executor))
            if number < ROUNDS:
                checkpoints.append(str(folder / f"checkpoint-{number}"))
                train(checkpoints[-2], full[-1].training_set("n-tuple"), checkpoints[-1], TRAINING)
        kept = config(folder, model, teacher, HOW["tokens kept"])
        first = rounds.mine(kept, str(folder / "first"), executor)
        result["first round"] = {
            "seconds": round(full[0].cost[-1].wall_s, 2),
            "seconds_with_tokens_kept": round(first.cost[-1].wall_s, 2),
            "steps_s": {cost.step: round(cost.wall_s, 2) for cost in full[0].cost},
            "documents": full[0].facts["num_documents"],
            "queries": full[0].facts["num_queries"],
            "negatives": full[0].facts["selection"]["num_negatives"],
            "pairs_scored": next(cost.rows_in for cost in full[0].cost if cost.step == "rescore"),
            "commit": measure.machine()["commit"],
        }
        result["full"] = [figures(found, full[0], found) for found in full[1:]]
        for way in list(HOW)[1:]:
            workspace = folder / way.replace(", ", "-")
            shutil.copytree(folder / "first", workspace)
            asked = config(folder, model, teacher, HOW[way])
            later = [rounds.remine(asked, str(workspace), each, executor) for each in checkpoints[1:]]
            result[way] = [figures(*found) for found in zip(later, [full[0]] * len(later), full[1:], strict=True)]
            shutil.rmtree(workspace)
            print(name, way, [(each["share"], each["overlap"]) for each in result[way]], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sets", nargs="+", default=["squad", "arxiv"])
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--embedder-of", help="the set that teaches the first embedder; default: each its own")
    arguments = parser.parse_args()
    path = measure.RESULTS / "rounds.json"
    found: dict[str, Any] = json.loads(path.read_text())["sets"] if path.exists() else {}
    for name in arguments.sets:
        taught = arguments.embedder_of or name
        with tempfile.TemporaryDirectory() as made:
            result = compare(arguments.data, name, taught, arguments.queries, Path(made))
        found[name if taught == name else f"{name}, embedder of {taught}"] = result
    goals = {"full_share": FULL_GOAL, "share": COST_GOAL, "overlap": OVERLAP_GOAL}
    measure.keep("rounds", {"sets": found, "goals": goals})
    print(table.rounds({"sets": found}))


if __name__ == "__main__":
    main()
