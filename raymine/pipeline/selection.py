"""From candidates to training shards: cheap filters, the teacher, the other filters and sampling, writing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raymine import storage
from raymine.artifacts import Done, Step, Task
from raymine.fingerprint import fingerprint, model_fingerprint
from raymine.models import local_model
from raymine.pipeline.base import LIGHT, Context, contents, paths, workers
from raymine.rescore.stage import Rescore
from raymine.select.judged import Selection
from raymine.select.merge import Merge
from raymine.select.passes import CapReuse, CountScores, FetchVectors, Shortlist
from raymine.select.prefilter import Prefilter
from raymine.select.scales import SumCounts
from raymine.select.stage import Select
from raymine.select_config import MaxReuse
from raymine.storage import Shard
from raymine.write import FORMATS
from raymine.write.companions import WriteDocuments, WriteQueries
from raymine.write.stage import WriteShard
from raymine.write.texts import FetchTexts


def prefilter(
    context: Context, candidates: list[Done], notes: list[Shard], near: list[Shard]
) -> tuple[list[Shard], list[Shard]]:
    """Drops what needs no teacher; gives the verdicts so far, and the pairs that the teacher must score."""
    tables = context.tables
    shared = {
        **_selection(context),
        "shard_starts": tables.shard_starts,
        "has_teacher": context.config.rescore is not None,
        "traits": list(context.config.select.traits),
    }
    settings = {**shared, "filters": list(context.config.select.filters), "notes": paths(notes)}
    identity = {
        **shared,
        "filters": _filters(context),
        "notes": contents(notes),
        "near": contents(near),
        "candidates": contents(done.outputs[0] for done in candidates),
        "positives": contents(tables.positives),
        "excluded": contents(tables.excluded),
    }
    tasks = context.block_tasks(
        {
            "candidates": done.outputs[0].path,
            "positives": tables.positives[block].path,
            "excluded": tables.excluded[block].path,
            "near": near[block].path if near else None,
        }
        for block, done in enumerate(candidates)
    )
    done = context.run(Step("prefilter", Prefilter, settings, identity, tasks, LIGHT, unit="candidates")).done
    return [each.outputs[0] for each in done], [each.outputs[1] for each in done]


def _selection(context: Context) -> dict[str, Any]:
    return {
        "sources": context.facts["sources"],
        "default_score": context.config.default_score,
    }


def _filters(context: Context) -> list[dict[str, Any]]:
    return [each.model_dump() for each in context.config.select.filters]


def rescore(context: Context, pairs: list[Shard]) -> list[Shard]:
    """The teacher's scores of the pairs of each query block, per document shard, through the teacher cache."""
    config, tables = context.config.rescore, context.tables
    assert config is not None
    model = _teacher(context)
    settings = {
        "config": config,
        "model_fingerprint": fingerprint(model),
        "pairs": paths(pairs),
        "queries": paths(tables.queries),
        "block_starts": tables.block_starts,
        "cache": teacher_cache(context),
    }
    identity = {"teacher": model, "pairs": contents(pairs), "queries": contents(tables.queries)}
    tasks = context.document_tasks()
    resources = workers(context.config.resources.rescore)
    return context.run(Step("rescore", Rescore, settings, identity, tasks, resources, unit="pairs")).shards


def _teacher(context: Context) -> dict[str, Any]:
    """What names the teacher: its weights and how it is used."""
    config = context.config.rescore
    assert config is not None
    weights = model_fingerprint(local_model(config.model, config.revision), context.cache)
    return {"model": weights, "config": config.model_dump(exclude={"model", "revision", "trust_remote_code"})}


def teacher_cache(context: Context) -> str:
    """Folder of the scores that the teacher has given in this workspace."""
    return storage.join(context.artifacts.workspace, "cache", f"teacher-{fingerprint(_teacher(context))}")


