"""The demonstration's corpus: what counts as a docstring, who is asked what, and that nothing depends on the day."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from raymine.demo import docstrings
from raymine.errors import InputError

REST = (
    "Everything after the summary is the document, and this one is long enough to be one: eighty characters at least."
)


def package(folder: Path, name: str, num_functions: int, extra: str = "") -> None:
    """Writes a package of one module with documented functions."""
    lines = [extra]
    for i in range(num_functions):
        docstring = f"Joins {name} number {i} with its neighbour.\n\n    {REST} {i}."
        lines.append(f'def {name}_{i}(left, right={i}):\n    """{docstring}\n    """\n')
    (folder / name).mkdir(parents=True)
    (folder / name / "core.py").write_text("\n".join(lines))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Three packages; `vendored` is a copy of `alpha`."""
    root = tmp_path / "lib"
    for name in ("alpha", "beta"):
        package(root, name, 30)
    (root / "gamma" / "vendored").mkdir(parents=True)
    (root / "gamma" / "vendored" / "core.py").write_text((root / "alpha" / "core.py").read_text())
    (root / "gamma" / "broken.py").write_text('def f(:\n    """not Python"""\n')
    (root / "gamma" / "tests").mkdir()
    (root / "gamma" / "tests" / "core.py").write_text((root / "beta" / "core.py").read_text())
    return root


@pytest.mark.parametrize(
    ("docstring", "summary", "start"),
    [
        (f"Reads a file.\n\n{REST}", "Reads a file", "Everything"),
        (f"Reads a file\nthat is long.\n\n{REST}", "Reads a file that is long", "Everything"),
        (f"Reads a file. It may be long.\n\n{REST}", "Reads a file", "It may be long."),
        (f"Reads a file.\n:param x: y\n{REST}", "Reads a file", ":param"),
        (
            f"Reads a :class:`~io.File` with ``mode``, see `open`.\n\n{REST}",
            "Reads a io.File with mode, see open",
            "Every",
        ),
        (f"    Reads a file.\n\n    Args:\n        x: {REST}", "Reads a file", "Args:\n    x:"),
    ],
    ids=["plain", "wrapped", "sentence", "field", "markup", "indented"],
)
def test_splits_into_summary_and_rest(docstring: str, summary: str, start: str) -> None:
    """The summary is the first sentence or paragraph on one line; the document is all that follows."""
    found = docstrings.split_docstring(docstring)
    assert found is not None
    assert found[0] == summary
    assert found[1].startswith(start)


@pytest.mark.parametrize(
    "docstring",
    [
        "Reads a file.",
        "Reads a file.\n\nToo short.",
        f"patch_size (int, *optional*, defaults to 14):\n    {REST}",
        f"a = b + c * d / e ** (f - g)\n\n{REST}",
        f">>> 1 + 1\n2\n\n{REST}",
        "",
    ],
    ids=["no rest", "short rest", "argument", "formula", "example", "empty"],
)
def test_what_is_no_prose_is_left_out(docstring: str) -> None:
    """A docstring without a summary sentence or without a rest gives nothing."""
    assert docstrings.split_docstring(docstring) is None


def test_long_documents_end_with_a_line() -> None:
    """A long document is cut where a line ends."""
    found = docstrings.split_docstring("Reads a file.\n\n" + "\n".join(["x" * 70] * 100))
    assert found is not None
    assert len(found[1]) <= docstrings.MAX_DOCUMENT_CHARS
    assert set(found[1].splitlines()) == {"x" * 70}


def test_names_and_signatures(tmp_path: Path) -> None:
    """Methods carry their class, a class its constructor's arguments, and a repeated name a number."""
    source = f'''
class Reader:
    """Reads the lines of files.

    {REST}
    """

    def __init__(self, path, *, mode="r"):
        """Opens the file for reading.

        {REST}
        """

    @property
    def size(self):
        """Says how large it is.

        {REST}
        """

    @size.setter
    def size(self, value):
        """Makes it larger or smaller.

        {REST}
        """
'''
    (tmp_path / "io_.py").write_text(source)
    found = docstrings.docstrings_of(tmp_path / "io_.py", "io_")
    assert [(entry.doc_id, entry.signature) for entry in found] == [
        ("io_.Reader", "Reader(path, mode)"),
        ("io_.Reader.__init__", "Reader(path, mode)"),
        ("io_.Reader.size", "Reader.size()"),
        ("io_.Reader.size#2", "Reader.size(value)"),
    ]


