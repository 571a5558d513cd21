"""What a round takes from the one before: its negatives, scored by the new checkpoint, and the queries they settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from raymine import storage
from raymine.artifacts import Done, Step, Task, task_key
from raymine.lineage.carry import CarryLineage
from raymine.lineage.measure import MeasureEarlier
from raymine.lineage.moves import MapRows, Span
from raymine.lineage.trace import TraceLineage
from raymine.lineage.unsettled import DropSettled
from raymine.pipeline.base import LIGHT, Context, contents, paths
from raymine.pipeline.retrieval import Source
from raymine.pipeline.search import for_all_blocks
from raymine.retrieve.shortlist import RescoreHits
from raymine.select.merge import quota
from raymine.storage import Shard

EVERY = 1 << 30  # hits per query: all


@dataclass(frozen=True)
class Carried:
    """The last round's lineage in the rows of this one.

    Args:
        lineage: per query block.
        pairs: per query block, what is to be scored: recent negatives and positives, bucketed by document shard.
        document_spans: shards of the last round's documents.
        moved_documents: rows of those that have changed; None: none has.
    """

    lineage: list[Shard]
    pairs: list[Shard]
    document_spans: list[Span]
    moved_documents: Shard | None


@dataclass(frozen=True)
class Earlier:
    """What a round has from those before.

    Args:
        lineage: per query block, in the rows of this round.
        scores: HITS of their negatives and of the positives, by the new checkpoint, bucketed by query block.
        settled: per query block, the queries that keep their negatives.
    """

    lineage: list[Shard]
    scores: list[Shard]
    settled: list[Shard]


def carry(context: Context) -> Carried | None:
    """Carries the last round's lineage over; None in a first round, or without embeddings."""
    previous, tables = context.previous, context.tables
    if previous is None or not context.config.has_embeddings:
        return None
    query_spans, moved_queries = _moves(context, "map_queries", "query_id", previous.queries, tables.queries)
    document_spans, moved_documents = _moves(context, "map_documents", "doc_id", previous.corpus, tables.corpus)
    moved = (moved_queries, moved_documents)
    settings: dict[str, Any] = {
        "number": context.number,
        "query_spans": query_spans,
        "document_spans": document_spans,
        "moved": tuple(shard.path if shard else None for shard in moved),
        "oldest": context.number - _rounds_back(context),
        "shard_starts": tables.shard_starts,
    }
    identity = {
        **{name: settings[name] for name in ("number", "oldest", "shard_starts")},
        "spans": [[astuple(span) for span in spans] for spans in (query_spans, document_spans)],
        "moved": [shard.sha256 if shard else None for shard in moved],
        "lineage": contents(previous.lineage),
        "positives": contents(tables.positives),
    }
    tasks = context.block_tasks(
        {
            "lineage": _files(previous.lineage, query_spans, block),
            "positives": positives.path,
            "num_rows": block.num_rows,
        }
        for block, positives in zip(tables.queries, tables.positives, strict=True)
    )
    carried = context.run(Step("carry_lineage", CarryLineage, settings, identity, tasks, LIGHT, unit="negatives")).done
    lineage, pairs = ([done.outputs[at] for done in carried] for at in (0, 1))
    return Carried(lineage, pairs, document_spans, moved_documents)


def score(context: Context, carried: Carried) -> Earlier:
    """Scores earlier negatives by the new checkpoint, whose vectors are there."""
    scores = _scored(context, carried.pairs)
    return Earlier(carried.lineage, scores, _measured(context, carried.lineage, scores))


def _rounds_back(context: Context) -> int:
    """How many rounds ago a negative may have been chosen last to have a slot in this one: the last one's are always
    looked at."""
    config, age = context.config, 1
    if config.rounds.merge == "union":
        while quota(config.select.sample.n, config.rounds.decay, age + 1):
            age += 1
    return age