def select(
    context: Context, verdicts: list[Shard], teacher_scores: list[Shard] | None, is_again: bool = False
) -> list[Done]:
    """Verdicts, negatives, shortfalls and the pairs to write, into the round's folder.

    Args:
        context: the round.
        verdicts: the prefilter's, or those of a finished round.
        teacher_scores: None where there are none, or the verdicts have them.
        is_again: the verdicts are those of a finished round, to be judged anew.
    """
    blocks = _Blocks(context, verdicts, teacher_scores, is_again)
    blocks.count_scores()
    blocks.cap_reuse()
    vectors = blocks.fetch_vectors()
    more = {"shard_starts": context.tables.shard_starts}
    settings: dict[str, Any] = {**more, "vectors": paths(vectors) if vectors is not None else None}
    identity = {**more, "sample": context.config.select.sample.model_dump(), "vectors": contents(vectors or [])}
    identity["queries"] = contents(context.tables.queries)
    inputs: list[dict[str, Any]] = [{} for _ in verdicts]
    tables = context.tables
    if tables.earlier:
        settings["merge"] = _merge(context)
        identity["merged"] = [contents(tables.earlier), contents(tables.settled)]
        identity["rounds"] = context.config.rounds.model_dump()
        pairs = zip(tables.earlier, tables.settled, strict=True)
        inputs = [{"lineage": lineage.path, "settled": settled.path} for lineage, settled in pairs]
    name = "select_again" if is_again else "select"
    step = blocks.step(name, Select, settings, identity, prefix="part", folder=context.folder, inputs=inputs)
    done = context.run(step).done
    context.facts["selection"] = [each.info for each in done]
    return done


def _merge(context: Context) -> Merge:
    config = context.config
    return Merge(
        config.rounds.merge,
        config.rounds.decay,
        context.number,
        config.select.sample.n,
        config.select.sample.semi_hard_margin,
        tuple(context.facts["sources"]),
    )


class _Blocks:
    """The steps over query blocks that read and judge their verdicts, and what has been found for them.

    Args: as of `select`.
    """

    def __init__(
        self, context: Context, verdicts: list[Shard], teacher_scores: list[Shard] | None, is_again: bool
    ) -> None:
        config = context.config
        self.context, self.verdicts = context, verdicts
        self.how = Selection(
            config.select.filters,
            config.select.sample,
            config.seed,
            context.number,
            context.facts["sources"],
            config.default_score,
            config.select.calibrate,
        )
        scores = paths(teacher_scores) if teacher_scores is not None else None
        self.given: dict[str, Any] = {"teacher_scores": scores, "how": self.how, "is_again": is_again}
        self.identity: dict[str, Any] = {
            **_selection(context),
            "seed": config.seed,
            "round": context.number,
            "filters": _filters(context),
            "calibrate": config.select.calibrate,
            "teacher_scores": contents(teacher_scores or []),
            "verdicts": contents(verdicts),
            "is_again": is_again,
        }

    def step(
        self,
        name: str,
        stage: type,
        settings: dict[str, Any],
        identity: Any,
        prefix: str = "block",
        folder: str = "",
        inputs: Sequence[dict[str, Any]] | None = None,
    ) -> Step:
        """A step of one task per block; `inputs`: what each task has besides its verdicts."""
        more = inputs if inputs is not None else [{} for _ in self.verdicts]
        given = ({"verdicts": shard.path, **each} for shard, each in zip(self.verdicts, more, strict=True))
        tasks = self.context.block_tasks(given, prefix)
        settings = {"blocks": self.given, **settings}
        identity = {**self.identity, "own": identity}
        return Step(name, stage, settings, identity, tasks, LIGHT, folder=folder, unit="candidates")

    def count_scores(self) -> None:
        """Counts the scores that something goes by over all queries."""
        if not self.how.counted_scores:
            return
        counts = self.context.run(self.step("count_scores", CountScores, {}, None)).shards
        tasks = [Task("counts", {"files": paths(counts)})]
        step = Step("sum_counts", SumCounts, {}, contents(counts), tasks, LIGHT, unit="scores")
        total = self.context.run(step).shards[0]
        self.given["counts"], self.identity["counts"] = total.path, total.sha256

    def cap_reuse(self) -> None:
        """Finds the candidates that max_reuse takes."""
        asked = self.context.config.select.one(MaxReuse)
        if asked is None:
            return
        pairs = self._shortlist("shortlist_reuse", is_pool=False)
        shared = {"block_starts": self.context.tables.block_starts, "n": asked.n}
        settings, identity = {**shared, "pairs": paths(pairs)}, {**shared, "pairs": contents(pairs)}
        tasks = self.context.document_tasks()
        gone = self.context.run(Step("cap_reuse", CapReuse, settings, identity, tasks, LIGHT, unit="candidates")).shards
        self.given["overused"], self.identity["overused"] = paths(gone), contents(gone)

    def fetch_vectors(self) -> list[Shard] | None:
        """Vectors of the candidates that may be drawn; None where sampling needs none."""
        if self.context.config.select.sample.strategy != "spread":
            return None
        pairs = self._shortlist("shortlist_pool", is_pool=True)
        tables = self.context.tables
        settings: dict[str, Any] = {"block_starts": tables.block_starts, "pairs": paths(pairs)}
        identity = {"block_starts": tables.block_starts, "pairs": contents(pairs)}
        tasks = self.context.document_tasks(tables.corpus_vectors)
        return self.context.run(
            Step("fetch_vectors", FetchVectors, settings, identity, tasks, LIGHT, unit="vectors")
        ).shards

    def _shortlist(self, name: str, is_pool: bool) -> list[Shard]:
        sample = self.context.config.select.sample
        own = {"shard_starts": self.context.tables.shard_starts, "is_pool": is_pool}
        identity = {**own, "sample": sample.model_dump() if is_pool else None}
        return self.context.run(self.step(name, Shortlist, own, identity)).shards


