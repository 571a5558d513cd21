"""Training sets of any format, ours or a peer's, as one kind of row.

A format is known by its columns: sentence-transformers' four, FlagEmbedding, tevatron (both), DPR, GPL, PyLate,
Automodel, Arctic, SimLM, ms-swift, MS MARCO style, raymine's `margin` and `listwise`, from Parquet, JSON lines or JSON
arrays. Files of lines without names of columns are read by tsv.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from raymine import storage
from raymine.audit.row import Row
from raymine.audit.tsv import line_rows
from raymine.corpus.lines import lines
from raymine.errors import InputError

LINES = (".tsv", ".trec", ".run", ".txt")
SUFFIXES = (".parquet", ".jsonl", ".json", *LINES)


Made = Mapping[str, Any]
Reader = Callable[[Made, list[str]], Row]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _scores(row: Made, positive: str, negative: str) -> tuple[list[Any], list[Any]]:
    """The columns of scores of either side, empty where there are none."""
    return list(row.get(positive) or []), list(row.get(negative) or [])


def _labeled(row: Made, names: list[str]) -> Row:
    """A pair or a list with labels or scores; of scores alone the first document is the positive."""
    documents = _list(row[names[1]])
    scores = _list(row.get("scores", row.get("score"))) if "scores" in row or "score" in row else []
    if "label" in row or "labels" in row:
        labels = _list(row.get("labels", row.get("label")))
        sides = [[doc for doc, label in zip(documents, labels, strict=True) if bool(label > 0) is is_positive]
                 for is_positive in (True, False)]  # fmt: skip
        return Row(row[names[0]], sides[0], sides[1])
    return Row(row[names[0]], documents[:1], documents[1:], scores[:1], scores[1:])


def _tuple(row: Made, names: list[str]) -> Row:
    """With scores, or with a margin: that is the positive's score, to the negative's of 0."""
    negatives = [row[name] for name in names if re.fullmatch(r"negative(_\d+)?", name)]
    scores = [row["label"], 0.0] if "label" in row else list(row.get("scores") or [])
    return Row(row[names[0]], [row[names[1]]], negatives, scores[:1], scores[1:])


def _flagembedding(row: Made, names: list[str]) -> Row:
    return Row(row["query"], row["pos"], row["neg"], *_scores(row, "pos_scores", "neg_scores"))


def _passages(
    positives: Sequence[Made], negatives: Sequence[Made], name: str
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Texts or ids of either side's passages, then the scores of those that have one."""

    def named(side: Sequence[Made]) -> list[Any]:
        return [passage[name] for passage in side]

    def scored(side: Sequence[Made]) -> list[Any]:
        return [passage["score"] for passage in side if "score" in passage]

    return named(positives), named(negatives), scored(positives), scored(negatives)


def _tevatron(row: Made, names: list[str]) -> Row:
    return Row(row["query"], *_passages(row["positive_passages"], row["negative_passages"], "text"))


def _tevatron_v2(row: Made, names: list[str]) -> Row:
    ids = (row["positive_document_ids"], row["negative_document_ids"])
    return Row(
        row["query_text"], *ids, *_scores(row, "positive_document_scores", "negative_document_scores"), by_id=True
    )


def _dpr(row: Made, names: list[str]) -> Row:
    negatives = [*row.get("negative_ctxs", []), *row["hard_negative_ctxs"]]
    return Row(row["question"], *_passages(row["positive_ctxs"], negatives, "text"))


def _msmarco(row: Made, names: list[str]) -> Row:
    """GPL's and MS MARCO's: ids, or ids with scores, of one or more systems."""

    def split(found: list[Any]) -> tuple[list[str], list[Any]]:
        if found and isinstance(found[0], Mapping):
            return [str(each["pid"]) for each in found], [each["ce-score"] for each in found]
        return [str(each) for each in found], []

    def flat(systems: Mapping[str, Any]) -> list[Any]:
        return [each for system in systems.values() for each in system or []]

    positives, negatives = split(row["pos"]), split(flat(row["neg"]))
    if "pos_scores" in row:
        positives, negatives = (positives[0], row["pos_scores"]), (negatives[0], flat(row["neg_scores"]))
    return Row(str(row["qid"]), positives[0], negatives[0], positives[1], negatives[1], by_id=True)


def _pylate(row: Made, names: list[str]) -> Row:
    ids, scores = list(row["document_ids"]), list(row["scores"])
    return Row(row["query_id"], ids[:1], ids[1:], scores[:1], scores[1:], by_id=True)


def _listwise(row: Made, names: list[str]) -> Row:
    n = row["num_positives"]
    return Row(row["query"], row["documents"][:n], row["documents"][n:], row["scores"][:n], row["scores"][n:])


