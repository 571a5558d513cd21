"""The pool, its probe and what it is estimated to miss, against plain Python."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_models

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.config import EmbedConfig
from raymine.embed.pool import EmbedPool, probed
from raymine.embed.stage import EmbedShard
from raymine.lineage.moves import Span
from raymine.lineage.pool import EstimateMissed, FindPool, MergePool, missed, near_top
from raymine.retrieve.base import HitFiles


def verdicts(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "query_row": number // 8,
            "doc_row": draw.randrange(60),
            "relevance": draw.choice([None, None, None, 1]),
            "dense_rank": draw.choice([None, draw.randrange(30)]),
            "dense_score": 0.5,
            "bm25_rank": draw.choice([None, draw.randrange(30)]),
            "bm25_score": None,
            "random_rank": draw.randrange(5),
            "random_score": None,
        }
        for number in range(80)
    ]


def is_near(row: dict[str, Any], top: int) -> bool:
    ranks = [row[name] for name in ("dense_rank", "bm25_rank") if row[name] is not None]
    return bool(row["relevance"]) or min(ranks, default=top) < top


def table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = schemas.candidates(["dense", "bm25", "random"])
    return pa.Table.from_pylist(rows, schema=schema)


@pytest.mark.parametrize("top", [1, 5, 100])
def test_near_the_top_is_by_any_source_but_chance(top: int) -> None:
    rows = verdicts(1)
    assert near_top(table(rows), top).tolist() == sorted({row["doc_row"] for row in rows if is_near(row, top)})


def test_the_pool_is_what_all_files_name(tmp_path: Path) -> None:
    """Earlier verdicts and pools in the rows of now, today's positives as they are; per shard, each once."""
    rows = verdicts(2)
    storage.write_table(str(tmp_path / "verdicts.parquet"), table(rows))
    old = pa.table({"doc_row": [0, 19, 59]}, schema=schemas.DOC_ROWS)
    storage.write_arrow(str(tmp_path / "pool.arrow"), old)
    storage.write_table(str(tmp_path / "now.parquet"), pa.table({"doc_row": [3, 3, 41]}))
    spans, starts = [Span(0, 20, 25), Span(20, 20, None), Span(40, 20, 5)], [0, 5, 25, 45]
    stage = FindPool(4, spans, None, starts)
    given = {"verdicts": "verdicts.parquet", "pool": "pool.arrow", "now": "now.parquet"}
    files = [
        stage(Task(kind, {kind: str(tmp_path / name)}, str(tmp_path / f"found-{kind}"))).outputs[0].path
        for kind, name in given.items()
    ]
    merge = MergePool(files)
    found = [
        storage.read_arrow(merge(Task("x", {"bucket": i}, str(tmp_path / f"{i}"))).outputs[0].path)[
            "doc_row"
        ].to_pylist()
        for i in range(4)
    ]
    then = {row["doc_row"] for row in rows if is_near(row, 4)} | {0, 19, 59}
    now = {row + 25 for row in then if row < 20} | {row - 35 for row in then if row >= 40} | {3, 41}
    ends = [*starts[1:], 100]
    assert found == [sorted(row for row in now if a <= row < b) for a, b in zip(starts, ends, strict=True)]


def test_a_probe_is_a_share_of_any_documents() -> None:
    """As many as asked for, whoever is beside them, and others with another seed."""
    hashes = pa.chunked_array(
        [
            schemas.corpus_table([str(i) for i in range(20_000)], [f"text {i}" for i in range(20_000)])[
                "text_hash"
            ].chunk(0)
        ]
    )
    chosen = probed(hashes, 0.1, [0, 2])
    assert 0.09 < chosen.mean() < 0.11
    assert probed(hashes.slice(700, 50), 0.1, [0, 2]).tolist() == chosen[700:750].tolist()
    other = probed(hashes, 0.1, [0, 3])
    assert 0.005 < (chosen & other).mean() < 0.015
    assert probed(hashes, 1.0, [0, 2]).all()


