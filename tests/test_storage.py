"""Shards behave alike on a local path, a file:// URL, in memory and on S3 (moto's server)."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray_helpers
from hypothesis import given
from hypothesis import strategies as st

from raymine import storage
from raymine.storage import HashCache, Shard, join

TABLE = pa.table({"row": pa.array([0, 1, 2], pa.int64()), "text": pa.array(["a", "b", "c"], pa.large_string())})
PAIRS = pa.schema([("query_row", pa.int64()), ("score", pa.float32())])


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with ray_helpers.s3_bucket() as url:
        yield url


@pytest.fixture(params=["path", "file", "memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on each kind of filesystem."""
    if request.param == "s3":
        return join(request.getfixturevalue("bucket"), uuid.uuid4().hex)
    return {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{uuid.uuid4().hex}"}[
        request.param
    ]


def test_a_table_comes_back_as_it_was(base: str) -> None:
    """Values, types and columns; the shard tells path, rows, bytes and checksum of the file that lies there."""
    shard = storage.write_table(join(base, "a", "one.parquet"), TABLE)
    content = storage.read_bytes(shard.path)
    assert shard == Shard(join(base, "a", "one.parquet"), 3, len(content), storage.sha256_of(shard.path))
    assert storage.read_table(shard.path).equals(TABLE)
    assert storage.read_table(shard.path, ["text"]).column_names == ["text"]
    with storage.parquet_file(shard.path) as file:
        assert file.metadata.num_rows == 3


def test_columns_of_every_type_come_back(tmp_path: Path) -> None:
    """Numbers are packed as numbers, texts by a dictionary, nested or not; what has neither stays plain."""
    columns = {
        "int": pa.array([-(2**63), None, 2**63 - 1], pa.int64()),
        "byte": pa.array([0, 255, 7], pa.uint8()),
        "unsigned": pa.array([2**64 - 1, 0, 1], pa.uint64()),
        "float": pa.array([1.5, -0.0, None], pa.float32()),
        "half": pa.array(np.array([1, 2, 3], np.float16)),
        "text": pa.array(["a", None, "a"]),
        "texts": pa.array([["x", "x"], [], None]),
        "scores": pa.array([[[1.5]], [], [None]]),
        "vector": pa.FixedSizeListArray.from_arrays(np.arange(6, dtype=np.float32), 2),
        "struct": pa.array([{"p": 1, "q": "z"}, {"p": None, "q": "z"}, None]),
        "code": pa.array(["u", "v", "u"]).dictionary_encode(),
        "hash": pa.array([b"0", b"1", b"2"], pa.binary(1)),
        "flag": pa.array([True, None, False]),
        "time": pa.array([1, 2, 3], pa.timestamp("us")),
        "a.b": pa.array([1, 2, 3]),
    }
    table = pa.table(columns)
    storage.write_table(str(tmp_path / "all.parquet"), table)
    with storage.parquet_file(str(tmp_path / "all.parquet")) as file:
        assert file.read().equals(table)
        group = file.metadata.row_group(0)
        found = [(group.column(number).path_in_schema, group.column(number).encodings) for number in range(16)]
    packed = {"DELTA_BINARY_PACKED": "number", "BYTE_STREAM_SPLIT": "float", "RLE_DICTIONARY": "text"}
    kinds = {name: {packed[each] for each in encodings if each in packed} for name, encodings in found}
    assert {name for name in kinds if kinds[name] == {"number"}} == {"int", "byte", "unsigned", "struct.p", "a.b"}
    assert {name for name in kinds if kinds[name] == {"float"}} == {
        "float",
        "scores.list.element.list.element",
        "vector.list.element",
    }
    assert {name for name in kinds if kinds[name] == {"text"}} == {"text", "texts.list.element", "struct.q", "code"}


def test_a_stream_of_tables_is_a_row_group_each(base: str) -> None:
    """Row groups in the order of the stream; nothing at all makes an empty table of the schema."""
    shard = storage.write_tables(join(base, "many.parquet"), TABLE.schema, iter([TABLE, TABLE.slice(0, 1)]))
    with storage.parquet_file(shard.path) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 1]
    empty = storage.write_tables(join(base, "none.parquet"), TABLE.schema, [])
    assert (empty.num_rows, storage.read_table(empty.path).schema) == (0, TABLE.schema)


