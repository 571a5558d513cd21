"""Near duplicates: exact Jaccard likeness for every pair that lies at the threshold or above, through the stages."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from raymine import schemas, shingles, storage
from raymine.artifacts import Task
from raymine.retrieve.base import write_pairs
from raymine.retrieve.near import FindNear, MeasureNear, SignDocuments
from raymine.retrieve.union import candidate_pairs

WORDS, THRESHOLD = 3, 0.7
SHARD_STARTS, BLOCK_STARTS = [0, 40], [0, 6]


def shingles_oracle(text):
    tokens = text.casefold().split()
    return {tuple(tokens[i : i + WORDS]) for i in range(max(1, len(tokens) - WORDS + 1))} if tokens else set()


def jaccard_oracle(one, other):
    left, right = shingles_oracle(one), shingles_oracle(other)
    return len(left & right) / len(left | right) if left | right else 0.0


def make_texts(seed):
    """80 texts: families of texts of which a few words differ, some short ones, an empty one."""
    rng = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(300)]
    texts = []
    for _ in range(16):
        base = rng.choices(vocabulary, k=rng.randint(30, 90))
        for changes in (0, 1, 2, 4, 12):
            words = list(base)
            for _ in range(changes):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
            texts.append(" ".join(words).upper() if changes == 1 else " ".join(words))
    texts[7], texts[23], texts[24] = "", "one two", "One  TWO"
    return texts


def make_candidates(seed, block):
    """Six queries, 30 candidates each, one positive; ranks by source with gaps."""
    rng = random.Random(1000 * seed + block)
    rows = []
    for query in range(BLOCK_STARTS[block], BLOCK_STARTS[block] + 6):
        for number, doc in enumerate(sorted(rng.sample(range(80), 30))):
            rows.append(
                {
                    "query_row": query,
                    "doc_row": doc,
                    "relevance": 1 if number in (3, 4) else rng.choice([None, 0]),
                    "dense_rank": rng.choice([None, rng.randint(0, 20)]),
                    "bm25_rank": rng.choice([None, rng.randint(0, 20)]),
                    "random_rank": rng.choice([None, 0]),
                }
            )
    return pa.Table.from_pylist(rows, schema=schemas.candidates(["dense", "bm25", "random"]))


def run(tmp_path, texts, blocks):
    """NEAR of each block."""
    for shard, begin in enumerate(SHARD_STARTS):
        part = texts[begin : begin + 40]
        ids = [str(begin + number) for number in range(len(part))]
        storage.write_table(str(tmp_path / f"corpus-{shard}.parquet"), schemas.corpus_table(ids, part))
    pairs = []
    for number, table in enumerate(blocks):
        storage.write_table(str(tmp_path / f"block-{number}.parquet"), table)
        path = str(tmp_path / f"pairs-{number}.arrow")
        write_pairs(path, candidate_pairs(table), SHARD_STARTS)
        pairs.append(path)

    def signed(name, files, threshold):
        stage = SignDocuments(files, BLOCK_STARTS, WORDS, threshold)
        found = []
        for shard, begin in enumerate(SHARD_STARTS):
            inputs = {"corpus": str(tmp_path / f"corpus-{shard}.parquet"), "bucket": shard, "first_row": begin}
            found.append(stage(Task("k", inputs, output=str(tmp_path / f"{name}-{shard}"))).outputs[0].path)
        return found

    bands = signed("bands", pairs, THRESHOLD)
    found = []
    for number in range(len(blocks)):
        inputs = {"candidates": str(tmp_path / f"block-{number}.parquet"), "bucket": number}
        found.append(FindNear(bands, SHARD_STARTS)(Task("k", inputs, output=str(tmp_path / f"near-{number}"))).outputs)
    sets = signed("shingles", [outputs[1].path for outputs in found], None)
    results = []
    for number, outputs in enumerate(found):
        inputs = {
            "candidates": str(tmp_path / f"block-{number}.parquet"),
            "near_pairs": outputs[0].path,
            "bucket": number,
        }
        record = MeasureNear(sets)(Task("k", inputs, output=str(tmp_path / f"measured-{number}")))
        results.append(schemas.check(storage.read_table(record.outputs[0].path), schemas.NEAR))
    return results


def near_oracle(table, texts):
    """(query, doc) -> likeness to a positive and to a better candidate, of all that is at the threshold."""
    expected = {}
    for _, rows in itertools.groupby(table.to_pylist(), key=lambda row: row["query_row"]):
        rows = list(rows)

        def rank(row):
            ranks = [row[f"{source}_rank"] for source in ("dense", "bm25") if row[f"{source}_rank"] is not None]
            return (min(ranks, default=1 << 40), row["doc_row"])

        for one in rows:
            if one["relevance"] == 1:
                continue
            likeness = [None, None]
            for other in rows:
                if other is one or (other["relevance"] != 1 and rank(other) > rank(one)):
                    continue
                value, at = jaccard_oracle(texts[one["doc_row"]], texts[other["doc_row"]]), int(other["relevance"] != 1)
                if value >= THRESHOLD:
                    likeness[at] = max(value, likeness[at] or 0)
            if likeness != [None, None]:
                expected[one["query_row"], one["doc_row"]] = likeness
    return expected


@pytest.mark.parametrize("seed", range(3))
def test_likeness_is_exact_for_all_that_lies_at_the_threshold(tmp_path, seed):
    texts = make_texts(seed)
    blocks = [make_candidates(seed, block) for block in range(2)]
    for table, near in zip(blocks, run(tmp_path, texts, blocks), strict=True):
        got = {}
        for row in near.to_pylist():
            likeness = [row["near_positive"], row["near_better"]]
            likeness = [value if value and value >= np.float32(THRESHOLD) else None for value in likeness]
            if likeness != [None, None]:
                got[row["query_row"], row["doc_row"]] = likeness
        expected = near_oracle(table, texts)
        assert len(expected) > 10 and got.keys() == expected.keys()
        for pair, likeness in expected.items():
            assert got[pair] == [value and pytest.approx(value, rel=1e-6) for value in likeness]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_what_lies_at_the_threshold(threshold):
    """Of pairs just at the threshold all but one in a thousand share a key; strangers share none above a half."""
    rng = np.random.default_rng(0)
    common = round(200 * threshold)
    own = (200 - common) // 2
    missed = 0
    for _ in range(300):
        values = rng.integers(0, 2**63, 400, dtype=np.uint64)
        left, right = np.r_[values[:common], values[200 : 200 + own]], np.r_[values[:common], values[300 : 300 + own]]
        assert shingles.jaccard(np.sort(left), np.sort(right)) >= threshold
        keys = shingles.band_keys([left, right, values[200:]], threshold)
        missed += not (keys[0] == keys[1]).any()
        if threshold > 0.5 and not own:
            assert not (keys[0] == keys[2]).any()
    assert missed <= 3


def test_words_and_folding():
    """Case and white space count for nothing; a text of fewer words is one shingle; an empty one has none."""
    assert np.array_equal(shingles.shingles("A b\tC d", 3), shingles.shingles("a B c  D", 3))
    assert len(shingles.shingles("a b c d", 3)) == 2 and len(shingles.shingles("a b", 3)) == 1
    left, right = shingles.shingles("a b c d", 3), shingles.shingles("A B  c e", 3)
    assert shingles.jaccard(left, right) == 1 / 3 and shingles.jaccard(left, left) == 1
    assert len(shingles.shingles(" ", 3)) == 0 and shingles.jaccard(np.empty(0), np.empty(0)) == 0
