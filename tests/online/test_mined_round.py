"""From a mined round: the mask and the training set, against plain Python over the input files."""

import mining
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from auditor import folded

import raymine
from raymine.config_file import make_config
from raymine.errors import ConfigError, WorkspaceError
from raymine.online import false_negatives, training_set
from raymine.select_config import Margin


def ids_of(shards, column):
    return [name for shard in shards for name in pq.read_table(shard.path)[column].to_pylist()]


@pytest.fixture(scope="module")
def ids(mined):
    """Query ids and document ids by row."""
    tables = mined.tables()
    return ids_of(tables.queries, "query_id"), ids_of(tables.corpus, "doc_id")


@pytest.fixture(scope="module")
def used(mined):
    """Rows of all documents that may come in a batch."""
    return np.unique(np.concatenate([label[1:] for label in training_set(mined, 1)["label"]]))


def expected_mask(mined, auditor, ids, used, is_likely):
    """Per query and used document, whether its text is that of a known or likely answer."""
    query_ids, doc_ids = ids
    answers = {
        query: {folded(auditor.documents[doc]) for doc in auditor.positives[query] | auditor.banned[query]}
        for query in query_ids
    }
    for row in mined.verdicts().to_table().to_pylist():
        if is_likely(row):
            answers[query_ids[row["query_row"]]].add(folded(auditor.documents[doc_ids[row["doc_row"]]]))
    texts = [folded(auditor.documents[doc_ids[row]]) for row in used.tolist()]
    return np.array([[text in answers[query] for text in texts] for query in query_ids])


def found_mask(mask, ids, used):
    return mask(torch.arange(len(ids[0])), torch.from_numpy(used)).numpy()


@pytest.mark.parametrize(
    "reasons", [None, (), ("skip_top",), ("max_relative_score", "skip_top")], ids=["default", "none", "rank", "both"]
)
def test_the_mask_is_what_the_verdicts_and_the_judgements_say(mined, auditor, ids, used, reasons):
    """Twins of answers are masked though they were no candidates; excluded documents too."""
    mask = false_negatives(mined) if reasons is None else false_negatives(mined, reasons)
    likely = {"max_relative_score", "skip_top"} if reasons is None else set(reasons)
    expected = expected_mask(mined, auditor, ids, used, lambda row: row["dropped_by"] in likely)
    assert np.array_equal(found_mask(mask, ids, used), expected)
    assert expected.sum() > len(ids[0])


def test_a_margin_by_the_teacher_masks_what_mining_kept(mined, auditor, ids, used):
    """Filters are asked again, with other bounds."""
    rows = mined.verdicts().to_table().to_pylist()
    lowest: dict[int, float] = {}
    for row in rows:
        if row["relevance"] and row["teacher_score"] is not None:
            lowest[row["query_row"]] = min(row["teacher_score"], lowest.get(row["query_row"], np.inf))

    def is_near(row):
        score = row["teacher_score"]
        return score is not None and score > lowest[row["query_row"]] - 0.05

    margin = Margin(kind="margin", value=0.05)
    found = found_mask(false_negatives(mined, (), [margin]), ids, used)
    assert np.array_equal(found, expected_mask(mined, auditor, ids, used, is_near))
    assert found.sum() > found_mask(false_negatives(mined), ids, used).sum()


def test_an_unknown_reason_is_an_error(mined):
    with pytest.raises(ConfigError, match="no filter of that name"):
        false_negatives(mined, ["max_relativ_score"])


@pytest.mark.parametrize("n", [0, 2, None])
def test_the_training_set_is_the_n_tuples_with_their_rows(mined, auditor, ids, n):
    """Texts are those of the rows; a positive has its query's first negatives by slot, all or no row."""
    rows, size = training_set(mined, n), 4 if n is None else n
    assert rows.column_names == ["anchor", "positive", *(f"negative_{i + 1}" for i in range(size)), "label"]
    negatives: dict[int, list[int]] = {}
    for row in mined.negatives().sort_by("slot").to_pylist():
        negatives.setdefault(row["query_row"], []).append(row["doc_row"])
    expected = set()
    for query, name in enumerate(ids[0]):
        for positive in auditor.positives[name]:
            if len(negatives.get(query, [])) >= size and auditor.documents[positive]:
                expected.add((query, ids[1].index(positive), *negatives.get(query, [])[:size]))
    assert {tuple(label) for label in rows["label"]} == expected and len(rows) == len(expected) > 30
    for row in rows:
        label, texts = row.pop("label"), list(row.values())
        assert texts[0] == auditor.queries[ids[0][label[0]]]
        assert texts[1:] == [auditor.documents[ids[1][doc]] for doc in label[1:]]


def test_more_negatives_than_mined_is_an_error(mined):
    with pytest.raises(WorkspaceError, match="fewer negatives"):
        training_set(mined, 5)


@pytest.fixture(scope="module", params=["keep", "drop"])
def round_of_each(request, online_data, static_model, tmp_path_factory):
    """A round whose negatives pass for one positive and not for another; with `drop` short queries are left out."""
    values = mining.config(online_data, static_model)
    each = {"kind": "max_relative_score", "of_positive": 0.9, "against": "each"}
    values["select"] = {"filters": [each], "sample": {"n": 4, "shortfall": request.param}}
    values["write"] = {"formats": ["n-tuple"], "scores": False}
    return raymine.mine(make_config(values), str(tmp_path_factory.mktemp("each")))


def test_a_negative_does_not_stand_beside_a_positive_that_forbids_it(round_of_each):
    """The rows are those of the written n-tuples."""
    written = round_of_each.training_set("n-tuple").to_list()
    ours = training_set(round_of_each).remove_columns("label").to_list()
    assert sorted(map(str, ours)) == sorted(map(str, written))
    assert len(written) < len(training_set(round_of_each, 0))


def test_queries_that_the_round_leaves_out_have_no_pairs(round_of_each):
    emitted = {row["query_row"] for row in round_of_each.shortfalls().to_pylist() if row["is_emitted"]}
    assert {label[0] for label in training_set(round_of_each, 0)["label"]} == emitted