def test_reads_packages_with_their_copies_and_without_their_tests(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendored copy gives text-equal documents under other ids; test folders and broken files give none."""
    monkeypatch.setattr(docstrings, "MAX_PACKAGE_SHARE", 1.0)
    found = docstrings.collect([sources])
    texts = {entry.doc_id: entry.text for entry in found}
    assert len(found) == len(texts) == 90
    assert {name.split(".")[0] for name in texts} == {"alpha", "beta", "gamma"}
    assert texts["alpha.core.alpha_3"] == texts["gamma.vendored.core.alpha_3"]


def test_no_package_and_no_text_takes_more_than_its_share(sources: Path) -> None:
    """A package stops giving once it has its share, and a text after so many copies."""
    copies = [f'def f{i}():\n    """Says the same thing again.\n\n    {REST}\n    """\n' for i in range(20)]
    (sources / "same.py").write_text("\n".join(copies))
    found = docstrings.collect([sources], max_documents=60)
    assert sum(entry.doc_id.startswith("same.") for entry in found) == docstrings.MAX_COPIES
    assert len(docstrings.collect([sources], max_documents=10)) == 10


def test_no_sources_is_the_users_error(tmp_path: Path) -> None:
    """A folder without docstrings is refused with its name."""
    with pytest.raises(InputError, match="too few docstrings found"):
        docstrings.collect([tmp_path])


def test_asks_each_question_once_and_ambiguous_ones_never() -> None:
    """Equal questions with equal documents are one question; one that suits many different documents is none."""
    twin = [docstrings.Docstring(f"m{i}.f", "Reads all lines of files", "f()", REST) for i in range(3)]
    vague = [docstrings.Docstring(f"n{i}.f", "Runs the forward pass once", "f()", f"{REST} {i}") for i in range(4)]
    short = [docstrings.Docstring("o.f", "Runs", "f()", REST), docstrings.Docstring("o.g", "Runs", "g(x)", REST)]
    found = docstrings.make_queries([*twin, *vague, *short])
    assert [(query.text, query.doc_id) for query in found] == [("Reads all lines of files", "m0.f"), ("g(x)", "o.g")]


def test_a_beir_folder_of_the_standard_library(tmp_path: Path) -> None:
    """Two runs give the same bytes; every judgement names a query and a document; the halves share no positive."""
    roots = [Path(json.__file__).parent.parent / name for name in ("asyncio", "email", "logging", "json", "concurrent")]
    for name in ("one", "two"):
        entries = docstrings.collect(roots, max_documents=300)
        docstrings.write_beir(tmp_path / name, entries, docstrings.make_queries(entries))
    files = ["corpus.jsonl.gz", "queries.jsonl.gz", "qrels/train.tsv", "qrels/test.tsv"]
    assert [(tmp_path / "one" / file).read_bytes() for file in files] == [
        (tmp_path / "two" / file).read_bytes() for file in files
    ]
    corpus, queries = (_read(tmp_path / "one" / file) for file in files[:2])
    halves = [_judgements(tmp_path / "one" / file) for file in files[2:]]
    assert len(corpus) > 60
    assert all(len(text) >= docstrings.MIN_DOCUMENT_CHARS for text in corpus.values())
    assert all(3 <= len(text) <= docstrings.MAX_QUERY_CHARS and "\n" not in text for text in queries.values())
    assert {query for half in halves for query, _ in half} == set(queries)
    positives = [{corpus[document] for _, document in half} for half in halves]
    assert all(len(half) > 15 for half in positives)
    assert not positives[0] & positives[1]


def _read(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len({row["_id"] for row in rows}) == len(rows)
    return {row["_id"]: row["text"] for row in rows}


def _judgements(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    rows = [line.split("\t") for line in lines[1:]]
    assert all(relevance == "1" for *_, relevance in rows)
    return [(query, document) for query, document, _ in rows]
