"""A drop-in for sentence_transformers.util.mine_hard_negatives (6.2): same arguments, same columns, same rows.

Different on purpose, each a fault of the original:

- a column name that the dataset does not have is an error (it falls back to the first or second column);
- cached embeddings belong to a model's weights (two models of one base model share them);
- `random` draws by `seed`, for each query by itself (it uses the global generator);
- bounds that leave nothing give nothing (it divides by zero);
- ties go to the document that comes first in the corpus (to whichever the sort leaves first);
- a cross-encoder that no margin or score bound would use is warned of (it is ignored silently).

Search is raymine.index.exact, so the corpus' scores are never in memory at once; the cross-encoder scores all pairs in
one call, without the padding. For more than one machine, or to keep what was mined, use raymine.mine.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from raymine.select.samplers import query_seeds, split_mix
from raymine.topk import pair_scores, ranks_within

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, SentenceTransformer

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
logger = logging.getLogger(__name__)


def mine_hard_negatives(
    dataset: Dataset,
    model: SentenceTransformer,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: list[str] | None = None,
    cross_encoder: CrossEncoder | None = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: Literal["random", "top"] = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"] = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16384,
    use_faiss: bool = False,
    use_multi_process: list[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | None = None,
    as_triplets: bool | None = None,
    margin: float | None = None,
    seed: int = 0,
) -> Dataset:
    """Adds hard negatives to a dataset of (anchor, positive) pairs.

    Args:
        dataset: a row per pair; rows of one anchor are its positives.
        model: embeds anchors and corpus.
        anchor_column_name: None: the first column.
        positive_column_name: None: the second column.
        corpus: texts that may be negatives, besides the positives.
        cross_encoder: its scores replace the model's where a margin, `max_score` or `min_score` is given.
        range_min: so many of the best that are left are passed over.
        range_max: so many of the best are looked at; None: as many as are likely to be needed.
        max_score: what scores higher is no negative.
        min_score: what scores lower is no negative.
        absolute_margin: nor is what scores above the lowest positive's score less this,
        relative_margin: or less this share of it.
        num_negatives: per anchor.
        sampling_strategy: top: the best; random: by chance, the best first.
        query_prompt_name: of the model's prompts, for the anchors.
        query_prompt: put before each anchor.
        corpus_prompt_name: of the model's prompts, for the corpus.
        corpus_prompt: put before each text of the corpus.
        include_positives: positives are candidates too; makes n-tuples.
        output_format: see sentence-transformers.
        output_scores: adds the scores.
        batch_size: of both models.
        faiss_batch_size: queries at a time where the model's own similarity function has to be used.
        use_faiss: the inner product is the similarity, whatever the model's is.
        use_multi_process: devices of the models' own process pools, or True.
        verbose: prints statistics.
        cache_folder: keeps embeddings.
        as_triplets: deprecated, use output_format.
        margin: deprecated, use absolute_margin or relative_margin.
        seed: of `random`.

    Returns:
        The columns of `output_format`.

    Raises:
        ValueError: wrong arguments; the message says what was given.
    """
    if len(dataset) == 0:
        raise ValueError("The dataset is empty. Please provide a non-empty dataset.")
    if faiss_batch_size <= 0:
        raise ValueError(f"faiss_batch_size must be a positive integer, got {faiss_batch_size}.")
    anchor_column, positive_column = _columns(dataset.column_names, anchor_column_name, positive_column_name)
    if as_triplets is not None:
        output_format = "triplet" if as_triplets else "n-tuple"
        _deprecated("as_triplets", "output_format", output_format)
    if include_positives and output_format != "n-tuple":
        logger.warning("`include_positives=True` ranks positives among the rest: `output_format` becomes `n-tuple`.")
        output_format = "n-tuple"
    if str(output_format) == "n-tuple-scores":
        output_format, output_scores = "n-tuple", True
        _deprecated("n-tuple-scores", "output_format and output_scores", "n-tuple with scores")
    if output_format not in FORMATS:
        raise ValueError(
            f"Invalid output_format: {output_format}. Must be one of 'triplet', 'n-tuple', 'labeled-pair', or "
            "'labeled-list'."
        )
    if margin is not None:
        absolute_margin = margin
        _deprecated("margin", "absolute_margin", absolute_margin)
    if sampling_strategy not in ("top", "random"):
        raise ValueError(f"sampling_strategy must be 'top' or 'random', got {sampling_strategy!r}.")
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got num_negatives={num_negatives}.")

    bounds = Bounds(absolute_margin, relative_margin, max_score, min_score)
    if cross_encoder is not None and not bounds.are_given:
        logger.warning("`cross_encoder` is not used: it needs a margin, `max_score` or `min_score`.")
        cross_encoder = None
    pairs = Pairs.of(list(dataset[anchor_column]), list(dataset[positive_column]), corpus)
    if range_max is None:
        range_max = range_min + pairs.max_rows + num_negatives * (10 if bounds.need_more(cross_encoder) else 1)
        if verbose:
            print(f"Setting range_max to {range_max} based on the provided parameters.")
    _check_range(range_min, range_max, num_negatives)

    encoder = Encoding(model, batch_size, use_multi_process, cache_folder)
    documents = encoder.encode("document", pairs.corpus, corpus_prompt_name, corpus_prompt)
    queries = encoder.encode("query", pairs.queries, query_prompt_name, query_prompt)
    similarity = Similarity(model, use_faiss, faiss_batch_size)
    candidates = similarity.nearest(queries, documents, range_max + pairs.max_rows)
    positive_scores = similarity.of_pairs(queries[pairs.query], documents[pairs.positive])
    if cross_encoder is not None:
        scorer = Rescoring(cross_encoder, batch_size, use_multi_process)
        candidates.score, positive_scores = scorer.score(pairs, candidates)
    if not include_positives:
        candidates = candidates.take(~pairs.are_positive(candidates))
    lowest = np.minimum.reduceat(positive_scores, pairs.starts)
    dropped = bounds.dropped(candidates.score, lowest[candidates.query])
    candidates = candidates.take(~np.any(list(dropped.values()), axis=0)) if dropped else candidates
    candidates = candidates.sorted().first(range_max)
    candidates = candidates.take(candidates.ranks() >= range_min)
    if sampling_strategy == "random":
        candidates = candidates.sample(num_negatives, query_seeds(seed, 0, pairs.queries))
    negatives = candidates.first(num_negatives)
    if verbose:
        _say(pairs, negatives, positive_scores, dropped, num_negatives)

    from datasets import Dataset

    columns = FORMAT_COLUMNS[output_format](pairs, negatives, positive_scores, num_negatives, output_scores)
    given = {"anchor": anchor_column, "positive": positive_column}
    return Dataset.from_dict({given.get(name, name): values for name, values in columns.items()})


def _columns(names: Sequence[str], anchor: str | None, positive: str | None) -> tuple[str, str]:
    for name in (anchor, positive):
        if name is not None and name not in names:
            raise ValueError(f"The dataset has no column {name!r}. It has {list(names)}.")
    if positive is None and len(names) < 2:
        raise ValueError("Dataset must contain at least two columns to select the positive column automatically.")
    return anchor or names[0], positive or names[1]


def _deprecated(name: str, instead: str, value: Any) -> None:
    logger.warning("The `%s` parameter is deprecated. Use %s instead: %s.", name, instead, value)
    warnings.warn(f"`{name}` is deprecated, use {instead}", DeprecationWarning, stacklevel=3)


def _check_range(range_min: int, range_max: int, num_negatives: int) -> None:
    if range_min < 0:
        raise ValueError(f"range_min must be non-negative, got range_min={range_min}.")
    if range_min >= range_max:
        raise ValueError(
            f"range_min must be smaller than range_max, got range_min={range_min} and range_max={range_max}."
        )
    if num_negatives > range_max - range_min:
        raise ValueError(
            f"Cannot mine {num_negatives} negatives per query: only {range_max - range_min} candidates remain after "
            f"skipping the first range_min={range_min} of range_max={range_max}. Consider decreasing num_negatives or "
            "range_min, or increasing range_max."
        )


@dataclass(frozen=True)
class Bounds:
    """What a negative may score; None: no bound."""

    absolute_margin: float | None
    relative_margin: float | None
    max_score: float | None
    min_score: float | None

    @property
    def are_given(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def need_more(self, cross_encoder: Any) -> bool:
        """Whether many candidates may be dropped."""
        upper = (self.absolute_margin, self.relative_margin, self.max_score)
        return any(value is not None for value in upper) or (cross_encoder is not None and self.min_score is not None)

    def dropped(self, score: Scores, positive: Scores) -> dict[str, NDArray[np.bool_]]:
        """Per bound that is given, what it drops.

        Args:
            score: float32 [n], of candidates.
            positive: float32 [n], the lowest score of a positive of their queries.
        """
        found = {}
        if self.absolute_margin is not None:
            found["absolute_margin"] = score + np.float32(self.absolute_margin) > positive
        if self.relative_margin is not None:
            found["relative_margin"] = score > positive - np.abs(positive) * np.float32(self.relative_margin)
        if self.max_score is not None:
            found["max_score"] = score > self.max_score
        if self.min_score is not None:
            found["min_score"] = score < self.min_score
        return found


@dataclass
class Candidates:
    """Documents of queries, sorted by query: int64 [n], int64 [n] and float32 [n]."""

    query: Rows
    document: Rows
    score: Scores

    def take(self, rows: Any) -> Candidates:
        return Candidates(self.query[rows], self.document[rows], self.score[rows])

    def ranks(self) -> Rows:
        return ranks_within(self.query)

    def first(self, n: int) -> Candidates:
        """The first n of each query."""
        return self.take(self.ranks() < n)

    def sorted(self) -> Candidates:
        """Best score first, then the order of the corpus."""
        return self.take(np.lexsort((self.document, -self.score, self.query)))

    def sample(self, n: int, seeds: NDArray[np.uint64]) -> Candidates:
        """n of each query by chance, the best first."""
        numbers = split_mix(seeds[self.query], self.document)
        drawn = np.lexsort((numbers, self.query))
        kept = drawn[ranks_within(self.query[drawn]) < n]
        return self.take(np.sort(kept))


@dataclass(frozen=True)
class Pairs:
    """The dataset without repetitions.

    Args:
        queries: distinct anchors, in their order.
        corpus: distinct texts: the given ones, then the positives.
        query: int64 [p], of each distinct pair its query, sorted.
        positive: int64 [p], and its document.
        starts: int64 [q], the first pair of each query.
        max_rows: the most rows that an anchor has.
    """

    queries: list[str]
    corpus: list[str]
    query: Rows
    positive: Rows
    starts: Rows
    max_rows: int

    @classmethod
    def of(cls, anchors: list[str], positives: list[str], corpus: list[str] | None) -> Pairs:
        texts = list(dict.fromkeys([*(positives if corpus is None else corpus), *positives]))
        queries = list(dict.fromkeys(anchors))
        rows = {text: row for row, text in enumerate(texts)}
        numbers = {text: number for number, text in enumerate(queries)}
        distinct = list(dict.fromkeys(zip((numbers[a] for a in anchors), (rows[p] for p in positives), strict=True)))
        both = np.array(distinct, np.int64).reshape(-1, 2)
        both = both[np.argsort(both[:, 0], kind="stable")]
        starts = np.searchsorted(both[:, 0], np.arange(len(queries)))
        return cls(queries, texts, both[:, 0], both[:, 1], starts, max(Counter(anchors).values()))

    def are_positive(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Which candidates are positives of their queries, bool [n]."""
        span = len(self.corpus)
        return np.isin(candidates.query * span + candidates.document, self.query * span + self.positive)


