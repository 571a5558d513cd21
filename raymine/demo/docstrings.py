"""A real corpus that every machine has: the docstrings of the installed Python packages.

The sources of the standard library and of site-packages are parsed, never imported. A documented function, class or
method gives one document (its docstring without the summary) and one query (the summary, or for a share of them
`name(arguments)`). That is real text with the troubles of a real corpus: packages that carry copies of one another give
text-equal documents under several ids, copied docstrings that differ by a word give near-duplicates, and one summary is
often right for several documents though only one is labelled.

Files are taken in the order of a hash of their last two path parts, until each package has its share: the choice
depends on nothing but what is installed, spreads over all packages, and takes a module together with its copies.
Training and test half are split by the text of the positive, so no half knows a document of the other's by its twin.

Cost: parsing is all of it, 20,000 documents in 7 to 12 s on one core (measured).
"""

from __future__ import annotations

import ast
import gc
import gzip
import hashlib
import inspect
import json
import os
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raymine import storage
from raymine.errors import InputError

MIN_DOCUMENTS, MAX_DOCUMENTS = 50, 20_000
MIN_DOCUMENT_CHARS = 80
# The teacher reads no further than some 100 tokens, and a pandas docstring can have 20,000 characters.
MAX_DOCUMENT_CHARS = 2_000
# transformers says one sentence about rotary embeddings in 85 places: a few twins show the point, 85 fill a hit list.
MAX_COPIES = 8
MIN_QUERY_WORDS = 4
MAX_QUERY_CHARS = 160
# A summary with more different documents than this ("Forward pass of the model") asks for none of them.
MAX_DOCUMENTS_PER_QUERY = 3
# Without a limit transformers alone would give a quarter of the corpus.
MAX_PACKAGE_SHARE = 0.15
# Files with less documentation than one docstring in so many characters take two fifths of the time to parse and hold
# a sixth of the docstrings.
MAX_CHARS_PER_DOCSTRING = 3_000
SIGNATURE_SHARE = 0.25
SKIPPED_FOLDERS = {"tests", "test", "testing", "idlelib", "site-packages", "dist-packages", "__pycache__", "lib2to3"}
SKIPPED_FILES = re.compile(r"(test_|conftest).*|.*(_test|_pb2)\.py|.*(?<!\.py)")
MARKUP = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`|``([^`]*)``|`([^`]*)`_?")
SECTION = re.compile(
    r"(:\w|@\w|>>>|-{3,}|={3,}|[-*.] |\.\. |(Arg|Argument|Parameter|Return|Raise|Example|Note)s?\b\s*:?$)"
)
SENTENCE_END = re.compile(r"(?<=[a-z0-9)`'\"])[.:;](?=\s+[A-Z`:*])")
# "patch_size (int, *optional*, defaults to 14)": a docstring that begins with its arguments has no summary.
ARGUMENT = re.compile(r"[\w, ]+ ?\(.*(optional|default|shape|Tensor|Cache|int|str|bool).*\)|[\w.]+ ?[:=]|\w+\(.*\)$")
# Grammars, formulas and code score below this.
MIN_LETTER_SHARE = 0.75


@dataclass(frozen=True)
class Docstring:
    """One documented function, class or method.

    Args:
        doc_id: module path and qualified name, unique in a corpus.
        summary: the docstring's first sentence or paragraph, on one line, without markup.
        signature: `Class.method(argument, ...)`.
        text: the rest of the docstring.
    """

    doc_id: str
    summary: str
    signature: str
    text: str


@dataclass(frozen=True)
class Query:
    """A question with its labelled document."""

    query_id: str
    text: str
    doc_id: str
    is_test: bool