def write(context: Context, selected: list[Done]) -> None:
    """Training shards in every format that the config names."""
    pairs = [done.outputs[3] for done in selected]
    settings: dict[str, Any] = {"pairs": paths(pairs), "block_starts": context.tables.block_starts}
    tasks = context.document_tasks()
    texts = context.run(Step("fetch_texts", FetchTexts, settings, contents(pairs), tasks, LIGHT, unit="texts")).shards
    names = context.config.write.formats
    context.facts["formats"] = {name: _write_format(context, name, selected, texts) for name in names}
    beside = {name: _write_companions(context, name, selected) for name in names}
    if context.config.write.scores:
        for name in (name for name in names if FORMATS[name].positives_apart):
            beside[name] += _write_format(context, name, selected, texts, of_positives=True)
    context.facts["companions"] = {name: shards for name, shards in beside.items() if shards}


def _write_format(
    context: Context, name: str, selected: list[Done], texts: list[Shard], of_positives: bool = False
) -> list[Shard]:
    config = context.config
    score = (config.write.score or config.default_score) if config.write.scores else None
    own = {"format": name, "score": score, "of_positives": of_positives}
    settings = {**own, "texts": paths(texts)}
    identity = {
        **own,
        "texts": contents(texts),
        "selected": [contents(done.outputs) for done in selected],
        "queries": contents(context.tables.queries),
    }
    tasks = context.block_tasks((_selected_paths(done) for done in selected), prefix="part")
    folder, step = storage.join(context.folder, "shards", name), f"write_{name}"
    if of_positives:
        folder, step = storage.join(folder, "positives"), f"{step}_positives"
    return context.run(Step(step, WriteShard, settings, identity, tasks, LIGHT, folder, "rows")).shards


def _write_companions(context: Context, name: str, selected: list[Done]) -> list[Shard]:
    """The documents and queries that a format's rows refer to, in folders beside them."""
    companions = FORMATS[name].companions
    if companions is None:
        return []
    folder = storage.join(context.folder, "shards", name)
    pairs = [done.outputs[3] for done in selected]
    how = {"keys": companions.documents, "extension": companions.extension}
    settings: dict[str, Any] = {"pairs": paths(pairs), **how}
    identity = {"format": name, **how, "pairs": contents(pairs)}
    documents = storage.join(folder, "documents")
    tasks = context.document_tasks()
    step = Step(f"write_{name}_documents", WriteDocuments, settings, identity, tasks, LIGHT, documents, "documents")
    shards = context.run(step).shards
    if companions.about is not None:
        file, content = companions.about
        path = storage.join(context.artifacts.workspace, documents, file)
        shards = [*shards, storage.write_file(path, [json.dumps(content).encode()])]
    if companions.queries is not None:
        tasks = context.block_tasks(({"shortfall": done.outputs[2].path} for done in selected), prefix="part")
        settings = {"keys": companions.queries}
        identity = {"format": name, **settings, "shortfall": [done.outputs[2].sha256 for done in selected]}
        identity["queries"] = contents(context.tables.queries)
        queries = storage.join(folder, "queries")
        step = Step(f"write_{name}_queries", WriteQueries, settings, identity, tasks, LIGHT, queries, "queries")
        shards = [*shards, *context.run(step).shards]
    return shards


def _selected_paths(done: Done) -> dict[str, str]:
    verdicts, negatives, shortfall, _, forbidden = paths(done.outputs)
    return {"verdicts": verdicts, "negatives": negatives, "shortfall": shortfall, "forbidden": forbidden}
