"""From codes' scores to exact ones: the parts' best are merged, and re-scored from the stored vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.retrieve import base
from raymine.retrieve.shortlist import MergeShortlist, RescoreHits
from raymine.topk import merge_topk, pair_scores


def buckets(path, schema, *tables):
    arrays = [pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in t], schema) for t in tables]
    return storage.write_buckets(str(path), schema, arrays).path


def test_merge_keeps_the_best_of_all_parts_by_document_shard(tmp_path):
    """k per query over all parts, ties by doc_row, each pair in the bucket of its document's shard."""
    first = buckets(
        tmp_path / "a.arrow", schemas.HITS, [(0, 1, 0, 5.0), (0, 2, 1, 4.0), (1, 2, 0, 1.0)], [(9, 0, 0, 1.0)]
    )
    second = buckets(tmp_path / "b.arrow", schemas.HITS, [(0, 11, 0, 5.0), (0, 10, 1, 5.0)], [])
    stage = MergeShortlist([base.HitFiles(0, [first, second])], 2, [0, 2, 10])
    record = stage(Task("key", {"bucket": 0}, str(tmp_path / "out")))
    path = record.outputs[0].path
    found = [[tuple(row.values()) for row in storage.read_bucket(path, shard).to_pylist()] for shard in range(3)]
    assert found == [[(0, 1)], [(1, 2)], [(0, 10)]]
    assert record.rows_out == 3


def test_rescore_gives_every_pair_its_exact_score(tmp_path):
    """Scores are pair_scores of the stored vectors, by rows and not by positions in the files."""
    rng = np.random.default_rng(0)
    docs = rng.standard_normal((4, 8)).astype(np.float16)
    queries = rng.standard_normal((5, 8)).astype(np.float16)
    vectors = storage.write_arrow(
        str(tmp_path / "d.parquet"), schemas.vector_table(np.array([0, 2, 3, 6], np.int64), docs)
    )
    blocks = [
        storage.write_arrow(
            str(tmp_path / f"q{i}.parquet"), schemas.vector_table(np.arange(len(part), dtype=np.int64), part)
        ).path
        for i, part in enumerate([queries[:3], queries[3:]])
    ]
    pairs = [
        buckets(tmp_path / "p0.arrow", schemas.PAIRS, [], [(102, 56), (100, 50), (102, 53)]),
        buckets(tmp_path / "p1.arrow", schemas.PAIRS, [(104, 1)], [(104, 52)]),
    ]
    stage = RescoreHits(pairs, blocks, [100, 103])
    inputs = {"vectors": vectors.path, "first_row": 50, "bucket": 1}
    path = stage(Task("key", inputs, str(tmp_path / "out"))).outputs[0].path
    found = [storage.read_bucket(path, block) for block in (0, 1)]
    assert found[0]["query_row"].to_pylist() == [102, 100, 102]
    assert found[0]["doc_row"].to_pylist() == [56, 50, 53]
    assert found[0]["score"].to_numpy().tolist() == pair_scores(queries[[2, 0, 2]], docs[[3, 0, 2]]).tolist()
    assert found[1]["score"].to_numpy().tolist() == pair_scores(queries[[4]], docs[[1]]).tolist()
    assert set(found[0]["rank"].to_pylist()) == {0}


def test_merging_a_few_files_at_a_time_equals_merging_all(tmp_path, monkeypatch):
    """However many hits are read before they are cut to k, the same are left."""
    rng = np.random.default_rng(1)
    paths, everything = [], []
    for part in range(7):
        rows = [(q, part * 10 + d, 0, float(rng.integers(0, 4))) for q in range(3) for d in range(part)]
        paths.append(buckets(tmp_path / f"{part}.arrow", schemas.HITS, rows))
        everything += rows
    columns = [np.array(column) for column in zip(*everything, strict=True)]
    expected = merge_topk(columns[0], columns[1], columns[3].astype(np.float32), 5)
    for limit in (0, 10, 10**6):
        monkeypatch.setattr(base, "HITS_AT_ONCE", limit)
        for got, wanted in zip(base.merged_hits([base.HitFiles(0, paths)], 0, 5), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert [len(column) for column in base.merged_hits([base.HitFiles(0, [])], 0, 5)] == [0, 0, 0, 0]
