"""Training sets as lines of fields: ANCE's, SimANS', GPL's margins, and runs.

There are no names of columns. A file is known by how many fields its first lines have, and by what these are:

| fields | format |
|---|---|
| query, Q0, document, rank, score, tag, by blanks | a run, as TREC has it |
| query, document, number | a run, as tevatron reads it |
| query, positive, negatives by commas | ANCE |
| query, positive, negatives by commas, number, numbers by commas | ANCE with scores |
| query, positive, negative, number | GPL's margins |
| query id, query, positives and negatives as `id score` by commas | SimANS |

Where texts lie beside a file of three fields it is ANCE's: a run has none, and an id may be a number. The lines of a
run that belong to one query are one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from raymine.audit.row import Row
from raymine.corpus.lines import place, text_lines
from raymine.errors import InputError

HEAD_LINES = 1000  # as many lines of ANCE's with a single negative each, all of them numbers, would be taken for a run
Fields = list[str]


@dataclass(frozen=True)
class Lines:
    """One format of lines.

    Args:
        num_fields: of each line.
        fits: whether the first lines of a file, with texts beside it or without, are of this format.
        make: gives a row of the fields of a line, or of a run's lines of one query.
        is_run: whether a query has several lines.
    """

    num_fields: int
    fits: Callable[[list[Fields], bool], bool]
    make: Callable[[list[Fields]], Row]
    is_run: bool = False


def line_rows(path: str, has_texts: bool) -> Iterator[tuple[int, Row]]:
    """The rows of a file, each with the number of its (first) line, from 0.

    Args:
        path: of the file.
        has_texts: whether texts lie beside it.

    Raises:
        InputError: no format has such lines, or a line is not like the first ones.
    """
    head = [fields for _, fields in islice(_lines(path), HEAD_LINES)]
    if not head:
        return
    fitting = (form for form in FORMATS if form.num_fields == len(head[0]) and form.fits(head, has_texts))
    form = next(fitting, None)
    if form is None:
        raise _unlike(path, 0, head[0], "a line of ANCE's, SimANS', GPL's margins or a run")
    groups = groupby(_checked(path, form), key=lambda line: line[1][0] if form.is_run else line[0])
    for lines in (list(group) for _, group in groups):
        yield lines[0][0], form.make([fields for _, fields in lines])


def _lines(path: str) -> Iterator[tuple[int, Fields]]:
    for number, line in text_lines(path):
        if line.strip():
            yield number - 1, line.split("\t") if "\t" in line else line.split()


def _checked(path: str, form: Lines) -> Iterator[tuple[int, Fields]]:
    for number, fields in _lines(path):
        if len(fields) != form.num_fields:
            raise _unlike(path, number, fields, f"{form.num_fields} fields, as in the first line")
        yield number, fields


def _unlike(path: str, number: int, fields: Fields, expected: str) -> InputError:
    return InputError(
        f"{place(path, number + 1)}: not a line of a training set",
        got=f"{len(fields)} fields: {' | '.join(fields)[:80]}",
        expected=expected,
        fix="audit the files that the trainer reads",
    )


def _number(text: str) -> Any:
    """A number, or the text that is none: the audit counts it among those that are not finite."""
    try:
        return float(text)
    except ValueError:
        return text


def _run(document: int, score: int) -> Callable[[list[Fields]], Row]:
    def make(lines: list[Fields]) -> Row:
        documents = [fields[document] for fields in lines]
        return Row(lines[0][0], [], documents, [], [_number(fields[score]) for fields in lines], by_id=True)

    return make


def _ance(lines: list[Fields]) -> Row:
    """Two further fields are the scores."""
    query, positive, negatives, *scores = lines[0]
    positives, beside = [[_number(score) for score in side.split(",")] for side in scores] or [[], []]
    return Row(query, [positive], negatives.split(","), positives, beside, by_id=True)


def _margins(lines: list[Fields]) -> Row:
    """The margin as the positive's score, to the negative's of 0."""
    query, positive, negative, margin = lines[0]
    return Row(query, [positive], [negative], [_number(margin)], [0.0], by_id=True)


def _simans(lines: list[Fields]) -> Row:
    _, query, positives, negatives = lines[0]
    scored = [[pair.rpartition(" ") for pair in side.split(",")] for side in (positives, negatives)]
    ids = [[pair[0] for pair in side] for side in scored]
    scores = [[_number(pair[2]) for pair in side] for side in scored]
    return Row(query, ids[0], ids[1], scores[0], scores[1], by_id=True)


def _are_numbers(field: int) -> Callable[[list[Fields], bool], bool]:
    return lambda head, _: all(isinstance(_number(fields[field]), float) for fields in head if len(fields) > field)


FORMATS = (
    Lines(6, _are_numbers(3), _run(2, 4), is_run=True),
    Lines(3, lambda head, has_texts: not has_texts and _are_numbers(2)(head, has_texts), _run(1, 2), is_run=True),
    Lines(3, lambda head, has_texts: True, _ance),
    Lines(5, _are_numbers(3), _ance),
    Lines(4, lambda head, has_texts: " " not in head[0][3], _margins),
    Lines(4, lambda head, has_texts: True, _simans),
)
