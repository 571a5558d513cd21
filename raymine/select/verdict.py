"""The column `dropped_by`: which filter took each candidate, first come first named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import schemas
from raymine.select import FILTERS
from raymine.select.always import ALWAYS, Facts
from raymine.select.base import Candidates, Mask
from raymine.select_config import FilterConfig

REASONS = (*ALWAYS, *FILTERS)
KEPT = -1

Codes = NDArray[np.int64]  # per candidate: position in REASONS, or KEPT


def resolved(filters: Sequence[FilterConfig], default_score: str | None) -> list[FilterConfig]:
    """The filters with `score` filled in where it was left to the default."""
    return [
        config.model_copy(update={"score": default_score}) if getattr(config, "score", "") is None else config
        for config in filters
    ]


def comes_late(config: FilterConfig) -> bool:
    """Whether a resolved filter has to wait for the teacher's scores, or for what is known over all queries only."""
    is_over_all = config.kind == "max_reuse" or getattr(config, "over", None) == "all"
    return is_over_all or getattr(config, "score", None) == "teacher"


def drop(codes: Codes, mask: Mask, reason: str) -> Codes:
    """Gives `reason` to the candidates of the mask that are still kept."""
    return np.where(mask & (codes == KEPT), REASONS.index(reason), codes)


def apply_always(facts: Facts) -> Codes:
    """Codes after the always-reasons."""
    codes = np.full(len(facts.candidates), KEPT, np.int64)
    for reason, test in ALWAYS.items():
        codes = drop(codes, test(facts, codes == KEPT), reason)
    return codes


def apply_filters(codes: Codes, candidates: Candidates, filters: Sequence[FilterConfig]) -> Codes:
    """Codes after the config's (resolved) filters, in their order."""
    for config in filters:
        codes = drop(codes, FILTERS[config.kind](candidates, config), config.kind)
    return codes


def to_column(codes: Codes) -> pa.DictionaryArray:
    """The column `dropped_by`; its dictionary is always REASONS, so that equal verdicts are equal bytes."""
    indices = pa.array(codes.astype(np.int32), mask=codes == KEPT)
    return pa.DictionaryArray.from_arrays(indices, pa.array(REASONS, pa.string()))


def from_column(column: pa.ChunkedArray) -> Codes:
    """Codes of a column `dropped_by`, whatever its dictionary is."""
    codes = pc.index_in(pc.cast(column, pa.string()), value_set=pa.array(REASONS, pa.string()))
    return np.asarray(pc.fill_null(codes, KEPT).to_numpy()).astype(np.int64)


def with_codes(table: pa.Table, codes: Codes) -> pa.Table:
    """The table with its `dropped_by` set from codes."""
    return table.set_column(table.schema.get_field_index("dropped_by"), schemas.DROPPED_BY, to_column(codes))


def counts(codes: Codes) -> dict[str, int]:
    """How many candidates each reason took (only those that took any), and how many are kept."""
    found = np.bincount(codes - KEPT, minlength=len(REASONS) + 1)
    return {"kept": int(found[0]), **{reason: int(n) for reason, n in zip(REASONS, found[1:], strict=True) if n}}
