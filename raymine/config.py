"""The config of a round: one frozen pydantic model per stage (`select` in raymine/select_config.py).

Names are the field's own. Everything but `cost` and `resources` counts in the fingerprints. An unknown key is an error
that lists the valid ones. Paths are relative to the config file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from raymine.section import Score, Section
from raymine.select_config import SelectConfig, Sparing

Similarity = Literal["cosine", "dot"]


class TextSource(Section):
    """Where documents or queries come from, and which columns hold what.

    Args:
        path: file, folder or URL: jsonl(.gz/.zst), Parquet (file or folder), BEIR folder, HF dataset on disk, or
            null where there are only vectors.
        format: how to read it; auto goes by the name.
        id_column: column of the ids (unique strings or integers).
        text_column: column of the texts; null where the rows have only vectors.
        title_column: put before the text, with one blank, where a row has it; null to leave it out.
        vector_column: Parquet list column with precomputed vectors.
        vectors: .npy file [n, dim] with one precomputed vector per row of `path`; without `path`, ids are row numbers.
    """

    path: str | None = None
    format: Literal["auto", "jsonl", "parquet", "beir", "hf"] = "auto"
    id_column: str = "_id"
    text_column: str | None = "text"
    title_column: str | None = "title"
    vector_column: str | None = None
    vectors: str | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> TextSource:
        if self.path is None and self.vectors is None:
            raise ValueError("give `path` (texts), `vectors` (.npy), or both")
        if self.vectors is not None and self.vector_column is not None:
            raise ValueError("give `vectors` (a .npy file) or `vector_column` (a Parquet column), not both")
        return self

    @property
    def has_vectors(self) -> bool:
        return self.vectors is not None or self.vector_column is not None


class CorpusConfig(TextSource):
    """The documents.

    Args:
        shard_documents: documents per shard, the unit of work and of resume.
        metadata: columns that filters go by, of strings or numbers; a row may lack them.
    """

    metadata: tuple[str, ...] = ()
    shard_documents: int = Field(default=16384, ge=1)


class QueriesConfig(TextSource):
    """The queries. `block_queries`: queries per block, in which hits are merged and filters run."""

    block_queries: int = Field(default=8192, ge=1)


class PositivesConfig(Section):
    """The labelled relevant pairs: judgements by id, or a file of texts.

    Args:
        path: qrels TSV, or jsonl/Parquet with columns of ids, or (with `query_column` and `positive_column`) of texts.
        format: how to read it; auto goes by the name.
        query_id_column: column of the query ids.
        doc_id_column: column of the document ids.
        relevance_column: column of the judgements (integers; above 0 is positive); null: every row is positive.
        query_column: column of query texts; then `queries` is left out, and ids are made from the texts.
        positive_column: column of positive texts, which are added to the corpus (or are the corpus, if none is given).
    """

    path: str
    format: Literal["auto", "tsv", "jsonl", "parquet"] = "auto"
    query_id_column: str = "query-id"
    doc_id_column: str = "corpus-id"
    relevance_column: str | None = "score"
    query_column: str | None = None
    positive_column: str | None = None

    @model_validator(mode="after")
    def _both_text_columns(self) -> PositivesConfig:
        if (self.query_column is None) != (self.positive_column is None):
            raise ValueError("`query_column` and `positive_column` go together")
        return self

    @property
    def has_texts(self) -> bool:
        return self.query_column is not None


class EmbedConfig(Section):
    """The embedder.

    Args:
        model: sentence-transformers model, by hub name, folder or URL.
        revision: of a hub model.
        trust_remote_code: run code that comes with the model.
        query_prompt: text put before each query.
        document_prompt: text put before each document.
        query_prompt_name: prompt of the model's own, by name, instead of query_prompt.
        document_prompt_name: likewise for documents.
        max_length: tokens per text; null: the model's own.
        dtype: number format in which the model computes.
        similarity: cosine (vectors are normalised) or dot; null: the model's own.
        store: number format of the stored vectors.
        batch_tokens: padded tokens per batch; null: what suits the model's device (see inference).
    """

    model: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    query_prompt: str | None = None
    document_prompt: str | None = None
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None
    max_length: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    similarity: Similarity | None = None
    store: Literal["float16", "float32"] = "float16"
    batch_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_prompt(self) -> EmbedConfig:
        for side in ("query", "document"):
            if getattr(self, f"{side}_prompt") is not None and getattr(self, f"{side}_prompt_name") is not None:
                raise ValueError(f"give `{side}_prompt` (a text) or `{side}_prompt_name` (the model's own), not both")
        return self


class IndexConfig(Section):
    """The dense index.

    Args:
        kind: exact, ivfflat (exact within a query's nearest lists), ivfpq (lists of codes), or auto (exact unless ivfpq
            is several times cheaper: pipeline/choose.py).
        nlist: coarse centroids; null: 4 sqrt(n), at most n / 39.
        recall_target: share of the exact hits that lists are to find; nprobe and overfetch are chosen by measuring it.
        nprobe: lists searched per query; null: chosen, with ivfflat for each query.
        overfetch: ivfpq: hits fetched by codes per hit kept after exact re-scoring; null: chosen.
        code_dims: ivfpq: vector dimensions per 4-bit code.
        train_documents: documents sampled for training at most.
        reuse_centroids: a later round takes the coarse centroids of the one before while its lists are at most
            so many times as unequal, and its vectors as far from their centroids, as when these were trained
            (index/centroids.py); 0: never.
    """

    kind: Literal["auto", "exact", "ivfflat", "ivfpq"] = "auto"
    nlist: int | None = Field(default=None, ge=1)
    recall_target: float = Field(default=0.95, gt=0, le=1)
    nprobe: int | None = Field(default=None, ge=1)
    overfetch: int | None = Field(default=None, ge=1)
    code_dims: int = Field(default=2, ge=1)
    train_documents: int = Field(default=500_000, ge=1)
    reuse_centroids: float = Field(default=1.25, ge=0)


class DenseConfig(Section):
    """Candidates from the embedder: `k` per query."""

    k: int = Field(default=200, ge=1)


class Bm25Config(Section):
    """Candidates from BM25.

    Args:
        k: per query.
        method: lucene, robertson, atire, bm25l, bm25+ as in bm25s, or okapi (rank-bm25's BM25Okapi).
        k1, b, delta: parameters; delta for bm25l and bm25+ only.
        stopwords: language of a stop word list (english), or null.
        stemmer: language of a Snowball stemmer (needs PyStemmer), or null.
        max_df: a query's terms that more than this share of all documents have are not searched for (a query of such
            terms only finds nothing); null: every term is.
    """

    k: int = Field(default=100, ge=1)
    method: Literal["lucene", "robertson", "atire", "bm25l", "bm25+", "okapi"] = "lucene"
    k1: float = Field(default=1.5, ge=0)
    b: float = Field(default=0.75, ge=0, le=1)
    delta: float = Field(default=0.5, ge=0)
    stopwords: Literal["english"] | None = "english"
    stemmer: str | None = None
    max_df: float | None = Field(default=None, gt=0, le=1)


class RandomConfig(Section):
    """Candidates drawn from the whole corpus, seeded by (seed, query id)."""

    k: int = Field(default=10, ge=1)


class RunConfig(Section):
    """Candidates from a TREC run file (`qid Q0 docid rank score tag`): the best `k` per query by score."""

    path: str
    k: int = Field(default=100, ge=1)


class RetrieveConfig(Section):
    """Where candidates come from; at least one source."""

    dense: DenseConfig | None = None
    bm25: Bm25Config | None = None
    random: RandomConfig | None = None
    run: RunConfig | None = None

    @model_validator(mode="after")
    def _any(self) -> RetrieveConfig:
        if not self.sources:
            raise ValueError("name at least one source of candidates: dense, bm25, random or run")
        return self

    @property
    def sources(self) -> list[str]:
        return [name for name in ("dense", "bm25", "random", "run") if getattr(self, name) is not None]


class RescoreConfig(Section):
    """The teacher: a sentence-transformers CrossEncoder.

    Args:
        model: by hub name, folder or URL.
        revision: of a hub model.
        trust_remote_code: run code that comes with the model.
        activation: raw (the logit) or model (the model's own activation, e.g. a sigmoid).
        max_length: tokens per pair; null: the model's own.
        dtype: number format in which the model computes.
        batch_tokens: padded tokens per batch; null: what suits the model's device (see inference).
    """

    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    activation: Literal["raw", "model"] = "raw"
    max_length: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    batch_tokens: int | None = Field(default=None, ge=1)


FormatName = Literal[
    "triplet", "n-tuple", "labeled-pair", "labeled-list", "labeled-list-all", "margin", "listwise", "flagembedding",
    "tevatron", "tevatron-v2", "tevatron-run", "dpr", "gpl", "gpl-margins", "pylate", "automodel", "automodel-corpus",
    "arctic", "simlm", "ms-swift", "ance", "simans", "msmarco", "trec",
]  # fmt: skip


SCORED_FORMATS = ("margin", "listwise", "gpl-margins", "pylate", "simans")


class WriteConfig(Section):
    """Which training formats are written, and whether with scores.

    `score`: which score goes into the shards; null: the teacher's if there is one, else the dense one.
    """

    formats: tuple[FormatName, ...] = ("triplet",)
    scores: bool = False
    score: Score | None = None


class RoundsConfig(Section):
    """How a round builds on the one before; a first round has none.

    Args:
        scope: full (all documents are embedded), or pool (raymine.lineage.pool): those that a source ranked among the
            first `top` of any query in an earlier round, positives, and a random probe of the others.
        top: of pool.
        probe: of pool: the share of the other documents.
        max_missed: of pool: if the probe tells that it misses a larger share of the first `top` hits, it is made again
            from four times as many ranks, and then all documents are embedded.
        merge: what becomes of earlier negatives that no filter takes: replace (nothing is owed to them), union (those
            of a rounds ago keep n decay^a slots, rounded down), or keep_hard (the last ones keep theirs while the new
            checkpoint scores them above the positive, or within select.sample.semi_hard_margin below).
        decay: of union.
        queries: all are searched for, or only the unsettled: those all of whose last negatives the new checkpoint
            scores more than `margin` below the lowest positive. The others keep their negatives.
        margin: of unsettled, in units of the dense score.
    """

    scope: Literal["full", "pool"] = "full"
    top: int = Field(default=50, ge=1)
    probe: float = Field(default=0.02, gt=0, le=1)
    max_missed: float = Field(default=0.05, ge=0, le=1)
    merge: Literal["replace", "union", "keep_hard"] = "replace"
    decay: float = Field(default=0.5, gt=0, lt=1)
    queries: Literal["all", "unsettled"] = "all"
    margin: float = Field(default=0.05, ge=0)

    @property
    def owes_earlier(self) -> bool:
        """Whether earlier negatives may have slots."""
        return self.merge != "replace" or self.queries == "unsettled"


class CostConfig(Section):
    """Prices; null: not priced."""

    gpu_hour_usd: float | None = Field(default=None, ge=0)
    cpu_hour_usd: float | None = Field(default=None, ge=0)


class WorkerConfig(Section):
    """Workers of a stage: how many, and CPUs and GPUs of each; null: chosen from the cluster."""

    actors: int | None = Field(default=None, ge=1)
    cpus: int | None = Field(default=None, ge=1)
    gpus: float | None = Field(default=None, ge=0)


class ResourcesConfig(Section):
    """How a round runs. Never part of a fingerprint.

    Args:
        memory_gb: budget of one worker; parts of the corpus are sized from it.
        keep_tokens: keep the embedder's tokens for rounds to come, at 2 to 4 bytes a token: a later checkpoint with the
            same tokenizer, prompt and length is spared tokenising.
        embed, index, rescore: workers of these stages.
    """

    memory_gb: float = Field(default=2, gt=0)
    keep_tokens: bool = False
    embed: WorkerConfig = WorkerConfig()
    index: WorkerConfig = WorkerConfig()
    rescore: WorkerConfig = WorkerConfig()


# What wins in benchmarks/false_negatives.py: the teacher says what is no answer, on a scale of its own making, and the
# embedder says which of the rest is hardest.
WITH_A_TEACHER: dict[str, Any] = {
    "calibrate": "percentile",
    "filters": [{"kind": "max_score", "value": 0.3, "score": "teacher"}],
}


class Config(Section):
    """One round's config. See the sections for their keys.

    With a teacher, and neither `select.filters` nor `select.calibrate`, WITH_A_TEACHER is how it selects, and sampling
    goes by the dense score if there are embeddings.
    """

    seed: int = 0
    corpus: CorpusConfig | None = None
    queries: QueriesConfig | None = None
    positives: PositivesConfig
    exclude: tuple[str, ...] = ()
    embed: EmbedConfig | None = None
    index: IndexConfig = IndexConfig()
    retrieve: RetrieveConfig
    rescore: RescoreConfig | None = None
    select: SelectConfig = SelectConfig()
    write: WriteConfig = WriteConfig()
    rounds: RoundsConfig = RoundsConfig()
    cost: CostConfig = CostConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="before")
    @classmethod
    def _selects_by_the_teacher(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not raw.get("rescore"):
            return raw
        select = raw.get("select") or {}
        if not isinstance(select, dict) or not {"filters", "calibrate"}.isdisjoint(select):
            return raw
        sample = select.get("sample") or {}
        embed = raw.get("embed") or {}
        if isinstance(sample, dict) and isinstance(embed, dict) and embed.get("model"):
            sample = {"score": "dense", **sample}
        return {**raw, "select": {**WITH_A_TEACHER, "sample": sample}}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.positives.has_texts:
            if self.exclude:
                raise ValueError(
                    "`exclude` names ids, but `positives` with texts makes its own: give ids, or leave it out"
                )
            if self.queries is not None:
                raise ValueError("`positives` with `query_column` makes its own queries: leave `queries` out")
            if self.corpus is not None and self.corpus.text_column is None:
                raise ValueError("`positives` with texts needs a corpus with texts (or none)")
        elif self.corpus is None or self.queries is None:
            raise ValueError(
                "`corpus` and `queries` are needed unless `positives` has query_column and positive_column"
            )
        self._check_vectors()
        if not self.has_embeddings and self.rounds != RoundsConfig():
            raise ValueError("`rounds` needs an embedder: its score says what has become of earlier negatives")
        if self.rounds.scope == "pool":
            if not (self.embed and self.embed.model and self.retrieve.dense):
                raise ValueError("`rounds.scope: pool` needs `embed.model` and `retrieve.dense`")
            if self.select.sample.strategy == "spread":
                raise ValueError("`spread` needs the vectors of all candidates: set `rounds.scope: full`")
        self._check_scores()
        self._check_filters()
        return self

    def _check_vectors(self) -> None:
        has_vectors = [part.has_vectors for part in (self.corpus, self.queries) if part is not None]
        model = self.embed.model if self.embed else None
        if any(has_vectors) and not (all(has_vectors) and len(has_vectors) == 2):
            raise ValueError("precomputed vectors must be given for the corpus and for the queries alike")
        if any(has_vectors) and model:
            raise ValueError("give precomputed vectors or `embed.model`, not both")
        if self.retrieve.dense and not model and not any(has_vectors):
            raise ValueError("`retrieve.dense` needs `embed.model` (or precomputed vectors)")
        texts = [part for part in (self.corpus, self.queries) if part is not None and part.path is None]
        if texts and (self.retrieve.bm25 or self.rescore):
            raise ValueError("bm25 and rescore need texts: give `path` beside `vectors`")

    def _check_scores(self) -> None:
        known = {name for name in ("dense", "bm25", "run") if getattr(self.retrieve, name)}
        known |= {"teacher"} if self.rescore else set()
        known |= {"dense"} if self.has_embeddings else set()
        asked = [(f"select.filters[{i}]", f) for i, f in enumerate(self.select.filters)]
        for where, section in [*asked, ("select.sample", self.select.sample), ("write", self.write)]:
            for name in (getattr(section, "score", None), getattr(section, "source", None)):
                if name is not None and name not in known:
                    raise ValueError(f"{where} asks for `{name}`, but the config has only {sorted(known)}")
        for name in self.select.sample.quotas:
            if name in ("dense", "bm25", "run") and name not in self.retrieve.sources:
                raise ValueError(
                    f"select.sample.quotas asks for `{name}`, but candidates come from {list(self.retrieve.sources)}"
                )
        needs_score = [where for where, f in asked if "score" in type(f).model_fields]
        if unscored := [name for name in self.write.formats if name in SCORED_FORMATS and not self.write.scores]:
            raise ValueError(f"format {unscored[0]} is made of scores: set `write.scores`")
        if self.write.scores and not known:
            raise ValueError(
                "`write.scores` needs a score, but random candidates have none: add dense, bm25 or rescore"
            )
        if needs_score and not known:
            raise ValueError(
                f"{needs_score[0]} needs a score, but random candidates have none: add dense, bm25 or rescore"
            )

    def _check_filters(self) -> None:
        select = self.select
        columns = self.corpus.metadata if self.corpus else ()
        for name in select.traits:
            if name.startswith("meta_") and name.removeprefix("meta_") not in columns:
                column = name.removeprefix("meta_")
                raise ValueError(f"a filter goes by the column `{column}`: name it in corpus.metadata: [{column}]")
        if "cluster" in select.traits and not self.has_embeddings:
            raise ValueError("other_cluster cuts vectors into clusters: it needs `embed.model`, or `column`")
        if "near_positive" in select.traits and self.corpus is not None and self.corpus.path is None:
            raise ValueError("near_duplicate compares texts: give `corpus.path` beside `vectors`")
        self._check_sparing([each for each in select.filters if isinstance(each, Sparing)])
        if select.sample.strategy == "spread" and not self.has_embeddings:
            raise ValueError("`strategy: spread` compares vectors: it needs `embed.model` (or precomputed vectors)")
        if select.calibrate and not self.rescore:
            raise ValueError("select.calibrate is of the teacher's scores: it needs `rescore`")

    def _check_sparing(self, filters: Sequence[Sparing]) -> None:
        if self.retrieve.random:
            return
        if any(each.spare_random for each in filters):
            raise ValueError("`spare_random` is of random candidates: it needs `retrieve.random`")
        depth = max(getattr(self.retrieve, source).k for source in self.retrieve.sources)
        for each in filters:
            if each.spare_beyond is not None and each.spare_beyond >= depth:
                raise ValueError(
                    f"`spare_beyond: {each.spare_beyond}` spares nothing: no source looks beyond its first {depth}: "
                    "raise a source's `k`, or add `retrieve.random`"
                )

    @property
    def has_embeddings(self) -> bool:
        """Whether documents and queries have vectors, from a model or precomputed."""
        precomputed = self.corpus is not None and self.corpus.has_vectors
        return precomputed or bool(self.embed and self.embed.model)

    @property
    def default_score(self) -> str | None:
        """The score that filters and sampling go by unless told: the teacher's, else the best source's."""
        if self.rescore:
            return "teacher"
        if self.has_embeddings:
            return "dense"
        return next((source for source in self.retrieve.sources if source != "random"), None)
