"""A large file is read in parts, a task each: the rows and messages of one reading, however it is cut."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import Source, arrow_table, problems_of, read, write_jsonl

from raymine import schemas, storage
from raymine.config import CorpusConfig, QueriesConfig
from raymine.corpus import hf, jsonl, lines
from raymine.corpus.read import splits
from raymine.errors import InputError

UNCUT = 1 << 60
ROW = st.builds(
    lambda number, text, title: json.dumps({"_id": number, "text": text, **title}, ensure_ascii=False),
    st.integers(0, 10**6),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30) | st.just("long " * 40),
    st.sampled_from([{}, {"title": "Ä 😀"}, {"title": None}]),
)
FAULTS = ["{", "[1]", '{"_id": null, "text": "a"}', '{"_id": "a"}', '{"_id": "a", "text": 5}', '"\\ud800"']
TEXTS = st.lists(st.tuples(ROW | st.sampled_from(["", "  ", "\r"]), st.sampled_from(["\n", "\r\n"])), max_size=25)


def cut(monkeypatch: pytest.MonkeyPatch, span_bytes: int) -> None:
    """Files are cut at every multiple of `span_bytes`, and read in pieces that end anywhere."""
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", span_bytes)
    monkeypatch.setattr(hf, "SPLIT_BYTES", span_bytes)
    monkeypatch.setattr(lines, "READ_BYTES", 11 if span_bytes != UNCUT else 1 << 20)
    monkeypatch.setattr(lines, "BORDER_BYTES", 5)


def contents(path: str) -> list[Any]:
    return [split["content"] for split in splits(CorpusConfig(path=path), storage.HashCache())]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.sampled_from(["", "\ufeff"]),
    text=TEXTS,
    last=ROW,
    faults=st.lists(st.tuples(st.integers(0, 24), st.sampled_from(FAULTS)), max_size=3),
    span_bytes=st.integers(1, 150),
)
def test_parts_of_a_file_are_the_file(
    begin: str,
    text: list[tuple[str, str]],
    last: str,
    faults: list[tuple[int, str]],
    span_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever the lines: blank, long, with CRLF, characters of several bytes, faults, or no newline at the end."""
    folder = tmp_path_factory.mktemp("ranges")
    written = [line + end for line, end in text]
    for position, fault in faults:
        written.insert(position, fault + "\n")
    (folder / "a.jsonl").write_bytes((begin + "".join(written) + last).encode(errors="surrogatepass"))
    config = CorpusConfig(path=str(folder / "a.jsonl"), shard_documents=4)
    found: list[Source] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        for size in (UNCUT, span_bytes):
            cut(monkeypatch, size)
            found.append(read(config, folder / f"out-{size}"))
    assert len(found[0].records) == 1
    if first := [problem for problem in found[0].problems if "no column" in problem]:  # may end a reading
        assert set(first) <= set(found[1].problems)
    else:
        assert sorted(set(found[1].problems)) == sorted(found[0].problems)
    if not found[0].problems:
        assert found[1].table.equals(found[0].table)
        assert sum(record.bytes_in for record in found[1].records) == (folder / "a.jsonl").stat().st_size
        for record in found[1].records:
            assert [shard.num_rows for shard in record.outputs[:-1]] == [4] * (len(record.outputs) - 1)


