"""How many mined negatives are positives that nobody labelled, and how hard are they? Every strategy, on three sets.

    python benchmarks/false_negatives.py --data ../shared/data

Where the relevant documents are known (clinc150 and banking77: all texts of the query's intent; liveqa-med: graded by
experts), all but one of each query are hidden, and five negatives per query are mined with the one that is left. The
false-negative rate is the share of mined negatives that are hidden positives; hardness is the mean score of the mined
ones under the embedder. An oracle that takes the best-scoring true negatives bounds what honest hardness there is. The
goal: at least 95 % of the queries with all five, at most 40 % of the rate of the naive top five, at least 85 % of the
oracle's hardness.

Nothing that is trained has seen a label of the mined queries. The embedder (models.train_static) and liveqa-med's
teacher (models.train_teacher) learn from squad's training pairs; those of the intent sets learn from half of the
intents, documents and test queries, and the queries of the other half are mined from the whole corpus.

raymine mines once per set with wide candidates, all of them scored by the teacher. Each strategy is a selection from
that round (raymine.export), or, where its filter needs facts that the round lacks, another round in the same workspace,
which finds vectors and teacher scores there. The strategies are in benchmarks/strategies.py. Prints a table, writes
benchmarks/results/false-negatives.json and .svg.
With --models that are there already it took 4 min 41 s on two shared cores; training comes on top.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import models
import numpy as np
import table
from strategies import NEGATIVES, STRATEGIES, Strategy

import raymine
from raymine import storage
from raymine.executor import make_executor
from raymine.export import export
from raymine.rounds import Round

INTENT_SETS = ("clinc150", "banking77")
SETS = (*INTENT_SETS, "liveqa-med")
MAX_QUERIES, DEPTH = 2000, 300
MIN_FULL, MAX_RATE_OF_NAIVE, MIN_HARDNESS_OF_ORACLE = 0.95, 0.4, 0.85
SEED = 0
SQUAD_QUERIES = 8000  # for liveqa-med's teacher
INTENT_PASSES = 2  # over half of the intents' texts, each time with other positives
Hits = Mapping[str, Sequence[str]]  # document ids by query id


@dataclass(frozen=True)
class Case:
    """A set whose positives are known.

    Args:
        name: of the set.
        folder: of the set.
        shown: the positive of each query that is mined.
        hidden: its other relevant documents.
        teacher: folder of the model.
    """

    name: str
    folder: Path
    shown: dict[str, str]
    hidden: dict[str, set[str]]
    teacher: Path


def relevant_documents(folder: Path) -> dict[str, list[str]]:
    """Relevant documents of the test queries, in the order of the judgements."""
    found: dict[str, list[str]] = defaultdict(list)
    for query, document in models.judgements(folder, "test"):
        found[query].append(document)
    return dict(found)


def prepare(name: str, data: Path, embedder: Path, made: Path) -> Case:
    """Chooses queries and their shown positives, and trains the teacher."""
    folder = data / name
    relevant = relevant_documents(folder)
    draw = random.Random(SEED)
    if name in INTENT_SETS:
        intents = sorted({min(documents) for documents in relevant.values()})
        known = set(draw.sample(intents, len(intents) // 2))
        pairs = intent_pairs(folder, {q: docs for q, docs in relevant.items() if min(docs) in known}, draw)
        relevant = {query: documents for query, documents in relevant.items() if min(documents) not in known}
    else:
        pairs = question_pairs(data / "squad", draw)
    teacher = models.train_teacher(embedder, pairs, made / f"teacher-{name}", SEED)
    chosen = sorted(draw.sample(sorted(relevant), min(MAX_QUERIES, len(relevant))))
    shown = {query: draw.choice(relevant[query]) for query in chosen}
    hidden = {query: set(relevant[query]) - {shown[query]} for query in chosen}
    return Case(name, folder, shown, hidden, teacher)


def intent_pairs(folder: Path, relevant: Mapping[str, Sequence[str]], draw: random.Random) -> models.LabelledPairs:
    """Texts of some intents, documents and queries alike, each with another text of its intent."""
    texts, asked = models.documents(folder), models.queries(folder)
    intents = {min(documents): documents for documents in relevant.values()}
    documents = [document for intent in sorted(intents) for document in intents[intent]]
    numbers = {document: number for number, document in enumerate(documents)}
    groups = [number for number, intent in enumerate(sorted(intents)) for _ in intents[intent]]
    by_group: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        by_group[group].append(number)
    group_of_query = {query: groups[numbers[found[0]]] for query, found in relevant.items()}
    examples = [(texts[document], groups[numbers[document]]) for document in documents]
    examples += [(asked[query], group) for query, group in group_of_query.items()]
    examples *= INTENT_PASSES
    return models.LabelledPairs(
        [text for text, _ in examples],
        [texts[document] for document in documents],
        [draw.choice(by_group[group]) for _, group in examples],
        groups,
    )


def question_pairs(folder: Path, draw: random.Random) -> models.LabelledPairs:
    """Training questions of squad, each with its paragraph."""
    texts, asked = models.documents(folder), models.queries(folder)
    chosen = draw.sample(models.judgements(folder, "train"), SQUAD_QUERIES)
    numbers = {document: number for number, document in enumerate(texts)}
    return models.LabelledPairs(
        [asked[query] for query, _ in chosen],
        list(texts.values()),
        [numbers[document] for _, document in chosen],
        list(range(len(texts))),
    )


class Mined:
    """A set that has been mined once, with every candidate scored.

    Args:
        case: the set.
        embedder: folder of the model.
        scratch: for the workspace.
    """

    def __init__(self, case: Case, embedder: Path, scratch: Path) -> None:
        self.case, self.workspace = case, scratch / f"workspace-{case.name}"
        asked = models.queries(case.folder)
        queries, positives = scratch / f"queries-{case.name}.jsonl", scratch / f"shown-{case.name}.tsv"
        models.write_texts(queries, {query: asked[query] for query in case.shown})
        models.write_judgements(positives, case.shown.items())
        self.config = {
            "seed": SEED,
            "corpus": {"path": str(case.folder)},
            "queries": {"path": str(queries)},
            "positives": {"path": str(positives)},
            "embed": {"model": str(embedder)},
            "retrieve": {"dense": {"k": DEPTH}},
            "rescore": {"model": str(case.teacher), "activation": "model"},
            "select": {"filters": [], "sample": {"n": NEGATIVES}},
            "write": {"formats": ["trec"]},
        }
        self.round = self._mine({})
        self.candidates = self._candidates()

    def negatives(self, strategy: Strategy) -> Hits:
        """What a strategy selects."""
        select = {
            "filters": [dict(each) for each in strategy.filters],
            "sample": {"n": NEGATIVES, **strategy.sample},
            "calibrate": strategy.calibrate,
        }
        if strategy.is_mined:
            return _trec(Path(self._mine({"select": select}).path) / "shards")
        overrides = [f"select.{key}={json.dumps(value)}" for key, value in select.items()]
        with make_executor("local", None) as executor:
            return _trec(Path(export(self.round, ["trec"], executor, overrides).path))

    def figures(self, found: Hits) -> dict[str, float]:
        """Rate, hardness, negatives per query, and the share of queries with all of them."""
        pairs = [(query, document) for query, documents in found.items() for document in documents]
        num_full = sum(len(documents) == NEGATIVES for documents in found.values())
        num_queries = len(self.case.shown)
        return {
            "rate": _rounded(
                sum(document in self.case.hidden[query] for query, document in pairs) / max(1, len(pairs))
            ),
            "hardness": _rounded(float(np.mean([self.candidates[pair] for pair in pairs])) if pairs else 0.0),
            "per_query": round(len(pairs) / num_queries, 2),
            "full": _rounded(num_full / num_queries),
        }

    def oracle(self) -> Hits:
        """The best-scoring true negatives."""
        found: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for (query, document), score in self.candidates.items():
            if document not in self.case.hidden[query]:
                found[query].append((-score, document))
        return {query: [document for _, document in sorted(rows)[:NEGATIVES]] for query, rows in found.items()}

    def _mine(self, changes: Mapping[str, Any]) -> Round:
        config = raymine.Config.model_validate({**self.config, **changes})
        return raymine.mine(config, str(self.workspace))

    def _candidates(self) -> dict[tuple[str, str], float]:
        """The embedder's scores of all candidates that may become negatives, by ids."""
        tables = self.round.tables()
        queries = _column(tables.queries, "query_id")
        documents = _column(tables.corpus, "doc_id")
        rows = self.round.verdicts().to_table(["query_row", "doc_row", "dense_score", "dropped_by"])
        rows = rows.filter(rows["dropped_by"].is_null())
        columns = (rows[name].to_pylist() for name in ("query_row", "doc_row", "dense_score"))
        return {(queries[query], documents[doc]): score for query, doc, score in zip(*columns, strict=True)}


