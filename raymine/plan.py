"""What a round will take, before it runs: seconds, hours of devices, bytes, memory and money of each step.

Planning reads the inputs, as the round would: every fault in them shows, and the round finds them read. What the other
steps take is measured on samples of them, once for a workspace and kept there (raymine.planning.measure), and predicted
for the round's size. What is made already costs nothing. For another size, or a cluster that is not at hand, the same
rates are scaled; those of GPUs are then published ones.

A plan of the round itself is kept in `plans/<identity of the round>.json`; the round takes it over into its folder, and
`raymine status` holds it against what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raymine import rounds, storage
from raymine.artifacts import Artifacts, Executor, Watcher
from raymine.config import Config, CorpusConfig, QueriesConfig
from raymine.embed.sentence_transformer import Description
from raymine.pipeline import fused
from raymine.pipeline.base import Context
from raymine.pipeline.choose import choose_index
from raymine.pipeline.dense import index_for
from raymine.pipeline.run import read_inputs
from raymine.pipeline.sizes import DEVICE_BYTES, device_query_bytes
from raymine.planning import predict, published, reuse, warn
from raymine.planning.calibration import Measure, calibrate, in_a_program_of_its_own
from raymine.planning.measure import Measured
from raymine.planning.predict import Conditions, StepPlan
from raymine.planning.published import Cluster
from raymine.planning.size import Size, candidates_per_query, cut, of_tables, positives_per_query
from raymine.storage import HashCache

WORTH_SAYING, WORTH_SAYING_S = 0.9, 1.0  # share of embedding with kept tokens, and seconds that they save, at least


@dataclass(frozen=True)
class Variation:
    """Another size, another cluster, more rounds than the config's own; None: as it is.

    Args:
        documents: of the corpus.
        queries: to mine for.
        cluster: on which.
        rounds: with a checkpoint each.
    """

    documents: int | None = None
    queries: int | None = None
    cluster: Cluster | None = None
    rounds: int = 1

    @property
    def is_the_round(self) -> bool:
        """Whether it is the round itself that is planned."""
        return self.documents is None and self.queries is None and self.cluster is None


@dataclass(frozen=True)
class Plan:
    """A round to be.

    Args:
        round: its number.
        is_done: the round is finished: mining would do nothing, and there are no steps.
        executor: where it was calibrated.
        num_documents: of the corpus.
        num_queries: to mine for.
        dim: of the vectors; None where the round needs none.
        candidates_per_query: that the sources find at most, before their union.
        index: exact, ivfflat or ivfpq; None where nothing is searched by vectors.
        index_chosen: why that one.
        memory_budget_bytes: what the config gives a worker.
        rounds: so many, with a checkpoint each.
        num_candidates: of all queries, as predicted.
        num_scored: pairs for the teacher, as predicted.
        steps: a line each, in the order of the round.
        worker_s, wall_s, cpu_hours, gpu_hours, num_bytes, usd: sums of the steps' (usd None: something is not priced).
        rounds_wall_s, rounds_usd: of all rounds.
        memory_bytes: of the largest worker, as predicted.
        calibration: documents and queries of the largest sample, seconds that it took, whether it was done just now.
        reused: what is found made: steps as a whole, in part, and scores.
        advice: what would be cheaper, a line each.
        assumptions: what the numbers go by, a line each.
        warnings: what will not do, a line each.
    """

    round: int
    is_done: bool
    executor: str
    num_documents: int
    num_queries: int
    dim: int | None
    candidates_per_query: int
    index: str | None
    index_chosen: str | None
    memory_budget_bytes: float
    rounds: int = 1
    num_candidates: int = 0
    num_scored: int = 0
    steps: list[StepPlan] = field(default_factory=list)
    worker_s: float = 0.0
    wall_s: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    num_bytes: float = 0.0
    usd: float | None = None
    rounds_wall_s: float = 0.0
    rounds_usd: float | None = None
    memory_bytes: float = 0.0
    calibration: dict[str, Any] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(
    config: Config,
    workspace: str,
    executor: Executor,
    watcher: Watcher | None = None,
    asked: Variation | None = None,
    measure: Measure = in_a_program_of_its_own,
) -> Plan:
    """Reads the inputs of a round and says what it will take.

    Args:
        config: of the round.
        workspace: folder or URL; what is read and measured is kept there.
        executor: where the inputs are read and samples mined.
        watcher: is told how the reading goes.
        asked: another size or cluster; None: the round as it is.
        measure: does a calibration.

    Raises:
        InputError: the input is wrong.
        ConfigError: a model cannot be loaded, or does not fit the config.
        ResourceError: the machine or cluster has less than the reading of the inputs needs.
    """
    asked = asked or Variation()
    workspace = storage.absolute(workspace)
    cache = HashCache(storage.join(workspace, "cache", "hashes.json"))
    identity = rounds.round_identity(config, cache)
    cache.save()
    number, known = rounds.number_of(workspace, identity)
    artifacts = Artifacts(workspace, executor, {"run_id": "plan", "round": number}, watcher)
    before = rounds.tables_before(workspace, number)
    context = Context(config, artifacts, cache, number, rounds.round_folder(number), previous=before)
    embedder = read_inputs(context)
    is_done = known is not None and known.facts["state"] == "done" and asked.is_the_round
    made = _plan(context, embedder, asked, is_done, measure)
    if asked.is_the_round and not is_done:
        storage.write_json(rounds.plan_path(workspace, identity), made.to_json())
    return made


def _plan(context: Context, embedder: Description | None, asked: Variation, is_done: bool, measure: Measure) -> Plan:
    config, tables = context.config, context.tables
    num_documents, num_queries = asked.documents or tables.num_documents, asked.queries or tables.num_queries
    index, why, is_fused = _index(context, embedder, asked, num_documents, num_queries)
    done = Plan(
        round=context.number,
        is_done=is_done,
        executor=context.artifacts.executor.name,
        num_documents=num_documents,
        num_queries=num_queries,
        dim=context.facts.get("dim"),
        candidates_per_query=candidates_per_query(config),
        index=index,
        index_chosen=why,
        memory_budget_bytes=config.resources.memory_gb * 1e9,
        rounds=asked.rounds,
    )
    if is_done:
        return done
    measured, is_new = calibrate(context, embedder, index, measure)
    context.cache.save()
    if is_fused and asked.cluster is not None:
        measured = replace(measured, rates=predict.on_gpus(measured.rates))
    size = _size(context, measured, asked, num_documents, num_queries)
    num_workers = context.artifacts.executor.num_workers
    kept = reuse.share_tokenized(context, embedder) if asked.is_the_round else 0.0
    share = 1 - kept * (1 - (measured.kept_tokens or 1.0))
    given = Conditions(config, size, num_workers, asked.cluster, measured.parameters, share)
    found = reuse.steps_done(context, embedder) if asked.is_the_round else {}
    scores = _known_scores(context, found, size) if config.rescore and asked.is_the_round else 0.0
    growth = {"documents": num_documents / tables.num_documents, "queries": num_queries / max(1, tables.num_queries)}
    read = predict.read_lines(context.results, context.number, growth, given)
    steps = [*read, *predict.predict(measured.rates, found, scores, given)]
    return _summed(
        replace(
            done,
            num_candidates=round(size.candidates),
            num_scored=round(size.scored),
            steps=steps,
            calibration={
                "documents": measured.documents,
                "queries": measured.queries,
                "took_s": measured.took_s,
                "is_new": is_new,
            },
            reused=[*_reused(steps, found, scores), *_tokens(kept, share, steps)],
        ),
        context,
        measured,
        given,
        asked,
    )


def _index(
    context: Context, embedder: Description | None, asked: Variation, num_documents: int, num_queries: int
) -> tuple[str | None, str | None, bool]:
    """Index and why, and whether it is searched where documents are embedded."""
    config, dense = context.config, context.config.retrieve.dense
    if dense is None:
        return None, None, False
    dim = context.facts["dim"]
    if (
        asked.cluster is not None
        and asked.cluster.gpus
        and embedder is not None
        and config.index.kind in ("auto", "exact")
    ):
        store = config.embed.store if config.embed else "float16"
        if num_queries * device_query_bytes(dim, dense.k, store) <= DEVICE_BYTES:
            return "exact", fused.CHOSEN, True
    if asked.cluster is None and embedder is not None and fused.applies(context):
        return "exact", fused.CHOSEN, True
    if asked.is_the_round or config.index.kind != "auto":
        return (*index_for(context), False)
    return (*choose_index(num_documents, num_queries, dim, dense.k), False)


def _size(context: Context, measured: Measured, asked: Variation, num_documents: int, num_queries: int) -> Size:
    config, tables = context.config, context.tables
    positives, negatives = positives_per_query(tables), config.select.sample.n
    most = candidates_per_query(config) + positives
    candidates = measured.overlap.candidates(num_documents, num_queries, most)
    scored = candidates * measured.overlap.scored_share
    dim = context.facts.get("dim") or 0
    if asked.is_the_round:
        return of_tables(tables, candidates, scored, dim, negatives)
    documents = cut(num_documents, (config.corpus or CorpusConfig(path="")).shard_documents)
    queries = cut(num_queries, (config.queries or QueriesConfig(path="")).block_queries)
    return Size(documents, queries, candidates, scored, dim, negatives + positives)


def _known_scores(context: Context, found: dict[str, reuse.Found], size: Size) -> float:
    """Pairs whose score is kept: all that are, for the vectors that there are; else those that any vectors ask for."""
    kept = float(reuse.num_scores(context))
    if any(name in found and found[name].num_done < found[name].num_tasks for name in ("embed_documents",)):
        return min(kept, size.scored * _share_of_any_checkpoint(context.config))
    return min(kept, size.scored)


def _share_of_any_checkpoint(config: Config) -> float:
    """Share of the candidates that do not depend on the embedder, if no two sources find the same."""
    of_no_checkpoint = [
        source.k for source in (config.retrieve.bm25, config.retrieve.random, config.retrieve.run) if source
    ]
    return sum(of_no_checkpoint) / candidates_per_query(config)


def _reused(steps: Sequence[StepPlan], found: dict[str, reuse.Found], scores: float) -> list[str]:
    whole = [step.step for step in steps if step.state == "reused"]
    seconds = sum(found[name].seconds for name in whole if name in found)
    lines = [f"{', '.join(whole)}: made already, {seconds:,.1f} s of work"] if whole else []
    for step in steps:
        if step.num_reused and step.state != "reused":
            lines.append(f"{step.step}: {step.num_reused:,} of {step.tasks:,} made already")
    if scores:
        lines.append(f"rescore: {scores:,.0f} pairs have their score already")
    return lines


def _tokens(kept: float, share: float, steps: Sequence[StepPlan]) -> list[str]:
    """What is said of kept tokens, where documents are still to be embedded."""
    if not kept or not any(step.step == "embed_documents" and step.state == "to do" for step in steps):
        return []
    return [f"tokens of {kept:.0%} of the documents are kept: embedding takes {share:.0%} of what it would"]


def _is_measured_embedding(step: StepPlan) -> bool:
    """Whether kept tokens make a line cheaper: a GPU's published rates leave tokenising out."""
    return step.step == "embed_documents" and step.rate == "measured"