@pytest.mark.parametrize("base", ["local", "memory"])
def test_parts_cover_the_file_and_begin_with_lines(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is its bytes: from the first line at or after a multiple of the size; the last has half of it at least."""
    content = b"".join(b'{"_id": %d, "text": "%s"}\n' % (number, b"x" * (number % 40)) for number in range(200))
    path = f"{tmp_path}/a.jsonl" if base == "local" else f"memory://{uuid.uuid4().hex}/a.jsonl"
    with fsspec.open(path, "wb") as file:
        file.write(content)
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", 1000)
    found = splits(CorpusConfig(path=path), storage.HashCache())
    ranges = [split["byte_range"] for split in found]
    assert len(ranges) == 9 and ranges[0][0] == 0 and ranges[-1][1] == len(content)
    assert [begin for begin, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    for number, (begin, _) in enumerate(ranges[1:], 1):
        assert begin == content.index(b"\n", number * 1000 - 1) + 1
    assert ranges[-1][1] - ranges[-1][0] >= 500
    assert [split["num_bytes"] for split in found] == [end - begin for begin, end in ranges]
    source = read(CorpusConfig(path=path), tmp_path / "out")
    assert source.table["doc_id"].to_pylist() == [str(number) for number in range(200)]


def test_appended_lines_redo_the_last_part_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part's content is that of its own bytes, and its borders do not move."""
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", 500)
    rows = [{"_id": str(number), "text": f"text {number}"} for number in range(120)]
    before = contents(write_jsonl(tmp_path / "a" / "corpus.jsonl", rows[:60]))
    after = contents(write_jsonl(tmp_path / "a" / "corpus.jsonl", rows))
    assert len(after) > len(before) > 2
    assert after[: len(before) - 1] == before[:-1]
    assert len({*before, *after}) == len(after) + 1
    rows[5]["text"] = "other text"[: len(rows[5]["text"])].ljust(len(rows[5]["text"]))
    changed = contents(write_jsonl(tmp_path / "a" / "corpus.jsonl", rows))
    assert [old == new for old, new in zip(after, changed, strict=True)] == [False] + [True] * (len(after) - 1)


def test_what_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and compressed files, and text that vectors lie beside."""
    rows = [{"_id": str(number), "text": f"text {number}"} for number in range(100)]
    size = len(Path(write_jsonl(tmp_path / "a.jsonl", rows)).read_bytes())
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        write_jsonl(tmp_path / name, rows)
    (tmp_path / "b.jsonl").write_bytes((tmp_path / "a.jsonl.gz").read_bytes())
    np.save(tmp_path / "a.npy", np.ones((100, 4), np.float32))
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", 200)
    for name in ("a.jsonl.gz", "a.jsonl.zst", "b.jsonl"):
        assert len(contents(str(tmp_path / name))) == 1
        assert read(CorpusConfig(path=str(tmp_path / name)), tmp_path / "out").table.num_rows == 100
    beside = CorpusConfig(path=str(tmp_path / "a.jsonl"), vectors=str(tmp_path / "a.npy"))
    assert len(read(beside, tmp_path / "out").records) == 1
    monkeypatch.setattr(jsonl, "SPLIT_BYTES", size * 2 // 3 + 10)
    assert len(contents(str(tmp_path / "a.jsonl"))) == 1


def test_an_endless_line_stays_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No place to cut is looked for beyond what a line may have; its part names the line."""
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 500)
    cut(monkeypatch, 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"_id": "a", "text": "b"}\n' * 20 + "x" * 5000)
    assert len(contents(str(path))) == 6
    (problem,) = problems_of(CorpusConfig(path=str(path)), tmp_path / "out")
    assert problem.startswith(f"{path}:21: the line is longer than")


def test_invalid_utf8_in_a_later_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is that of the file; lines are counted only for the part that has something to say."""
    cut(monkeypatch, 100)
    counted: list[int] = []
    plain = lines.pieces

    def counting(path: str, begin: int, end: int) -> Iterator[bytes]:
        if not begin:
            counted.append(end)
        return plain(path, begin, end)

    monkeypatch.setattr(lines, "pieces", counting)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"_id": "a", "text": "b"}\n' * 36 + b'{"_id": "\xff"}\n' + b'{"_id": "a", "text": "b"}\n' * 36)
    (problem,) = problems_of(CorpusConfig(path=str(path)), tmp_path / "out")
    assert problem.startswith(f"{path}:37: invalid UTF-8")
    assert counted[0] == 104  # the first part, which is read
    assert len(counted) == 2 and 800 < counted[1] <= 36 * 26


def test_a_misspelt_column_is_one_problem_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part finds the same fault, and says it in the same words."""
    cut(monkeypatch, 200)
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": str(n), "txt": "b"} for n in range(50)])
    found = problems_of(CorpusConfig(path=path), tmp_path / "out")
    assert len(found) > 3
    (problem,) = set(found)
    assert problem.startswith(f"{path}:1: no column `text`; got: columns _id, txt")