class Encoding:
    """Embeds texts by the model's own methods, or finds them in a cache.

    Args:
        model: of sentence-transformers.
        batch_size: texts at a time.
        devices: of a process pool, or True for all; False: none.
        cache_folder: None: nothing is kept.
    """

    def __init__(self, model: Any, batch_size: int, devices: list[str] | bool, cache_folder: str | None) -> None:
        self.model, self.batch_size, self.devices = model, batch_size, devices
        self.cache = Path(cache_folder) if cache_folder else None

    def encode(self, side: str, texts: list[str], prompt_name: str | None, prompt: str | None) -> NDArray[np.float32]:
        """Normalised vectors, float32 [n, dim]."""
        path = None
        if self.cache is not None:
            self.cache.mkdir(parents=True, exist_ok=True)
            key = hashlib.blake2b(repr((weights_of(self.model), side, prompt_name, prompt)).encode(), digest_size=16)
            for text in texts:
                key.update(len(text).to_bytes(8, "little") + text.encode())
            path = self.cache / f"{side}_embeddings_{key.hexdigest()}.npy"
            if path.exists():
                return np.asarray(np.load(path), np.float32)
        pool = None
        if self.devices:
            pool = self.model.start_multi_process_pool(None if isinstance(self.devices, bool) else self.devices)
        try:
            method = self.model.encode_document if side == "document" else self.model.encode_query
            found = method(
                texts, pool=pool, batch_size=self.batch_size, normalize_embeddings=True, convert_to_numpy=True,
                show_progress_bar=True, prompt_name=prompt_name, prompt=prompt,
            )  # fmt: skip
        finally:
            if pool is not None:
                self.model.stop_multi_process_pool(pool)
        vectors = np.ascontiguousarray(found, np.float32)
        if path is not None:
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, vectors)
            temporary.replace(path)
        return vectors


