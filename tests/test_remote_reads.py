"""Remote files are read by ranges: what a reader needs, and little more.

The filesystem of these tests behaves as object stores do under fsspec: it hands out ranges of bytes, counts them, and
would by default read 50 MB ahead.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from raymine import storage
from raymine.config import CorpusConfig
from raymine.corpus import jsonl, lines
from raymine.corpus.read import splits
from raymine.corpus.vectors import npy_header, npy_rows

MB = 1 << 20
SMALL = 256 << 10  # what looking up a footer or a header may cost
PAIRS = pa.schema([("query_row", pa.int64()), ("score", pa.float64())])


class Ranges(AbstractBufferedFile):
    """A file of which ranges are fetched."""

    DEFAULT_BLOCK_SIZE = 50 * MB

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.content(self.path)[start:end]
        self.fs.num_fetched.append(len(content))
        return content


class Counted(MemoryFileSystem):
    """Memory that counts the bytes of each fetch."""

    protocol = "counted"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    num_fetched: list[int] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(str(path).removeprefix("counted://")))

    def content(self, path: str) -> bytes:
        return bytes(self.store[self._strip_protocol(path)].getvalue())

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **options)
        options.pop("autocommit", None)
        size = len(self.content(path))
        return Ranges(self, path, mode, "default" if block_size is None else block_size, size=size, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        content = self.content(path)[start:end]
        self.num_fetched.append(len(content))
        return content


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    fsspec.register_implementation("counted", Counted, clobber=True)


@pytest.fixture
def fetched() -> Iterator[list[int]]:
    Counted.num_fetched.clear()
    yield Counted.num_fetched


@pytest.fixture
def base() -> str:
    return f"counted://{uuid.uuid4().hex}"


def put(path: str, content: bytes) -> str:
    storage.write_bytes(path, content)
    Counted.num_fetched.clear()
    return path


def test_a_bucket_costs_its_batch(base: str, fetched: list[int]) -> None:
    """Of a file of 64 batches of 128 kB each (which do not compress), one batch, the footer and what is read ahead."""
    draw = np.random.default_rng(0)
    tables = [
        pa.table([pa.array(np.full(16384, number)), pa.array(draw.random(16384))], schema=PAIRS) for number in range(64)
    ]
    shards = [storage.write_buckets(f"{base}/{number}.arrow", PAIRS, tables) for number in range(3)]
    fetched.clear()
    table = storage.read_buckets([shard.path for shard in shards], 20, PAIRS)
    assert table.equals(pa.concat_tables([tables[20]] * 3))
    assert shards[0].num_bytes > 7 * MB
    assert sum(fetched) < 3 * (160_000 + SMALL)


def test_a_column_costs_its_pages(base: str, fetched: list[int]) -> None:
    """One column of a Parquet shard, which lies between two larger ones."""
    ids = [str(number) for number in range(4000)] * 100
    draw = np.random.default_rng(0)
    columns = {"a": draw.random(400_000), "id": ids, "b": draw.random(400_000)}
    shard = storage.write_table(f"{base}/a.parquet", pa.table(columns))
    fetched.clear()
    assert storage.read_table(shard.path, ["id"])["id"].to_pylist() == ids
    assert sum(fetched) < SMALL + 800_000 < shard.num_bytes / 4


def test_rows_of_vectors_cost_themselves(base: str, fetched: list[int]) -> None:
    """The header is little, and a range of rows is read without what lies before it, and little after it."""
    vectors = np.random.default_rng(0).random((40_000, 128), np.float32)
    with fsspec.open(f"{base}/a.npy", "wb") as file:
        np.save(file, vectors)
    assert npy_header(f"{base}/a.npy").num_rows == 40_000
    assert sum(fetched) < SMALL
    fetched.clear()
    with npy_rows(f"{base}/a.npy", 1000, 3000) as take:
        assert np.array_equal(np.concatenate([take(700) for _ in range(3)]), vectors[1000:3000])
    assert sum(fetched) < SMALL + 2000 * 512 + storage.CHUNK_BYTES


def test_part_of_a_text_file_costs_itself(base: str, fetched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding where to cut takes a few kB per part; a part costs its bytes and what is read ahead."""
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", 10 * MB)
    row = b'{"_id": "a", "text": "%s"}\n' % (b"x" * 4000)
    path = put(f"{base}/a.jsonl", row * (60 * MB // len(row)))
    found = jsonl.JsonlReader().splits(path, "corpus")
    assert len(found) == 6
    assert sum(fetched) < 6 * lines.BORDER_BYTES + 2 * storage.CHUNK_BYTES
    fetched.clear()
    begin, end = found[2]["byte_range"]
    assert b"".join(block for _, block in lines.blocks(lines.Span(path, begin, end))) == row * (
        (end - begin) // len(row)
    )
    assert end - begin <= sum(fetched) <= end - begin + 2 * storage.CHUNK_BYTES


def test_sources_are_hashed_in_one_pass(base: str, fetched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a file are hashed with little more than one reading of it (this store has no content tags)."""
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", 20 * MB)
    path = put(f"{base}/a.jsonl", b'{"_id": "a", "text": "b"}\n' * (60 * MB // 26))
    assert len(splits(CorpusConfig(path=path), storage.HashCache())) == 3
    assert sum(fetched) < 60 * MB + 5 * storage.CHUNK_BYTES
