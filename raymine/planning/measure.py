"""Measures what a round's steps take here, in a program of its own, as the round will be: `python -m ... JOB.json`.

    samples    the round's own steps, on samples of it that grow fourfold until one takes SAMPLE_S or is a tenth of the
               round; the last of them, from one with fewer documents and fewer queries than the largest, and one with
               the documents of the largest and the queries of that one, tell what tasks, documents and candidates
               take. The first, in which all is loaded, tells what a start takes.
    searches   a sample says nothing of a search, whose work is documents times queries. So dense search runs apart
               over vectors drawn around the sample's, and BM25 over copies of some documents: large enough to see.

All is done in a folder of its own, with its own cache of scores and tokens, so nothing that the workspace knows makes a
sample faster, and nothing of a sample is ever found by a round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from raymine import inference, schemas, storage
from raymine.artifacts import Artifacts, Executor, Resources, StepResult
from raymine.config import Config
from raymine.embed.sentence_transformer import Description
from raymine.errors import UserError
from raymine.executor import make_executor
from raymine.index.plain_race import PAIRS as SMALL_PAIRS
from raymine.pipeline import dense, embedding, retrieval
from raymine.pipeline.base import Context, Tables, placed
from raymine.pipeline.run import run_steps
from raymine.pipeline.sizes import CHUNK_DOCUMENTS
from raymine.planning import sample
from raymine.planning.fit import Rate
from raymine.planning.seen import SEARCHES, Seen
from raymine.planning.size import GROWTH, Overlap, candidates_per_query, cut, of_tables, overlap, sample_sizes
from raymine.planning.words import rate_by_words, tokenises_words, words_per_text
from raymine.storage import HashCache, Shard
from raymine.vectors import read_vectors

SAMPLE_S = 5.0  # a sample that takes as long is large enough
STEADY_S, TIMES = 1.0, 3  # a step of a sample that takes less is done so often, and the median counts
SEARCHED_QUERIES, SEARCHED_SHARD = 8192, 16384
BM25_DOCUMENTS, BM25_QUERIES = 8192, 16384
SEARCHED_OPERATIONS = 2e12  # multiplications and additions of the largest measured exact search: some 3 s of two cores
NOISE = 0.5  # of the drawn vectors, in standard deviations of the sample's


@dataclass(frozen=True)
class Job:
    """What is to be measured (JSON-like).

    Args:
        config: of the round.
        index: exact, ivfflat or ivfpq, as planned; None: no dense search.
        embedder: what is known of it.
        facts: of the round's inputs.
        tables: of the round's inputs, by name.
        executor: its name.
        cluster: its address, if it has one.
        folder: to work in.
        hashes: file of known content hashes.
    """

    config: dict[str, Any]
    index: str | None
    embedder: Description | None
    facts: dict[str, Any]
    tables: dict[str, list[dict[str, Any] | None]]
    executor: str
    cluster: str | None
    folder: str
    hashes: str


def tables_to_json(tables: Tables) -> dict[str, list[dict[str, Any] | None]]:
    """The shards of all tables as a job carries them."""
    return {name: [shard and asdict(shard) for shard in shards] for name, shards in vars(tables).items()}


@dataclass(frozen=True)
class Measured:
    """What a round's steps take.

    Args:
        rates: by step, in the order of the round.
        overlap: of the sources.
        documents, queries: of the largest sample.
        base_bytes: memory of a worker that has loaded everything and worked on a sample.
        kept_tokens: seconds of embedding documents whose tokens are kept, as a share of those that it takes otherwise;
            None where no documents are embedded.
        kept_bytes: of the tokens of a document.
        parameters: of `embed` and `rescore`: those that every token is multiplied with (embedding tables are not).
        took_s: seconds of the measuring.
    """

    rates: dict[str, Rate]
    overlap: Overlap
    documents: int
    queries: int
    base_bytes: int
    kept_tokens: float | None
    kept_bytes: float
    parameters: dict[str, int]
    took_s: float

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Measured:
        rates = {name: Rate(**rate) for name, rate in values["rates"].items()}
        return Measured(**{**values, "rates": rates, "overlap": Overlap(**values["overlap"])})


@dataclass(frozen=True)
class Sample:
    """A mined sample: its context, with tables and results; its units; what it took."""

    context: Context
    units: dict[str, float]
    seconds: float


class Measuring:
    """The samples of one job.

    Args:
        job: what is to be measured.
        executor: where its steps run.
        say: is told of each sample.
    """

    def __init__(self, job: Job, executor: Executor, say: Callable[[str], None]) -> None:
        self.job, self.executor, self.say = job, executor, say
        named: dict[str, Any] = {
            name: [shard and Shard(**shard) for shard in shards] for name, shards in job.tables.items()
        }
        self.tables = Tables(**named)
        self.config = Config.model_validate(job.config)
        self.cache = HashCache(job.hashes)
        self.seen = Seen(executor.num_workers)
        self._number = 0

    def measure(self) -> Measured:
        """Mines samples, searches, and fits."""
        begin = time.perf_counter()
        compiled_s = self._load_compiled()
        few, *between, largest = self._grow()
        more = self._mine(round(largest.units["documents"]), round(few.units["queries"]))
        for each in (few, more, *between, largest):
            self._steady(each)
            self._see(each)
        self._search_apart(largest)
        kept_tokens, kept_bytes = self._keep_tokens(largest)
        models = load_models(self.config)
        rates = self.seen.rates()
        if tokenises_words(models.get("embed")):
            rates, kept_tokens = self._by_words(rates, kept_tokens, [few, more, *between, largest])
        if "search_exact" in rates:
            rates["search_exact"] = replace(rates["search_exact"], start_s=rates["search_exact"].start_s + compiled_s)
        return Measured(
            rates=rates,
            overlap=overlap(few.units, more.units, largest.units),
            documents=round(largest.units["documents"]),
            queries=round(largest.units["queries"]),
            base_bytes=max(done.ledger["peak_bytes"] for result in largest.context.results for done in result.done),
            kept_tokens=kept_tokens,
            kept_bytes=kept_bytes,
            parameters={name: num_parameters(model) for name, model in models.items()},
            took_s=time.perf_counter() - begin,
        )

    def _load_compiled(self) -> float:
        """Seconds of the first call of compiled code, which in a round whose dense search is large are that search's.

        Samples are searched without it. In them the first to call it would be a step that in a round is not.
        """
        if self.job.index != "exact" or self.executor.cluster is not None or not self._is_large:
            return 0.0
        begin = time.perf_counter()
        from raymine.scores import final_scores

        one = np.ones((1, 1), np.float16)
        final_scores(one, one, np.zeros(1, np.int64), np.zeros(1, np.int64))
        return time.perf_counter() - begin

    @property
    def _is_large(self) -> bool:
        """Whether the round's searches are so large that they are compiled; smaller ones take no time to speak of."""
        return self.tables.num_documents * self.tables.num_queries > SMALL_PAIRS

    def _grow(self) -> Sequence[Sample]:
        """The last of samples that grow until one is large enough. The first of all tells of starts only."""
        num_candidates = candidates_per_query(self.config)
        sizes = sample_sizes(self.tables.num_documents, self.tables.num_queries, num_candidates)
        self._see(self._mine(*sizes[0]), is_first=True)
        grown = [self._mine(*sizes[0])]
        for size in sizes[1:]:
            grown.append(self._mine(*size))
            if grown[-1].seconds >= SAMPLE_S:
                break
        return from_fewer(grown)

    def _mine(self, num_documents: int, num_queries: int) -> Sample:
        """Mines a sample."""
        folder = self._folder()
        drawn = sample.draw(self.tables, num_documents, num_queries)
        tables = sample.write(self.tables, drawn, f"{folder}/sample")
        context = self._context(folder, tables)
        size = of_tables(tables, 0, 0, context.facts.get("dim") or 0, self.config.select.sample.n)
        begin = time.perf_counter()
        run_steps(context, self.job.embedder)
        seconds = time.perf_counter() - begin
        rows = {result.step.name: [done.ledger for done in result.done] for result in context.results}
        candidates = sum(row["rows_out"] for row in rows["union_candidates"])
        scored = sum(row["rows_in"] for row in rows.get("rescore", []))
        self.say(f"{tables.num_documents:,} documents, {tables.num_queries:,} queries: {seconds:.1f} s")
        return Sample(context, replace(size, candidates=candidates, scored=scored).units, seconds)

    def _folder(self) -> str:
        """A folder for the next sample."""
        self._number += 1
        return storage.join(self.job.folder, str(self._number))

    def _context(self, folder: str, tables: Tables, index: str | None = None) -> Context:
        kind = index or self.job.index or "auto"
        config = self.config.model_copy(update={"index": self.config.index.model_copy(update={"kind": kind})})
        artifacts = Artifacts(folder, self.executor, {"run_id": "calibration", "round": 1})
        return Context(config, artifacts, self.cache, 1, "round", tables, dict(self.job.facts))

    def _steady(self, made: Sample) -> None:
        """Does a sample's steps again that take so short that their time says little of ten times as much.

        Not the teacher's, which would find its scores; none of a GPU's, which has more to get ready; and none on Ray,
        which starts workers for every step.
        """
        results, tables = made.context.results, made.context.tables
        if self.executor.name != "local":
            return
        short = [
            number
            for number, result in enumerate(results)
            if result.step.name != "rescore"
            and all(done.ledger["device"] == "cpu" for done in result.done)
            and _seconds(result) <= STEADY_S
        ]
        found = {number: [results[number]] for number in short}
        # One after the other, as in a round: thrice in a row, a step finds its memory at hand and takes less.
        for _ in range(TIMES - 1):
            for number in short:
                found[number].append(self._again(results[number], tables))
        for number in short:
            results[number] = sorted(found[number], key=_seconds)[TIMES // 2]

    def _again(self, result: StepResult, tables: Tables) -> StepResult:
        """A step of a sample, in a folder of its own, where nothing is made."""
        context, step = self._context(self._folder(), tables), result.step
        if "tokens" in step.settings:  # which the step has kept
            step = replace(
                step, settings={**step.settings, "tokens": storage.join(context.artifacts.workspace, "tokens")}
            )
        return context.run(step)

    def _see(self, made: Sample, is_first: bool = False) -> None:
        for result in made.context.results:
            self.seen.add(result, made.units, made.context.tables, is_first)

    def _search_apart(self, largest: Sample) -> None:
        """Measures the searches over more documents and queries than any sample has."""
        if not self._is_large:
            return
        names = {result.step.name for result in largest.context.results}
        if names & {"search_exact", "search_lists", "search_part"}:
            self._apart(self._dense_searches(largest), dense.search_dense, is_whole=True)
        if "search_bm25" in names:
            self._apart(self._bm25_searches(), retrieval.search_bm25, is_whole=False)

    def _apart(self, searches: Sequence[Tables], search: Callable[[Context], Any], is_whole: bool) -> None:
        """Runs a stretch of the round, over the first tables twice: once to load what is compiled.

        Small searches, which go by other rates, are left out.

        Args:
            searches: tables of unlike size.
            search: the stretch.
            is_whole: all of its steps are seen, not only the searches among them.
        """
        compiled = [each for each in searches if each.num_documents * each.num_queries > SMALL_PAIRS] or searches[-1:]
        for number, tables in enumerate([compiled[0], *compiled]):
            context = self._context(self._folder(), tables)
            search(context)
            size = of_tables(tables, 0, 0, context.facts.get("dim") or 0)
            self.say(f"search of {tables.num_documents:,} documents for {tables.num_queries:,} queries")
            for result in context.results:
                name = result.step.name
                if name in SEARCHES and number == 0:
                    self.seen.points[name] = []  # what the samples said of it says nothing
                if name in SEARCHES or is_whole:
                    self.seen.add(result, size.units, tables, is_first=number == 0)

    def _keep_tokens(self, largest: Sample) -> tuple[float | None, float]:
        """Embeds the sample's documents once more to keep their tokens, then from those."""
        embedder, tables = self.job.embedder, largest.context.tables
        plain = [result for result in largest.context.results if result.step.name == "embed_documents"]
        if embedder is None or not plain:
            return None, 0.0
        folder = storage.join(self._folder(), "tokens")
        for _ in range(2):
            context = self._context(self._folder(), tables)
            step = embedding.embed_step(context, "document", tables.corpus, embedder)
            again = context.run(replace(step, settings={**step.settings, "tokens": folder}))
        num_bytes = sum(fs.size(path) for fs, path in map(storage.filesystem, storage.list_files(folder)))
        return min(1.0, _seconds(again) / _seconds(plain[0])), num_bytes / max(1, tables.num_documents)

    def _by_words(
        self, rates: dict[str, Rate], kept_tokens: float | None, samples: Sequence[Sample]
    ) -> tuple[dict[str, Rate], float | None]:
        """Rates, and `kept_tokens` (see Measured), of steps that tokenise each word once (raymine.bags): of the words
        that the round's own shards have, which are fewer for each of its texts than a sample's."""
        made = dict(rates)
        for name, table in (("embed_queries", "queries"), ("embed_documents", "corpus")):
            given = [words_per_text(getattr(each.context.tables, table)) for each in samples]
            per_text = words_per_text(getattr(self.tables, table))
            made[name], shrinks = rate_by_words(name, rates[name], self.seen.points[name], given, per_text)
            if name == "embed_documents" and kept_tokens is not None:
                kept_tokens = min(1.0, kept_tokens / shrinks)
        return made, kept_tokens

    def _dense_searches(self, largest: Sample) -> list[Tables]:
        """Vectors drawn around the sample's: few and many documents, few and many queries."""
        tables, dim = largest.context.tables, self.job.facts["dim"]
        cpus = self.executor.resolve(Resources(), 1).cpus or 1
        num_documents = min(self.tables.num_documents, 2 * CHUNK_DOCUMENTS)
        affordable = int(cpus * SEARCHED_OPERATIONS / (2 * num_documents * dim))
        num_queries = min(self.tables.num_queries, max(SEARCHED_QUERIES // 16, min(SEARCHED_QUERIES, affordable)))
        folder, draw = self._folder(), np.random.default_rng(self.config.seed)
        documents = _around(tables.corpus_vectors, num_documents, f"{folder}/documents", draw)
        queries = _around(tables.query_vectors, num_queries, f"{folder}/queries", draw)
        return [
            Tables(
                corpus=documents[:num_shards],
                corpus_vectors=documents[:num_shards],
                queries=queries[:num_blocks],
                query_vectors=queries[:num_blocks],
            )
            for num_shards, num_blocks in _unlike(len(documents), len(queries))
        ]

    def _bm25_searches(self) -> list[Tables]:
        """Some documents, and as many copies of them as make a large corpus."""
        num_documents = min(self.tables.num_documents, BM25_DOCUMENTS)
        drawn = sample.draw_evenly(self.tables, num_documents, min(self.tables.num_queries, BM25_QUERIES))
        tables = sample.write(self.tables, drawn, f"{self._folder()}/sample")
        copies = max(1, min(self.tables.num_documents, CHUNK_DOCUMENTS) // tables.num_documents)
        documents = placed(tables.corpus * copies)
        return [
            Tables(corpus=documents[:num_shards], queries=tables.queries[:num_blocks])
            for num_shards, num_blocks in _unlike(len(documents), len(tables.queries))
        ]


def _seconds(result: StepResult) -> float:
    """Of a step's workers."""
    return float(sum(done.ledger["wall_s"] for done in result.done))


def from_fewer(grown: Sequence[Sample]) -> Sequence[Sample]:
    """The last of samples that grow, from the last with fewer documents and fewer queries than all of them.

    Where documents came to a tenth of the round's before queries did, the next to last has as many as the last, and
    nobody could tell what they take.
    """
    largest = grown[-1].units
    both = [
        each.units["documents"] < largest["documents"] and each.units["queries"] < largest["queries"] for each in grown
    ]
    return grown[max((number for number, is_fewer in enumerate(both) if is_fewer), default=0) :]


def _unlike(num_shards: int, num_blocks: int) -> list[tuple[int, int]]:
    """Many documents for few queries, few for many, and many for many."""
    few_shards, few_blocks = max(1, num_shards // GROWTH), max(1, num_blocks // GROWTH)
    return [(num_shards, few_blocks), (few_shards, num_blocks), (num_shards, num_blocks)]


def _around(files: Sequence[Shard], count: int, name: str, draw: np.random.Generator) -> list[Shard]:
    """Shards of `count` vectors, each one of those in the files with noise added; as many as GROWTH at least.

    Args:
        files: of vectors.
        count: of all shards.
        name: path prefix.
        draw: of the noise.
    """
    known = np.concatenate([read_vectors(shard.path).matrix for shard in files])
    deviation, lengths = NOISE * known.std(axis=0, dtype=np.float32), np.linalg.norm(known.astype(np.float32), axis=1)
    shards = []
    for number, size in enumerate(cut(count, min(SEARCHED_SHARD, -(-count // GROWTH)))):
        chosen = draw.integers(0, len(known), size)
        made = known[chosen] + deviation * draw.standard_normal((size, known.shape[1]), np.float32)
        made *= (lengths[chosen] / np.maximum(np.linalg.norm(made, axis=1), 1e-12))[:, None]
        table = schemas.vector_table(np.arange(size), made.astype(known.dtype))
        shards.append(storage.write_arrow(f"{name}-{number}.arrow", table))
    return placed(shards)


def load_models(config: Config) -> dict[str, Any]:
    """The models of `embed` and `rescore`, where they have one."""
    kinds = {"embed": ("SentenceTransformer", config.embed), "rescore": ("CrossEncoder", config.rescore)}
    return {
        name: inference.load(kind, section)
        for name, (kind, section) in kinds.items()
        if section is not None and section.model is not None
    }


def num_parameters(model: Any) -> int:
    """Parameters of a model that every token is multiplied with: all but its tables of embeddings."""
    import torch

    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    looked_up = {id(each.weight) for each in model.modules() if isinstance(each, tables)}
    return sum(each.numel() for each in model.parameters() if id(each) not in looked_up)


def measure(job: Job, say: Callable[[str], None]) -> Measured:
    """Measures a job in this program.

    Args:
        job: what is to be measured.
        say: is told of each sample.

    Raises:
        UserError: a sample of the round cannot be mined, so the round cannot.
    """
    with make_executor(job.executor, job.cluster) as executor:
        return Measuring(job, executor, say).measure()


def has_compiled() -> bool:
    """Whether this program had to compile a loop of a search: the first one on a machine does, no round after it."""
    compiling = sys.modules.get("raymine.compiled")
    return compiling is not None and compiling.num_compiled() > 0


def main() -> None:
    """Reads a job from the first path; writes what was measured, or the user's mistake, to the second."""
    given, made = sys.argv[1:]
    try:
        measured = measure(Job(**storage.read_json(given)), lambda line: print(f"calibration: {line}", file=sys.stderr))
    except UserError as error:
        storage.write_json(made, {"error": str(error)})
    else:
        storage.write_json(made, {"measured": asdict(measured), "has_compiled": has_compiled()})


if __name__ == "__main__":
    main()