def _column(shards: Iterable[storage.Shard], name: str) -> list[str]:
    return [value for shard in shards for value in storage.read_table(shard.path, [name])[name].to_pylist()]


def _trec(folder: Path) -> Hits:
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((folder / "trec").glob("*.tsv")):
        for line in path.read_text().splitlines():
            query, _, document, *_ = line.split()
            found[query].append(document)
    return found


def _rounded(value: float) -> float:
    return round(value, 4)


def measured(mined: Mined) -> dict[str, Any]:
    """All strategies on one set."""
    naive = mined.figures(mined.negatives(STRATEGIES["naive"]))
    oracle = mined.figures(mined.oracle())
    found = {}
    for name, strategy in STRATEGIES.items():
        begin = time.perf_counter()
        each = mined.figures(mined.negatives(strategy))
        shares = {
            "rate_of_naive": _rounded(each["rate"] / naive["rate"]),
            "hardness_of_oracle": _rounded(each["hardness"] / oracle["hardness"]),
        }
        found[name] = {**each, **shares, "reaches": reaches({**each, **shares})}
        print(
            f"{mined.case.name}, {name}: {table.rate_at_hardness(found[name])} ({time.perf_counter() - begin:.1f} s)",
            flush=True,
        )
    return {
        "documents": mined.round.facts["num_documents"],
        "queries": len(mined.case.shown),
        "candidates": len(mined.candidates),
        "oracle": oracle,
        "strategies": found,
    }