def weights_of(model: Any) -> str:
    """A hash of a model's weights; of a model without any, of its class."""
    import torch

    key = hashlib.blake2b(type(model).__qualname__.encode(), digest_size=16)
    weights = model.state_dict() if hasattr(model, "state_dict") else {}
    for name, tensor in weights.items():
        key.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return key.hexdigest()


class Similarity:
    """The model's similarity: inner products of normalised vectors where it is the cosine, else its own function.

    Args:
        model: of sentence-transformers.
        use_faiss: inner products in any case.
        queries_at_once: that the model's own function compares with the whole corpus.
    """

    def __init__(self, model: Any, use_faiss: bool, queries_at_once: int) -> None:
        from sentence_transformers import SentenceTransformer

        own = isinstance(model, SentenceTransformer) and type(model).similarity is SentenceTransformer.similarity
        is_product = own and model.similarity_fn_name in ("cosine", "dot")
        self.model, self.by_products, self.pairs_by_products = model, use_faiss or is_product, is_product
        self.queries_at_once = queries_at_once

    def nearest(self, queries: NDArray[np.float32], documents: NDArray[np.float32], k: int) -> Candidates:
        """The k nearest documents of each query, all where there are fewer."""
        if self.by_products:
            from raymine.index.exact import search

            found = search(queries, documents, k)
            return Candidates(found[0], found[1], found[3])
        import torch

        parts, k = [], min(k, len(documents))
        for begin in range(0, len(queries), self.queries_at_once):
            some = queries[begin : begin + self.queries_at_once]
            scores = self.model.similarity(some, torch.from_numpy(documents)).cpu().numpy()
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            query = np.repeat(np.arange(begin, begin + len(some)), k)
            score = np.take_along_axis(scores, best, axis=1).ravel().astype(np.float32)
            parts.append(Candidates(query, best.ravel(), score))
        return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))

    def of_pairs(self, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Scores:
        """float32 [p] of float32 [p, dim] each."""
        if self.pairs_by_products:
            return pair_scores(queries, documents)
        import torch

        scores = self.model.similarity_pairwise(torch.from_numpy(queries), torch.from_numpy(documents))
        return np.asarray(scores.cpu().numpy(), np.float32)


class Rescoring:
    """Scores of a cross-encoder.

    Args:
        model: of sentence-transformers.
        batch_size: pairs at a time.
        devices: of a process pool, or True for all; False: none.
    """

    def __init__(self, model: Any, batch_size: int, devices: list[str] | bool) -> None:
        self.model, self.batch_size, self.devices = model, batch_size, devices

    def score(self, pairs: Pairs, candidates: Candidates) -> tuple[Scores, Scores]:
        """Of the candidates, float32 [n], and of the pairs, float32 [p]."""
        query = np.concatenate([candidates.query, pairs.query])
        document = np.concatenate([candidates.document, pairs.positive])
        texts = [(pairs.queries[q], pairs.corpus[d]) for q, d in zip(query.tolist(), document.tolist(), strict=True)]
        pool = None
        if self.devices:
            pool = self.model.start_multi_process_pool(None if isinstance(self.devices, bool) else self.devices)
        try:
            found = self.model.predict(texts, batch_size=self.batch_size, convert_to_tensor=True, pool=pool)
        finally:
            if pool is not None:
                self.model.stop_multi_process_pool(pool)
        scores = np.asarray(found.float().cpu().numpy(), np.float32)
        return scores[: len(candidates.query)], scores[len(candidates.query) :]


def _per_pair(pairs: Pairs, negatives: Candidates) -> tuple[Rows, Rows]:
    """Rows (pair, negative): each pair beside every negative of its query."""
    count = np.bincount(negatives.query, minlength=len(pairs.queries))
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    lengths = count[pairs.query]
    pair = np.repeat(np.arange(len(pairs.query)), lengths)
    return pair, first[pairs.query[pair]] + ranks_within(pair)


def _texts(texts: list[str], rows: Rows) -> list[str]:
    return [texts[row] for row in rows.tolist()]


def _lists(values: Sequence[Any], lengths: Rows) -> list[list[Any]]:
    ends = np.cumsum(lengths).tolist()
    return [list(values[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]


def triplets(pairs: Pairs, negatives: Candidates, positive: Scores, n: int, scores: bool) -> dict[str, list[Any]]:
    pair, negative = _per_pair(pairs, negatives)
    columns: dict[str, list[Any]] = {
        "anchor": _texts(pairs.queries, pairs.query[pair]),
        "positive": _texts(pairs.corpus, pairs.positive[pair]),
        "negative": _texts(pairs.corpus, negatives.document[negative]),
    }
    both = np.stack([positive[pair], negatives.score[negative]], axis=1)
    return columns | ({"scores": both.tolist()} if scores else {})


def n_tuples(pairs: Pairs, negatives: Candidates, positive: Scores, n: int, scores: bool) -> dict[str, list[Any]]:
    pair, negative = _per_pair(pairs, negatives)
    is_full = np.bincount(pair, minlength=len(pairs.query)) == n
    rows, grid = np.flatnonzero(is_full), negative[is_full[pair]].reshape(-1, n)
    columns: dict[str, list[Any]] = {
        "anchor": _texts(pairs.queries, pairs.query[rows]),
        "positive": _texts(pairs.corpus, pairs.positive[rows]),
    }
    columns |= {f"negative_{i + 1}": _texts(pairs.corpus, negatives.document[grid[:, i]]) for i in range(n)}
    both = np.concatenate([positive[rows, None], negatives.score[grid]], axis=1)
    return columns | ({"scores": both.tolist()} if scores else {})


def labeled_pairs(pairs: Pairs, negatives: Candidates, positive: Scores, n: int, scores: bool) -> dict[str, list[Any]]:
    query = np.concatenate([pairs.query, negatives.query])
    order = np.argsort(query, kind="stable")
    document = np.concatenate([pairs.positive, negatives.document])[order]
    columns: dict[str, list[Any]] = {
        "anchor": _texts(pairs.queries, query[order]),
        "positive": _texts(pairs.corpus, document),
    }
    if scores:
        return columns | {"score": np.concatenate([positive, negatives.score])[order].tolist()}
    return columns | {"label": (order < len(pairs.query)).astype(int).tolist()}


def labeled_lists(pairs: Pairs, negatives: Candidates, positive: Scores, n: int, scores: bool) -> dict[str, list[Any]]:
    pair, negative = _per_pair(pairs, negatives)
    count = np.bincount(pair, minlength=len(pairs.query))
    rows = np.flatnonzero(count)
    documents = _lists(_texts(pairs.corpus, negatives.document[negative]), count[rows])
    firsts = _texts(pairs.corpus, pairs.positive[rows])
    columns: dict[str, list[Any]] = {
        "anchor": _texts(pairs.queries, pairs.query[rows]),
        "positive": [[first, *rest] for first, rest in zip(firsts, documents, strict=True)],
    }
    if not scores:
        return columns | {"labels": [[1] + [0] * length for length in count[rows].tolist()]}
    found = _lists(negatives.score[negative].tolist(), count[rows])
    return columns | {"scores": [[first, *rest] for first, rest in zip(positive[rows].tolist(), found, strict=True)]}


FORMAT_COLUMNS = {
    "triplet": triplets,
    "n-tuple": n_tuples,
    "labeled-pair": labeled_pairs,
    "labeled-list": labeled_lists,
}


def _say(
    pairs: Pairs, negatives: Candidates, positive: Scores, dropped: dict[str, NDArray[np.bool_]], num_negatives: int
) -> None:
    """Prints the scores' statistics, what the bounds dropped, and what is missing."""
    pair, negative = _per_pair(pairs, negatives)
    series = {
        "Positive": positive,
        "Negative": negatives.score[negative],
        "Difference": positive[pair] - negatives.score[negative],
    }
    print("Metric".ljust(6) + "".join(f"{name:>15}" for name in series))
    print("Count".ljust(6) + "".join(f"{len(values):>15,}" for values in list(series.values())[:2]))
    measures: dict[str, Callable[[Scores], Any]] = {
        "Mean": np.mean, "Median": np.median, "Std": np.std, "Min": np.min,
        "25%": lambda v: np.quantile(v, 0.25), "75%": lambda v: np.quantile(v, 0.75), "Max": np.max,
    }  # fmt: skip
    for name, measure in measures.items():
        shown = (f"{float(measure(values)):.4f}" if len(values) else "-" for values in series.values())
        print(name.ljust(6) + "".join(f"{value:>15}" for value in shown))
    for name, mask in dropped.items():
        print(f"Skipped {int(mask.sum()):,} potential negatives ({mask.mean() if len(mask) else 0:.2%}) due to {name}.")
    missing = len(pairs.query) * num_negatives - len(pair)
    if missing:
        print(f"{missing:,} negatives are missing: raise range_max, or loosen range_min, the margins or the bounds.")