def _automodel(row: Made, names: list[str]) -> Row:
    """Texts, or ids of a corpus with their scores."""
    query, sides = row.get("question") or row["query"], [_list(row[name]) for name in ("pos_doc", "neg_doc")]
    if "corpus_id" not in row:
        return Row(query, sides[0], sides[1], *_scores(row, "pos_scores", "neg_scores"))
    positives, negatives = ([{**each, "id": str(each["id"])} for each in side] for side in sides)
    return Row(query, *_passages(positives, negatives, "id"), by_id=True)


def _arctic(row: Made, names: list[str]) -> Row:
    made = {"id": row["DOCUMENT_ID"], **({"score": row["SCORE"]} if "SCORE" in row else {})}
    positives, negatives = [made] if row["RELEVANCE"] > 0 else [], [made] if row["RELEVANCE"] < 0 else []
    return Row(row["QUERY_ID"], *_passages(positives, negatives, "id"), by_id=True)


def _simlm(row: Made, names: list[str]) -> Row:
    positives, negatives = row["positives"], row["negatives"]
    return Row(
        row["query"], positives["doc_id"], negatives["doc_id"], positives["score"], negatives["score"], by_id=True
    )


def _ms_swift(row: Made, names: list[str]) -> Row:
    def text(messages: list[Any]) -> str:
        return "\n".join(message["content"] for message in messages)

    return Row(
        text(row["messages"]),
        [text(messages) for messages in row["positive_messages"]],
        [text(messages) for messages in row["negative_messages"]],
        *_scores(row, "positive_scores", "negative_scores"),
    )


# Columns that tell a format, in the order in which they are looked for.
READERS: tuple[tuple[frozenset[str], Reader], ...] = (
    (frozenset({"query", "pos", "neg"}), _flagembedding),
    (frozenset({"positive_passages", "negative_passages"}), _tevatron),
    (frozenset({"positive_document_ids", "negative_document_ids"}), _tevatron_v2),
    (frozenset({"positive_ctxs", "hard_negative_ctxs"}), _dpr),
    (frozenset({"qid", "pos", "neg"}), _msmarco),
    (frozenset({"query_id", "document_ids", "scores"}), _pylate),
    (frozenset({"query", "documents", "num_positives"}), _listwise),
    (frozenset({"pos_doc", "neg_doc"}), _automodel),
    (frozenset({"QUERY_ID", "DOCUMENT_ID", "RELEVANCE"}), _arctic),
    (frozenset({"positives", "negatives", "query"}), _simlm),
    (frozenset({"messages", "positive_messages", "negative_messages"}), _ms_swift),
)


def reader_of(names: list[str], path: str) -> Reader:
    """The reader of a format.

    Raises:
        InputError: no format has these columns.
    """
    for columns, reader in READERS:
        if columns <= set(names):
            return reader
    if any(re.fullmatch(r"negative(_1)?", name) for name in names) and len(names) > 2:
        return _tuple
    if len(names) > 2 and names[2] in ("label", "labels", "score", "scores"):
        return _labeled
    raise InputError(
        f"{path}: not a training set of a known format",
        got=f"columns {', '.join(names)}",
        expected="the columns of a format that raymine writes, or of its trainer",
        fix="audit the files that the trainer reads",
    )


def files_of(paths: list[str]) -> list[str]:
    """The files behind some paths: of folders all that may be training sets, but for texts beside them.

    Raises:
        InputError: there are none.
    """
    found = []
    for path in map(storage.absolute, paths):
        inside = [file for suffix in SUFFIXES for file in storage.list_files(path, suffix)]
        shards = [file for file in inside if not re.search(r"/(documents|queries|positives)/[^/]*$|index\.json$", file)]
        if not shards and not (path.endswith(SUFFIXES) and storage.exists(path)):
            raise InputError(f"{path}: no training set there", expected=f"a file or folder of {', '.join(SUFFIXES)}")
        found += sorted(shards) or [path]
    return found


def rows(path: str, has_texts: bool = False) -> Iterator[tuple[int, Row]]:
    """The rows of a file, each with its number, from 0.

    Args:
        path: of the file.
        has_texts: whether documents lie beside it.

    Raises:
        InputError: no format has its columns or lines.
    """
    if path.endswith(LINES):
        yield from line_rows(path, has_texts)
        return
    reader: Reader | None = None
    for number, made in enumerate(_plain(path)):
        names = list(made)
        if reader is None:
            reader = reader_of(names, path)
        yield number, reader(made, names)


def _plain(path: str) -> Iterator[Made]:
    if path.endswith(".parquet"):
        with storage.parquet_file(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    elif path.endswith(".json"):
        read = json.loads(storage.read_bytes(path))
        yield from read["data"] if isinstance(read, dict) and "data" in read else read
    else:
        for _, line in lines(path):
            yield json.loads(line)
