"""The weights of BM25's postings from global statistics, and the inverted lists of one part.

Weights are computed when a part is built, not when a query comes (eager scoring: Lu, BM25S, arXiv 2407.03618), by
bm25s.scoring's own functions over whole shards, so that they have the bits of a bm25s index over the whole corpus:
term frequencies float32, arithmetic float64, weights float32. `okapi` is rank_bm25.BM25Okapi: float64 throughout, and
an inverse document frequency below 0 becomes a quarter of the mean over the whole vocabulary. Terms that too many
documents have for the config's `max_df` (as scikit-learn's) get no list, and add to no score. On 120k arxiv abstracts
and 5,960 titles, search with max_df 0.1 took 0.7 of the time on two cores and found 0.74 of the same best 100; with
0.02, 0.37 and 0.40: it is for corpora whose longest lists are what a search costs.

A part costs 8 bytes per posting (12 for okapi), plus some float64 arrays of one shard while it is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymine.config import Bm25Config
from raymine.errors import ConfigError

OKAPI = "okapi"
OKAPI_EPSILON = 0.25  # rank_bm25's default
WITH_ABSENT = ("bm25l", "bm25+")  # methods in which a term counts for documents without it too


@dataclass(frozen=True)
class Statistics:
    """What a score needs to know of the whole corpus.

    Args:
        num_documents: all documents, empty ones too.
        total_length: terms of all documents.
        frequencies: int64 [terms], documents with each term of the vocabulary.
        average_idf: mean over all terms of the corpus (okapi only).
    """

    num_documents: int
    total_length: int
    frequencies: NDArray[np.int64]
    average_idf: float = 0.0

    @property
    def average_length(self) -> float:
        return self.total_length / max(self.num_documents, 1)


@dataclass(frozen=True)
class Postings:
    """The postings of one shard, ordered by term, then document.

    Args:
        term_ids: int32, ascending, the terms that occur in the shard.
        num_documents: int32 per term of `term_ids`: how many postings it has.
        documents: int32 [postings], positions in the shard.
        counts: int32 [postings], occurrences of the term in the document.
        lengths: int32 [documents of the shard], terms of each.
    """

    term_ids: NDArray[np.int32]
    num_documents: NDArray[np.int32]
    documents: NDArray[np.int32]
    counts: NDArray[np.int32]
    lengths: NDArray[np.int32]


def of_terms(postings: Postings, wanted: NDArray[np.bool_]) -> Postings:
    """The postings of the wanted terms (bool [terms of the vocabulary]) alone; the documents stay."""
    kept = wanted[postings.term_ids]
    in_kept = np.repeat(kept, postings.num_documents)
    return Postings(
        postings.term_ids[kept],
        postings.num_documents[kept],
        postings.documents[in_kept],
        postings.counts[in_kept],
        postings.lengths,
    )


@dataclass(frozen=True)
class Part:
    """Inverted lists with weights; see `bm25_search_kernel.search`.

    `shard_sizes` are the numbers of documents of the shards it was made of.
    """

    term_starts: NDArray[np.int64]
    documents: NDArray[np.uint32]
    weights: NDArray[Any]
    shard_sizes: tuple[int, ...]

    @property
    def num_documents(self) -> int:
        return sum(self.shard_sizes)


def check(config: Bm25Config) -> None:
    """Refuses parameters for which the method has no finite scores.

    Raises:
        ConfigError: k1 is 0 with bm25l or bm25+.
    """
    if config.method in WITH_ABSENT and config.k1 == 0:
        raise ConfigError(
            f"retrieve.bm25: {config.method} divides by k1", got="k1: 0", expected="k1 above 0", fix="raise k1"
        )


def okapi_idf(frequency: int, num_documents: int) -> float:
    """Inverse document frequency as rank_bm25.BM25Okapi, before its floor."""
    return math.log(num_documents - frequency + 0.5) - math.log(frequency + 0.5)


class Scorer:
    """Weights of postings under one method and one corpus.

    Args:
        config: method, k1, b, delta, max_df.
        statistics: of the whole corpus.

    Attributes:
        is_searched: bool [terms], the terms that not too many documents have.
        absent: float32 (okapi: float64) [terms], what a term adds to the score of every document.
    """

    def __init__(self, config: Bm25Config, statistics: Statistics) -> None:
        from bm25s.scoring import _select_tfc_scorer

        self.config, self.statistics = config, statistics
        self.dtype: type[np.floating[Any]] = np.float64 if config.method == OKAPI else np.float32
        # okapi's term part is atire's; only the inverse document frequencies differ.
        self.term_part: Callable[..., Any] = _select_tfc_scorer("atire" if config.method == OKAPI else config.method)
        idf = self._idf()
        self.idf = idf.astype(self.dtype)
        max_df = 1.0 if config.max_df is None else config.max_df
        self.is_searched = statistics.frequencies <= max_df * statistics.num_documents
        self.absent = np.zeros(len(idf), self.dtype)
        if config.method in WITH_ABSENT and statistics.total_length:
            average = np.float64(statistics.average_length)
            self.absent = (idf * self._term_part(0, average) * self.is_searched).astype(self.dtype)

    def _term_part(self, counts: Any, lengths: Any) -> Any:
        config, average = self.config, np.float64(self.statistics.average_length)
        return self.term_part(tf_array=counts, l_d=lengths, l_avg=average, k1=config.k1, b=config.b, delta=config.delta)

    def _idf(self) -> NDArray[np.float64]:
        """float64 [terms]; 0 for a term that no document has."""
        from bm25s.scoring import _select_idf_scorer

        num_documents = self.statistics.num_documents
        distinct, which = np.unique(self.statistics.frequencies, return_inverse=True)
        idf: Callable[[int], float]
        if self.config.method == OKAPI:

            def idf(frequency: int) -> float:
                value = okapi_idf(frequency, num_documents)
                return value if value >= 0 else OKAPI_EPSILON * self.statistics.average_idf
        else:
            score = _select_idf_scorer(self.config.method)

            def idf(frequency: int) -> float:
                return float(score(frequency, N=num_documents))

        # math.log of each distinct frequency, as bm25s: numpy's logarithm may differ in the last bit.
        values = np.array([idf(frequency) if frequency else 0.0 for frequency in distinct.tolist()], np.float64)
        return values[which]

    def weights(self, postings: Postings) -> NDArray[Any]:
        """What each posting of a shard adds to a score; float32 (okapi: float64) [postings]."""
        terms = np.repeat(postings.term_ids, postings.num_documents)
        counts = postings.counts.astype(self.dtype)
        weights = self.idf[terms] * self._term_part(counts, postings.lengths[postings.documents])
        if self.config.method in WITH_ABSENT:
            weights -= self.absent[terms]
        return np.asarray(weights, self.dtype)


def make_part(scorer: Scorer, part_frequencies: NDArray[np.int64], shards: Iterable[Postings]) -> Part:
    """Joins consecutive shards into one part.

    Each shard's postings are in the part's order already, so each run of a term is copied to its place: no sort.

    Args:
        scorer: gives the weights, and says which terms are searched for.
        part_frequencies: int64 [terms], postings of each term in all shards of the part together.
        shards: one at a time, in the order of their documents.
    """
    term_starts = np.zeros(len(part_frequencies) + 1, np.int64)
    np.cumsum(np.where(scorer.is_searched, part_frequencies, 0), out=term_starts[1:])
    documents = np.empty(term_starts[-1], np.uint32)
    weights = np.empty(term_starts[-1], scorer.dtype)
    free = term_starts[:-1].copy()
    sizes: list[int] = []
    for whole in shards:
        shard = whole if scorer.is_searched.all() else of_terms(whole, scorer.is_searched)
        run_starts = np.cumsum(shard.num_documents, dtype=np.int64) - shard.num_documents
        places = np.repeat(free[shard.term_ids] - run_starts, shard.num_documents)
        places += np.arange(len(places))
        documents[places] = shard.documents + sum(sizes)
        weights[places] = scorer.weights(shard)
        free[shard.term_ids] += shard.num_documents
        sizes.append(len(shard.lengths))
    return Part(term_starts, documents, weights, tuple(sizes))
