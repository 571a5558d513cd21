"""Filters, sampling and formats together give the rows that sentence-transformers' mine_hard_negatives gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tiny_models

from raymine import schemas
from raymine.select.judged import Selection, judge
from raymine.select.prefilter import prefilter
from raymine.select.stage import select
from raymine.select_config import Margin, MaxRelativeScore, MaxScore, MinScore, SampleConfig
from raymine.write import FORMATS
from raymine.write.stage import Block, Counts, training_rows

NUM_QUERIES, NUM_DOCUMENTS = 12, 60
QUERIES = tiny_models.texts(NUM_QUERIES, seed=1)
DOCUMENTS = tiny_models.texts(NUM_DOCUMENTS, seed=2)
POSITIVES = sorted({(q, d) for q in range(NUM_QUERIES) for d in {q, 3 * q % NUM_DOCUMENTS}})


def ours(similarity, name, scores, filters, n):
    """Rows by the stages' pure functions, with every document a candidate of every query."""
    query, doc = (side.reshape(-1) for side in np.indices(similarity.shape))
    pairs = {"query_row": query, "doc_row": doc}
    is_positive = [pair in set(POSITIVES) for pair in zip(query.tolist(), doc.tolist(), strict=True)]
    ranks = np.argsort(np.argsort(-similarity, axis=1), axis=1).reshape(-1).astype(np.int32)
    columns = {**pairs, "relevance": [1 if p else None for p in is_positive], "dense_rank": ranks}
    dense = similarity.reshape(-1).astype(np.float32)
    candidates = pa.table({**columns, "dense_score": dense}).cast(schemas.candidates(["dense"]))
    hashes = [schemas.text_hash(schemas.fold(DOCUMENTS[d])) for d in doc]
    notes = pa.table({**pairs, "fold_hash": hashes, "is_empty": [False] * len(doc), "dense_score": dense})
    positives = notes.filter(pa.array(is_positive)).select(["query_row", "doc_row", "fold_hash"])
    positives = positives.add_column(2, "relevance", pa.array([1] * len(positives), pa.int32()))
    notes, positives = notes.cast(schemas.NOTES), positives.cast(schemas.POSITIVES)
    verdicts = prefilter(candidates, notes, positives, schemas.EXCLUDED.empty_table(), filters, ["dense"]).verdicts
    how = Selection(filters, SampleConfig(n=n), 0, 1, ["dense"], "dense")
    got = select(judge(verdicts, None, how), [str(q) for q in range(NUM_QUERIES)], 0, how)
    block = Block(
        queries=schemas.query_table([str(q) for q in range(NUM_QUERIES)], QUERIES),
        first_row=0,
        verdicts=got.verdicts,
        negatives=got.negatives,
        shortfall=got.shortfall,
        forbidden=got.forbidden,
        texts=pa.table({"doc_row": range(NUM_DOCUMENTS), "doc_id": map(str, range(NUM_DOCUMENTS)), "text": DOCUMENTS}),
    )
    tables = training_rows(block, FORMATS[name], "dense" if scores else None, Counts())
    return [row for table in tables for row in table.to_pylist()]


OPTIONS = {
    "plain": ({}, []),
    "relative": (
        {"relative_margin": 0.2},
        [MaxRelativeScore(kind="max_relative_score", of_positive=0.8, score="dense")],
    ),
    "absolute": ({"absolute_margin": 0.1}, [Margin(kind="margin", value=0.1, score="dense")]),
    "scores": (
        {"max_score": 0.5, "min_score": 0.3},
        [MaxScore(kind="max_score", value=0.5, score="dense"), MinScore(kind="min_score", value=0.3, score="dense")],
    ),
}


@pytest.mark.parametrize("option", list(OPTIONS))
@pytest.mark.parametrize("scores", [False, True], ids=["labels", "scores"])
@pytest.mark.parametrize("name", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
def test_rows_equal_sentence_transformers(static_model, name, scores, option):
    """Same rows in the same order, scores within 1e-5: thresholds, shortfalls and several positives included."""
    import datasets
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    model = SentenceTransformer(static_model, device="cpu")
    theirs, filters = OPTIONS[option]
    dataset = datasets.Dataset.from_dict(
        {"anchor": [QUERIES[q] for q, _ in POSITIVES], "positive": [DOCUMENTS[d] for _, d in POSITIVES]}
    )
    expected = mine_hard_negatives(
        dataset,
        model,
        corpus=DOCUMENTS,
        num_negatives=4,
        range_max=NUM_DOCUMENTS,
        output_format=name,
        output_scores=scores,
        verbose=False,
        **theirs,
    ).to_list()
    embedded = [model.encode(texts, normalize_embeddings=True).astype(np.float64) for texts in (QUERIES, DOCUMENTS)]
    rows = ours(embedded[0] @ embedded[1].T, name, scores, filters, 4)
    assert len(rows) == len(expected) > 0
    for got, wanted in zip(rows, expected, strict=True):
        assert list(got) == list(wanted)
        for column in got:
            is_score = column in ("score", "scores")
            assert got[column] == (pytest.approx(wanted[column], abs=1e-5) if is_score else wanted[column])
