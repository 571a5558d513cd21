"""The section `select` of the config: filters, and how negatives are sampled from what they leave."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, Union

from pydantic import Field, model_validator

from raymine.section import Score, Section


class Sparing(Section):
    """What a filter of high scores lets stay whatever it scores, as it is hardly an answer.

    A query whose positive scores low, below what was retrieved, would otherwise lose all its candidates.

    Args:
        spare_random: what was drawn by chance and found by no other source.
        spare_beyond: what no source has among its first so many ranks (raw ranks; what was only drawn by chance has
            none). More than a query has answers.
    """

    spare_random: bool = False
    spare_beyond: int | None = Field(default=None, ge=1)


class MaxScore(Sparing):
    """Drops candidates that score above `value`."""

    kind: Literal["max_score"]
    value: float
    score: Score | None = None


class MinScore(Section):
    """Drops candidates that score below `value` (one without that score is below any value)."""

    kind: Literal["min_score"]
    value: float
    score: Score | None = None


class MaxRelativeScore(Sparing):
    """Drops candidates above p - |p| (1 - of_positive), p being the positive's score (sign-safe).

    Args:
        of_positive: share of the positive's score.
        against: min (the lowest positive of the query), max, or each (a candidate goes with each positive it passes
            for).
        score: null: the default score.
    """

    kind: Literal["max_relative_score"]
    of_positive: float = Field(default=0.95, gt=0, le=1)
    against: Literal["min", "max", "each"] = "min"
    score: Score | None = None


class Margin(Sparing):
    """Drops candidates that score above the positive's score minus `value`; the rest as of max_relative_score."""

    kind: Literal["margin"]
    value: float
    against: Literal["min", "max", "each"] = "min"
    score: Score | None = None


class SkipTop(Section):
    """Drops the first `n` ranks of a source (raw ranks, before any other filter)."""

    kind: Literal["skip_top"]
    n: int = Field(ge=0)
    source: Literal["dense", "bm25", "run"] = "dense"


class RankRange(Section):
    """Keeps only ranks start <= rank < stop of a source (raw ranks); what the source did not find is dropped."""

    kind: Literal["rank_range"]
    start: int = Field(default=0, ge=0)
    stop: int = Field(ge=1)
    source: Literal["dense", "bm25", "run"] = "dense"


class PercentileBand(Section):
    """Keeps only candidates with low <= percentile <= high: the share of the others that score lower.

    `over`: query (the others are the query's candidates) or all (those of all queries).
    """

    kind: Literal["percentile_band"]
    low: float = Field(default=0.2, ge=0, le=1)
    high: float = Field(default=0.8, ge=0, le=1)
    over: Literal["query", "all"] = "query"
    score: Score | None = None

    @model_validator(mode="after")
    def _ordered(self) -> PercentileBand:
        if self.low > self.high:
            raise ValueError(f"`low` is {self.low}, expected at most `high` = {self.high}")
        return self


class Consistency(Section):
    """Drops all candidates of a query whose best positive scores below `n` of them or more: a doubtful judgement."""

    kind: Literal["consistency"]
    n: int = Field(ge=1)
    score: Score | None = None


class OtherCluster(Section):
    """Drops candidates of the clusters that the query's positives are in.

    Args:
        clusters: number of clusters that the documents' vectors are cut into; null: the lists of the round's ivfpq
            index, or, where there is none, the root of the documents' number.
        column: of `corpus.metadata` that names each document's cluster, instead.
    """

    kind: Literal["other_cluster"]
    clusters: int | None = Field(default=None, ge=2)
    column: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> OtherCluster:
        if self.clusters is not None and self.column is not None:
            raise ValueError("give `clusters` (of the vectors) or `column` (of the corpus), not both")
        return self

    @property
    def traits(self) -> tuple[str, ...]:
        return ("cluster",) if self.column is None else (f"meta_{self.column}",)


class SameSourceGroup(Section):
    """Drops candidates by whether a value of theirs is one of the positives': the same article, the same product.

    Args:
        column: of `corpus.metadata`.
        keep: other (those of the positives' groups go) or same (only those stay).
    """

    kind: Literal["same_source_group"]
    column: str
    keep: Literal["other", "same"] = "other"

    @property
    def traits(self) -> tuple[str, ...]:
        return (f"meta_{self.column}",)


class NearDuplicate(Section):
    """Drops what is nearly the same text as a positive, or as a better candidate of the query.

    Args:
        threshold: Jaccard similarity of the two texts' sets of shingles, from which on they are nearly the same.
        words: per shingle.
    """

    kind: Literal["near_duplicate"]
    threshold: float = Field(default=0.8, ge=0.3, le=1)
    words: int = Field(default=3, ge=1)

    @property
    def traits(self) -> tuple[str, ...]:
        return ("near_positive", "near_better")