def reaches(found: Mapping[str, float]) -> bool:
    """Whether a strategy reaches the goal."""
    return (
        found["full"] >= MIN_FULL
        and found["rate_of_naive"] <= MAX_RATE_OF_NAIVE
        and found["hardness_of_oracle"] >= MIN_HARDNESS_OF_ORACLE
    )


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Rate against hardness, a panel per set; what reaches the goal lies in the shaded corner."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "raymine"  # so that equal results are equal bytes
    from matplotlib import pyplot

    families = list(dict.fromkeys(strategy.family for strategy in STRATEGIES.values()))
    colors = dict(zip(families, pyplot.get_cmap("tab20").colors, strict=False))
    size = (5 * len(result["sets"]), 5)
    figure, axes = pyplot.subplots(1, len(result["sets"]), figsize=size, layout="constrained", squeeze=False)
    for axis, (name, found) in zip(axes[0], result["sets"].items(), strict=True):
        strategies, oracle = found["strategies"], found["oracle"]["hardness"]
        for family in families:
            members = [strategies[key] for key, strategy in STRATEGIES.items() if strategy.family == family]
            points = [[each["hardness"], each["rate"]] for each in members]
            is_full = np.array([each["full"] >= MIN_FULL for each in members])
            edge = [colors[family]] * len(points)
            face = [colors[family] if full else "white" for full in is_full]
            axis.scatter(*np.transpose(points), c=face, edgecolors=edge, label=family)
        axis.axvline(oracle, color="grey", linestyle=":", label="oracle's hardness")
        best = [oracle * MIN_HARDNESS_OF_ORACLE, strategies["naive"]["rate"] * MAX_RATE_OF_NAIVE]
        axis.set(title=name, xlabel="hardness", ylabel="false-negative rate", ylim=(0, None))
        axis.fill_between([best[0], axis.get_xlim()[1]], 0, best[1], color="green", alpha=0.08, label="goal")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"{NEGATIVES} negatives per query (hollow: fewer than {MIN_FULL:.0%} of the queries got all)")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--models", type=Path, help="where trained models are kept, and found the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        made = arguments.models or scratch
        embedder = models.train_static(arguments.data / "squad", made / "embedder")
        sets = {}
        for name in arguments.sets:
            case = prepare(name, arguments.data.resolve(), embedder, made)
            sets[name] = measured(Mined(case, embedder, scratch))
    goal = {
        "full": MIN_FULL,
        "rate_of_naive": MAX_RATE_OF_NAIVE,
        "hardness_of_oracle": MIN_HARDNESS_OF_ORACLE,
    }
    everywhere = [name for name in STRATEGIES if all(found["strategies"][name]["reaches"] for found in sets.values())]
    result = {"negatives": NEGATIVES, "depth": DEPTH, "goal": goal, "reach_it_everywhere": everywhere, "sets": sets}
    print(table.false_negatives(result))
    print(f"reach the goal on every set: {'; '.join(everywhere) or 'none'}")
    measure.keep("false-negatives", result)
    plot(result, measure.RESULTS / "false-negatives.svg")


if __name__ == "__main__":
    main()
