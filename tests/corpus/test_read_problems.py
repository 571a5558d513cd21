"""Every fault of a source is named with its file and line, and nothing is taken in its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import arrow_table, problems_of, write_hf, write_jsonl, write_parquet

from raymine import storage
from raymine.config import CorpusConfig, QueriesConfig
from raymine.corpus.read import splits
from raymine.errors import InputError

GOOD = '{"_id": "a", "text": "b"}\n'


def jsonl_problems(folder: Path, content: str | bytes, **columns: str | None) -> list[str]:
    """Problems of a corpus file, without the folder's name."""
    path = folder / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = problems_of(CorpusConfig(path=str(path), **columns), folder / "out")  # type: ignore[arg-type]
    return [problem.replace(f"{folder}/", "") for problem in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"_id": "a", "text": "b"', "a.jsonl:2: invalid JSON: Expecting ',' delimiter"),
        ("{'_id': 1}", "a.jsonl:2: invalid JSON: Expecting property name"),
        ('["a", "b"]', "a.jsonl:2: expected one JSON object per line"),
        ("[" * 100000, "a.jsonl:2: invalid JSON: maximum recursion depth"),
        ('{"_id": "a", "text": "\\ud800"}', "a.jsonl:2: invalid Unicode: half of a surrogate pair"),
        ('{"_id": "a\\uDfff", "text": "b"}', "a.jsonl:2: invalid Unicode: half of a surrogate pair"),
        ('{"text": "b", "id": "a"}', "a.jsonl:2: no column `_id`; got: columns text, id"),
        ('{"_id": "a", "tekst": "b"}', "a.jsonl:2: no column `text`; got: columns _id, tekst"),
        ('{"_id": null, "text": "b"}', "a.jsonl:2: `_id` is no id; got null; expected a string or an integer"),
        ('{"_id": "", "text": "b"}', "a.jsonl:2: `_id` is no id; got an empty string"),
        ('{"_id": 1.0, "text": "b"}', "a.jsonl:2: `_id` is no id; got float 1.0"),
        ('{"_id": true, "text": "b"}', "a.jsonl:2: `_id` is no id; got bool True"),
        ('{"_id": ["a"], "text": "b"}', "a.jsonl:2: `_id` is no id; got list ['a']"),
        ('{"_id": "a", "text": 5}', "a.jsonl:2: `text` is not a text; got int 5"),
        ('{"_id": "a", "text": ["b"]}', "a.jsonl:2: `text` is not a text; got list ['b']"),
        ('{"_id": "a", "text": "b", "title": 5}', "a.jsonl:2: `title` is not a text; got int 5"),
    ],
)
def test_a_bad_line_is_named(line: str, expected: str, tmp_path: Path) -> None:
    """The one bad line between good ones is the one problem."""
    (problem,) = jsonl_problems(tmp_path, GOOD + line + "\n" + GOOD)
    assert problem.startswith(expected)


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    """One reading shows them all, so that a file is mended once."""
    found = jsonl_problems(tmp_path, GOOD + "{\n" + GOOD + '{"_id": null, "text": ""}\n' + "x\n")
    assert sorted(problem.split(": ")[0] for problem in found) == ["a.jsonl:2", "a.jsonl:4", "a.jsonl:5"]


def test_reading_stops_after_twenty_problems(tmp_path: Path) -> None:
    """A file that is wrong throughout is not read to its end."""
    found = jsonl_problems(tmp_path, "x\n" * 1000)
    assert len(found) == 21
    assert found[-1] == "a.jsonl:20: reading stopped here, after 20 problems"


def test_a_misspelt_column_is_one_problem(tmp_path: Path) -> None:
    """The columns that there are are named; `text` is not taken for `txt`."""
    (problem,) = jsonl_problems(tmp_path, GOOD * 100, text_column="txt")
    assert problem == (
        "a.jsonl:1: no column `txt`; got: columns _id, text; "
        "fix: name the column in the config, or rename it in the file"
    )


def test_a_title_is_optional_unless_the_config_names_one(tmp_path: Path) -> None:
    """The default title may be missing everywhere; a name of the user's own must be somewhere."""
    assert jsonl_problems(tmp_path, GOOD) == []
    assert jsonl_problems(tmp_path, GOOD, title_column="titel") == ["a.jsonl: no row has the column `titel`"]
    assert jsonl_problems(tmp_path, GOOD + '{"_id": "c", "text": "", "titel": "T"}\n', title_column="titel") == []


