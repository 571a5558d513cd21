"""Is a training set clean? Reads any format, ours or a peer's, and counts what should not be in it.

Hard rules, which fail an audit: a positive of the query among its negatives (its own or a sibling's, by text with case
and white space folded, or by id), a negative twice in a row, a score that is not a finite number, a query or a document
of the evaluation, an id that no document has. The others are counts to judge by: near duplicates of a positive (Jaccard
of word trigrams), rows with fewer negatives than most, and negatives that score above the positive: what the scores,
if they are a teacher's, hold for mislabelled.

Two passes over the rows; in memory is a hash per distinct (query, positive), and a JSON array as a whole.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymine import schemas
from raymine.audit.readers import Row, files_of, rows

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
    files = files_of(list(paths))
    positives: dict[bytes, set[bytes]] = defaultdict(set)
    lengths: Counter[int] = Counter()
    for file in files:
        for row in rows(file):
            positives[key_of(row.query)].update(key_of(text, row.by_id) for text in row.positives)
            lengths[len(row.negatives)] += 1
    usual = max(lengths, key=lambda length: (lengths[length], length)) if lengths else 0
    known = _Known(
        positives, usual, _keys(evaluation_queries), _keys(evaluation_documents),
        None if document_ids is None else set(document_ids),
    )  # fmt: skip
    checks = {name: Check(name, is_hard) for name, is_hard in CHECKS.items()}
    num_rows = num_negatives = 0
    for file in files:
        for number, row in enumerate(rows(file)):
            num_rows, num_negatives = num_rows + 1, num_negatives + len(row.negatives)
            _check(row, known, checks, f"{file}, row {number}")
    if document_ids is None:
        del checks["ids that no document has"]
    return Audit(num_rows, len(positives), num_negatives, list(checks.values()))


CHECKS = {
    "positives among the negatives": True,
    "negatives twice in a row": True,
    "scores that are not finite": True,
    "queries of the evaluation": True,
    "documents of the evaluation among the negatives": True,
    "ids that no document has": True,
    "near duplicates of a positive": False,
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


def _check(row: Row, known: _Known, checks: dict[str, Check], where: str) -> None:
    def tell(name: str, found: Sequence[Any], of: int) -> None:
        checks[name].count(len(found), of, f"{where}: {str(found[0])[:80]!r}" if found else "")

    query, count = key_of(row.query), len(row.negatives)
    keys = [key_of(text, row.by_id) for text in row.negatives]
    pairs = list(zip(row.negatives, keys, strict=True))
    tell("positives among the negatives", [text for text, key in pairs if key in known.positives[query]], count)
    tell("negatives twice in a row", [text for i, (text, key) in enumerate(pairs) if key in keys[:i]], count)
    scores = [*row.positive_scores, *row.negative_scores]
    bad = [score for score in scores if not isinstance(score, int | float) or not math.isfinite(score)]
    tell("scores that are not finite", bad, len(scores))
    tell("queries of the evaluation", [row.query] if query in known.queries else [], 1)
    leaked = [text for text, key in pairs if key in known.documents]
    tell("documents of the evaluation among the negatives", leaked, count)
    if known.ids is not None and row.by_id:
        unknown = [name for name in (*row.positives, *row.negatives) if name not in known.ids]
        tell("ids that no document has", unknown, len(row.positives) + count)
    if not row.by_id:
        shingles = [shingles_of(text) for text in row.positives]
        near = [
            text
            for text, key in pairs
            if key not in known.positives[query] and any(jaccard(shingles_of(text), each) >= NEAR for each in shingles)
        ]
        tell("near duplicates of a positive", near, count)
    if row.positives and len(row.positives) + count > 1:  # else a row is a single document
        tell("rows with fewer negatives than most", [count] if count < known.usual else [], 1)
    if row.positive_scores and not bad:
        lowest = min(row.positive_scores)
        tell("negatives that score above the positive", [s for s in row.negative_scores if s > lowest], count)


def shingles_of(text: str) -> set[tuple[str, ...]]:
    """Runs of SHINGLE_WORDS words, case folded; a shorter text is one."""
    words = schemas.fold(text).split()
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def jaccard(left: set[Any], right: set[Any]) -> float:
    """The share of what either has that both have."""
    return len(left & right) / len(left | right) if left or right else 0.0
