"""The verdicts of one query block in full: the teacher's scores are in, and every filter has run.

Sampling begins from these, and so does what needs a pass over other tables first: counting scores over all queries,
capping how often a document serves, fetching vectors. Each of those judges the block anew, which takes less than
writing its verdicts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.lookup import pair_positions, rows_of
from raymine.select.always import ALWAYS
from raymine.select.base import Candidates, without_non_finite
from raymine.select.relative import each_filters, forbidden
from raymine.select.scales import Scales
from raymine.select.verdict import KEPT, Codes, apply_filters, comes_late, drop, from_column, resolved, with_codes
from raymine.select_config import FilterConfig, PercentileBand, SampleConfig


@dataclass(frozen=True)
class Selection:
    """How a block is selected from.

    Args:
        filters: all of the config's.
        sample: how negatives are sampled.
        seed: of the config.
        round_number: of the round.
        sources: names of the sources.
        default_score: what sampling goes by unless told; what kinds go by.
        calibrate: select.calibrate.
    """

    filters: Sequence[FilterConfig]
    sample: SampleConfig
    seed: int
    round_number: int
    sources: Sequence[str]
    default_score: str | None
    calibrate: str | None = None

    @property
    def sample_score(self) -> str | None:
        """The score that sampling goes by."""
        return self.sample.score or self.default_score

    @property
    def counted_scores(self) -> list[str]:
        """The scores that something goes by over all queries."""
        filters = resolved(self.filters, self.default_score)
        bands = [str(each.score) for each in filters if isinstance(each, PercentileBand) and each.over == "all"]
        return sorted({*bands, *(["teacher"] if self.calibrate == "percentile" else [])})


@dataclass(frozen=True)
class Judged:
    """One query block.

    Args:
        candidates: over its verdicts, the teacher's scores filled in.
        codes: the reason of each, or KEPT.
    """

    candidates: Candidates
    codes: Codes

    @property
    def kept(self) -> NDArray[np.int64]:
        """Positions of the candidates that no filter took, int64."""
        return np.flatnonzero(self.codes == KEPT)


def judge(
    verdicts: pa.Table,
    teacher_scores: pa.Table | None,
    how: Selection,
    counts: pa.Table | None = None,
    overused: pa.Table | None = None,
) -> Judged:
    """Brings the teacher's scores in and applies the filters that waited for them.

    Args:
        verdicts: schemas.verdicts(...) of Prefilter, sorted by (query_row, doc_row).
        teacher_scores: schemas.TEACHER_SCORES in any order; None: there is no teacher, or its scores are in.
        how: filters, resolved.
        counts: summed schemas.SCORE_COUNTS of all blocks.
        overused: schemas.PAIRS that max_reuse takes.
    """
    if teacher_scores is not None:
        verdicts = with_teacher(verdicts, teacher_scores)
    taken = pair_positions(rows_of(overused), rows_of(verdicts)) >= 0 if overused is not None else None
    candidates = Candidates(verdicts, Scales(how.calibrate, counts), taken)
    return Judged(candidates, late_verdicts(candidates, from_column(verdicts["dropped_by"]), how.filters))


def with_teacher(verdicts: pa.Table, teacher_scores: pa.Table) -> pa.Table:
    """The verdicts with their `teacher_score` filled in where there is one (non-finite ones do not count)."""
    where = pair_positions(rows_of(teacher_scores), rows_of(verdicts))
    scores = teacher_scores["teacher_score"].take(pa.array(where, mask=where < 0))
    field = verdicts.schema.field("teacher_score")
    position = verdicts.schema.get_field_index("teacher_score")
    return without_non_finite(verdicts.set_column(position, field, scores))


def late_verdicts(candidates: Candidates, codes: Codes, filters: Sequence[FilterConfig]) -> Codes:
    """Codes after the filters that waited, max_reuse last.

    Where filters `against: each` go by different scores, a candidate may pass each of them for another positive and so
    fit none; it goes by the last of them.
    """
    late = sorted(filter(comes_late, filters), key=lambda config: config.kind == "max_reuse")
    codes = apply_filters(codes, candidates, late)
    each = sorted(each_filters(filters), key=comes_late)
    if len({config.score for config in each}) > 1:
        mask = np.zeros(len(candidates), np.bool_)
        mask[forbidden(candidates, np.flatnonzero(codes == KEPT), each).everywhere] = True
        codes = drop(codes, mask, each[-1].kind)
    return codes


def before_filters(verdicts: pa.Table, filters: Sequence[FilterConfig]) -> pa.Table:
    """Verdicts of a finished round as Prefilter would have left them with these (resolved) filters."""
    codes = from_column(verdicts["dropped_by"])
    codes = np.where(codes < len(ALWAYS), codes, KEPT)
    early = [config for config in filters if not comes_late(config)]
    return with_codes(verdicts, apply_filters(codes, Candidates(verdicts), early))


class Blocks:
    """Reads and judges query blocks.

    Args:
        teacher_scores: paths of Rescore's files, bucketed by query block; None: there is no teacher, or its scores are
            in the verdicts.
        how: filters, sampling and seeds.
        is_again: the verdicts are those of a finished round, to be judged with other filters.
        counts: path of the summed SCORE_COUNTS; None: nothing goes by them.
        overused: paths of what max_reuse takes, bucketed by query block; None: nothing yet.
    """

    def __init__(
        self,
        teacher_scores: Sequence[str] | None,
        how: Selection,
        is_again: bool = False,
        counts: str | None = None,
        overused: Sequence[str] | None = None,
    ) -> None:
        self.teacher_scores, self.is_again, self.overused = teacher_scores, is_again, overused
        self.how = replace(how, filters=resolved(how.filters, how.default_score))
        self.counts = storage.read_table(counts) if counts is not None else None

    def judged(self, inputs: dict[str, Any]) -> Judged:
        """Block `bucket`, whose early verdicts lie at `verdicts`."""
        verdicts, scores = self.read(inputs)
        overused = None
        if self.overused is not None:
            overused = storage.read_buckets(self.overused, inputs["bucket"], schemas.PAIRS)
        return judge(verdicts, scores, self.how, self.counts, overused)

    def read(self, inputs: dict[str, Any]) -> tuple[pa.Table, pa.Table | None]:
        """The early verdicts of block `bucket`, and the teacher's scores that are not in them."""
        verdicts, scores = storage.read_table(inputs["verdicts"]), None
        if self.is_again:
            verdicts = before_filters(verdicts, self.how.filters)
        if self.teacher_scores is not None:
            scores = storage.read_buckets(self.teacher_scores, inputs["bucket"], schemas.TEACHER_SCORES)
        return verdicts, scores