def test_invalid_utf8_and_truncation_are_problems(tmp_path: Path) -> None:
    """Errors of the file are problems of the task, after those of its rows."""
    found = jsonl_problems(tmp_path, GOOD.encode() + b'{"_id": "\xff", "text": ""}\n')
    assert found == [
        "a.jsonl:2: invalid UTF-8; got: byte 0xff (invalid start byte); fix: write the file in UTF-8, e.g. with iconv"
    ]
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 50)[:-4])
    (problem,) = problems_of(CorpusConfig(path=str(path)), tmp_path / "out")
    assert problem.startswith(f"{path}:51: the .gz file is truncated")


@pytest.mark.parametrize("text", ["", "  \\n ", None], ids=["empty", "blank", "null"])
def test_an_empty_query_is_a_problem(text: str | None, tmp_path: Path) -> None:
    """Nothing can be found for it."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"_id": "q0", "text": "x"}\n' + json.dumps({"_id": "q1", "text": text}).replace("\\\\n", "\\n") + "\n"
    )
    assert problems_of(QueriesConfig(path=str(path)), tmp_path / "out") == [f"{path}:2: the query's text is empty"]


def test_parquet_problems_name_the_row(tmp_path: Path) -> None:
    """Rows are numbered from 0 over the whole file, past the first row group too."""
    table = pa.table(
        {
            "_id": pa.array(["a", "b", None, "d"]),
            "text": pa.array([b"a", b"b", b"c", b"\xff"], pa.binary()),
        }
    )
    path = write_parquet(tmp_path / "a.parquet", table, row_group_size=2)
    assert sorted(problems_of(CorpusConfig(path=path), tmp_path / "out")) == [
        f"{path}: row 2: `_id` is no id; got null; expected a string or an integer",
        f"{path}: row 3: invalid UTF-8: invalid start byte",
    ]
    marked = table.set_column(1, "text", table["text"].combine_chunks().view(pa.string()))
    path = write_parquet(tmp_path / "b.parquet", marked)
    assert f"{path}: row 3: invalid UTF-8: invalid start byte" in problems_of(CorpusConfig(path=path), tmp_path / "out")


@pytest.mark.parametrize("format_", ["parquet", "hf"])
def test_tables_without_a_column(format_: str, tmp_path: Path) -> None:
    """The columns that there are are named."""
    table = pa.table({"id": ["a", "b"], "text": ["a", "b"]})
    path = write_hf(tmp_path / "hf", table) if format_ == "hf" else write_parquet(tmp_path / "a.parquet", table)
    problem, *_ = problems_of(CorpusConfig(path=path), tmp_path / "out")
    assert "no column `_id`; got: columns id, text" in problem
    named = CorpusConfig(path=path, id_column="id", title_column="titel")
    assert "no row has the column `titel`" in problems_of(named, tmp_path / "out")[0]


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    """Numbers are not turned into text."""
    path = write_parquet(tmp_path / "a.parquet", pa.table({"_id": ["a"], "text": [5]}))
    assert problems_of(CorpusConfig(path=path), tmp_path / "out") == [f"{path}: row 0: `text` is not a text; got int 5"]


def test_damaged_tables(tmp_path: Path) -> None:
    """A cut or overwritten file is an error of that file."""
    path = Path(write_parquet(tmp_path / "a.parquet", arrow_table([{"_id": "a", "text": "b" * 5000}])))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(InputError, match=r"a\.parquet: not a Parquet file, or a truncated one"):
        splits(CorpusConfig(path=str(path)), storage.HashCache())
    offset = pq.read_metadata(pa.BufferReader(whole)).row_group(0).column(1).dictionary_page_offset
    path.write_bytes(whole[:offset] + b"\xff" * 30 + whole[offset + 30 :])
    (problem,) = problems_of(CorpusConfig(path=str(path)), tmp_path / "out")
    assert problem.startswith(f"{path}: row 0: the file is damaged")
    folder = Path(write_hf(tmp_path / "hf", arrow_table([{"_id": str(n), "text": "b" * 500} for n in range(100)])))
    file = folder / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:9000])
    (problem,) = problems_of(CorpusConfig(path=str(folder)), tmp_path / "out")
    assert problem.startswith(f"{file}: row 0: the file is damaged")


def refused(path: Path, **settings: str) -> str:
    """The error that a corpus path ends with before any task."""
    with pytest.raises(InputError) as caught:
        splits(CorpusConfig(path=str(path), **settings), storage.HashCache())  # type: ignore[arg-type]
    return str(caught.value).replace(f"{path}", "PATH")


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    """A path that does not exist, and folders with nothing to read."""
    assert refused(tmp_path / "nowhere").startswith("PATH: no such file or folder")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith("PATH: no readable files in the folder\n  got: an empty folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.docx").write_text("x")
    assert "got: notes.docx" in refused(tmp_path / "other")
    assert "got: notes.docx" in refused(tmp_path / "other", format="parquet")
    assert "got: no corpus.jsonl in it" in refused(tmp_path / "other", format="beir")
    assert "got: no state.json in it" in refused(tmp_path / "other", format="hf")


def test_sources_that_could_be_two_things(tmp_path: Path) -> None:
    """Nothing is guessed: the config must say."""
    write_jsonl(tmp_path / "a.jsonl", [{"_id": "a", "text": "b"}])
    write_parquet(tmp_path / "a.parquet", arrow_table([{"_id": "a", "text": "b"}]))
    assert "both Parquet and jsonl files" in refused(tmp_path)
    for name in ("corpus.jsonl", "corpus.jsonl.gz"):
        write_jsonl(tmp_path / "beir" / name, [{"_id": "a", "text": "b"}])
    assert "got: corpus.jsonl and corpus.jsonl.gz" in refused(tmp_path / "beir")


def test_a_beir_folder_without_queries(tmp_path: Path) -> None:
    """The corpus is not taken for the queries."""
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "a", "text": "b"}])
    with pytest.raises(InputError, match=r"not a BEIR folder\n  got: no queries\.jsonl in it"):
        splits(QueriesConfig(path=str(tmp_path), format="beir"), storage.HashCache())


def test_files_of_other_kinds(tmp_path: Path) -> None:
    """The name decides, and the error says what to do."""
    for name, fix in (("a.npy", "give it as `vectors`"), ("a.csv", "say which with `format`")):
        (tmp_path / name).write_text("x")
        assert fix in refused(tmp_path / name)
    (tmp_path / "a.jsonl").write_text(GOOD)
    assert "expected: a folder, as `format: beir` says" in refused(tmp_path / "a.jsonl", format="beir")
    (tmp_path / "a.parquet").write_text("not parquet")
    assert "not a Parquet file" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", ["", "\n \n"], ids=["no-bytes", "blank-lines"])
def test_an_empty_jsonl_source(content: str, tmp_path: Path) -> None:
    """A source without rows is refused before any work."""
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert refused(path).startswith("PATH: empty: it has no documents")


def test_an_empty_parquet_source(tmp_path: Path) -> None:
    """As for jsonl."""
    table = pa.table({"_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    assert refused(Path(write_parquet(tmp_path / "a.parquet", table))).startswith("PATH: empty: it has no documents")


def test_an_empty_saved_dataset(tmp_path: Path) -> None:
    """As for jsonl."""
    table = pa.table({"_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    assert refused(Path(write_hf(tmp_path / "hf", table))).startswith("PATH: empty: it has no documents")


def test_saved_datasets_that_are_not_rows(tmp_path: Path) -> None:
    """A DatasetDict names its splits; an index mapping and a missing file are refused."""
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    assert (
        "a DatasetDict, not a Dataset\n  got: splits test, train\n  fix: name one of them, e.g. PATH/test"
        in refused(tmp_path / "dict")
    )
    folder = Path(write_hf(tmp_path / "hf", arrow_table([{"_id": "a", "text": "b"}])))
    (folder / "data-00001-of-00002.arrow").unlink()
    assert "no such file, but state.json lists it" in refused(folder)
    (folder / "state.json").write_text('{"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}')
    assert "saved with an index mapping" in refused(folder)


def test_a_corpus_that_fails_leaves_no_outputs(tmp_path: Path) -> None:
    """Once something is wrong nothing more is written, and the task has no marker (its record has problems)."""
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD + "x\n" + GOOD * 100)
    problems_of(CorpusConfig(path=str(path), shard_documents=10), tmp_path / "out")
    assert storage.list_files(str(tmp_path / "out")) == []
