"""Which queries are kept: against plain dictionaries, through the stage and with its messages."""

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
from raymine.config import QueriesConfig
from raymine.corpus.queries import SelectQueries, reblock, select_queries

Judgement = tuple[str, str, int, bool]
judged = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"), st.integers(-1, 2), st.booleans()), max_size=30
)


def judgements_table(rows: list[Judgement]) -> pa.Table:
    lines = [(*row, int(row[3]), line) for line, row in enumerate(rows, 1)]
    columns = list(zip(*lines, strict=True)) or [()] * 6
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schemas.JUDGEMENTS.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schemas.JUDGEMENTS)


@given(
    queries=st.lists(st.sampled_from("abcd"), unique=True, min_size=1),
    rows=judged,
    texts=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_select_queries_equals_plain_python(queries: list[str], rows: list[Judgement], texts: list[int]) -> None:
    """Kept: queries with a relevant pair that is not excluded; with them go those pairs and their excluded ones.

    What is judged for a query of equal text is excluded, unless it is judged for the query too.
    """
    excluded = {(q, d) for q, d, _, is_excluded in rows if is_excluded}
    positive = [(q, d) for q, d, relevance, is_excluded in rows if relevance > 0 and not is_excluded]
    kept = [q for q in queries if any(pair[0] == q and pair not in excluded for pair in positive)]
    text_of = dict(zip(queries, texts, strict=False))
    found = select_queries(
        pa.array(queries, pa.string()), judgements_table(rows), np.array([text_of[q] for q in queries], np.int64)
    )
    counting = {(q, d) for q, d, relevance, is_excluded in rows if q in queries and (is_excluded or relevance > 0)}
    of_twins = {
        (kept.index(other), d)
        for q, d in counting
        for other in kept
        if other != q and text_of[other] == text_of[q] and (other, d) not in counting
    }
    assert found.is_kept.tolist() == [q in kept for q in queries]
    pairs = schemas.check(found.pairs, schemas.JUDGED_PAIRS).to_pylist()
    added = pairs[len(pairs) - len(of_twins) :]
    assert {(pair["query_row"], pair["doc_id"]) for pair in added} == of_twins
    assert all(pair["excluded"] for pair in added)
    assert pairs[: len(pairs) - len(of_twins)] == [
        {"query_row": kept.index(q), "doc_id": d, "relevance": r, "excluded": e, "file": int(e), "line": line}
        for line, (q, d, r, e) in enumerate(rows, 1)
        if q in kept and (e or (r > 0 and (q, d) not in excluded))
    ]
    unknown = [(line, q) for line, (q, _, r, e) in enumerate(rows, 1) if q not in queries and r > 0 and not e]
    assert list(zip(*found.unknown.select(["line", "query_id"]).to_pydict().values(), strict=True)) == unknown
    assert found.num_positives_excluded == sum(pair in excluded and pair[0] in queries for pair in positive)


@given(sizes=st.lists(st.integers(0, 7), max_size=8), num_rows=st.integers(1, 5))
def test_reblock_only_moves_the_cuts(sizes: list[int], num_rows: int) -> None:
    """Full tables but for the last, rows in order, however the stream was cut."""
    values = iter(range(100))
    tables = [pa.table({"n": pa.array([next(values) for _ in range(size)], pa.int64())}) for size in sizes]
    blocks = [block["n"].to_pylist() for block in reblock(iter(tables), num_rows)]
    whole = list(range(sum(sizes)))
    assert blocks == [whole[begin : begin + num_rows] for begin in range(0, len(whole), num_rows)]


class Files:
    """Queries of two raw shards (with vectors) behind a jsonl file, and judgements."""

    def __init__(self, folder: Path, shards: list[list[str]], rows: list[Judgement]) -> None:
        self.folder = folder
        self.source = folder / "queries.jsonl"
        ids = [query_id for shard in shards for query_id in shard]
        self.source.write_text("".join(json.dumps({"_id": q, "text": q}) + "\n" for q in ids))
        self.paths, self.vector_paths = [], []
        first = 0
        for number, shard in enumerate(shards):
            self.paths.append(f"{folder}/raw-{number}.parquet")
            storage.write_table(self.paths[-1], schemas.query_table(shard, [f"text of {q}" for q in shard]))
            self.vector_paths.append(f"{folder}/raw-{number}.vectors.parquet")
            rows_here = np.arange(len(shard), dtype=np.int64)
            vectors = np.stack([rows_here + first, -rows_here], axis=1).astype(np.float16)
            storage.write_table(self.vector_paths[-1], schemas.vector_table(rows_here, vectors))
            first += len(shard)
        storage.write_table(f"{folder}/judgements.parquet", judgements_table(rows))

    def select(self, block_queries: int = 2, vectors: bool = False, output: str = "out") -> Record:
        config = QueriesConfig(path=str(self.source))
        stage = SelectQueries(block_queries, ["train.tsv", "test.tsv"], config)
        inputs = {
            "queries": self.paths,
            "query_vectors": self.vector_paths if vectors else [],
            "judgements": f"{self.folder}/judgements.parquet",
        }
        return stage(Task("key", inputs, f"{self.folder}/{output}"))


def positive(*query_ids: str) -> list[Judgement]:
    return [(query_id, "x", 1, False) for query_id in query_ids]


def test_kept_queries_lie_in_blocks_in_file_order(tmp_path: Path) -> None:
    """Blocks ignore the raw shards' cuts; vectors follow their queries; the pairs come last."""
    files = Files(tmp_path, [["e", "d", "c"], ["b", "a"]], positive("a", "b", "d", "e"))
    record = files.select(block_queries=3, vectors=True)
    assert not record.problems
    names = [shard.path.rsplit("/", 1)[1] for shard in record.outputs]
    assert names[:2] == ["out-00000.parquet", "out-00001.parquet"]
    assert names[2:] == ["out-00000.vectors.parquet", "out-00001.vectors.parquet", "out-pairs.parquet"]
    blocks = [schemas.check(storage.read_table(shard.path), schemas.QUERIES) for shard in record.outputs[:2]]
    assert [block["query_id"].to_pylist() for block in blocks] == [["e", "d", "b"], ["a"]]
    assert blocks[1] == schemas.query_table(["a"], ["text of a"])
    assert [shard.first_row for shard in record.outputs[:4]] == [0, 3, 0, 3]
    vectors = [storage.read_table(shard.path) for shard in record.outputs[2:4]]
    assert [table["row"].to_pylist() for table in vectors] == [[0, 1, 2], [0]]
    assert [schemas.vector_matrix(table["vector"])[:, 0].tolist() for table in vectors] == [[0, 1, 3], [4]]
    assert vectors[0].schema.equals(schemas.embeddings(2, "float16"))
    pairs = storage.read_table(record.outputs[-1].path)
    assert pairs["query_row"].to_pylist() == [3, 2, 1, 0]
    assert record.info == {
        "num_blocks": 2,
        "num_queries_read": 5,
        "num_without_positive": 1,
        "example_without_positive": ["c"],
        "num_positives_excluded": 0,
    }


def test_the_cuts_of_the_raw_shards_change_no_byte(tmp_path: Path) -> None:
    """The same queries in one raw shard or in five give the same files."""
    rows = positive("a", "c", "d")
    checksums = []
    for number, shards in enumerate([[["a", "b", "c", "d"]], [["a"], ["b"], ["c", "d"]]]):
        (tmp_path / str(number)).mkdir()
        files = Files(tmp_path / str(number), shards, rows)
        checksums.append([shard.sha256 for shard in files.select().outputs])
    assert checksums[0] == checksums[1]


def test_queries_without_a_positive_are_counted(tmp_path: Path) -> None:
    """With five examples at most, in file order; a void positive counts too."""
    files = Files(tmp_path, [list("abcdefgh")], [*positive("h", "a"), ("a", "x", 1, True), ("b", "x", 0, False)])
    info = files.select().info
    assert info["num_without_positive"] == 7
    assert info["example_without_positive"] == list("abcde")
    assert info["num_positives_excluded"] == 1


def test_duplicate_query_ids_are_named_with_both_places(tmp_path: Path) -> None:
    """Across raw shards; the source is read again to find the lines."""
    files = Files(tmp_path, [["a", "b"], ["c", "a"]], positive("b"))
    source = files.source
    assert files.select().problems == [f"{source}:4: query id 'a' is not unique, it is also at {source}:1"]


def test_judged_queries_that_are_not_there_are_named_with_their_lines(tmp_path: Path) -> None:
    """Those of files to exclude may be unknown: the evaluation's queries usually are."""
    files = Files(tmp_path, [["a"]], [*positive("a", "p"), ("q", "x", 1, True), ("r", "x", 0, False)])
    assert files.select().problems == ["train.tsv:2: 'p' is judged, but is not among the queries"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", "x", 0, False)], "(1 queries, 1 judgements)"),
        (
            [("a", "x", 1, False), ("a", "x", 1, True)],
            "(1 queries, 2 judgements, 1 positives void because they are among those to exclude)",
        ),
    ],
)
def test_no_positive_at_all_is_a_problem(tmp_path: Path, rows: list[Judgement], expected: str) -> None:
    """There would be nothing to mine for."""
    assert Files(tmp_path, [["a"]], rows).select().problems == [f"train.tsv: no query has a positive {expected}"]


def test_no_queries_at_all_is_a_problem(tmp_path: Path) -> None:
    """An empty file."""
    files = Files(tmp_path, [], positive("a"))
    assert files.select().problems == [f"{files.source}: no queries"]
