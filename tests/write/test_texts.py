"""FetchTexts against a dictionary of texts."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.write.texts import FetchTexts, fetch_texts

STARTS = [0, 4, 8]


@pytest.fixture
def shard():
    """Documents 100 .. 119, one of them with a vector only, and pairs that ask for some of them."""
    rng = random.Random(0)
    texts = [None if number == 3 else f"text {number}" for number in range(20)]
    corpus = schemas.corpus_table([f"id-{number}" for number in range(20)], texts)
    pairs = [{"query_row": rng.choice([0, 3, 8, 9]), "doc_row": rng.randint(100, 119)} for _ in range(30)]
    return corpus, pairs


def expected(corpus, pairs):
    """Per block: each document asked for once, by row."""
    blocks = []
    for start, stop in zip(STARTS, [*STARTS[1:], 100], strict=True):
        docs = sorted({pair["doc_row"] for pair in pairs if start <= pair["query_row"] < stop})
        ids, texts = corpus["doc_id"].to_pylist(), corpus["text"].to_pylist()
        blocks.append([{"doc_row": d, "doc_id": ids[d - 100], "text": texts[d - 100]} for d in docs])
    return blocks


def test_each_block_gets_the_texts_it_needs_once(shard):
    """Sorted by row; a block that needs nothing gets an empty table."""
    corpus, pairs = shard
    tables = list(fetch_texts(corpus, pa.Table.from_pylist(pairs, schema=schemas.PAIRS), 100, STARTS))
    assert [table.to_pylist() for table in tables] == expected(corpus, pairs)
    assert tables[1].num_rows == 0
    assert all(schemas.check(table, schemas.TEXTS) is table for table in tables)


def test_stage_reads_its_bucket_of_every_file(tmp_path, shard):
    """Pairs of all query blocks come together; a shard that nobody asks for is not even opened."""
    corpus, pairs = shard
    table = pa.Table.from_pylist(pairs, schema=schemas.PAIRS)
    storage.write_table(str(tmp_path / "corpus.parquet"), corpus)
    empty = schemas.PAIRS.empty_table()
    paths = [str(tmp_path / f"{number}.arrow") for number in range(2)]
    for path, part in zip(paths, (table.slice(0, 13), table.slice(13)), strict=True):
        storage.write_buckets(path, schemas.PAIRS, [empty, part])
    stage = FetchTexts(paths, STARTS)
    inputs = {"corpus": str(tmp_path / "corpus.parquet"), "first_row": 100, "bucket": 1}
    record = stage(Task("k", inputs, output=str(tmp_path / "texts")))
    got = [storage.read_bucket(record.outputs[0].path, block).to_pylist() for block in range(3)]
    assert got == expected(corpus, pairs)
    assert (record.rows_in, record.rows_out) == (30, sum(len(block) for block in got))
    unasked = stage(Task("k", {"corpus": "nowhere", "first_row": 0, "bucket": 0}, output=str(tmp_path / "none")))
    assert unasked.rows_out == 0
