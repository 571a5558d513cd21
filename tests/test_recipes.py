"""Each recipe as a user gets it: written by init, mined on a small folder, its numbers checked by its own rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mining
import pytest

import raymine
from raymine.config_file import load_config
from raymine.errors import ConfigError
from raymine.init import write_config
from raymine.recipes import names, recipe

Row = dict[str, Any]
UNTRAINED = 0.25  # instead of RocketQA's 0.1: the teacher at hand says 0.13 to 0.40
REAL = {None, "rank_range", "max_score", "max_relative_score", "percentile_band", "consistency"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mining.write_beir(tmp_path_factory.mktemp("data"))


def by_query(found: raymine.Round) -> list[tuple[list[Row], list[Row], list[Row]]]:
    """Per query its positives, the candidates that are neither a positive nor a copy, and the negatives.

    `share` of a row: that of all positives that the teacher puts no higher.
    """
    verdicts, negatives = found.verdicts().to_table().to_pylist(), found.negatives().to_pylist()
    known = [row["teacher_score"] for row in verdicts if (row["relevance"] or 0) > 0]
    known = [score for score in known if score is not None]
    for row in verdicts:
        row["share"] = sum(score <= (row["teacher_score"] or 0) for score in known) / max(1, len(known))
    made = []
    for query in sorted({row["query_row"] for row in verdicts}):
        own = [row for row in verdicts if row["query_row"] == query]
        chosen = {row["doc_row"] for row in negatives if row["query_row"] == query}
        made.append(
            (
                [row for row in own if (row["relevance"] or 0) > 0],
                [row for row in own if row["dropped_by"] in REAL],
                [row for row in own if row["doc_row"] in chosen],
            )
        )
    return made


def best(rows: list[Row], score: str, n: int) -> list[int]:
    ordered = sorted(rows, key=lambda row: (-row[score], row["doc_row"]))
    return sorted(row["doc_row"] for row in ordered[:n])


def docs(rows: list[Row]) -> list[int]:
    return sorted(row["doc_row"] for row in rows)


def is_sample(negatives: list[Row], allowed: list[Row], n: int) -> bool:
    """n of the allowed, or all of them."""
    return set(docs(negatives)) <= set(docs(allowed)) and len(negatives) == min(n, len(allowed))


def dpr(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
    return docs(negatives) == best([row for row in candidates if row["bm25_rank"] is not None], "bm25_score", 1)


def chance(n: int, start: int, stop: int) -> Callable[..., bool]:
    def rule(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
        allowed = [row for row in candidates if row["dense_rank"] is not None and start <= row["dense_rank"] < stop]
        return is_sample(negatives, allowed, n)

    return rule


def rocketqa(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
    return is_sample(negatives, [row for row in candidates if row["teacher_score"] <= UNTRAINED], 4)


def lowest_of(positives: list[Row], score: str) -> float:
    """Infinite where no positive has the score: it bounds nothing."""
    return min((row[score] for row in positives if row[score] is not None), default=float("inf"))


def below(positives: list[Row], candidates: list[Row], score: str = "dense_score") -> list[Row]:
    lowest = lowest_of(positives, score)
    return [row for row in candidates if lowest == float("inf") or row[score] <= lowest - abs(lowest) * (1 - 0.95)]


def nv_retriever(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
    allowed = below(positives, candidates)
    pool = set(best(allowed, "dense_score", 10))
    return is_sample(negatives, [row for row in allowed if row["doc_row"] in pool], 4)


def arctic(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
    return docs(negatives) == best(below(positives, candidates), "dense_score", 10)


def middle(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
    scores = [row["teacher_score"] for row in candidates]
    allowed = [
        row
        for row in below(positives, candidates, "teacher_score")
        if 0.4 <= sum(score < row["teacher_score"] for score in scores) / (len(scores) - 1) <= 0.9
    ]
    return is_sample(negatives, allowed, 8)


def calibrated(positives: list[Row], candidates: list[Row], negatives: list[Row]) -> bool:
    """Positives that score within 0.05 % of a candidate count as no higher, so a share may be one positive off."""
    sure, allowed = ([row for row in candidates if row["share"] <= limit] for limit in (0.3 - 0.03, 0.3))
    lowest = min((row["dense_score"] for row in negatives), default=-1.0)
    skipped = [row for row in sure if row["dense_score"] > lowest and row not in negatives]
    return is_sample(negatives, allowed, 8) and not skipped


RULES: dict[str, Callable[..., bool]] = {
    "dpr": dpr,
    "ance": chance(5, 0, 200),
    "star": chance(8, 0, 200),
    "rocketqa": rocketqa,
    "bge": chance(15, 10, 210),
    "nv-retriever": nv_retriever,
    "simans": chance(15, 0, 200),
    "arctic": arctic,
    "e5-mistral": chance(7, 30, 100),
    "middle": middle,
    "calibrated": calibrated,
}


def test_every_recipe_has_a_rule() -> None:
    assert set(RULES) == set(names())


@pytest.mark.parametrize("name", list(RULES))
def test_a_recipe_follows_its_rule(
    name: str, folder: Path, static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every query's negatives are what the rule, in plain Python, allows or asks for."""
    config = folder / "mine.yaml"
    config.unlink(missing_ok=True)
    write_config(folder, name)
    assert recipe(name).splitlines()[0] in config.read_text()
    config.write_text(config.read_text().replace("value: 0.1,", f"value: {UNTRAINED},"))
    models = (("embed", static_model), ("rescore", cross_encoder_model))
    given = [f"{section}.model={model}" for section, model in models if f"\n{section}:" in recipe(name)]
    workspace = str(tmp_path_factory.getbasetemp() / "recipes")
    found = raymine.mine(load_config(str(config), tuple(given)), workspace)
    rule, cases = RULES[name], by_query(found)
    assert all(rule(*case) for case in cases)
    assert sum(len(negatives) for _, _, negatives in cases) == found.negatives().num_rows > 0


def test_simans_prefers_what_scores_like_the_positive(folder: Path, static_model: str, tmp_path: Path) -> None:
    """The nearest to the positive's score are drawn more often than their share."""
    (folder / "mine.yaml").unlink(missing_ok=True)
    write_config(folder, "simans")
    config = load_config(str(folder / "mine.yaml"), (f"embed.model={static_model}", "select.sample.n=5"))
    near = total = 0
    for positives, candidates, negatives in by_query(raymine.mine(config, str(tmp_path))):
        lowest = lowest_of(positives, "dense_score")
        ordered = sorted(candidates, key=lambda row: abs(row["dense_score"] - lowest))
        nearest = set(docs(ordered[: len(ordered) // 5]))
        near, total = near + len(nearest & set(docs(negatives))), total + len(negatives)
    assert near / total > 0.4


def test_an_unknown_recipe_is_an_error(folder: Path) -> None:
    (folder / "mine.yaml").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="one of ance, arctic"):
        write_config(folder, "dbr")
    assert not (folder / "mine.yaml").exists()