def _advice(made: Plan, config: Config, measured: Measured) -> list[str]:
    """Whether it would pay to keep tokens for later rounds."""
    embedding_s = sum(step.wall_s for step in made.steps if _is_measured_embedding(step))
    if made.rounds == 1 or config.resources.keep_tokens or measured.kept_tokens is None:
        return []
    saved_s = embedding_s * (1 - measured.kept_tokens)
    if saved_s < WORTH_SAYING_S or measured.kept_tokens > WORTH_SAYING:
        return []
    room = measured.kept_bytes * made.num_documents / 1e9
    return [
        f"`resources.keep_tokens: true` pays: each later round embeds in {measured.kept_tokens:.0%} of the time, "
        f"{saved_s:,.0f} s less, for {room:,.2f} GB of tokens"
    ]


def _summed(made: Plan, context: Context, measured: Measured, given: Conditions, asked: Variation) -> Plan:
    """The plan with its sums, warnings and assumptions."""
    steps, config = made.steps, context.config

    def total(name: str) -> float:
        return float(sum(getattr(step, name) for step in steps))

    prices = [step.usd for step in steps]
    usd = None if None in prices else float(sum(price or 0.0 for price in prices))
    reading = {result.step.name for result in context.results}
    later = {"rescore": 1 - _share_of_any_checkpoint(config)}
    if config.resources.keep_tokens and any(map(_is_measured_embedding, steps)):
        later["embed_documents"] = (measured.kept_tokens or 1.0) / given.embedding
    later_s, later_usd = predict.later_round(steps, reading, later)
    more = asked.rounds - 1
    tokens = next((step.tokens / max(step.rows, 1) for step in steps if step.step == "embed_documents"), 0.0)
    executor, workspace = context.artifacts.executor, context.artifacts.workspace
    num_blocks = warn.blocks_at_once(executor, asked.cluster, len(given.size.queries))
    memory_bytes = warn.worker_bytes(given.size, config, measured.base_bytes, tokens, num_blocks)
    return replace(
        made,
        worker_s=total("worker_s"),
        wall_s=total("wall_s"),
        cpu_hours=total("cpu_hours"),
        gpu_hours=total("gpu_hours"),
        num_bytes=total("num_bytes"),
        usd=usd,
        rounds_wall_s=total("wall_s") + more * later_s,
        rounds_usd=None if usd is None or later_usd is None else usd + more * later_usd,
        memory_bytes=memory_bytes,
        advice=_advice(made, config, measured),
        assumptions=_assumptions(made, context, measured, asked),
        warnings=warn.warnings(
            config, workspace, executor, asked.cluster, memory_bytes, total("num_bytes"), measured.parameters
        ),
    )


