"""Precomputed vectors: from .npy files and list columns, with and without texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from reading import Source, arrow_table, problems_of, read, write_hf, write_jsonl, write_parquet

from raymine import schemas, storage
from raymine.config import CorpusConfig, QueriesConfig
from raymine.corpus import batches, parquet
from raymine.corpus import splits as splits_module
from raymine.corpus.read import splits
from raymine.errors import InputError

NUM, DIM = 20, 6
EMPTY = (3, 4, 11)
ROWS = [{"_id": f"d{n}", "text": " " if n in EMPTY else f"text {n}"} for n in range(NUM)]


def make_vectors(dtype: str = "float32", num_rows: int = NUM) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(num_rows, DIM)).astype(dtype)


def save(path: Path, vectors: np.ndarray[Any, Any]) -> str:
    np.save(path, vectors)
    return str(path)


def vectors_of(source: Source) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Dense rows and vectors of all shards."""
    rows, first_row = [], 0
    for table, vectors in zip(source.tables, source.vectors, strict=True):
        rows += [first_row + row for row in vectors["row"].to_pylist()]
        first_row += table.num_rows
    return rows, np.concatenate([schemas.vector_matrix(table["vector"]) for table in source.vectors])


def check(source: Source, expected: np.ndarray[Any, Any]) -> None:
    """One vector per document that has a text, bit for bit."""
    assert source.problems == []
    rows, found = vectors_of(source)
    kept = [row for row in range(NUM) if row not in EMPTY]
    assert rows == kept
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected[kept])
    assert {record.info["dim"] for record in source.records} == {DIM}
    assert source.table["doc_id"].to_pylist() == [row["_id"] for row in ROWS]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("format_", ["jsonl", "parquet", "beir"])
@pytest.mark.parametrize("shard_documents", [1, 5, 100])
def test_npy_beside_texts(dtype: str, format_: str, shard_documents: int, tmp_path: Path) -> None:
    """Row i of the .npy file belongs to row i of the source; empty documents have no vector."""
    vectors = make_vectors(dtype)
    vectors[list(EMPTY)] = np.nan
    path = {
        "jsonl": lambda: write_jsonl(tmp_path / "in" / "a.jsonl.gz", ROWS),
        "beir": lambda: str(Path(write_jsonl(tmp_path / "in" / "corpus.jsonl", ROWS)).parent),
        "parquet": lambda: write_parquet(tmp_path / "in" / "a.parquet", arrow_table(ROWS), row_group_size=7),
    }[format_]()
    config = CorpusConfig(path=path, vectors=save(tmp_path / "v.npy", vectors), shard_documents=shard_documents)
    check(read(config, tmp_path / "out"), vectors)


def test_npy_beside_a_split_parquet_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every split takes its own range of the one .npy file."""
    monkeypatch.setattr(parquet, "SPLIT_BYTES", 1)
    table = arrow_table(ROWS)
    write_parquet(tmp_path / "in" / "a.parquet", table.slice(0, 9), row_group_size=4)
    write_parquet(tmp_path / "in" / "b.parquet", table.slice(9), row_group_size=4)
    config = CorpusConfig(path=str(tmp_path / "in"), vectors=save(tmp_path / "v.npy", make_vectors()))
    source = read(config, tmp_path / "out")
    assert len(source.records) == 6
    check(source, make_vectors())


LISTS = {
    "list": pa.list_(pa.float32()),
    "large-list": pa.large_list(pa.float32()),
    "fixed-size": pa.list_(pa.float32(), DIM),
    "half": pa.list_(pa.float16()),
    "double": pa.list_(pa.float64()),
    "double-fixed": pa.list_(pa.float64(), DIM),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("format_", ["parquet", "hf"])
@pytest.mark.parametrize("shard_documents", [1, 5, 100])
def test_a_list_column(kind: str, format_: str, shard_documents: int, tmp_path: Path) -> None:
    """Every Arrow list of numbers is taken; doubles become float32; an empty document's vector may be null."""
    vectors = make_vectors("float16")
    values = [None if row in EMPTY else vectors[row].astype(float).tolist() for row in range(NUM)]
    column = pa.array(values, LISTS[kind])
    table = arrow_table(ROWS).append_column("v", column)
    path = (
        write_hf(tmp_path / "hf", table)
        if format_ == "hf"
        else write_parquet(tmp_path / "a.parquet", table, row_group_size=7)
    )
    config = CorpusConfig(path=path, vector_column="v", shard_documents=shard_documents)
    check(read(config, tmp_path / "out"), vectors if kind == "half" else vectors.astype(np.float32))


