"""Sharded BM25 against one bm25s index and against rank-bm25, on the same tokens."""

import random
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import Bm25Config
from raymine.errors import ConfigError
from raymine.index.bm25 import Bm25Statistics, QueryTerms, SearchBm25, TokenizeShard, check
from raymine.topk import merge_topk

METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")
Hits = dict[int, list[tuple[int, float]]]


def words(rng: random.Random, count: int) -> str:
    """A text of words from a small vocabulary with a long tail, so that frequencies and ties of all kinds occur."""
    return " ".join(f"Word{int(rng.paretovariate(0.6)) % 300}" for _ in range(count))


RNG = random.Random(7)
DOCUMENTS = [words(RNG, RNG.randint(1, 60)) for _ in range(230)]
DOCUMENTS[3] = DOCUMENTS[120] = DOCUMENTS[229] = "word1 word2 twin"  # ties over shards
DOCUMENTS[5] = DOCUMENTS[150] = ""
DOCUMENTS[9] = "the of and"  # stop words only
QUERIES = [words(RNG, RNG.randint(1, 12)) for _ in range(40)]
QUERIES += ["twin", "word1 word1 word1 word2", "unknown term", "the and", "word1 unknown word250"]
UNEVEN = (0, 11, 150)
BLOCKS = (0, 17, 30)


def shards_of(folder: Path, texts: Sequence[str | None], starts: Sequence[int]) -> list[str]:
    """Corpus shards that begin at the given rows."""
    paths = []
    for number, (begin, end) in enumerate(zip(starts, [*starts[1:], len(texts)], strict=True)):
        ids = [f"d{row}" for row in range(begin, end)]
        path = str(folder / f"corpus-{number}.parquet")
        paths.append(storage.write_table(path, schemas.corpus_table(ids, texts[begin:end])).path)
    return paths


def blocks_of(folder: Path, texts: Sequence[str], starts: Sequence[int]) -> list[str]:
    paths = []
    for number, (begin, end) in enumerate(zip(starts, [*starts[1:], len(texts)], strict=True)):
        ids = [f"q{row}" for row in range(begin, end)]
        path = str(folder / f"queries-{number}.parquet")
        paths.append(storage.write_table(path, schemas.query_table(ids, texts[begin:end])).path)
    return paths


