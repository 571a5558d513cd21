"""Is a training set clean? Reads any format, ours or a peer's, and counts what should not be in it.

Hard rules, which fail an audit: a positive of the query among its negatives (its own or a sibling's, by text with case
and white space folded, or by id), a negative twice in a row, a score that is not a finite number, a query or a document
of the evaluation, an id that does not resolve. The others are counts to judge by: near duplicates of a positive or of
another negative (Jaccard of word trigrams), rows with fewer negatives than most, and negatives that score above the
positive: what the scores, if they are a teacher's, hold for mislabelled. Rows that name documents by id are looked at
by text as well if the texts lie beside them, as raymine writes them.

Two passes over the rows; in memory are a hash per distinct (query, positive), the texts beside rows of ids, and a JSON
array as a whole.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymine import schemas
from raymine.audit.companions import Texts, texts_beside
from raymine.audit.readers import files_of, rows
from raymine.audit.row import Row
from raymine.shingles import Hashes, jaccard, shingles

SHINGLE_WORDS = 3
NEAR = 0.8
EXAMPLES = 3


@dataclass
class Check:
    """One thing that was looked for.

    Args:
        name: what.
        is_hard: whether one makes the audit fail.
        found: how many.
        of: among how many.
        examples: the first few, as file and row with what was found.
    """

    name: str
    is_hard: bool
    found: int = 0
    of: int = 0
    examples: list[str] = field(default_factory=list)

    def count(self, number: int, of: int, example: str) -> None:
        self.found, self.of = self.found + number, self.of + of
        if number and len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        num_rows: training rows.
        num_queries: distinct queries.
        num_negatives: in all rows.
        checks: in the order of the table.
    """

    num_rows: int
    num_queries: int
    num_negatives: int
    checks: list[Check]

    @property
    def is_clean(self) -> bool:
        return not any(check.found for check in self.checks if check.is_hard)


def key_of(text: str, by_id: bool = False) -> bytes:
    """Equal for texts that are the same but for case and white space; for ids only if they are equal."""
    return schemas.text_hash(text if by_id else schemas.fold(text))


def keys_of(documents: Sequence[str], by_id: bool, texts: Mapping[str, str]) -> list[set[bytes]]:
    """What each document is known by: its text, or its id, and its text if that is there."""
    if not by_id:
        return [{key_of(text)} for text in documents]
    return [{key_of(name, True)} | ({key_of(texts[name])} if name in texts else set()) for name in documents]


def audit(
    paths: Sequence[str],
    evaluation_queries: Iterable[str] = (),
    evaluation_documents: Iterable[str] = (),
    document_ids: Iterable[str] | None = None,
) -> Audit:
    """Counts what should not be in a training set.

    Args:
        paths: files or folders of it.
        evaluation_queries: texts or ids that must not be trained on.
        evaluation_documents: likewise, as negatives.
        document_ids: all that there are; None: not checked.

    Raises:
        InputError: no training set there, or of no known format.
    """
    found = _Rows(files_of(list(paths)))
    positives: dict[bytes, set[bytes]] = defaultdict(set)
    lengths: Counter[int] = Counter()
    for _, row, texts in found:
        positives[key_of(row.query)].update(*keys_of(row.positives, row.by_id, texts.documents))
        lengths[len(row.negatives)] += 1
    usual = max(lengths, key=lambda length: (lengths[length], length)) if lengths else 0
    ids = None if document_ids is None else set(document_ids)
    known = _Known(positives, usual, _keys(evaluation_queries), _keys(evaluation_documents), ids)
    checks = {name: Check(name, is_hard) for name, is_hard in CHECKS.items()}
    num_rows = num_negatives = 0
    for where, row, texts in found:
        num_rows, num_negatives = num_rows + 1, num_negatives + len(row.negatives)
        _check(row, texts, known, checks, where)
    if ids is None and not checks[RESOLVES].of:
        del checks[RESOLVES]
    return Audit(num_rows, len(positives), num_negatives, list(checks.values()))


class _Rows:
    """The rows of some files: where each stands, the row, and the texts beside it."""

    def __init__(self, files: Sequence[str]) -> None:
        folders = {file.rpartition("/")[0]: file for file in files}
        texts = {folder: texts_beside(file) for folder, file in folders.items()}
        self.files = {file: texts[file.rpartition("/")[0]] for file in files}

    def __iter__(self) -> Iterator[tuple[str, Row, Texts]]:
        for file, texts in self.files.items():
            for number, row in rows(file, bool(texts.documents)):
                yield f"{file}, row {number}", row, texts