def test_a_list_in_jsonl(tmp_path: Path) -> None:
    """Number lists of JSON become float32; an integer is a number."""
    vectors = make_vectors()
    vectors[0] = 2
    rows = [{**row, "v": vector.tolist()} for row, vector in zip(ROWS, vectors, strict=True)]
    rows[0]["v"] = [2] * DIM
    config = CorpusConfig(path=write_jsonl(tmp_path / "a.jsonl", rows), vector_column="v")
    check(read(config, tmp_path / "out"), vectors)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_vectors_alone(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without texts the ids are the row numbers, over all splits."""
    monkeypatch.setattr(splits_module, "NPY_SPLIT_BYTES", 8 * DIM * 4)
    monkeypatch.setattr(batches, "VECTOR_BATCH_ROWS", 3)
    path = save(tmp_path / "v.npy", make_vectors())
    if where == "remote":
        with fsspec.open("memory://test-read-vectors/v.npy", "wb") as file:
            file.write(Path(path).read_bytes())
        path = "memory://test-read-vectors/v.npy"
    source = read(QueriesConfig(vectors=path), tmp_path / "out")
    assert [record.rows_in for record in source.records] == [8, 8, 4]
    assert source.table.equals(schemas.query_table([str(n) for n in range(NUM)], [None] * NUM))
    assert np.array_equal(vectors_of(source)[1], make_vectors())


def test_ids_and_vectors_without_texts(tmp_path: Path) -> None:
    """`text_column: null` reads ids only; no document is empty then."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"_id": row["_id"]} for row in ROWS])
    config = CorpusConfig(path=path, text_column=None, vectors=save(tmp_path / "v.npy", make_vectors()))
    source = read(config, tmp_path / "out")
    assert source.table.equals(schemas.corpus_table([row["_id"] for row in ROWS], [None] * NUM))
    assert np.array_equal(vectors_of(source)[1], make_vectors())
    assert source.records[0].info == {"num_shards": 1, "num_empty": 0, "dim": DIM}


@pytest.mark.parametrize("dtype", ["float64", "int8", ">f4"])
def test_other_number_types_become_float32(dtype: str, tmp_path: Path) -> None:
    """Doubles, integers and foreign byte orders."""
    vectors = (make_vectors("float64") * 10 + 50).astype(dtype)
    source = read(CorpusConfig(vectors=save(tmp_path / "v.npy", vectors)), tmp_path / "out")
    found = vectors_of(source)[1]
    assert found.dtype == np.float32
    assert np.array_equal(found, vectors.astype(np.float32))


def test_wrong_values_name_the_row(tmp_path: Path) -> None:
    """NaN, infinite (a double beyond float32 too) and zero vectors, each by its row in the .npy file."""
    vectors = make_vectors("float64")
    vectors[2, 1], vectors[7, 0], vectors[8], vectors[19, 5] = np.nan, np.inf, 0, 1e300
    path = save(tmp_path / "v.npy", vectors)
    expected = [
        f"{path}: row 2: the vector has NaN or infinite values",
        f"{path}: row 7: the vector has NaN or infinite values",
        f"{path}: row 8: the vector is zero",
        f"{path}: row 19: the vector has NaN or infinite values",
    ]
    assert problems_of(CorpusConfig(vectors=path), tmp_path / "out") == expected
    texts = write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert problems_of(CorpusConfig(path=texts, vectors=path), tmp_path / "out") == expected


def column_problems(tmp_path: Path, values: list[Any], kind: pa.DataType | None = None) -> list[str]:
    """Problems of a Parquet file with these vectors, without its folder's name; row 1 is an empty document."""
    texts = ["", *["x"] * (len(values) - 1)]
    texts[0], texts[1] = texts[1], texts[0]
    table = pa.table({"_id": [str(n) for n in range(len(values))], "text": texts, "v": pa.array(values, kind)})
    path = write_parquet(tmp_path / "a.parquet", table)
    found = problems_of(CorpusConfig(path=path, vector_column="v"), tmp_path / "out")
    return [problem.replace(f"{tmp_path}/", "") for problem in found]


def test_wrong_vectors_in_a_column(tmp_path: Path) -> None:
    """Missing, ragged, not finite and zero vectors, each by its row; an empty document's vector is not looked at."""
    assert column_problems(tmp_path, [[1.0, 2.0], None, [1.0, None], [0.0, 0.0]]) == [
        "a.parquet: row 2: the vector has NaN or infinite values",
        "a.parquet: row 3: the vector is zero",
    ]
    assert column_problems(tmp_path, [[1.0, 2.0], [1.0], None, [1.0], []]) == [
        "a.parquet: row 2: no vector",
        "a.parquet: row 3: a vector of length 1, but the first has 2",
        "a.parquet: row 4: no vector",
    ]
    for values, kind in ((["a", "b"], "string"), ([["a"], ["b"]], "list<element: string>"), ([1.0, 2.0], "double")):
        assert column_problems(tmp_path, values) == [
            f"a.parquet: row 0: the vector is not a list of numbers; got: {kind}; expected: list of float"
        ]


def test_wrong_vectors_in_a_later_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of the first vector binds the whole split, not a batch."""
    monkeypatch.setattr(parquet, "MAX_BATCH_ROWS", 2)
    assert column_problems(tmp_path, [[1.0, 2.0]] * 4 + [[1.0]] * 2) == [
        "a.parquet: row 4: a vector of length 1, but the first has 2",
        "a.parquet: row 5: a vector of length 1, but the first has 2",
    ]


def test_wrong_vectors_in_jsonl(tmp_path: Path) -> None:
    """By line; a misspelt vector column is named with the columns there are."""
    rows: list[dict[str, Any]] = [{"_id": str(n), "text": "x", "v": [1, 0.5]} for n in range(3)]
    rows[2]["v"] = [1, "a"]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    (problem,) = problems_of(CorpusConfig(path=path, vector_column="v"), tmp_path / "out")
    assert problem.startswith(f"{path}:3: the vector is not a list of numbers")
    (problem,) = problems_of(CorpusConfig(path=path, vector_column="w"), tmp_path / "out")
    assert problem.startswith(f"{path}:1: no column `w`; got: columns _id, text, v")


def test_all_documents_empty(tmp_path: Path) -> None:
    """Their vectors tell at least the length; without any vector there is nothing to go by."""
    table = pa.table({"_id": ["a", "b"], "text": ["", " "], "v": pa.array([None, [1.0, 2.0]], pa.list_(pa.float32()))})
    config = CorpusConfig(path=write_parquet(tmp_path / "a.parquet", table), vector_column="v", shard_documents=1)
    source = read(config, tmp_path / "out")
    assert source.records[0].info == {"num_shards": 2, "num_empty": 2, "dim": 2}
    assert [vectors.num_rows for vectors in source.vectors] == [0, 0]
    path = write_parquet(tmp_path / "b.parquet", table.slice(0, 1))
    config = CorpusConfig(path=path, vector_column="v")
    assert problems_of(config, tmp_path / "out") == [f"{path}: no row has a vector: every text is empty"]


@pytest.mark.parametrize("num_vectors", [NUM - 1, NUM + 1])
def test_another_number_of_vectors_than_rows(num_vectors: int, tmp_path: Path) -> None:
    """Both numbers are named: before any task where the format knows its rows, else by the task."""
    vectors = save(tmp_path / "v.npy", make_vectors(num_rows=num_vectors))
    text = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (problem,) = problems_of(CorpusConfig(path=text, vectors=vectors), tmp_path / "out")
    assert problem.startswith(
        f"{vectors}: {num_vectors} vectors, but {text} has {NUM} rows; expected: one vector per row"
    )
    table = write_parquet(tmp_path / "a.parquet", arrow_table(ROWS))
    with pytest.raises(InputError, match=f"{num_vectors} vectors, but {table} has {NUM} rows"):
        splits(CorpusConfig(path=table, vectors=vectors), storage.HashCache())


def test_one_npy_beside_several_jsonl_files(tmp_path: Path) -> None:
    """Their rows are not counted beforehand, so nothing tells where each one's vectors begin."""
    for name in ("a", "b"):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", ROWS)
    config = CorpusConfig(path=str(tmp_path / "in"), vectors=save(tmp_path / "v.npy", make_vectors(num_rows=2 * NUM)))
    with pytest.raises(InputError, match="cannot tell which vectors belong to which of the 2 files"):
        splits(config, storage.HashCache())


def test_files_that_are_no_matrix(tmp_path: Path) -> None:
    """Each is refused before any task, with what came."""
    good = make_vectors()
    cases = {
        "flat.npy": (good[0], "not a matrix of vectors\n  got: float32 [6]"),
        "cube.npy": (good[None], "not a matrix of vectors\n  got: float32 [1, 20, 6]"),
        "none.npy": (good[:0], "not a matrix of vectors\n  got: float32 [0, 6]"),
        "words.npy": (good.astype(str), "not a matrix of vectors\n  got: <U"),
        "columns.npy": (
            np.asfortranarray(good),
            "saved column by column\n  fix: save numpy.ascontiguousarray(vectors)",
        ),
    }
    for name, (array, expected) in cases.items():
        save(tmp_path / name, array)
        with pytest.raises(InputError) as caught:
            splits(CorpusConfig(vectors=str(tmp_path / name)), storage.HashCache())
        assert str(caught.value).startswith(f"{tmp_path / name}: {expected}")
    whole = Path(save(tmp_path / "cut.npy", good)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-30])
    (tmp_path / "text.npy").write_bytes(b"not numpy at all")
    for name, match in (
        ("cut.npy", r"cut\.npy: the file is truncated\n  got: 18 rows\n  expected: 20"),
        ("text.npy", r"text\.npy: not a \.npy file"),
        ("nowhere.npy", r"nowhere\.npy: no such file"),
    ):
        with pytest.raises(InputError, match=match):
            splits(CorpusConfig(vectors=str(tmp_path / name)), storage.HashCache())


def test_changed_vectors_change_the_content(tmp_path: Path) -> None:
    """A split's content covers its vectors as well as its texts."""
    text = write_jsonl(tmp_path / "a.jsonl", ROWS)
    contents = set()
    for name, vectors in (("a", make_vectors()), ("b", make_vectors() * 2), ("c", make_vectors())):
        config = CorpusConfig(path=text, vectors=save(tmp_path / f"{name}.npy", vectors))
        (split,) = splits(config, storage.HashCache())
        contents.add(split["content"])
    assert len(contents) == 2
