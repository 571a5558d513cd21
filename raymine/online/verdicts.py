"""From a finished round to the pairs that must not stand against each other in a batch.

Verdicts are read one query block at a time, and of the corpus only the hashes of the documents in question: memory is
some 50 bytes per masked pair while it is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymine import storage
from raymine.errors import ConfigError
from raymine.lookup import Rows, distinct
from raymine.online.false_negatives import FalseNegatives, Texts
from raymine.rounds import Round
from raymine.select import FILTERS
from raymine.select.base import Candidates
from raymine.select.verdict import resolved
from raymine.select_config import FilterConfig
from raymine.storage import Shard

# An answer whatever the filters say, or a document with the text of one.
KNOWN = ("positive", "excluded", "duplicate_of_positive")
# Filters that take a candidate because it is likely an answer, not because it is too easy.
LIKELY = ("max_relative_score", "margin", "max_score", "skip_top", "near_duplicate", "other_cluster")


def false_negatives(
    round_: Round, reasons: Sequence[str] = LIKELY, filters: Sequence[FilterConfig] = ()
) -> FalseNegatives:
    """What a round knows of pairs that must not be negatives of a batch.

    Always known positives, excluded judgements, and every document with the text of one of these; then the candidates
    that a filter took for likely answers. Documents and queries of equal text are one.

    Args:
        round_: finished.
        reasons: names of filters whose drops are masked.
        filters: filters to ask again, stricter than in mining if need be, e.g. Margin(kind="margin", value=0.1,
            score="teacher"): whatever comes within 0.1 of the positive by the teacher. Their score is the round's
            default unless they name one.

    Raises:
        ConfigError: a reason is no filter's name.
    """
    unknown = sorted(set(reasons) - {*FILTERS, *KNOWN})
    if unknown:
        raise ConfigError("no filter of that name", got=", ".join(unknown), expected=f"some of {list(FILTERS)}")
    tables, filters = round_.tables(), resolved(filters, round_.facts["default_score"])
    pairs = [_masked(verdicts, {*KNOWN, *reasons}, filters) for verdicts in verdict_blocks(round_)]
    pairs += [storage.read_table(shard.path, ["query_row", "doc_row"]) for shard in tables.excluded]
    both = pa.concat_tables(pairs)
    query_rows, doc_rows = (both[name].to_numpy() for name in ("query_row", "doc_row"))
    used = np.concatenate([doc_rows, round_.negatives()["doc_row"].to_numpy()])
    return FalseNegatives(
        query_rows,
        doc_rows,
        _numbered(tables.queries, "text_hash", query_rows),
        _numbered(tables.corpus, "fold_hash", used),
    )


def verdict_blocks(round_: Round) -> Iterator[pa.Table]:
    """The round's verdicts (schemas.verdicts), one query block after the other."""
    for fragment in round_.verdicts().get_fragments():
        yield fragment.to_table()


def taken(shards: Sequence[Shard], column: str, rows: Rows) -> Iterator[pa.ChunkedArray]:
    """A column of some rows of shards, shard by shard; each is read only if it has one of them.

    Args:
        shards: of the corpus or the queries, in the order of their rows.
        column: of theirs.
        rows: int64 [n], ascending.
    """
    for shard in shards:
        begin, end = np.searchsorted(rows, [shard.first_row, shard.first_row + shard.num_rows])
        if end > begin:
            yield storage.read_table(shard.path, [column])[column].take(pa.array(rows[begin:end] - shard.first_row))


def _masked(verdicts: pa.Table, reasons: set[str], filters: Sequence[FilterConfig]) -> pa.Table:
    """query_row and doc_row of a block's pairs that were dropped for one of the reasons, or that a filter takes."""
    mask = pc.is_in(pc.cast(verdicts["dropped_by"], pa.string()), value_set=pa.array(sorted(reasons))).to_numpy()
    for config in filters:
        mask = mask | FILTERS[config.kind](Candidates(verdicts), config)
    return verdicts.select(["query_row", "doc_row"]).filter(pa.array(mask))


def _numbered(shards: Sequence[Shard], hash_column: str, rows: Rows) -> Texts:
    """Rows, each once, and the number of each one's text."""
    rows = distinct(rows)
    found = list(taken(shards, hash_column, rows))
    if not found:
        return rows, rows
    hashes = pa.chunked_array([chunk for part in found for chunk in part.chunks])
    return rows, hashes.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