class MaxReuse(Section):
    """Keeps a document for the `n` queries in which it ranks best, of those that no other filter takes it from."""

    kind: Literal["max_reuse"]
    n: int = Field(ge=1)


FilterConfig = Annotated[
    Union[  # noqa: UP007
        MaxScore, MinScore, MaxRelativeScore, Margin, SkipTop, RankRange, PercentileBand, Consistency, OtherCluster,
        SameSourceGroup, NearDuplicate, MaxReuse,
    ],
    Field(discriminator="kind"),
]  # fmt: skip


Filter = TypeVar("Filter", bound=Section)
Quota = Literal["dense", "bm25", "run", "random", "ranking_error", "semi_hard", "hard"]
KEYS_OF_STRATEGY = {
    "temperature": "softmax",
    "a": "simans",
    "b": "simans",
    "quotas": "stratified",
    "fill": "stratified",
    "diversity": "spread",
}


class SampleConfig(Section):
    """How negatives are sampled from the kept candidates.

    Args:
        n: negatives per query.
        strategy: top (best score first), random, softmax (drawn with weights exp(score / temperature)), simans (drawn
            with weights exp(-a (s - p - b)^2), p the positive's score), stratified (quotas), or spread (one after the
            other, each unlike those before it). What is drawn is seeded by seed, round and query id.
        pool: only so many of each query, the best by that score, may be drawn; null: all that are kept (of spread: 4n).
        score: what the strategy goes by; null: the teacher's if there is one, else the first source's.
        shortfall: what to do with a query that gets fewer than n: keep it, drop it, or stop with an error.
        semi_hard_margin: a negative scoring within this share of the positive's score is semi_hard, below it hard.
        temperature: of softmax, in units of the score.
        a: of simans.
        b: of simans, in units of the score.
        quotas: of stratified: how many of each source or kind, in the order in which they are served.
        fill: of stratified: whether the best of the rest make up for a quota that is short, up to n.
        diversity: of spread: what likeness to the negatives chosen before weighs against the score, from 0 to 1.
    """

    n: int = Field(default=8, ge=1, le=32767)
    strategy: Literal["top", "random", "softmax", "simans", "stratified", "spread"] = "top"
    pool: int | None = Field(default=None, ge=1)
    score: Score | None = None
    shortfall: Literal["keep", "drop", "error"] = "keep"
    semi_hard_margin: float = Field(default=0.05, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    a: float = Field(default=0.5, ge=0)
    b: float = 0.0
    quotas: dict[Quota, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    fill: bool = True
    diversity: float = Field(default=0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _of_the_strategy(self) -> SampleConfig:
        for name, strategy in KEYS_OF_STRATEGY.items():
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) != default and self.strategy != strategy:
                raise ValueError(f"`{name}` goes with `strategy: {strategy}`, not with {self.strategy}")
        if self.pool is not None and self.pool < self.n:
            raise ValueError(f"`pool` is {self.pool}, expected at least n = {self.n}")
        if self.strategy == "stratified" and not 0 < sum(self.quotas.values()) <= self.n:
            raise ValueError(f"`quotas` ask for {sum(self.quotas.values())} negatives, expected 1 to n = {self.n}")
        return self


class SelectConfig(Section):
    """Which candidates are kept and which of them become negatives.

    `calibrate`: the scale on which filters and samplers see the teacher's scores: sigmoid (of the logit), min_max (from
    the query's lowest to its highest), percentile (the share of all positives that score no higher); null: as given.
    """

    calibrate: Literal["sigmoid", "min_max", "percentile"] | None = None
    filters: tuple[FilterConfig, ...] = ()
    sample: SampleConfig = SampleConfig()

    @model_validator(mode="after")
    def _once(self) -> SelectConfig:
        for what in ("near_duplicate", "other_cluster", "max_reuse"):
            same = [each for each in self.filters if each.kind == what and getattr(each, "column", None) is None]
            if len(same) > 1:
                raise ValueError(f"`{what}` is there {len(same)} times, expected once")
        return self

    @property
    def traits(self) -> tuple[str, ...]:
        """What filters go by besides ranks and scores, by name (schemas.TRAITS, or meta_<column>)."""
        return tuple(dict.fromkeys(name for each in self.filters for name in getattr(each, "traits", ())))

    def one(self, kind: type[Filter]) -> Filter | None:
        """The filter of a kind that may be there once, if it is."""
        return next((each for each in self.filters if isinstance(each, kind)), None)
