"""A sample is made of the right rows: whole documents and queries, and every judgement between them."""

from pathlib import Path
from typing import Any

import mining
import numpy as np
import pyarrow as pa
import pytest

from raymine import storage
from raymine.artifacts import Artifacts
from raymine.config_file import make_config
from raymine.executor import make_executor
from raymine.pipeline.base import Context, Tables
from raymine.pipeline.run import read_inputs
from raymine.planning import sample
from raymine.storage import HashCache, Shard

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """A small round as it is read: 5 document shards, 3 query blocks, an imported run, a column of metadata."""
    folder = tmp_path_factory.mktemp("sample")
    data = mining.write_beir(folder / "data")
    hits = [f"q{query} Q0 d{(7 * query + rank) % 240} {rank} {10 - rank} x" for query in range(60) for rank in range(5)]
    (folder / "run.trec").write_text("\n".join(hits) + "\n")
    made = mining.config(data, "none", corpus={"path": str(data), "shard_documents": 64, "metadata": ["title"]})
    del made["embed"]
    made |= {"retrieve": {"random": {"k": 3}, "run": {"path": str(folder / "run.trec"), "k": 5}}}
    made["select"] = {"sample": {"n": 2}}
    made["write"] = {"formats": ["triplet"]}
    with make_executor("local") as executor:
        artifacts = Artifacts(str(folder / "ws"), executor, {"run_id": "test", "round": 1})
        context = Context(make_config(made), artifacts, HashCache(), 1, "rounds/0001")
        read_inputs(context)
    return context.tables


def rows(shards: list[Shard], columns: list[str] | None = None) -> Rows:
    return pa.concat_tables([storage.read_table(shard.path, columns) for shard in shards]).to_pylist()


def test_rows_are_those_that_were_drawn(tables: Tables, tmp_path: Path) -> None:
    """Documents, their metadata, and queries, in order; four shards and two blocks of nearly equal size."""
    drawn = sample.draw(tables, 50, 12)
    made = sample.write(tables, drawn, str(tmp_path))
    assert len(drawn.documents) == 50 and len(drawn.queries) == 12
    whole = {"corpus": rows(tables.corpus), "queries": rows(tables.queries)}
    assert rows(made.corpus) == [whole["corpus"][row] for row in drawn.documents]
    assert rows(made.queries) == [whole["queries"][row] for row in drawn.queries]
    metadata = rows([shard for shard in tables.metadata if shard])
    assert rows([shard for shard in made.metadata if shard]) == [metadata[row] for row in drawn.documents]
    assert [shard.num_rows for shard in made.corpus] == [13, 13, 12, 12] and made.shard_starts == [0, 13, 26, 38]
    assert [block.num_rows for block in made.queries] == [6, 6]


@pytest.mark.parametrize("name", ["positives", "excluded"])
def test_judgements_between_the_chosen_are_all_there(name: str, tables: Tables, tmp_path: Path) -> None:
    """In their new rows, with what else is said of them, each in the file of its block."""
    drawn = sample.draw(tables, 80, 20)
    made = sample.write(tables, drawn, str(tmp_path))
    new_document = {int(row): place for place, row in enumerate(drawn.documents)}
    new_query = {int(row): place for place, row in enumerate(drawn.queries)}
    expected = [
        {**pair, "query_row": new_query[pair["query_row"]], "doc_row": new_document[pair["doc_row"]]}
        for pair in rows(getattr(tables, name))
        if pair["query_row"] in new_query and pair["doc_row"] in new_document
    ]
    files = [rows([shard]) for shard in getattr(made, name)]
    assert [pair for file in files for pair in file] == expected
    assert [all(pair["query_row"] // 10 == block for pair in file) for block, file in enumerate(files)] == [True] * 2


def test_rows_of_a_search_alone_are_evenly_spaced(tables: Tables, tmp_path: Path) -> None:
    """From the first to the last, whatever is positive; all there are, where more are asked for."""
    drawn = sample.draw_evenly(tables, 7, 5)
    assert drawn.documents.tolist() == [(tables.num_documents - 1) * step // 6 for step in range(7)]
    assert drawn.queries.tolist() == [(tables.num_queries - 1) * step // 4 for step in range(5)]
    made = sample.write(tables, drawn, str(tmp_path))
    assert rows(made.corpus) == [rows(tables.corpus)[row] for row in drawn.documents]
    every = sample.draw_evenly(tables, 10**6, 10**6)
    assert [len(every.documents), len(every.queries)] == [tables.num_documents, tables.num_queries]


def test_every_query_has_its_positives(tables: Tables) -> None:
    """Without them filters would keep other candidates, and the teacher would be given others."""
    drawn = sample.draw(tables, 10, 20)
    documents = set(drawn.documents.tolist())
    pairs = [pair for pair in rows(tables.positives) if pair["query_row"] in set(drawn.queries.tolist())]
    assert pairs and all(pair["doc_row"] in documents for pair in pairs)


def test_hits_of_a_run_stay_as_many(tables: Tables, tmp_path: Path) -> None:
    """At documents of the sample, no pair twice, in the batch of their block."""
    drawn = sample.draw(tables, 100, 20)
    made = sample.write(tables, drawn, str(tmp_path))
    batches = [storage.read_bucket(made.run[0].path, block).to_pylist() for block in range(2)]
    pairs = [(hit["query_row"], hit["doc_row"]) for batch in batches for hit in batch]
    assert len(pairs) == len(set(pairs)) == 5 * 20
    assert all(doc_row < 100 for _, doc_row in pairs)
    assert [{hit["query_row"] // 10 for hit in batch} for batch in batches] == [{0}, {1}]


def test_few_shards_are_read_however_many_there_are(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With two shards to be read, documents come from those, and so do the positives."""
    monkeypatch.setattr(sample, "MOST_SHARDS", 2)
    drawn = sample.draw(tables, 60, 20)
    places = {int(np.searchsorted(tables.shard_starts, row, side="right") - 1) for row in drawn.documents}
    assert places == {0, len(tables.corpus) - 1}
    assert sample.write(tables, drawn, str(tmp_path)).num_documents == len(drawn.documents)


def test_queries_come_from_all_over(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one block has enough: those of another may be longer. Of many blocks only some are read."""

    def blocks_of(num_queries: int) -> set[int]:
        starts = np.array(tables.block_starts)
        return set(np.searchsorted(starts, sample.draw(tables, 60, num_queries).queries, side="right") - 1)

    assert len(tables.queries) == 3 and blocks_of(9) == {0, 1, 2}
    monkeypatch.setattr(sample, "FEWEST_BLOCKS", 2)
    assert len(blocks_of(9)) == 2


@pytest.mark.parametrize("count", [1, 2, 5, 16, 33])
def test_blocks_are_visited_from_far_apart(count: int) -> None:
    """Each once; the second is half-way from the first."""
    order = sample._spread(count)
    assert sorted(order) == list(range(count))
    assert order[0] == 0 and (count < 2 or order[1] * 2 >= count // 2)
