"""From the rows of a file to ids and texts: the checks and the title, the same for every format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymine.config import CorpusConfig, TextSource
from raymine.corpus.base import Columns, Problems, Rows
from raymine.schemas import text_hash

DEFAULT_TITLE = "title"


def columns_of(config: TextSource) -> Columns:
    """The columns that a config asks for; a title and metadata are optional."""
    required = [config.id_column, *([config.text_column] if config.text_column else [])]
    optional = [config.title_column] if config.text_column and config.title_column else []
    optional += [name for name in metadata_of(config) if name not in (*required, *optional)]
    return Columns(tuple(required), tuple(optional), config.vector_column)


def metadata_of(config: TextSource) -> tuple[str, ...]:
    """The columns of metadata; queries have none."""
    return config.metadata if isinstance(config, CorpusConfig) else ()


def asked_columns(config: TextSource) -> list[str]:
    """The optional columns that some row of every file must have: those that the config names."""
    title = [config.title_column] if config.text_column and config.title_column else []
    return [name for name in columns_of(config).optional if name not in title or name != DEFAULT_TITLE]


def absent(path: str, column: str) -> str:
    """The fault of a file without a column that was asked for."""
    return f"{path}: no row has the column `{column}`"


def codes_of(rows: Rows, column: str, problems: Problems) -> NDArray[np.int64]:
    """A code per row of a column of metadata, equal where the values are; 0 where there is none.

    The code is half of the hash of the value as a text, so 1 and "1" are equal. What is neither a text nor a number nor
    a truth value is noted in `problems`.
    """
    found = rows.columns[column]
    codes: dict[str | None, int] = {None: 0}
    for index, value in enumerate(found):
        if not isinstance(value, str | int | float | None):
            problems.add(
                rows.place(index),
                f"`{column}` is neither a text nor a number; got {type(value).__name__} {value!r:.60}",
            )
            found[index] = None
        elif value is not None:
            found[index] = text = str(value)
            codes[text] = codes.get(text) or int.from_bytes(text_hash(text)[:8], "little", signed=True) or 1
    return np.array([codes[value] for value in found], np.int64)


def ids_of(rows: Rows, config: TextSource, problems: Problems) -> list[str]:
    """The ids of rows; integers become their decimal strings. What is no id is noted in `problems`."""
    found = rows.columns[config.id_column]
    if all(type(value) is str and value for value in found):
        return found
    return [_id(value, config.id_column, rows, index, problems) for index, value in enumerate(found)]


def _id(value: Any, column: str, rows: Rows, index: int, problems: Problems) -> str:
    if type(value) is int:
        return str(value)
    if type(value) is str and value:
        return value
    got = "null" if value is None else "an empty string" if value == "" else f"{type(value).__name__} {value!r:.60}"
    problems.add(rows.place(index), f"`{column}` is no id; got {got}; expected a string or an integer")
    return ""


def texts_of(rows: Rows, config: TextSource, problems: Problems) -> list[str | None]:
    """The texts of rows, each after its title and a blank where it has one; null is an empty text.

    As in BEIR, a text that is joined to a title is stripped; one without a title stays as it is.

    Returns:
        One per row; None throughout where the config names no text column.
    """
    if not config.text_column:
        return [None] * len(rows)
    texts = _strings(config.text_column, rows, problems)
    if not config.title_column:
        return [text or "" for text in texts]
    titles = _strings(config.title_column, rows, problems)
    return [
        (text or "") if title is None else f"{title} {text or ''}".strip()
        for title, text in zip(titles, texts, strict=True)
    ]


def _strings(column: str, rows: Rows, problems: Problems) -> list[str | None]:
    found = rows.columns[column]
    for index, value in enumerate(found):
        if value is not None and type(value) is not str:
            problems.add(rows.place(index), f"`{column}` is not a text; got {type(value).__name__} {value!r:.60}")
            found[index] = None
    return found


def check_query_texts(rows: Rows, texts: list[str | None], problems: Problems) -> None:
    """Notes queries whose text is empty: nothing can be found for them."""
    for index, text in enumerate(texts):
        if text is not None and not text.strip():
            problems.add(rows.place(index), "the query's text is empty")