def _moves(
    context: Context, name: str, column: str, old: Sequence[Shard], new: Sequence[Shard]
) -> tuple[list[Span], Shard | None]:
    """Where the shards of a table are now, and the rows of those that have changed."""
    now = {shard.sha256: shard.first_row for shard in new}
    spans = [Span(shard.first_row, shard.num_rows, now.get(shard.sha256)) for shard in old]
    gone = [shard for shard in old if shard.sha256 not in now]
    known = {shard.sha256 for shard in old}
    came = [shard for shard in new if shard.sha256 not in known]
    if not gone or not came:
        return spans, None
    given = {key: [(shard.path, shard.first_row) for shard in shards] for key, shards in (("old", gone), ("new", came))}
    identity = {
        "column": column,
        **{key: [[s.sha256, s.first_row] for s in shards] for key, shards in (("old", gone), ("new", came))},
    }
    step = Step(name, MapRows, {"column": column, **given}, identity, [Task("moved", {})], LIGHT)
    return spans, context.run(step).shards[0]


def _files(lineage: Sequence[Shard], spans: Sequence[Span], block: Shard) -> list[str]:
    """The files in which a query block's lineage lies: that of the same block, or those of all that have changed."""
    same = [shard.path for shard, span in zip(lineage, spans, strict=True) if span.new == block.first_row]
    return same or [shard.path for shard, span in zip(lineage, spans, strict=True) if span.new is None]


def _scored(context: Context, pairs: list[Shard]) -> list[Shard]:
    tables = context.tables
    settings: dict[str, Any] = {
        "pairs": paths(pairs),
        "query_vectors": paths(tables.query_vectors),
        "block_starts": tables.block_starts,
    }
    identity = {"pairs": contents(pairs), "queries": contents(tables.query_vectors)}
    tasks = context.document_tasks(tables.corpus_vectors)
    return context.run(Step("score_earlier", RescoreHits, settings, identity, tasks, LIGHT, unit="pairs")).shards


def _measured(context: Context, lineage: list[Shard], scores: list[Shard]) -> list[Shard]:
    """Notes the difficulty of the last round's negatives, and gives the settled queries."""
    config, tables = context.config, context.tables
    shared = {
        "number": context.number,
        "semi_hard_margin": config.select.sample.semi_hard_margin,
        "margin": config.rounds.margin,
    }
    identity = {
        **shared,
        "scores": contents(scores),
        "lineage": contents(lineage),
        "positives": contents(tables.positives),
    }
    tasks = context.block_tasks(
        {"lineage": each.path, "positives": positives.path}
        for each, positives in zip(lineage, tables.positives, strict=True)
    )
    settings = {**shared, "scores": paths(scores)}
    done = context.run(Step("measure_earlier", MeasureEarlier, settings, identity, tasks, LIGHT, unit="negatives")).done
    context.facts["difficulty"] = {name: sum(each.info[name] for each in done) for name in done[0].info}
    settled = [each.outputs[0] for each in done]
    context.facts["num_settled"] = sum(shard.num_rows for shard in settled)
    return settled


def source(found: Earlier) -> Source:
    """Earlier negatives as a source of candidates."""
    return Source(EVERY, for_all_blocks(found.scores))


def unsettled_queries(context: Context, found: Earlier) -> list[Shard]:
    """The queries' vectors without those of the settled ones, for searching."""
    tasks = [
        Task(task_key(vectors.sha256, settled.sha256, block.first_row), inputs)
        for vectors, settled, block in zip(
            context.tables.query_vectors, found.settled, context.tables.queries, strict=True
        )
        for inputs in [{"vectors": vectors.path, "settled": settled.path, "first_row": block.first_row}]
    ]
    return context.run(Step("drop_settled", DropSettled, {}, None, tasks, LIGHT, unit="queries")).shards


def trace(context: Context, selected: list[Done], carried: Carried | None) -> list[Shard]:
    """The lineage after this round, in its folder."""
    has_ranks = "dense" in context.config.retrieve.sources
    identity = {
        "number": context.number,
        "has_ranks": has_ranks,
        "verdicts": contents(done.outputs[0] for done in selected),
        "negatives": contents(done.outputs[1] for done in selected),
        "earlier": contents(carried.lineage) if carried else None,
    }
    tasks = context.block_tasks(
        (
            {
                "verdicts": done.outputs[0].path,
                "negatives": done.outputs[1].path,
                "earlier": carried.lineage[block].path if carried else None,
            }
            for block, done in enumerate(selected)
        ),
        prefix="part",
    )
    settings = {"number": context.number, "has_ranks": has_ranks}
    folder = storage.join(context.folder, "lineage")
    return context.run(
        Step("trace_lineage", TraceLineage, settings, identity, tasks, LIGHT, folder, "negatives")
    ).shards
