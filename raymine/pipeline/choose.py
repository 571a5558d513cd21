"""`index: auto`: exact search, or ivfpq where that is several times cheaper.

Both are priced in seconds of one core, from the documents, the queries and the dimensions; rates were measured on
cores of an AMD EPYC with avx512_vnni, 500,000 documents of 256 dimensions and more:

    exact   2 n q dim operations at EXACT_OPERATIONS_PER_S (82 s of two cores for a million documents, 100,000 queries)
    ivfpq   each document is assigned and encoded (BUILD_S: 9.9 s for 500,000, 2,828 lists, 128 codes); each query scans
            a tenth of the documents (SCAN_S), and merges and re-scores four times its hits (PAIR_S; see index.probes)

How much must be scanned for the recall that is wanted depends on the vectors, and is known only after building (a tenth
where they cluster well; 40 % was seen for a static embedder), and exact search loses nothing. So ivfpq has to be
WORTH_IT times cheaper; ivfflat, which is not so much cheaper than exact search, has to be asked for. The rates are not
those of the machine at hand: the choice decides what comes out, and the same config gives the same everywhere. Where
workers that embed have a GPU, exact search runs beside the embedder and is not priced at all (pipeline.fused).
"""

from __future__ import annotations

EXACT_OPERATIONS_PER_S = 3.1e11
BUILD_S, SCAN_S, PAIR_S = 20e-6, 2e-9, 0.5e-6
SCANNED_SHARE, OVERFETCH = 0.1, 4
WORTH_IT = 4


def exact_s(num_documents: int, num_queries: int, dim: int) -> float:
    """Seconds of one core for exact search."""
    return 2.0 * num_documents * num_queries * dim / EXACT_OPERATIONS_PER_S


def ivfpq_s(num_documents: int, num_queries: int, dim: int, k: int) -> float:
    """Seconds of one core for building an ivfpq index and searching it; costs of a vector grow with its dimensions."""
    per_query = SCANNED_SHARE * num_documents * SCAN_S + k * OVERFETCH * PAIR_S
    return (num_documents * BUILD_S + num_queries * per_query) * dim / 256


def choose_index(num_documents: int, num_queries: int, dim: int, k: int) -> tuple[str, str]:
    """exact or ivfpq, and why.

    Args:
        num_documents: of the corpus.
        num_queries: to mine for.
        dim: of the vectors.
        k: hits per query.
    """
    exact, ivfpq = exact_s(num_documents, num_queries, dim), ivfpq_s(num_documents, num_queries, dim, k)
    kind = "exact" if exact <= WORTH_IT * ivfpq else "ivfpq"
    return kind, f"exact about {exact:,.0f} s of one core, ivfpq about {ivfpq:,.0f} s"