def test_lines_are_counted(base: str) -> None:
    """A file of byte strings has a row for each."""
    shard = storage.write_file(join(base, "a.jsonl"), iter([b"{}\n", b"[]\n"]))
    assert (shard.num_rows, storage.read_bytes(shard.path)) == (2, b"{}\n[]\n")


def test_an_arrow_file_is_the_table_and_its_footer_says_its_size(base: str) -> None:
    """Values, types and metadata; of an empty table too. A local file's arrays lie in the mapped file."""
    for name, table in (("some", TABLE.replace_schema_metadata({"model": "m"})), ("none", TABLE.slice(0, 0))):
        shard = storage.write_arrow(join(base, f"{name}.arrow"), table)
        assert shard.num_rows == table.num_rows
        found = storage.read_arrow(shard.path)
        assert found.equals(table)
        schema, num_rows = storage.arrow_schema(shard.path)
        assert (schema, num_rows) == (table.schema, table.num_rows)
        assert schema.metadata.get(b"model") == (table.schema.metadata or {}).get(b"model")
    if storage.is_local(base):
        before = pa.total_allocated_bytes()
        large = pa.table({"n": pa.array(range(1_000_000))})
        path = storage.write_arrow(join(base, "large.arrow"), large).path
        del large
        found = storage.read_arrow(path)
        assert found["n"][999_999].as_py() == 999_999
        assert pa.total_allocated_bytes() - before < 1_000_000


def test_buckets_are_read_one_by_one(base: str) -> None:
    """Bucket i of every file, one after the other; empty buckets and no files at all give empty tables."""
    paths = [join(base, "0.arrow"), join(base, "1.arrow")]
    for number, path in enumerate(paths):
        rows = [[number], [], [7, 8 + number]]
        tables = [pa.table({"query_row": part, "score": [0.5] * len(part)}, PAIRS) for part in rows]
        assert storage.write_buckets(path, PAIRS, tables).num_rows == 3
    read = [storage.read_buckets(paths, bucket, PAIRS)["query_row"].to_pylist() for bucket in range(3)]
    assert read == [[0, 1], [], [7, 8, 7, 9]]
    assert storage.read_buckets([], 0, PAIRS).equals(PAIRS.empty_table())


def test_files_are_listed_under_the_names_that_read_them(base: str) -> None:
    """Sorted, from every depth, by suffix; what was written a moment ago is there, what was removed is not."""
    assert storage.list_files(base) == []
    paths = [join(base, name) for name in ("b.json", "a/c.json", "a/d/e.parquet")]
    for path in paths:
        storage.write_json(path, {"path": path})
        assert path in storage.list_files(base)
    assert storage.list_files(base) == sorted(paths)
    assert storage.list_files(base, ".json") == sorted(paths[:2])
    assert storage.list_files(base, (".parquet", ".arrow")) == paths[2:]
    assert [storage.read_json(path)["path"] for path in storage.list_files(base)] == sorted(paths)
    storage.remove_folder(join(base, "a"))
    assert storage.list_files(base) == paths[:1]
    storage.remove_folder(join(base, "a"))


def test_what_is_there_is_known(base: str) -> None:
    """Files and folders are found as soon as they are written, and told apart."""
    path = join(base, "folder", "file.json")
    assert not storage.exists(path)
    storage.write_json(path, [])
    assert storage.exists(path)
    assert storage.is_folder(join(base, "folder"))
    assert not storage.is_folder(path)
    assert not storage.is_folder(join(base, "other"))


def test_a_file_is_replaced_whole(base: str) -> None:
    """The second write of a path is what every read and listing sees, longer or shorter."""
    path = join(base, "file.json")
    for value in ({"n": 1}, {"n": list(range(1000))}, {}):
        storage.write_json(path, value)
        assert storage.list_files(base) == [path]
        assert storage.read_json(path) == value


