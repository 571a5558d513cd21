"""One round as a list of steps: the only place that knows their order.

    first       describe_embedder                                  does the model fit the config?
    reading     read_documents, read_queries, read_judgements, select_queries, index_ids, (read_run,) resolve_ids,
                join_positives
    embedding   embed_queries, embed_documents                     per query block, per document shard
                (embed_documents, search_shards)                   on a GPU, exact search in the same worker
                (find_pool, merge_pool, embed_pool, estimate_missed)     of a later round, instead
    lineage     (map_queries, map_documents,) carry_lineage, score_earlier, measure_earlier, (drop_settled)
    retrieval   search_exact | (try_centroids,) train_centroids, train_ivf, build_part,
                sample_queries, search_sample, choose_probes, assign_queries, search_part, merge_shortlist, rescore_hits
                query_terms, tokenize_documents, bm25_statistics, search_bm25      per document part
                union_candidates                                   per query block
                (train_clusters, assign_clusters,)                 per document shard
                annotate_candidates                                per document shard: duplicates, dense scores
                (sign_documents, find_near, fetch_shingles, measure_near)      near duplicates
    selection   prefilter                                          per query block: what needs no teacher
                rescore                                            per document shard, through the teacher cache
                (count_scores, sum_counts)                         of percentiles over all queries
                (shortlist_reuse, cap_reuse)                       of documents that serve many queries
                (shortlist_pool, fetch_vectors)                    of the candidates that `spread` chooses from
                select                                             per query block: verdicts, negatives
                trace_lineage                                      per query block
                fetch_texts, write_<format>                        per document shard, per query block

Steps alternate between passes over query blocks and passes over document shards; between them only pairs and scores
travel, in bucketed files. A step's identity names its inputs by their contents, so each is found again when nothing
that it depends on has changed. The driver holds manifests only: a few hundred bytes per shard.
"""

from __future__ import annotations

from raymine.embed.sentence_transformer import Description
from raymine.index.bm25 import check as check_bm25
from raymine.pipeline import dense, embedding, fused, lineage, pool, reading, retrieval, selection, traits
from raymine.pipeline.base import Context
from raymine.pipeline.retrieval import Source
from raymine.pipeline.search import Found, for_all_blocks
from raymine.rescore.cross_encoder import check as check_teacher


def read_inputs(context: Context) -> Description | None:
    """The first steps: checks models and reads what the round is made of.

    Returns:
        What there is to know of the embedder; None where vectors are given or none are needed.

    Raises:
        UserError: the config, the input or the machine cannot do it.
    """
    config = context.config
    embedder = embedding.describe(context) if config.embed and config.embed.model else None
    if config.rescore:
        check_teacher(config.rescore)
    if config.retrieve.bm25:
        check_bm25(config.retrieve.bm25)
    reading.read(context)
    if embedder is not None:
        context.facts["dim"] = embedder["dim"]
    return embedder


def run_round(context: Context) -> None:
    """Runs all steps of a round, or finds what they made before; `context` then says what there is.

    Raises:
        UserError: the config, the input or the machine cannot do it.
    """
    run_steps(context, read_inputs(context))


def run_steps(context: Context, embedder: Description | None) -> None:
    """Runs what comes after the reading.

    Args:
        context: with the inputs' tables.
        embedder: what `read_inputs` gave.

    Raises:
        UserError: as `run_round`.
    """
    config = context.config
    carried = lineage.carry(context)
    sources: dict[str, Source] = {}
    found, earlier = _embed_and_search(context, embedder, carried) if config.has_embeddings else (None, None)
    if found is not None:
        sources["dense"] = found
    if config.retrieve.bm25:
        sources["bm25"] = Source(config.retrieve.bm25.k, retrieval.search_bm25(context))
    if config.retrieve.random:
        sources["random"] = Source(config.retrieve.random.k)
    if config.retrieve.run:
        sources["run"] = Source(config.retrieve.run.k, for_all_blocks(context.tables.run))
    if earlier is not None and config.rounds.owes_earlier:
        sources["earlier"] = lineage.source(earlier)
        context.tables.earlier, context.tables.settled = earlier.lineage, earlier.settled
    context.facts["sources"] = list(dict.fromkeys([*sources, *(["dense"] if config.has_embeddings else [])]))
    candidates, notes = retrieval.candidates(context, sources, traits.clusters(context))
    verdicts, pairs = selection.prefilter(context, candidates, notes, traits.near_duplicates(context, candidates))
    scores = selection.rescore(context, pairs) if config.rescore else None
    selected = selection.select(context, verdicts, scores)
    context.tables.verdicts = [done.outputs[0] for done in selected]
    context.tables.lineage = lineage.trace(context, selected, carried)
    selection.write(context, selected)


def _embed_and_search(
    context: Context, embedder: Description | None, carried: lineage.Carried | None
) -> tuple[Source | None, lineage.Earlier | None]:
    """Embeds the queries and as many of the documents as the round asks for.

    Returns:
        The dense source, where there is one, and what has become of earlier negatives.
    """
    config = context.config
    embedding.embed_queries(context, embedder)

    def search() -> tuple[Source | None, lineage.Earlier | None]:
        earlier = lineage.score(context, carried) if carried is not None else None
        if config.retrieve.dense is None:
            return None, earlier
        return Source(config.retrieve.dense.k, _search_dense(context, earlier)), earlier

    of_pool = None
    if carried is not None and embedder is not None and config.rounds.scope == "pool":
        of_pool = pool.search(context, embedder, carried, search)
    if of_pool is not None:
        return of_pool
    is_partial = carried is not None and config.rounds.queries == "unsettled"
    if embedder is not None and not is_partial and fused.applies(context):
        source = fused.embed_and_search(context, embedder)
        return source, lineage.score(context, carried) if carried is not None else None
    embedding.embed_documents(context, embedder)
    return search()


def _search_dense(context: Context, earlier: lineage.Earlier | None) -> Found:
    """Hits of the embedder, for the queries that are to be searched for."""
    tables = context.tables
    if earlier is None or context.config.rounds.queries == "all":
        return dense.search_dense(context)
    every, tables.query_vectors = tables.query_vectors, lineage.unsettled_queries(context, earlier)
    try:
        return dense.search_dense(context)
    finally:
        tables.query_vectors = every