def default_roots() -> list[Path]:
    """Folders of the installed packages and of the standard library, in this order."""
    names = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
    return [Path(name) for name in dict.fromkeys(names) if Path(name).is_dir()]


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def collect(roots: Sequence[Path], max_documents: int = MAX_DOCUMENTS) -> list[Docstring]:
    """Gathers docstrings from source files.

    Args:
        roots: folders whose packages and modules are read.
        max_documents: no more than this.

    Returns:
        The docstrings in the order of their ids' hashes; the same on every run over the same files.

    Raises:
        InputError: there is hardly anything there.
    """
    with _garbage_collection_paused():
        found = _chosen(_source_files(roots), max_documents)
    if len(found) < min(MIN_DOCUMENTS, max_documents):
        raise InputError(
            "too few docstrings found",
            got=f"{len(found)} in " + ", ".join(str(root) for root in roots),
            expected="folders with the .py files of installed packages",
            fix="run where Python's packages are installed with their sources",
        )
    return sorted(found, key=lambda entry: stable_hash(entry.doc_id))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Syntax trees hold no cycles, and looking for some in them is most of the time of parsing: 19 s against 7 s."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _chosen(files: Iterable[tuple[Path, str, str]], max_documents: int) -> list[Docstring]:
    """The docstrings of the files in their order, within the limits per package and per text."""
    found: list[Docstring] = []
    num_per_package: Counter[str] = Counter()
    num_copies: Counter[str] = Counter()
    limit = max(1, int(max_documents * MAX_PACKAGE_SHARE))
    for path, module, package in files:
        for entry in docstrings_of(path, module) if num_per_package[package] < limit else ():
            if num_copies[entry.text] < MAX_COPIES:
                found.append(entry)
                num_copies[entry.text] += 1
                num_per_package[package] += 1
        if len(found) >= max_documents:
            break
    return found[:max_documents]


def _source_files(roots: Sequence[Path]) -> list[tuple[Path, str, str]]:
    """(path, module, package) of every source file, in the order of the hash of its last two path parts."""
    found: dict[str, tuple[Path, str, str]] = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
            for name in names:
                if SKIPPED_FILES.fullmatch(name):
                    continue
                parts = (Path(folder) / name).relative_to(root).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found.setdefault(module, (Path(folder) / name, module, parts[0] if len(parts) > 1 else "(modules)"))
    return sorted(found.values(), key=lambda file: (stable_hash("/".join(file[0].parts[-2:])), file[1]))


def docstrings_of(path: Path, module: str) -> list[Docstring]:
    """The usable docstrings of one source file, in its order; none if it is not valid Python."""
    source = path.read_text(encoding="utf-8", errors="replace")
    num_docstrings = (source.count('"""') + source.count("'''")) // 2
    if len(source) > num_docstrings * MAX_CHARS_PER_DOCSTRING:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    num_seen: Counter[str] = Counter()
    found = []
    for name, node in _definitions(tree, ""):
        docstring = ast.get_docstring(node, clean=False)
        parts = split_docstring(docstring) if docstring and len(docstring) > MIN_DOCUMENT_CHARS else None
        if parts is None:
            continue
        num_seen[name] += 1  # overloads, setters and branches repeat a name
        repeat = f"#{num_seen[name]}" if num_seen[name] > 1 else ""
        found.append(Docstring(f"{module}.{name}{repeat}", parts[0], _signature(name, node), parts[1]))
    return found


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Every function, class and method with its qualified name; what is inside functions is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try):
            yield from _definitions(child, prefix)