def search_sharded(
    folder: Path,
    config: Bm25Config,
    documents: Sequence[str | None] = DOCUMENTS,
    queries: Sequence[str] = QUERIES,
    starts: Sequence[int] = UNEVEN,
    block_starts: Sequence[int] = BLOCKS,
    parts: Sequence[Sequence[int]] = ((0, 1), (2,)),
    num_threads: int = 1,
) -> Hits:
    """Runs all steps on shards grouped into parts and merges the parts' hits."""
    blocks = blocks_of(folder, queries, block_starts)
    vocabulary, terms = QueryTerms(config)(Task("q", {"queries": blocks}, str(folder / "terms"))).outputs
    tokenize = TokenizeShard(config, vocabulary.path)
    made = [
        tokenize(Task(f"{number}", {"corpus": path}, str(folder / f"shard-{number}"))).outputs
        for number, path in enumerate(shards_of(folder, documents, starts))
    ]
    inputs = {
        "vocabulary": vocabulary.path,
        "terms": [outputs[0].path for outputs in made],
        "all_terms": [shard.path for outputs in made for shard in outputs[3:]],
    }
    (statistics,) = Bm25Statistics()(Task("s", inputs, str(folder / "statistics"))).outputs
    search = SearchBm25(config, statistics.path, terms.path, block_starts)
    files = []
    for number, part in enumerate(parts):
        inputs = {
            name: [made[shard][output].path for shard in part]
            for output, name in enumerate(("terms", "postings", "lengths"))
        }
        inputs["first_rows"] = [starts[shard] for shard in part]
        inputs["blocks"] = [0, len(block_starts)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", str(num_threads))
            files += search(Task(f"{number}", inputs, str(folder / f"part-{number}"))).outputs
    found: Hits = {row: [] for row in range(len(queries))}
    for block, (begin, end) in enumerate(zip(block_starts, [*block_starts[1:], len(queries)], strict=True)):
        table = schemas.check(storage.read_buckets([file.path for file in files], block, schemas.HITS), schemas.HITS)
        merged = merge_topk(*(table[name].to_numpy() for name in ("query_row", "doc_row", "score")), config.k)
        for query, doc, _, score in zip(*merged, strict=True):
            assert begin <= query < end
            found[int(query)].append((int(doc), float(score)))
    return found


def search_whole(config: Bm25Config, documents: Sequence[str] = DOCUMENTS, queries: Sequence[str] = QUERIES) -> Hits:
    """What one bm25s index finds: all documents scored by it, sorted by the project's tie rule."""
    index = bm25s.BM25(method=config.method, k1=config.k1, b=config.b, delta=config.delta, backend="numba")
    index.index(bm25s.tokenize(documents, stopwords=config.stopwords, show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, stopwords=config.stopwords, show_progress=False)
    rows, scores = index.retrieve(tokens, k=len(documents), show_progress=False, n_threads=1)
    return {query: best(rows[query], scores[query], config.k) for query in range(len(queries))}


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> list[tuple[int, float]]:
    order = np.lexsort((rows, -scores))[:k]
    return [(int(rows[i]), float(scores[i])) for i in order if scores[i] > 0]


@pytest.mark.parametrize("k", [1, 7, 1000])
@pytest.mark.parametrize("method", METHODS)
def test_shards_equal_one_index(method: str, k: int, tmp_path: Path) -> None:
    """Documents and float32 scores of a search in uneven parts are those of one bm25s index, bit for bit."""
    config = Bm25Config(method=method, k=k)
    assert search_sharded(tmp_path, config) == search_whole(config)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_reach_the_formula(method: str, tmp_path: Path) -> None:
    """k1, b, delta and the stop words are the config's, not bm25s's defaults."""
    config = Bm25Config(method=method, k=20, k1=0.9, b=0.4, delta=0.7, stopwords=None)
    found = search_sharded(tmp_path, config)
    assert found == search_whole(config)
    assert found[QUERIES.index("the and")][0][0] == 9


def test_okapi_equals_rank_bm25(tmp_path: Path) -> None:
    """Scores of okapi are those of rank_bm25.BM25Okapi, with the floor of common terms from the whole vocabulary."""
    documents = [f"{text} everywhere" if number % 3 else text for number, text in enumerate(DOCUMENTS)]
    queries = [*QUERIES, "everywhere", "everywhere word7"]
    tokens = bm25s.tokenize(documents, return_ids=False, show_progress=False)
    oracle = BM25Okapi(tokens, k1=1.2, b=0.6)
    assert oracle.idf["everywhere"] == pytest.approx(0.25 * oracle.average_idf)
    config = Bm25Config(method="okapi", k=1000, k1=1.2, b=0.6)
    found = search_sharded(tmp_path, config, documents, queries)
    for query, text in enumerate(bm25s.tokenize(queries, return_ids=False, show_progress=False)):
        scores = np.zeros(len(documents), np.float32)
        for doc, score in found[query]:
            scores[doc] = score
        np.testing.assert_allclose(scores, oracle.get_scores(text), rtol=0, atol=1e-5)
        assert found[query] == sorted(found[query], key=lambda hit: (-hit[1], hit[0]))


@pytest.mark.parametrize("max_df", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("method", [*METHODS, "okapi"])
def test_too_common_terms_are_not_searched_for(method: str, max_df: float, tmp_path: Path) -> None:
    """With max_df a query finds what it finds without its terms in more documents than that; scores are the same bits.

    What is common is so by the whole corpus: a term that only one part is full of is searched for in it.
    """
    documents = [f"{text} everywhere" if number % 3 else text for number, text in enumerate(DOCUMENTS)]
    queries = ["twin", *QUERIES, "everywhere", "everywhere word7 everywhere"]  # bm25s refuses an empty first query
    tokens = bm25s.tokenize(documents, return_ids=False, show_progress=False)
    common = {term for term in set().union(*tokens) if sum(term in text for text in tokens) > max_df * len(tokens)}
    assert ("everywhere" in common) == (max_df < 1)
    asked = bm25s.tokenize(queries, return_ids=False, show_progress=False)
    rest = [" ".join(term for term in query if term not in common) for query in asked]
    assert (max_df < 1) == any(query and not left for query, left in zip(asked, rest, strict=True))
    pruned, whole = tmp_path / "pruned", tmp_path / "whole"
    pruned.mkdir()
    whole.mkdir()
    found = search_sharded(pruned, Bm25Config(method=method, k=20, max_df=max_df), documents, queries)
    assert found == search_sharded(whole, Bm25Config(method=method, k=20), documents, rest)
    if method != "okapi":
        assert found == search_whole(Bm25Config(method=method, k=20), documents, rest)


def test_okapi_terms_of_negative_weight_are_no_hits(tmp_path: Path) -> None:
    """Where even the mean idf is negative, documents with the term score below those without: they are not found."""
    documents = ["cat dog", "cat dog", "cat dog bird"]
    oracle = BM25Okapi([text.split() for text in documents])
    assert oracle.get_scores(["cat"]).max() < 0
    found = search_sharded(
        tmp_path, Bm25Config(method="okapi"), documents, ["cat"], starts=(0, 2), block_starts=(0,), parts=((0,), (1,))
    )
    assert found == {0: []}


@pytest.mark.parametrize("method", ["lucene", "bm25l", "okapi"])
def test_split_and_threads_do_not_matter(method: str, tmp_path: Path) -> None:
    """One part or many, one thread or three, another size of query blocks: the same hits."""
    config = Bm25Config(method=method, k=15)
    splits = [
        {"starts": (0,), "parts": ((0,),), "block_starts": (0,)},
        {"starts": (0, 60, 61, 200), "parts": ((0, 1, 2), (3,)), "num_threads": 3},
        {"starts": (0, 60, 61, 200), "parts": ((0,), (1,), (2, 3)), "block_starts": (0, 1, 2, 40)},
    ]
    found = []
    for number, split in enumerate(splits):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(search_sharded(folder, config, **split))
    assert found[0] == found[1] == found[2]


def test_ties_go_to_the_lower_row(tmp_path: Path) -> None:
    """Of equal scores the k kept are those of the lowest rows, also where one part has more of them than k."""
    documents = ["same text"] * 50
    found = search_sharded(
        tmp_path, Bm25Config(k=4), documents, ["text"], starts=(0, 30), block_starts=(0,), parts=((0,), (1,))
    )
    assert [doc for doc, _ in found[0]] == [0, 1, 2, 3]


def test_rare_terms_among_many_documents(tmp_path: Path) -> None:
    """A query with few postings takes the short way through them and finds the same."""
    documents = [*DOCUMENTS, *(f"filler{row}" for row in range(400)), "needle twice needle", "needle once"]
    queries = ["needle", "needle needle filler3", "twin needle"]
    config = Bm25Config(k=5)
    assert search_sharded(tmp_path, config, documents, queries, block_starts=(0,)) == search_whole(
        config, documents, queries
    )


def test_documents_without_text_count(tmp_path: Path) -> None:
    """A document with only a vector is an empty one: it counts in N and the mean length, and is never found."""
    config = Bm25Config(k=9)
    with_nulls = [text or None for text in DOCUMENTS]
    assert search_sharded(tmp_path, config, with_nulls) == search_whole(config)


def test_nothing_to_search(tmp_path: Path) -> None:
    """Only empty documents, or only queries of stop words: no hits, no error."""
    alone = {"starts": (0,), "block_starts": (0,), "parts": ((0,),)}
    for method in (*METHODS, "okapi"):
        config = Bm25Config(method=method)
        assert search_sharded(tmp_path, config, ["", "the"], ["cat"], **alone) == {0: []}
        assert search_sharded(tmp_path, config, ["cat"], ["the"], **alone) == {0: []}


def test_postings_do_not_depend_on_the_formula(tmp_path: Path) -> None:
    """Tokenised shards have the same bytes for another method and other parameters, so they can be reused."""
    digests = []
    for number, config in enumerate([Bm25Config(), Bm25Config(method="bm25+", k1=2.0, b=0.1, k=3, max_df=0.1)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        search_sharded(folder, config)
        digests.append([storage.sha256_of(path) for path in storage.list_files(str(folder), ".parquet")][:-1])
    assert digests[0] == digests[1]


def test_bm25_plus_without_k1_is_refused() -> None:
    """k1 of 0 makes bm25s divide by it: an error with a remedy, not NaN."""
    with pytest.raises(ConfigError, match="divides by k1"):
        check(Bm25Config(method="bm25+", k1=0))