@pytest.mark.parametrize("keeps_tokens", [False, True])
def test_vectors_of_the_pool_are_those_of_the_shard(tmp_path: Path, keeps_tokens: bool) -> None:
    """The same vectors for fewer rows; the probe is what is not in the pool."""
    texts = tiny_models.texts(200, longest=20)
    texts[7] = ""
    corpus, model = str(tmp_path / "corpus.parquet"), tiny_models.save_static(str(tmp_path / "model"))
    storage.write_table(corpus, schemas.corpus_table([f"d{i}" for i in range(200)], texts))
    embed = {"config": EmbedConfig(model=model), "side": "document", "model_fingerprint": "x"}
    embed["tokens"] = str(tmp_path / "tokens") if keeps_tokens else None
    (whole,) = EmbedShard(**embed)(Task("sha", {"table": corpus}, str(tmp_path / "whole"))).outputs  # type: ignore[arg-type]
    every = storage.read_arrow(whole.path)
    pool = [3, 7, 50, 51, 199]
    storage.write_arrow(
        str(tmp_path / "pool.arrow"), pa.table({"doc_row": [row + 1000 for row in pool]}, schema=schemas.DOC_ROWS)
    )
    inputs = {"table": corpus, "pool": str(tmp_path / "pool.arrow"), "first_row": 1000, "shard_sha256": "sha"}
    record = EmbedPool(embed, 0.2, [0, 2])(Task("x", inputs, str(tmp_path / "some")))
    made, probe = (storage.read_arrow(shard.path) for shard in record.outputs)
    outside = {row - 1000 for row in probe["doc_row"].to_pylist()}
    assert not outside & set(pool) and 20 < len(outside) < 60
    rows = sorted((outside | set(pool)) - {7})
    assert made["row"].to_pylist() == rows
    at = [every["row"].to_pylist().index(row) for row in rows]
    assert made["vector"].to_pylist() == every["vector"].take(pa.array(at)).to_pylist()
    assert (record.cache_hits > 0) == keeps_tokens


def test_what_is_missed_is_estimated_from_the_probe(tmp_path: Path) -> None:
    """Hits below `top` that are of the probe stand for the others like them."""
    ranks = np.arange(6, dtype=np.int32)
    scores = np.linspace(1, 0, 6).astype(np.float32)
    blocks = [
        schemas.hits_table(np.full(6, q), np.array(docs), ranks, scores)
        for q, docs in ((0, [5, 1, 9, 2, 3, 8]), (1, [9, 8, 1, 2, 3, 4]))
    ]
    path = storage.write_buckets(str(tmp_path / "hits.arrow"), schemas.HITS, blocks).path
    probe = storage.write_arrow(
        str(tmp_path / "probe.arrow"), pa.table({"doc_row": [8, 9]}, schema=schemas.DOC_ROWS)
    ).path
    stage = EstimateMissed([HitFiles(0, [path])], 4, [probe])
    counts = [stage(Task("x", {"bucket": block}, "")).info for block in (0, 1)]
    assert counts == [{"hits": 4, "probe_hits": 1}, {"hits": 4, "probe_hits": 2}]
    assert missed(8, 3, 0.5) == pytest.approx(6 / 11)
    assert missed(8, 0, 0.5) == 0


def test_the_estimate_is_near_the_truth() -> None:
    """Over many draws of a probe the mean of the estimates is the share that the pool misses."""
    draw = np.random.default_rng(0)
    hits = np.r_[np.zeros(900, bool), np.ones(100, bool)]  # a tenth lies outside the pool
    estimates = []
    for _ in range(300):
        is_probed = hits & (draw.random(1000) < 0.2)
        estimates.append(missed(900 + int(is_probed.sum()), int(is_probed.sum()), 0.2))
    assert np.mean(estimates) == pytest.approx(0.1, abs=0.005)