def test_a_title_may_be_in_any_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts without the title column that was asked for are no fault, as it is no fault of a row."""
    cut(monkeypatch, 100)
    rows: list[dict[str, Any]] = [{"_id": str(number), "text": "a"} for number in range(20)]
    rows[13]["headline"] = "H"
    config = CorpusConfig(path=write_jsonl(tmp_path / "a.jsonl", rows), title_column="headline")
    source = read(config, tmp_path / "out")
    assert source.problems == []
    assert [record.info["present"] for record in source.records].count(["headline"]) == 1
    assert source.table["text"].to_pylist() == ["a"] * 13 + ["H a"] + ["a"] * 6


VECTOR_FAULTS = {
    "another length": ([1.0, 2.0, 3.0], "a vector of length 3, but the first has 2"),
    "zero": ([0.0, 0.0], "the vector is zero"),
    "words": (["a"], "the vector is not a list of numbers"),
    "none": (None, "no vector"),
}


@pytest.mark.parametrize("kind", VECTOR_FAULTS)
def test_vectors_of_a_column(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is held to the length of the file's first vector, and a part may lack texts (and vectors)."""
    cut(monkeypatch, 150)
    rows: list[dict[str, Any]] = [{"_id": str(n), "text": "a" * (n < 20), "v": [n + 1.0, 2.0]} for n in range(40)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    source = read(CorpusConfig(path=path, vector_column="v"), tmp_path / "out")
    assert source.problems == [] and len(source.records) > 5
    vectors = [row for table in source.vectors for row in table["vector"].to_pylist()]
    assert vectors == [[n + 1.0, 2.0] for n in range(20)]
    wrong, expected = VECTOR_FAULTS[kind]
    for row in range(15, 18):
        rows[row]["v"] = wrong
    found = problems_of(CorpusConfig(path=write_jsonl(Path(path), rows), vector_column="v"), tmp_path / "out")
    assert found[0].startswith(f"{path}:16: {expected}")


def test_a_beir_folder_and_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its files are cut."""
    cut(monkeypatch, 300)
    rows = [{"_id": f"q{number}", "text": f"what is {number}?"} for number in range(50)]
    for kind in ("corpus", "queries"):
        write_jsonl(tmp_path / "beir" / f"{kind}.jsonl", rows)
    source = read(QueriesConfig(path=str(tmp_path / "beir")), tmp_path / "out")
    assert len(source.records) > 3
    assert source.table.equals(schemas.query_table([row["_id"] for row in rows], [row["text"] for row in rows]))
    assert len(splits(CorpusConfig(path=str(tmp_path / "beir")), storage.HashCache())) > 3


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "file"])
def test_an_arrow_file_is_cut_by_record_batches(
    is_stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, their order and the row that a message names are those of the whole file."""
    rows = [{"_id": f"d{number}", "text": f"text {number}"} for number in range(100)]
    table = arrow_table([*rows, {"_id": None, "text": "a"}])
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))

    def write(part: pa.Table) -> None:
        make = pa.ipc.new_stream if is_stream else pa.ipc.new_file
        with make(str(folder / "a.arrow"), table.schema) as writer:
            writer.write_table(part, max_chunksize=10)

    cut(monkeypatch, 700)
    write(table.slice(0, 100))
    source = read(CorpusConfig(path=str(folder)), tmp_path / "out")
    assert 2 < len(source.records) < 10
    assert source.table["doc_id"].to_pylist() == [row["_id"] for row in rows]
    write(table)
    (problem,) = problems_of(CorpusConfig(path=str(folder)), tmp_path / "out")
    assert problem.startswith(f"{folder}/a.arrow: row 100: `_id` is no id; got null")


def test_a_file_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are gone are not left out in silence."""
    cut(monkeypatch, 200)
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": str(n), "text": "b"} for n in range(50)])
    last = splits(CorpusConfig(path=path), storage.HashCache())[-1]
    write_jsonl(Path(path), [{"_id": "0", "text": "b"}])
    with pytest.raises(InputError, match="became shorter while it was read"):
        list(lines.blocks(lines.Span(path, *last["byte_range"])))
