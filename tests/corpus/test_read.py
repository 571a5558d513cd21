"""ReadDocuments and ReadQueries: every format gives the same shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import Row, arrow_table, jsonl_bytes, read, write_hf, write_jsonl, write_parquet

from raymine import schemas, storage
from raymine.config import CorpusConfig, QueriesConfig
from raymine.corpus import parquet
from raymine.corpus import read as reading_module
from raymine.corpus import splits as splits_module
from raymine.corpus.read import splits
from raymine.errors import InputError

ROWS: list[Row] = [
    {"_id": "d0", "title": "A title", "text": "a text"},
    {"_id": "d1", "title": "", "text": " no title "},
    {"_id": "d2", "title": None, "text": " as it is "},
    {"_id": "d3", "title": "Only a title", "text": ""},
    {"_id": "d4", "title": "", "text": ""},
    {"_id": "d5", "title": None, "text": None},
    {"_id": "d6", "title": "汶川", "text": "emoji 😀, \u2028 and \x00"},
]
TEXTS = [
    "A title a text",
    "no title",
    " as it is ",
    "Only a title",
    "",
    "",
    "汶川 emoji 😀, \u2028 and \x00",
]
FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "jsonl-folder", "parquet", "parquet-folder", "beir", "beir.gz", "hf"]


def write_as(format_: str, folder: Path, rows: list[Row], kind: str = "corpus") -> str:
    """Writes rows in a format; the path that a config would name."""
    half = len(rows) // 2
    if format_.startswith("beir"):
        write_jsonl(folder / f"{kind}.jsonl{format_.removeprefix('beir')}", rows)
        return str(folder)
    if format_ == "jsonl-folder":
        write_jsonl(folder / "part-0.jsonl", rows[:half])
        write_jsonl(folder / "part-1.jsonl.gz", rows[half:])
        write_jsonl(folder / ".hidden.jsonl", [{"broken": 1}])
        return str(folder)
    if format_.startswith("jsonl"):
        return write_jsonl(folder / f"rows.{format_}", rows)
    table = arrow_table(rows)
    if format_ == "hf":
        return write_hf(folder, table)
    if format_ == "parquet-folder":
        write_parquet(folder / "a" / "0.parquet", table.slice(0, half), row_group_size=2)
        write_parquet(folder / "b" / "0.parquet", table.slice(half))
        return str(folder)
    return write_parquet(folder / "rows.parquet", table, row_group_size=3)


@pytest.mark.parametrize("format_", FORMATS)
def test_documents(format_: str, tmp_path: Path) -> None:
    """Title, blank, text, stripped; a row without a title keeps its text; null is empty; empty ones are counted."""
    source = read(CorpusConfig(path=write_as(format_, tmp_path / "in", ROWS)), tmp_path / "out")
    assert source.problems == []
    assert source.table.equals(schemas.corpus_table([row["_id"] for row in ROWS], TEXTS))
    assert sum(record.info["num_empty"] for record in source.records) == 2
    assert [record.info["dim"] for record in source.records] == [None] * len(source.records)
    assert sum(record.rows_in for record in source.records) == len(ROWS)
    assert sum(record.rows_out for record in source.records) == len(ROWS)
    assert all(record.bytes_in > 0 for record in source.records)


@pytest.mark.parametrize("format_", FORMATS)
def test_queries(format_: str, tmp_path: Path) -> None:
    """Queries are read alike; a BEIR folder gives its queries."""
    rows = [{"_id": f"q{number}", "text": f"what is {number}?"} for number in range(5)]
    source = read(QueriesConfig(path=write_as(format_, tmp_path / "in", rows, "queries")), tmp_path / "out")
    assert source.problems == []
    assert source.table.equals(schemas.query_table([row["_id"] for row in rows], [row["text"] for row in rows]))


TEXT = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {"_id": st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), "title": TEXT, "text": TEXT}
    ),
    min_size=2,
    max_size=30,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=DOCUMENTS, shard_documents=st.integers(1, 40))
def test_formats_agree(rows: list[Row], shard_documents: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the texts, every format gives the same ids, texts and hashes, in the order of the rows."""
    folder = tmp_path_factory.mktemp("formats")
    expected = [
        (row["text"] or "") if row["title"] is None else f"{row['title']} {row['text'] or ''}".strip() for row in rows
    ]
    for format_ in FORMATS:
        config = CorpusConfig(path=write_as(format_, folder / format_, rows), shard_documents=shard_documents)
        source = read(config, folder / f"out-{format_}")
        assert source.table.equals(schemas.corpus_table([row["_id"] for row in rows], expected)), format_
        assert max(table.num_rows for table in source.tables) <= shard_documents