def test_an_exception_while_writing_leaves_nothing(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the file nor a temporary one is left; a file that was there stays as it was."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    storage.write_bytes(join(base, "old.json"), b"1")

    def broken() -> Iterator[pa.Table]:
        yield TABLE
        raise KeyError("broken")

    for name in ("old.json", "new.json"):
        with pytest.raises(KeyError), storage.writing(join(base, name)) as path:
            path.write_bytes(b"half")
            raise KeyError("broken")
        with pytest.raises(KeyError):
            storage.write_tables(join(base, name), TABLE.schema, broken())
    assert storage.list_files(base) == [join(base, "old.json")]
    assert storage.read_bytes(join(base, "old.json")) == b"1"
    assert list(temporary.iterdir()) == []


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    """A temporary file of a process that died is no output."""
    with storage.writing(str(tmp_path / "a.json")) as temporary:
        temporary.write_bytes(b"half")
        assert storage.list_files(str(tmp_path)) == []


def test_a_local_copy_has_the_same_content(base: str) -> None:
    """Of a file, and of a folder with folders in it."""
    names = ("model/config.json", "model/1_Pooling/config.json")
    for name in names:
        storage.write_bytes(join(base, name), name.encode())
    with storage.local_copy(join(base, names[0])) as file:
        assert file.read_bytes() == names[0].encode()
    with storage.local_copy(join(base, "model")) as folder:
        assert [(folder.parent / name).read_bytes() for name in names] == [name.encode() for name in names]


def test_a_content_hash_follows_the_content(base: str) -> None:
    """Same content, same hash, from a cache or not; other content of the same length, another hash."""
    path, kept = join(base, "data.jsonl"), join(base, "cache", "hashes.json")
    storage.write_bytes(path, b"one")
    first = HashCache(kept).content_hash(path)
    assert HashCache(kept).content_hash(path) == HashCache().content_hash(path) == first
    cache = HashCache(kept)
    storage.list_files(base)
    storage.write_bytes(path, b"two")
    assert cache.content_hash(path) != first
    storage.write_bytes(path, b"one")
    assert HashCache().content_hash(path) == first


def test_another_process_s_writes_to_s3_are_seen(bucket: str) -> None:
    """A filesystem that lists is no cache: content, length and hash are those of the object as it is now."""
    import boto3

    path = join(bucket, "shared", "marker.json")
    storage.write_json(path, {"n": 1})
    known = HashCache().content_hash(path)
    assert storage.list_files(join(bucket, "shared")) == [path]
    client = boto3.client("s3")
    client.put_object(Bucket="bucket", Key="shared/marker.json", Body=b'{"n": [1, 2, 3, 4, 5, 6, 7]}')
    assert HashCache().content_hash(path) != known
    assert storage.read_json(path) == {"n": [1, 2, 3, 4, 5, 6, 7]}
    client.delete_object(Bucket="bucket", Key="shared/marker.json")
    assert not storage.exists(path)
    assert storage.list_files(join(bucket, "shared")) == []


def test_an_object_store_s_own_tag_is_its_content_hash(bucket: str) -> None:
    """The content of an S3 object is not read to hash it."""
    storage.write_bytes(join(bucket, "tagged"), b"content")
    tag = "9a0364b9e99bb480dd25e1f0284c8555"  # MD5 of "content"
    assert HashCache().content_hash(join(bucket, "tagged")) == f"etag:{tag}:7"


@pytest.mark.parametrize(
    ("path", "base", "expected"),
    [
        pytest.param("/a/b", "/c", "/a/b", id="absolute"),
        pytest.param("b.jsonl", "/a", "/a/b.jsonl", id="beside the config"),
        pytest.param("../b.jsonl", "/a/c", "/a/b.jsonl", id="above the config"),
        pytest.param("b.jsonl", "s3://x/c", "s3://x/c/b.jsonl", id="beside a config in a bucket"),
        pytest.param("s3://x/b/", "/a", "s3://x/b", id="a URL"),
        pytest.param("s3://x", "/a", "s3://x", id="a bucket"),
    ],
)
def test_absolute_paths(path: str, base: str, expected: str) -> None:
    """Relative to the base; URLs as they are."""
    assert storage.absolute(path, base) == expected


@given(
    starts=st.lists(st.integers(1, 50), max_size=5, unique=True).map(lambda found: [0, *sorted(found)]),
    rows=st.lists(st.integers(0, 60), max_size=30),
)
def test_split_by_puts_each_row_into_its_bucket(starts: list[int], rows: list[int]) -> None:
    """Bucket i has the rows from starts[i] to starts[i + 1], in their former order."""
    table = pa.table({"row": pa.array(rows, pa.int64()), "place": pa.array(range(len(rows)), pa.int64())})
    parts = list(storage.split_by(np.array(rows, dtype=np.int64), starts, table))
    ends = [*starts[1:], 10**9]
    expected = [
        [(row, place) for place, row in enumerate(rows) if start <= row < end]
        for start, end in zip(starts, ends, strict=True)
    ]
    assert [list(zip(*part.to_pydict().values(), strict=True)) for part in parts] == expected
