"""Ids to rows: the joins equal dictionaries, and every id at fault is named with its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import CorpusConfig
from raymine.corpus.ids import (
    IndexIds,
    JoinPositives,
    ResolveIds,
    duplicate_faults,
    id_buckets,
    id_hashes,
    id_rows,
    join_positives,
    repeated,
    resolve,
)

NUM_BUCKETS = 3
names = st.lists(st.text(max_size=4), max_size=30)


def table(schema: pa.Schema, rows: list[tuple[object, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def fold_hash(doc_id: str) -> bytes:
    return schemas.text_hash(doc_id)


@given(ids=names, begin=st.integers(0, 5))
def test_the_hash_of_an_id_depends_on_the_id_alone(ids: list[str], begin: int) -> None:
    """Not on the ids beside it, on slices, chunks or the width of offsets."""
    alone = [int(id_hashes(pa.array([name], pa.string()))[0]) for name in ids]
    assert id_hashes(pa.array(ids, pa.string())).tolist() == alone
    assert id_hashes(pa.array(ids, pa.large_string()).slice(begin)).tolist() == alone[begin:]
    chunked = pa.chunked_array([ids[:begin], ids[begin:]], pa.string())
    assert id_hashes(chunked).tolist() == alone


def test_the_hash_is_the_same_on_every_machine() -> None:
    """Files of an earlier run are joined with those of this one, so these numbers must never change."""
    assert [hex(value) for value in id_hashes(pa.array(["", "a", "doc-1", "é"]))] == [
        "0x0",
        "0xee8c2baf6343e5c3",
        "0x46b67140d2eb4c26",
        "0x6de3061557f23f68",
    ]


def test_hashes_spread_ids_over_buckets() -> None:
    """Numbered ids, the usual ones, fill buckets evenly, and do not collide."""
    ids = pa.array([f"doc{number}" for number in range(64_000)])
    counts = np.bincount(id_buckets(ids, 64), minlength=64)
    assert counts.min() > 850
    assert counts.max() < 1150
    assert len(np.unique(id_hashes(ids))) == len(ids)


@given(ids=names)
def test_repeated_equals_counting(ids: list[str]) -> None:
    """Each id that occurs twice or more, once, in the order met."""
    expected = [name for name in dict.fromkeys(ids) if ids.count(name) > 1]
    assert repeated(pa.array(ids, pa.string())) == expected


@given(ids=st.lists(st.text(max_size=2), unique=True, max_size=20), named=names)
def test_resolve_equals_a_dictionary(ids: list[str], named: list[str]) -> None:
    """Known names get the row of their id, unknown ones are returned; both in order."""
    corpus = table(schemas.CORPUS, [(name, name, fold_hash(name), fold_hash(name)) for name in ids])
    rows = {name: 7 + position for position, name in enumerate(ids)}
    pairs = pa.table({"doc_id": pa.array(named, pa.string()), "number": pa.array(range(len(named)), pa.int64())})
    known, unknown = resolve(pairs, id_rows(corpus, 7))
    found = [tuple(row.values()) for row in known.to_pylist()]
    assert found == [(name, at, rows[name], fold_hash(name)) for at, name in enumerate(named) if name in rows]
    assert unknown["number"].to_pylist() == [at for at, name in enumerate(named) if name not in rows]


judged = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-1, 3), st.booleans()), max_size=30)


@given(rows=judged)
def test_join_positives_equals_plain_python(rows: list[tuple[int, int, int, bool]]) -> None:
    """A pair once, with its highest relevance; relevance 0 is no positive; an excluded pair is never one."""
    excluded = sorted({(q, d) for q, d, _, is_excluded in rows if is_excluded})
    best: dict[tuple[int, int], int] = {}
    for q, d, relevance, _ in rows:
        if relevance > 0 and (q, d) not in excluded:
            best[q, d] = max(relevance, best.get((q, d), 0))
    pairs = table(schemas.RESOLVED_PAIRS, [(*row, fold_hash(str(row[1]))) for row in rows])
    positives, left_out = join_positives(pairs)
    assert positives == table(
        schemas.POSITIVES, [(*pair, best[pair], fold_hash(str(pair[1]))) for pair in sorted(best)]
    )
    assert left_out == table(schemas.EXCLUDED, excluded)


class Corpus:
    """A small corpus of two files, in document shards of two, with its ids indexed."""

    def __init__(self, folder: Path, ids: list[str]) -> None:
        self.folder = folder
        (folder / "docs").mkdir()
        half = len(ids) // 2
        for name, part in (("a", ids[:half]), ("b", ids[half:])):
            lines = "".join(json.dumps({"_id": doc_id, "text": doc_id}) + "\n\n" for doc_id in part)
            (folder / "docs" / f"{name}.jsonl").write_text(lines)
        self.config = CorpusConfig(path=str(folder / "docs"))
        self.id_files = []
        for first in range(0, len(ids), 2):
            path = f"{folder}/corpus-{first}.parquet"
            part = ids[first : first + 2]
            hashes = [fold_hash(doc_id) for doc_id in part]
            storage.write_table(path, table(schemas.CORPUS, list(zip(part, part, hashes, hashes, strict=True))))
            task = Task("key", {"corpus": path, "first_row": first}, f"{folder}/ids-{first}")
            self.id_files.append(IndexIds(NUM_BUCKETS)(task).outputs[0].path)

    def resolve(
        self, pairs: list[tuple[object, ...]], run: list[tuple[object, ...]] | None, starts: list[int]
    ) -> list[Record]:
        storage.write_table(f"{self.folder}/pairs.parquet", table(schemas.JUDGED_PAIRS, pairs))
        runs = []
        if run is not None:
            lines = table(schemas.RUN_LINES, run)
            buckets = id_buckets(lines["doc_id"], NUM_BUCKETS)
            tables = [lines.filter(pa.array(buckets == bucket)) for bucket in range(NUM_BUCKETS)]
            runs = [storage.write_buckets(f"{self.folder}/run.arrow", schemas.RUN_LINES, tables).path]
        stage = ResolveIds(
            self.id_files,
            f"{self.folder}/pairs.parquet",
            runs,
            starts,
            self.config,
            ["q.tsv"],
            ["run.txt"][: len(runs)],
        )
        return [stage(Task("key", {"bucket": h}, f"{self.folder}/resolved-{h}")) for h in range(NUM_BUCKETS)]


def problems_of(records: list[Record]) -> list[str]:
    return sorted(problem for record in records for problem in record.problems)


def test_all_buckets_together_resolve_all_pairs(tmp_path: Path) -> None:
    """Positives, excluded pairs and run lines come out with rows, by query block."""
    ids = [f"d{number}" for number in range(9)]
    row_of = {doc_id: row for row, doc_id in enumerate(ids)}
    generator = np.random.default_rng(0)
    pairs = [(int(q), f"d{d}", 1, bool(e), 0, 1) for q, d, e in generator.integers(0, (6, 9, 2), (30, 3))]
    run = [(int(q), f"d{d}", float(q + d), 1) for q, d in generator.integers(0, (6, 9), (20, 2))]
    records = Corpus(tmp_path, ids).resolve(pairs, run, [0, 2, 5])
    assert not problems_of(records)

    files = [record.outputs[0].path for record in records]
    hits = [storage.read_buckets([r.outputs[1].path for r in records], block, schemas.HITS) for block in range(3)]
    found = sorted(tuple(row.values()) for row in pa.concat_tables(hits).to_pylist())
    assert found == sorted((q, row_of[d], 0, score) for q, d, score, _ in run)
    assert [set(part["query_row"].to_pylist()) for part in hits] == [{0, 1}, {2, 3, 4}, {5}]

    stage = JoinPositives(files)
    excluded = {(q, row_of[d]) for q, d, _, is_excluded, _, _ in pairs if is_excluded}
    positives = {(q, row_of[d]) for q, d, *_ in pairs} - excluded
    joined = [stage(Task("key", {"bucket": block}, f"{tmp_path}/joined-{block}")) for block in range(3)]
    for part, expected in ((0, positives), (1, excluded)):
        tables = pa.concat_tables([storage.read_table(record.outputs[part].path) for record in joined])
        assert list(zip(*tables.select([0, 1]).to_pydict().values(), strict=True)) == sorted(expected)
        if part == 0:
            hashes = [fold_hash(ids[row]) for row in tables["doc_row"].to_pylist()]
            assert schemas.check(tables, schemas.POSITIVES)["fold_hash"].to_pylist() == hashes


def test_duplicate_document_ids_are_named_with_both_places(tmp_path: Path) -> None:
    """The sources are read again to find the lines."""
    corpus = Corpus(tmp_path, ["x", "y", "z", "y"])
    assert problems_of(corpus.resolve([], None, [0])) == [
        f"{tmp_path}/docs/b.jsonl:3: document id 'y' is not unique, it is also at {tmp_path}/docs/a.jsonl:3"
    ]


def test_unknown_documents_are_named_with_their_lines(tmp_path: Path) -> None:
    """In judgements, excluded ones too, and in runs."""
    corpus = Corpus(tmp_path, ["x", "y"])
    pairs = [(0, "x", 1, False, 0, 2), (0, "p", 1, False, 0, 3), (0, "q", 1, True, 0, 4)]
    assert problems_of(corpus.resolve(pairs, [(0, "r", 1.0, 9), (0, "y", 1.0, 10)], [0])) == [
        "q.tsv:3: 'p' is judged, but is not in the corpus",
        "q.tsv:4: 'q' is judged, but is not in the corpus",
        "run.txt:9: 'r' is not in the corpus",
    ]


def test_many_duplicates_are_counted(tmp_path: Path) -> None:
    """Twenty in full, the rest as a number."""
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(f'{{"_id": {number % 23}, "text": "t"}}\n' for number in range(46)))
    lines = duplicate_faults([str(number) for number in range(23)], "document", CorpusConfig(path=str(path)))
    assert lines[0] == f"{path}:24: document id '0' is not unique, it is also at {path}:1"
    assert (len(lines), lines[-1]) == (21, f"{path}: 3 more document ids are not unique")


@pytest.mark.parametrize("config", [None, CorpusConfig(vectors="v.npy")], ids=["text pairs", "vectors"])
def test_duplicates_without_a_place_are_named_all_the_same(config: CorpusConfig | None) -> None:
    """Ids that no file holds have no line."""
    (line,) = duplicate_faults(["a"], "document", config)
    assert line == f"{'text pairs' if config is None else 'v.npy'}: document id 'a' is not unique"
