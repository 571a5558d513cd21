"""The command line: one clear message and the right exit code, fast where nothing heavy is needed, readable output."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mining
import pytest
import yaml


def raymine(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does, in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "raymine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


@pytest.fixture(scope="module")
def job(static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a config and a finished round in `workspace`."""
    folder = tmp_path_factory.mktemp("job")
    data = mining.write_beir(folder / "data", 120, 30)
    mining.write_config(folder / "mine.yaml", mining.config(data, static_model, cross_encoder_model))
    done = raymine("mine", "mine.yaml", folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)
    (folder / "progress.txt").write_text(done.stderr)
    (written,) = (folder / "workspace" / "rounds" / "0001" / "shards" / "flagembedding").glob("*00.jsonl")
    shutil.copy(written, folder / "flagembedding.jsonl")
    return folder


def test_mine_ends_with_what_it_made_and_what_it_cost(job: Path) -> None:
    """Counts, drops by reason, paths, the cost table; progress is on stderr."""
    output, progress = (job / "output.txt").read_text(), (job / "progress.txt").read_text()
    assert "140 documents" in output and "negatives" in output and "duplicate_of_positive" in output
    assert "What it cost" in output and "embed_documents" in output and "total" in output and "USD" in output
    assert "embed_documents: " in progress and "documents (" in progress
    assert str(job / "workspace" / "rounds" / "0001" / "shards" / "triplet") in output


def test_plan_says_what_a_round_will_take(job: Path, tmp_path: Path) -> None:
    """A line per step, measured in a program of its own; the round finds the inputs read, and `status` shows both."""
    values = {**yaml.safe_load((job / "mine.yaml").read_text()), "retrieve": {"random": {"k": 4}}}
    values |= {"select": {"sample": {"n": 4}}, "write": {"formats": ["triplet"]}}
    del values["embed"], values["rescore"]
    mining.write_config(job / "light.yaml", values)
    workspace = ["--workspace", str(tmp_path / "ws")]
    planned = raymine("plan", "light.yaml", *workspace, "--rounds", "3", folder=job)
    assert planned.returncode == 0, planned.stderr
    shown = planned.stdout.splitlines()
    assert shown[:2] == ["Round 1: to be mined", "140 documents, 27 queries"]
    assert shown[2].startswith("4 candidates per query at most, about ")
    assert shown[4].split() == ["step", "shards", "gives", "tokens", "time", "CPU", "writes", "USD"]
    steps = [line.split()[0] for line in shown[5 : shown.index("", 5)]]
    assert steps[0] == "read_queries" and steps[-1] == "total" and {"union_candidates", "select"} <= set(steps)
    text = " ".join(planned.stdout.split())
    assert "3 rounds: " in text and "calibrated (local) on 140 documents and 16 queries" in text
    assert "WARNING memory: a worker takes about" in text
    assert "calibration: 140 documents, 16 queries: " in planned.stderr
    mined = json.loads(raymine("mine", "light.yaml", *workspace, "--json", folder=job).stdout)
    (read,) = [row for row in mined["cost"] if row["step"] == "read_documents"]
    assert mined["round"] == 1 and read["rows_out"] == 140 and read["wall_s"] > 0
    (found,) = json.loads(raymine("status", str(tmp_path / "ws"), "--json", folder=job).stdout)
    assert found["planned_s"] > 0 and all(step["planned_s"] >= 0 for step in found["steps"])


def test_plan_of_a_round_that_is_done(job: Path) -> None:
    """Says so, and measures nothing."""
    again = json.loads(raymine("plan", "mine.yaml", "--json", folder=job).stdout)
    assert again["is_done"] and again["round"] == 1 and not (job / "workspace" / "calibration").exists()


def test_plan_finds_faults_in_the_input(job: Path, tmp_path: Path) -> None:
    """As mining would, before anything is embedded."""
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tnowhere\t1\n")
    bad = raymine("plan", "mine.yaml", "--workspace", str(tmp_path / "ws"), "--set",
                  f"positives.path={tmp_path / 'qrels.tsv'}", folder=job)  # fmt: skip
    assert bad.returncode == 2 and "nowhere" in bad.stderr


def test_the_second_run_does_nothing_and_says_so(job: Path) -> None:
    """In about the time of its imports: no model is loaded."""
    begin = time.perf_counter()
    done = raymine("mine", "mine.yaml", "--json", folder=job)
    seconds = time.perf_counter() - begin
    assert done.returncode == 0
    assert json.loads(done.stdout)["new"] is False
    assert "Nothing to do" in raymine("mine", "mine.yaml", folder=job).stdout
    assert seconds < 10


def test_json_is_one_object_with_paths_and_figures(job: Path) -> None:
    """Ready for a script."""
    summary = json.loads(raymine("mine", "mine.yaml", "--json", folder=job).stdout)
    assert summary["round"] == 1 and Path(summary["shards"]["triplet"]).is_dir()
    assert summary["num_documents"] == 140 and summary["selection"]["num_negatives"] > 0
    assert summary["cost"][-1]["step"] == "total"


