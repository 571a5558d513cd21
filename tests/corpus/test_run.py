"""TREC runs: the best lines per query equal a plain sort, whatever the batches; malformed lines are named."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pytest

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.corpus import run
from raymine.corpus.ids import id_buckets

NUM_BUCKETS = 3
Line = tuple[str, str, float]


def read(tmp_path: Path, path: Path, k: int = 3, blocks: tuple[str, ...] = ("abc", "de")) -> Record:
    paths = []
    for number, ids in enumerate(blocks):
        paths.append(f"{tmp_path}/queries-{number}.parquet")
        storage.write_table(paths[-1], schemas.query_table(list(ids), list(ids)))
    stage = run.ReadRun(NUM_BUCKETS, k)
    return stage(Task("key", {"path": str(path), "queries": paths}, f"{tmp_path}/run"))


def lines_of(record: Record) -> list[tuple[object, ...]]:
    """The rows in the order of (query_row, line); checks their buckets."""
    assert not record.problems
    rows: list[tuple[object, ...]] = []
    for bucket in range(NUM_BUCKETS):
        found = schemas.check(storage.read_bucket(record.outputs[0].path, bucket), schemas.RUN_LINES)
        assert set(id_buckets(found["doc_id"], NUM_BUCKETS).tolist()) <= {bucket}
        rows += [tuple(row.values()) for row in found.to_pylist()]
    return sorted(rows, key=lambda row: (row[0], row[3]))  # type: ignore[no-any-return]


def random_lines(seed: int, num_lines: int = 200) -> list[Line]:
    """Queries in no order, repeated documents, many equal scores; query f is not mined for."""
    generator = random.Random(seed)
    return [
        (generator.choice("abcdf"), f"d{generator.randrange(12)}", generator.randrange(-6, 6) / 2)
        for _ in range(num_lines)
    ]


def best(lines: list[Line], k: int) -> list[tuple[object, ...]]:
    """The oracle: sort a query's lines by score, the earlier line first; each document once; the first k."""
    kept: list[tuple[object, ...]] = []
    for query_row, query_id in enumerate("abcde"):
        own = [(-score, line, doc_id) for line, (q, doc_id, score) in enumerate(lines, 1) if q == query_id]
        seen: dict[str, tuple[object, ...]] = {}
        for negated, line, doc_id in sorted(own):
            seen.setdefault(doc_id, (query_row, doc_id, -negated, line))
        kept += list(seen.values())[:k]
    return sorted(kept, key=lambda row: (row[0], row[3]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_lines_of_each_query_are_kept(tmp_path: Path, seed: int, k: int) -> None:
    """By score alone: the rank column says the opposite here."""
    lines = random_lines(seed)
    path = tmp_path / "run.txt"
    path.write_text("".join(f"{q} Q0 {d} {int(s * 2)} {s} tag\n" for q, d, s in lines))
    record = read(tmp_path, path, k)
    assert lines_of(record) == best(lines, k)
    assert record.info == {
        "num_lines": len(lines),
        "num_lines_of_other_queries": sum(q == "f" for q, _, _ in lines),
        "num_queries_without_lines": 1,
    }


def test_batches_and_partitions_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines from batches of a few lines and from partitions of a single query."""
    lines = random_lines(7, 400)
    path = tmp_path / "run.txt.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f"{q}\tQ0\t{d}\t0\t{s:.3e}\ttag\n" for q, d, s in lines)
    whole = lines_of(read(tmp_path, path))
    monkeypatch.setattr(run, "BATCH_LINES", 1)
    monkeypatch.setattr(run, "PARTITION_LINES", 3)
    monkeypatch.setattr("raymine.corpus.lines.READ_BYTES", 64)
    assert lines_of(read(tmp_path, path)) == whole == best(lines, 3)


def test_blank_lines_are_counted_but_not_read(tmp_path: Path) -> None:
    """Line numbers stay those of the file."""
    (tmp_path / "run").write_text("\r\na Q0 d 1 2.5 t\r\n\n  \nb Q0 d 1 -1 t")
    assert lines_of(read(tmp_path, tmp_path / "run")) == [(0, "d", 2.5, 2), (1, "d", -1.0, 5)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a Q0 d 1 2.5", "5 columns, expected `query Q0 document rank score tag`"),
        ("a Q0 d 1 2.5 my tag", "7 columns, expected"),
        ("a Q0 d 1 high t", "'high' is no finite score, expected"),
        ("a Q0 d 1 nan t", "'nan' is no finite score"),
        ("a Q0 d 1 1e39 t", "'1e39' is no finite score"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, expected: str) -> None:
    """File and line, what came and what was expected."""
    path = tmp_path / "run.txt"
    path.write_text(f"a Q0 d 1 2.5 t\n{line}\na Q0 d 1 2.5 t\n")
    (problem,) = read(tmp_path, path).problems
    assert problem.startswith(f"{path}:2: {expected}")


def test_a_run_of_other_queries_is_a_problem(tmp_path: Path) -> None:
    """Its candidates would be empty."""
    path = tmp_path / "run.txt"
    path.write_text("p Q0 d 1 2.5 t\n")
    assert read(tmp_path, path).problems == [f"{path}: none of its 1 lines is of a query that is mined for"]


def test_an_empty_or_missing_run_is_a_problem(tmp_path: Path) -> None:
    """Not an empty source."""
    (tmp_path / "run.txt").write_text("")
    assert read(tmp_path, tmp_path / "run.txt").problems == [
        f"{tmp_path / 'run.txt'}: none of its 0 lines is of a query that is mined for"
    ]
    assert "no such file" in read(tmp_path, tmp_path / "missing").problems[0]


def test_best_lines_of_nothing_is_nothing() -> None:
    """An empty table keeps its columns."""
    empty = schemas.RUN_LINES.empty_table()
    assert run.best_lines(empty, 3) == empty
    assert pa.types.is_float32(empty.schema.field("score").type)
