"""One round as a list of steps: the only place that knows their order.

    first       describe_embedder                                  does the model fit the config?
    reading     read_documents, read_queries, read_judgements, select_queries, index_ids, (read_run,) resolve_ids,
                join_positives
    embedding   embed_queries, embed_documents                     per query block, per document shard
                (embed_documents, search_shards)                   on a GPU, exact search in the same worker
    retrieval   search_exact | train_ivf, build_part, sample_queries, search_sample, choose_probes,
                assign_queries, search_part, merge_shortlist, rescore_hits
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
                fetch_texts, write_<format>                        per document shard, per query block

Steps alternate between passes over query blocks and passes over document shards; between them only pairs and scores
travel, in bucketed files. A step's identity names its inputs by their contents, so each is found again when nothing
that it depends on has changed. The driver holds manifests only: a few hundred bytes per shard.
"""

from __future__ import annotations

from raymine.embed.sentence_transformer import Description
from raymine.index.bm25 import check as check_bm25
from raymine.pipeline import dense, embedding, fused, reading, retrieval, selection, traits
from raymine.pipeline.base import Context
from raymine.pipeline.retrieval import Source
from raymine.pipeline.search import for_all_blocks
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
    config = context.config
    embedder = read_inputs(context)
    sources: dict[str, Source] = {}
    if config.has_embeddings:
        embedding.embed_queries(context, embedder)
        if embedder is not None and fused.applies(context):
            sources["dense"] = fused.embed_and_search(context, embedder)
        else:
            embedding.embed_documents(context, embedder)
    if config.retrieve.dense and "dense" not in sources:
        sources["dense"] = Source(config.retrieve.dense.k, dense.search_dense(context))
    if config.retrieve.bm25:
        sources["bm25"] = Source(config.retrieve.bm25.k, retrieval.search_bm25(context))
    if config.retrieve.random:
        sources["random"] = Source(config.retrieve.random.k)
    if config.retrieve.run:
        sources["run"] = Source(config.retrieve.run.k, for_all_blocks(context.tables.run))
    context.facts["sources"] = list(dict.fromkeys([*sources, *(["dense"] if config.has_embeddings else [])]))
    candidates, notes = retrieval.candidates(context, sources, traits.clusters(context))
    verdicts, pairs = selection.prefilter(context, candidates, notes, traits.near_duplicates(context, candidates))
    scores = selection.rescore(context, pairs) if config.rescore else None
    selected = selection.select(context, verdicts, scores)
    selection.write(context, selected)