def _signature(name: str, node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        methods = (child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__")
        constructor = next(methods, None)
        return f"class {name}" if constructor is None else _signature(name, constructor)
    name = name.removesuffix(".__init__")
    arguments = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    return f"{name}({', '.join(argument for argument in arguments if argument not in ('self', 'cls'))})"


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """Splits a docstring into its summary and the rest.

    Returns:
        (summary on one line without markup, the rest), or None where either is too short or the text is not prose.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    end = next((i for i, line in enumerate(lines) if not line.strip() or SECTION.match(line)), len(lines))
    summary, rest = " ".join(line.strip() for line in lines[:end]), lines[end:]
    if sentence := SENTENCE_END.search(summary):
        rest = [summary[sentence.end() :].strip(), *rest]
        summary = summary[: sentence.start()]
    summary = MARKUP.sub(lambda match: next(group for group in match.groups() if group is not None), summary)
    summary = re.sub(r"\s+", " ", summary).strip(" .:;*")
    text = _truncated("\n".join(rest).strip())
    if not 2 <= len(summary) <= MAX_QUERY_CHARS or len(text) < MIN_DOCUMENT_CHARS or not _is_prose(summary):
        return None
    return summary, text


def _is_prose(summary: str) -> bool:
    num_letters = sum(character.isalpha() or character == " " for character in summary)
    return num_letters >= MIN_LETTER_SHARE * len(summary) and not ARGUMENT.match(summary)


def _truncated(text: str) -> str:
    """The text up to the last line that ends within MAX_DOCUMENT_CHARS."""
    if len(text) <= MAX_DOCUMENT_CHARS:
        return text
    end = text.rfind("\n", MIN_DOCUMENT_CHARS, MAX_DOCUMENT_CHARS)
    return text[: end if end > 0 else MAX_DOCUMENT_CHARS].rstrip()


def make_queries(entries: Sequence[Docstring]) -> list[Query]:
    """Asks for every document that can be asked for: unique texts, each with one labelled document.

    A text-equal document elsewhere is left without a label, as it would be in a real collection.

    Args:
        entries: the corpus; of text-equal queries the first is kept.

    Returns:
        The queries in the corpus' order, about half of them for test; those with text-equal positives in one half.
    """
    asked = [(_question(entry), entry) for entry in entries]
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for text, entry in asked:
        answers[text].add(entry.text)
    found: dict[str, Query] = {}
    for text, entry in asked:
        if text and text not in found and len(answers[text]) <= MAX_DOCUMENTS_PER_QUERY:
            is_test = stable_hash("half:" + entry.text) % 2 == 1
            found[text] = Query(f"q-{stable_hash(entry.doc_id):016x}", text, entry.doc_id, is_test)
    return list(found.values())


def _question(entry: Docstring) -> str:
    """What one would type to find the document: its summary or its name with arguments; empty if both are too short."""
    has_arguments = entry.signature.endswith(")") and not entry.signature.endswith("()")
    is_short = len(entry.summary.split()) < MIN_QUERY_WORDS
    is_drawn = stable_hash("signature:" + entry.doc_id) % 1000 < 1000 * SIGNATURE_SHARE
    if has_arguments and (is_short or is_drawn) and len(entry.signature) <= MAX_QUERY_CHARS:
        return entry.signature
    return "" if is_short else entry.summary


def write_beir(folder: Path, entries: Sequence[Docstring], queries: Sequence[Query]) -> None:
    """Writes a BEIR folder: corpus.jsonl.gz, queries.jsonl.gz, qrels/train.tsv and qrels/test.tsv.

    The same input gives the same bytes.
    """
    _write_lines(
        folder / "corpus.jsonl.gz", ({"_id": entry.doc_id, "title": "", "text": entry.text} for entry in entries)
    )
    _write_lines(folder / "queries.jsonl.gz", ({"_id": query.query_id, "text": query.text} for query in queries))
    write_judgements(folder, "train", [query for query in queries if not query.is_test])
    write_judgements(folder, "test", [query for query in queries if query.is_test])


def write_judgements(folder: Path, name: str, queries: Sequence[Query]) -> None:
    """Writes qrels/NAME.tsv."""
    lines = [f"{query.query_id}\t{query.doc_id}\t1" for query in queries]
    content = "\n".join(["query-id\tcorpus-id\tscore", *lines, ""])
    storage.write_bytes(str(folder / "qrels" / f"{name}.tsv"), content.encode())


def _write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(str(path), gzip.compress(lines.encode("utf-8", "replace"), compresslevel=6, mtime=0))