RESOLVES = "ids that do not resolve"
CHECKS = {
    "positives among the negatives": True,
    "negatives twice in a row": True,
    "scores that are not finite": True,
    "queries of the evaluation": True,
    "documents of the evaluation among the negatives": True,
    RESOLVES: True,
    "near duplicates of a positive": False,
    "near duplicates of another negative": False,
    "rows with fewer negatives than most": False,
    "negatives that score above the positive": False,
}


@dataclass(frozen=True)
class _Known:
    positives: dict[bytes, set[bytes]]
    usual: int
    queries: set[bytes]
    documents: set[bytes]
    ids: set[str] | None


def _keys(texts: Iterable[str]) -> set[bytes]:
    return {key for text in texts for key in (key_of(text), key_of(text, True))}


def _check(row: Row, texts: Texts, known: _Known, checks: dict[str, Check], where: str) -> None:
    def tell(name: str, found: Sequence[Any], of: int) -> None:
        checks[name].count(len(found), of, f"{where}: {str(found[0])[:80]!r}" if found else "")

    count, positives = len(row.negatives), known.positives[key_of(row.query)]
    keys = keys_of(row.negatives, row.by_id, texts.documents)
    pairs = list(zip(row.negatives, keys, strict=True))
    tell("positives among the negatives", [name for name, key in pairs if key & positives], count)
    firsts, repeated = _without_repeated(pairs)
    tell("negatives twice in a row", repeated, count)
    scores = [*row.positive_scores, *row.negative_scores]
    bad = [score for score in scores if not isinstance(score, int | float) or not math.isfinite(score)]
    tell("scores that are not finite", bad, len(scores))
    query = {key_of(row.query), key_of(texts.queries.get(row.query, row.query))}
    tell("queries of the evaluation", [row.query] if query & known.queries else [], 1)
    leaked = [name for name, key in pairs if key & known.documents]
    tell("documents of the evaluation among the negatives", leaked, count)
    if row.by_id and (known.ids is not None or texts.documents):
        tell(RESOLVES, _unresolved(row, known.ids, texts), len(row.positives) + count)
    if not row.by_id or texts.documents:
        others = [name for name, key in firsts if not key & positives]
        near, like_another = _near(row, others, texts.documents)
        tell("near duplicates of a positive", near, count)
        tell("near duplicates of another negative", like_another, count)
    if len(row.positives) + count > 1:  # else a row is a single document
        tell("rows with fewer negatives than most", [count] if count < known.usual else [], 1)
    if row.positive_scores and not bad:
        lowest = min(row.positive_scores)
        tell("negatives that score above the positive", [s for s in row.negative_scores if s > lowest], count)


def _without_repeated(pairs: Iterable[tuple[str, set[bytes]]]) -> tuple[list[tuple[str, set[bytes]]], list[str]]:
    """Documents that no earlier one equals, by id or by text, and the others."""
    seen: set[bytes] = set()
    firsts, repeated = [], []
    for name, key in pairs:
        if key & seen:
            repeated.append(name)
        else:
            firsts.append((name, key))
        seen |= key
    return firsts, repeated


def _unresolved(row: Row, ids: set[str] | None, texts: Texts) -> list[str]:
    """Documents that are not in the corpus or not beside the rows, and a query that is not, where these are known."""
    unknown = [row.query] if texts.queries and row.query not in texts.queries else []
    for name in (*row.positives, *row.negatives):
        if (ids is not None and name not in ids) or (texts.documents and name not in texts.documents):
            unknown.append(name)
    return unknown


def _near(row: Row, negatives: Iterable[str], texts: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Negatives whose text is nearly that of a positive of the row, and those whose is nearly an earlier negative's."""

    def shingles_of(name: str) -> Hashes:
        return shingles((texts.get(name) or "") if row.by_id else name, SHINGLE_WORDS)

    positives = list(map(shingles_of, row.positives))
    of_a_positive: list[str] = []
    of_another: list[str] = []
    earlier: list[Hashes] = []
    for name in negatives:
        own = shingles_of(name)
        if any(_is_near(own, other) for other in positives):
            of_a_positive.append(name)
        elif any(_is_near(own, other) for other in earlier):
            of_another.append(name)
        earlier.append(own)
    return of_a_positive, of_another


def _is_near(left: Hashes, right: Hashes) -> bool:
    # Sets of which one is much larger are told apart by their sizes: they are most of all pairs.
    return min(len(left), len(right)) >= NEAR * max(len(left), len(right), 1) and jaccard(left, right) >= NEAR