def test_status_shows_steps_and_shards(job: Path) -> None:
    """Done and left per step; also as JSON."""
    done = raymine("status", "workspace", folder=job)
    assert "round 1: done" in done.stdout and "embed_documents" in done.stdout
    (found,) = json.loads(raymine("status", "workspace", "--json", folder=job).stdout)
    assert found["state"] == "done" and all(step["done"] == step["shards"] for step in found["steps"])


def query_with_negatives(job: Path) -> str:
    """Id of a query that got negatives and lost candidates (not every one does: the tiny models rank at random)."""
    found = [json.loads(line) for line in (job / "flagembedding.jsonl").read_text().splitlines()]
    texts = {json.loads(line)["text"]: json.loads(line)["_id"] for line in (job / "data" / "queries.jsonl").open()}
    return next(texts[row["query"]] for row in found if row["neg"])


def test_inspect_tells_one_querys_story(job: Path) -> None:
    """Positive, candidates with ranks and scores, what went and why, what was taken."""
    query_id = query_with_negatives(job)
    done = raymine("inspect", "workspace", "--query", query_id, folder=job)
    assert done.returncode == 0, done.stderr
    for word in (f"query {query_id}", "positive", "dense", "bm25", "teacher", "negative 0: ", "dropped: "):
        assert word in done.stdout
    story = json.loads(raymine("inspect", "workspace", "--query", query_id, "--json", folder=job).stdout)
    assert story["candidates"][0]["relevance"] == 1 or story["candidates"][0]["relevance"] == 2
    assert [c["slot"] for c in story["candidates"] if c["slot"] is not None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "none.yaml"], "none.yaml: no such config file"),
        (["mine", "mine.yaml", "--set", "retrieve.dens.k=3"], "unknown key `retrieve.dens`"),
        (["mine", "mine.yaml", "--set", "corpus.path=nowhere"], "nowhere"),
        (["mine", "mine.yaml", "--set", "embed.model=./nowhere"], "nowhere"),
        (["mine", "mine.yaml", "--executor", "spark"], "there is no executor 'spark'"),
        (["status", "nowhere"], "nowhere: no rounds there"),
        (["inspect", "workspace", "--query", "qx"], "no query 'qx'"),
        (["inspect", "workspace", "--query", "q0", "--round", "7"], "no such round"),
        (["plan", "mine.yaml", "--gpus", "8"], "--gpus 8 --gpu NAME"),
        (["init", "nowhere"], "nowhere: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_users_mistake_is_one_message_and_exit_code_2(job: Path, arguments: list[str], message: str) -> None:
    """No traceback."""
    done = raymine(*arguments, folder=job)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["mine", "--help"], ["status", "workspace"], ["mine", "bad.yaml"]], ids=" ".join
)
def test_nothing_heavy_is_imported_for_help_status_and_config_errors(job: Path, arguments: list[str]) -> None:
    """They answer in under a second on a quiet machine, because torch, ray, faiss and numba stay out."""
    (job / "bad.yaml").write_text("corpsu: {}\n")
    code = (
        "import atexit, sys; from raymine.cli import main\n"
        "heavy = {'torch', 'ray', 'faiss', 'numba', 'sentence_transformers', 'transformers', 'datasets', 'bm25s'}\n"
        "atexit.register(lambda: print('imported:', *(heavy & set(sys.modules))))\n"
        f"main({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=job, timeout=60)
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr
    assert done.returncode == (2 if "bad.yaml" in arguments else 0)


def test_init_writes_a_config_that_mines(job: Path, static_model: str, tmp_path: Path) -> None:
    """For a BEIR folder, with the other judgements kept out."""
    data = mining.write_beir(tmp_path / "data", 120, 30)
    assert raymine("init", "data", folder=tmp_path).returncode == 0
    written = yaml.safe_load((data / "mine.yaml").read_text())
    assert written["exclude"] == ["qrels/test.tsv"]
    done = raymine("mine", "data/mine.yaml", "--set", f"embed.model={static_model}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "exists" in raymine("init", "data", folder=tmp_path).stderr


def test_init_finds_pairs_of_texts(tmp_path: Path, static_model: str) -> None:
    """One file of questions and answers is a corpus, queries and positives."""
    rows = [
        {"question": f"what is number {i}", "answer": f"the number {i} is {'very ' * (i % 9)}good"} for i in range(40)
    ]
    (tmp_path / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert raymine("init", ".", folder=tmp_path).returncode == 0
    done = raymine("mine", "mine.yaml", "--set", f"embed.model={static_model}", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_documents"] == 40


def test_init_says_what_it_looked_for(tmp_path: Path) -> None:
    """An empty folder is no data."""
    done = raymine("init", ".", folder=tmp_path)
    assert done.returncode == 2 and "corpus.jsonl, queries.jsonl and qrels/train.tsv" in done.stderr


def test_recipes_are_listed_and_printed() -> None:
    """A line each; one of them as the YAML to copy."""
    listed = raymine("recipes").stdout.splitlines()
    assert len(listed) >= 10 and any(line.startswith("nv-retriever  NV-Retriever (Moreira") for line in listed)
    assert yaml.safe_load(raymine("recipes", "bge").stdout)["select"]["sample"] == {"n": 15, "strategy": "random"}
    assert raymine("recipes", "bgee").returncode == 2
