"""How well a checkpoint retrieves: measures over held-out queries, by search of the round's own corpus.

The same artifacts as a round's: where a round with this checkpoint has embedded the documents, they are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raymine import storage
from raymine.artifacts import Artifacts, Executor, Watcher
from raymine.config import Config, DenseConfig, IndexConfig, PositivesConfig, RetrieveConfig, RoundsConfig
from raymine.errors import ConfigError
from raymine.pipeline import dense, embedding
from raymine.pipeline.base import Context
from raymine.pipeline.run import read_inputs
from raymine.pipeline.search import Found
from raymine.retrieve.base import merged_hits
from raymine.select_config import SelectConfig
from raymine.storage import HashCache

MEASURES = ("R@10", "R@100", "nDCG@10", "RR@10", "AP@100")
DEPTH = 100


def evaluate(
    config: Config,
    workspace: str,
    judgements: str,
    executor: Executor,
    measures: Sequence[str] = MEASURES,
    watcher: Watcher | None = None,
) -> dict[str, float]:
    """Measures an embedder.

    Args:
        config: names the corpus, the queries and the embedder.
        workspace: folder or URL; what is embedded is kept and found there.
        judgements: qrels TSV of the queries to measure with.
        executor: where the steps run.
        measures: as ir-measures spells them; over the first 100 documents.
        watcher: is told how it goes.

    Returns:
        The mean of each measure over the queries that have a relevant document.

    Raises:
        UserError: as rounds.mine.
    """
    import ir_measures

    if config.embed is None or config.positives.has_texts:
        raise ConfigError(
            "this config cannot be evaluated",
            got="no `embed`" if config.embed is None else "`positives` of texts",
            expected="a corpus and queries with ids, and an embedder",
            fix="give `embed.model`, and judgements by id",
        )
    updated = {
        "positives": PositivesConfig(path=storage.absolute(judgements)),
        "exclude": (),
        "index": IndexConfig(kind="exact"),
        "retrieve": RetrieveConfig(dense=DenseConfig(k=DEPTH)),
        "rescore": None,
        "select": SelectConfig(),
        "rounds": RoundsConfig(),
    }
    workspace = storage.absolute(workspace)
    cache = HashCache(storage.join(workspace, "cache", "hashes.json"))
    artifacts = Artifacts(workspace, executor, {"run_id": "evaluation", "round": 0}, watcher)
    context = Context(config.model_copy(update=updated), artifacts, cache, 0, "evaluation")
    embedder = read_inputs(context)
    embedding.embed_queries(context, embedder)
    embedding.embed_documents(context, embedder)
    found = dense.search_dense(context)
    cache.save()
    asked = [ir_measures.parse_measure(name) for name in measures]
    values = ir_measures.calc_aggregate(asked, _judged(context), _run(context, found))
    return {str(measure): float(values[measure]) for measure in asked}


# Rows name queries and documents: ids of the corpus are not held in memory.
def _judged(context: Context) -> Iterator[object]:
    from ir_measures import Qrel

    for positives in context.tables.positives:
        for row in storage.read_table(positives.path).to_pylist():
            yield Qrel(str(row["query_row"]), str(row["doc_row"]), row["relevance"])


def _run(context: Context, found: Found) -> Iterator[object]:
    from ir_measures import ScoredDoc

    for block in range(len(context.tables.queries)):
        query_rows, doc_rows, ranks, _ = merged_hits(found.files, block, DEPTH)
        for query_row, doc_row, rank in zip(query_rows.tolist(), doc_rows.tolist(), ranks.tolist(), strict=True):
            yield ScoredDoc(str(query_row), str(doc_row), float(-rank))