def test_shards_have_at_most_shard_documents_rows(tmp_path: Path) -> None:
    """A file is cut into full shards and a rest, in order."""
    rows = [{"_id": number, "text": f"text {number}"} for number in range(25)]
    config = CorpusConfig(path=write_jsonl(tmp_path / "a.jsonl", rows), shard_documents=10)
    source = read(config, tmp_path / "out")
    assert [table.num_rows for table in source.tables] == [10, 10, 5]
    assert source.table["doc_id"].to_pylist() == [str(number) for number in range(25)]
    assert [Path(shard.path).name for shard in source.records[0].outputs] == [
        "0-00000.parquet",
        "0-00001.parquet",
        "0-00002.parquet",
    ]


def test_long_documents_end_a_shard_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard never gathers much more than MAX_SHARD_CHARS, so that memory stays flat."""
    monkeypatch.setattr(reading_module, "MAX_SHARD_CHARS", 1000)
    monkeypatch.setattr(parquet, "MAX_BATCH_ROWS", 4)
    rows = [{"_id": str(number), "text": "x" * 200} for number in range(20)]
    source = read(CorpusConfig(path=write_parquet(tmp_path / "a.parquet", arrow_table(rows))), tmp_path / "out")
    assert [table.num_rows for table in source.tables] == [8, 8, 4]


def test_rows_may_differ_in_their_other_keys(tmp_path: Path) -> None:
    """Only the named columns matter; an id may be a number in one row and a string in the next."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"_id": 7, "text": "a", "x": [1]}\n\n{"text": "b", "_id": "7b", "x": {"y": 1}, "title": "T"}\r\n')
    source = read(CorpusConfig(path=str(path)), tmp_path / "out")
    assert source.table.equals(schemas.corpus_table(["7", "7b"], ["a", "T b"]))


def test_integer_ids_become_their_decimal_strings(tmp_path: Path) -> None:
    """In Parquet as in jsonl, large ones too."""
    ids = [0, -3, 2**60]
    table = pa.table({"_id": pa.array(ids, pa.int64()), "text": ["a", "b", "c"]})
    source = read(CorpusConfig(path=write_parquet(tmp_path / "a.parquet", table)), tmp_path / "out")
    assert source.table["doc_id"].to_pylist() == ["0", "-3", str(2**60)]


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_every_arrow_string_type_is_text(kind: pa.DataType, tmp_path: Path) -> None:
    """Old Parquet files mark their text as binary."""
    texts = ["a", "é", "a", None]
    plain = [text.encode() if text and "binary" in str(kind) else text for text in texts]
    column = pa.array(plain, pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(plain, kind)
    table = pa.table({"_id": ["0", "1", "2", "3"], "text": column})
    source = read(CorpusConfig(path=write_parquet(tmp_path / "a.parquet", table)), tmp_path / "out")
    assert source.table["text"].to_pylist() == ["a", "é", "a", ""]


def test_other_column_names(tmp_path: Path) -> None:
    """The config's names are taken, and no others."""
    rows = [{"_id": "wrong", "text": "wrong", "docid": "a", "body": "b", "headline": "H"}]
    config = CorpusConfig(
        path=write_jsonl(tmp_path / "a.jsonl", rows), id_column="docid", text_column="body", title_column="headline"
    )
    assert read(config, tmp_path / "out").table.equals(schemas.corpus_table(["a"], ["H b"]))
    without = config.model_copy(update={"title_column": None})
    assert read(without, tmp_path / "out").table.equals(schemas.corpus_table(["a"], ["b"]))


def test_a_dataset_saved_by_datasets(tmp_path: Path) -> None:
    """What `datasets` itself writes is read, in its shards and order."""
    datasets = pytest.importorskip("datasets")
    rows = [{"_id": f"d{number}", "title": None, "text": f"text {number}"} for number in range(30)]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).select(range(29, -1, -1)).save_to_disk(str(tmp_path / "hf"), num_shards=3)
    source = read(CorpusConfig(path=str(tmp_path / "hf")), tmp_path / "out")
    assert source.table["doc_id"].to_pylist() == [f"d{number}" for number in range(29, -1, -1)]


def test_reading_imports_no_datasets() -> None:
    """`datasets` takes a second to import and may not be installed."""
    heavy = ("datasets", "torch", "ray", "zstandard")
    code = f"import sys, raymine.corpus.read; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_remote_sources(tmp_path: Path) -> None:
    """A URL is read as a local path is: files, BEIR folders, Parquet."""
    base = "memory://test-read"
    local = write_parquet(tmp_path / "a.parquet", arrow_table(ROWS))
    for name, content in (("beir/corpus.jsonl", jsonl_bytes(ROWS)), ("pq/a.parquet", Path(local).read_bytes())):
        with fsspec.open(f"{base}/{name}", "wb") as file:
            file.write(content)
    for path in (f"{base}/beir", f"{base}/beir/corpus.jsonl", f"{base}/pq", f"{base}/pq/a.parquet"):
        assert read(CorpusConfig(path=path), tmp_path / "out").table["text"].to_pylist() == TEXTS