def _assumptions(made: Plan, context: Context, measured: Measured, asked: Variation) -> list[str]:
    lines = []
    cluster = asked.cluster
    if cluster is not None:
        lines.append(f"steps on CPUs: as measured here, on {cluster.cpus:,} CPUs like these")
    if cluster is not None and cluster.model is not None and measured.parameters:
        of_models = ", ".join(
            f"{name} {count / 1e6:,.1f} M parameters in {getattr(context.config, name).dtype}"
            for name, count in measured.parameters.items()
        )
        lines.append(
            f"steps on GPUs (published, not measured): {published.REACHED_SHARE:.0%} of a {cluster.gpu}'s "
            f"{cluster.model.half / 1e12:,.0f} TFLOP/s in half and {cluster.model.single / 1e12:,.1f} in single "
            f"precision (NVIDIA's data sheets), 2 operations per parameter and token; {of_models}; "
            "tokens as in the sample"
        )
        if measured.parameters.get("embed") == 0:
            lines.append("a static embedder has nothing for a GPU to do: its steps stay on the CPUs")
    if not asked.is_the_round:
        lines.append(
            "texts, candidates per query and reading: in proportion to the inputs that were read, so let those be "
            "large enough to time; opening files, as many as document shards times query blocks, is not counted"
        )
    if context.previous is not None:
        lines.append("what carries negatives over from the last round is not in the plan")
    if asked.rounds > 1:
        share = _share_of_any_checkpoint(context.config)
        scores = f", and the teacher's scores of {share:.0%} of the pairs" if context.config.rescore else ""
        tokens = ", and the documents' tokens" if context.config.resources.keep_tokens else ""
        lines.append(f"later rounds: another checkpoint each, which finds the inputs and BM25 made{scores}{tokens}")
    return lines
