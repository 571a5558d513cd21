"""Earlier negatives in today's rows, what became of them, and what is traced of them, each against plain Python."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raymine import schemas, storage
from raymine.artifacts import Task
from raymine.lineage.carry import carried
from raymine.lineage.measure import measure
from raymine.lineage.moves import GONE, MapRows, Moves, Span
from raymine.lineage.trace import traced

SHARD = 5


def shards(ids: list[str], folder: Path) -> list[tuple[str, int]]:
    """Documents in files of five, and their first rows."""
    found = []
    for begin in range(0, len(ids), SHARD):
        part = ids[begin : begin + SHARD]
        path = str(folder / f"{begin}-{abs(hash(tuple(part)))}.parquet")
        storage.write_table(path, schemas.corpus_table(part, ["x"] * len(part)))
        found.append((path, begin))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_found_wherever_they_have_moved(tmp_path: Path, seed: int) -> None:
    """Files are dropped, put in front, cut and changed: each id that is still there is found in its new row."""
    draw = random.Random(seed)
    old = [f"d{number}" for number in range(40)]
    new = old[5:10] + old[20:35] + [f"n{number}" for number in range(5)] + draw.sample(old[:5] + old[10:20], 7)
    before, after = shards(old, tmp_path), shards(new, tmp_path)
    contents = {tuple(new[first : first + SHARD]): first for _, first in after}
    spans = [Span(first, SHARD, contents.get(tuple(old[first : first + SHARD]))) for _, first in before]
    gone = [shard for shard, span in zip(before, spans, strict=True) if span.new is None]
    came = [shard for shard in after if shard[1] not in [span.new for span in spans]]
    record = MapRows("doc_id", gone, came)(Task("moved", {}, str(tmp_path / "moved")))
    rows = np.array([draw.randrange(40) for _ in range(100)])
    expected = [new.index(old[row]) if old[row] in new else GONE for row in rows]
    assert Moves(spans, storage.read_table(record.outputs[0].path))(rows).tolist() == expected
    assert any(span.new is not None for span in spans) and gone and came


def lineage(rows: list[tuple[int, int, int, int, list[int | None]]]) -> pa.Table:
    names = schemas.LINEAGE.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schemas.LINEAGE)


def test_lineage_is_carried_into_the_block() -> None:
    """Queries and documents move; what has gone or belongs to another block is left out; order is by the new rows."""
    table = lineage([(0, 1, 1, 1, [0]), (0, 6, 1, 1, [3]), (1, 0, 1, 1, [None]), (2, 2, 1, 1, [5])])
    queries = Moves([Span(0, 3, 10)])
    documents = Moves([Span(0, 5, 20), Span(5, 5, 0)])
    made = carried(table, queries, documents, (10, 12))
    assert made.to_pylist() == lineage([(10, 1, 1, 1, [3]), (10, 21, 1, 1, [0]), (11, 20, 1, 1, [None])]).to_pylist()
    gone = Moves([Span(0, 5, None), Span(5, 5, 0)])
    assert carried(table, queries, gone, (10, 12))["doc_row"].to_pylist() == [1]


@pytest.mark.parametrize("seed", range(8))
def test_what_became_of_the_last_negatives(seed: int) -> None:
    """Kinds and settled queries, one pair at a time; unknown scores on either side count as unscored."""
    draw = random.Random(seed)
    positives, negatives, scores = [], [], {}
    for query in range(12):
        positives += [(query, 100 + number) for number in range(draw.choice([1, 1, 2]))]
        negatives += [(query, number, draw.choice([3, 3, 2])) for number in range(draw.randint(0, 4))]
    for pair in [*positives, *[(q, d) for q, d, _ in negatives]]:
        if draw.random() < 0.85:
            scores[pair] = np.float32(draw.randint(-6, 8) / 8)
    rows = [(q, d, 1, last, [0] * 3) for q, d, last in negatives]
    ordered = sorted(scores.items())
    hits = schemas.hits_table(
        np.array([pair[0] for pair, _ in ordered]),
        np.array([pair[1] for pair, _ in ordered]),
        np.zeros(len(ordered), np.int32),
        np.array([score for _, score in ordered], np.float32),
    )
    fold = b"0" * 16
    judged = [{"query_row": q, "doc_row": d, "relevance": 1, "fold_hash": fold} for q, d in sorted(positives)]
    found = measure(hits, lineage(rows), pa.Table.from_pylist(judged, schema=schemas.POSITIVES), 4, 0.1, 0.2)
    kinds = {"ranking_error": 0, "semi_hard": 0, "hard": 0, "unscored": 0}
    settled = set()
    for query, doc, last in negatives:
        if last != 3:
            continue
        known = [scores[pair] for pair in positives if pair[0] == query and pair in scores]
        if not known or (query, doc) not in scores:
            kinds["unscored"] += 1
            continue
        own, lowest = float(scores[query, doc]), float(min(known))
        name = "ranking_error" if own > lowest else "semi_hard" if own > lowest - abs(lowest) * 0.1 else "hard"
        kinds[name] += 1
        if own > lowest - 0.2:
            settled.add(query)
    assert found.kinds == kinds
    assert found.settled["query_row"].to_pylist() == sorted(settled)


def test_lineage_goes_on() -> None:
    """New ones begin, chosen ones are prolonged, all get this round's rank: null where dense search found none."""
    earlier = lineage([(0, 1, 1, 2, [4, 0]), (0, 7, 2, 2, [None]), (1, 3, 1, 1, [2, None])])
    negatives = pa.table({"query_row": [0, 0, 1], "doc_row": [7, 5, 9]})
    verdicts = pa.table(
        {
            "query_row": [0, 0, 0, 1],
            "doc_row": [5, 7, 1, 3],
            "dense_rank": pa.array([2, 3, None, 0], pa.int32()),
        }
    )
    assert (
        traced(earlier, negatives, verdicts, 3).to_pylist()
        == lineage(
            [
                (0, 1, 1, 2, [4, 0, None]),
                (0, 5, 3, 3, [2]),
                (0, 7, 2, 3, [None, 3]),
                (1, 3, 1, 1, [2, None, 0]),
                (1, 9, 3, 3, [None]),
            ]
        ).to_pylist()
    )


def test_a_first_round_begins_a_lineage() -> None:
    """Without dense search no ranks are known."""
    negatives = pa.table({"query_row": [0, 2], "doc_row": [7, 5]})
    verdicts = pa.table({"query_row": [0, 2], "doc_row": [7, 5]})
    made = traced(schemas.LINEAGE.empty_table(), negatives, verdicts, 1)
    assert made.to_pylist() == lineage([(0, 7, 1, 1, [None]), (2, 5, 1, 1, [None])]).to_pylist()