def test_a_parquet_file_is_split_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring row groups up to SPLIT_BYTES make a split; all rows are there, once, in order."""
    table = pa.table({"_id": [str(n) for n in range(100)], "text": [f"text {n}" for n in range(100)]})
    path = write_parquet(tmp_path / "a.parquet", table, row_group_size=10)
    monkeypatch.setattr(parquet, "SPLIT_BYTES", 700)
    found = splits(CorpusConfig(path=path), storage.HashCache())
    assert 1 < len(found) < 10
    assert [split["row_groups"][0] for split in found] == [0] + [split["row_groups"][1] for split in found[:-1]]
    assert sum(split["num_rows"] for split in found) == 100
    source = read(CorpusConfig(path=path), tmp_path / "out")
    assert source.table["doc_id"].to_pylist() == [str(n) for n in range(100)]


def _identity(split: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in split.items() if key not in ("path", "vectors")}


def test_splits_are_known_by_their_content(tmp_path: Path) -> None:
    """A moved file is the same split, an appended file leaves the others as they were, and copies are told apart."""
    for name in ("a", "b"):
        write_jsonl(tmp_path / name / "0.jsonl", ROWS)
    cache = storage.HashCache()
    (first,), (second,) = (splits(CorpusConfig(path=str(tmp_path / name)), cache) for name in ("a", "b"))
    assert first["path"] != second["path"] and _identity(first) == _identity(second)
    write_jsonl(tmp_path / "a" / "1.jsonl", ROWS[:2])
    write_jsonl(tmp_path / "a" / "2.jsonl", ROWS)
    appended = splits(CorpusConfig(path=str(tmp_path / "a")), cache)
    assert _identity(appended[0]) == _identity(first)
    assert len({str(_identity(split)) for split in appended}) == 3


def test_the_explicit_format_wins(tmp_path: Path) -> None:
    """A name that tells nothing is read as the config says."""
    path = write_jsonl(tmp_path / "rows.data", ROWS)
    with pytest.raises(InputError, match="its name does not tell its format"):
        splits(CorpusConfig(path=path), storage.HashCache())
    assert read(CorpusConfig(path=path, format="jsonl"), tmp_path / "out").table["text"].to_pylist() == TEXTS


def test_files_without_rows_are_left_out(tmp_path: Path) -> None:
    """Distributed writers leave empty part files; only a source that is empty as a whole is an error."""
    write_jsonl(tmp_path / "in" / "0.jsonl", [])
    write_jsonl(tmp_path / "in" / "1.jsonl.gz", [])
    write_jsonl(tmp_path / "in" / "2.jsonl", ROWS)
    assert read(CorpusConfig(path=str(tmp_path / "in")), tmp_path / "out").table.num_rows == len(ROWS)


def test_many_small_files_are_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read one after the other into the same shards; large files stay alone, and few files as they are."""
    rows = [{"_id": str(number), "text": f"text {number}"} for number in range(120)]
    for number in range(40):
        suffix = ".jsonl.gz" if number % 3 else ".jsonl"
        write_jsonl(tmp_path / "in" / f"{number:03d}{suffix}", rows[3 * number : 3 * number + 3])
    config = CorpusConfig(path=str(tmp_path / "in"), shard_documents=25)
    alone = read(config, tmp_path / "alone")
    assert len(alone.records) == len(alone.tables) == 40
    monkeypatch.setattr(splits_module, "MANY_SPLITS", 39)
    joined = read(config, tmp_path / "joined")
    assert [table.num_rows for table in joined.tables] == [25] * 4 + [20]
    assert joined.table.equals(alone.table)
    assert joined.records[0].bytes_in == sum(record.bytes_in for record in alone.records)
    monkeypatch.setattr(splits_module, "JOINED_BYTES", 1000)
    groups = splits(config, storage.HashCache())
    assert 2 < len(groups) < 20 and max(split["num_bytes"] for split in groups) <= 1000
    write_jsonl(tmp_path / "in" / "040.jsonl", rows)
    added = splits(config, storage.HashCache())
    assert added[: len(groups) - 1] == groups[:-1]
    monkeypatch.setattr(splits_module, "SMALL_BYTES", 1000)
    assert splits(config, storage.HashCache())[-1]["path"].endswith("040.jsonl")
    assert read(config, tmp_path / "large").table["doc_id"].to_pylist() == [row["_id"] for row in [*rows, *rows]]


def test_faults_of_joined_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file's are found, under its own name and line, and nothing is taken for whole."""
    monkeypatch.setattr(splits_module, "MANY_SPLITS", 1)
    good = b'{"_id": "a", "text": "b"}\n'
    for name, content in (("0", good + b"x"), ("1", good * 2), ("2", b'{"id": 1}\n'), ("3", good + b"\xff\n")):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    found = read(CorpusConfig(path=str(tmp_path)), tmp_path / "out").records
    assert len(found) == 1 and found[0].outputs == []
    assert [line.split(": ")[0] for line in found[0].problems] == [
        f"{tmp_path}/{place}" for place in ("0.jsonl:2", "2.jsonl:1", "3.jsonl:2")
    ]
