"""The README is true: every command in it is run, and what it shows is what there is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mining
import pytest
import tiny_models
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[str]:
    return [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a new user stands: data in BEIR layout, models, the jobs."""
    made = tmp_path_factory.mktemp("readme")
    mining.write_beir(made / "data", 120, 30)
    shutil.copytree(static_model, made / "models" / "embedder")
    shutil.copytree(cross_encoder_model, made / "models" / "teacher")
    shutil.copytree(ROOT / "jobs", made / "jobs")
    return made


def run(command: str, folder: Path) -> str:
    """Runs a command as a shell would, with this environment's programs first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_commands_are_known() -> None:
    """Each is run by a test below (the job: in test_mine_ray.py), or what it applies is checked (test_manifests.py)."""
    assert [command.split(" --")[0] for command in commands()] == [
        "make demo",
        "make test",
        "raymine init data",
        "raymine plan data/mine.yaml",
        "raymine mine data/mine.yaml",
        "raymine status data/workspace",
        "raymine inspect data/workspace",
        "raymine audit data/workspace/rounds/0001/shards/triplet",
        "raymine export data/workspace",
        "raymine remine data/mine.yaml",
        "raymine watch data/mine.yaml",
        "python jobs/loop.py data/mine.yaml",
        "ray job submit",
        "docker build -f cluster/Dockerfile -t REGISTRY/raymine . && docker push REGISTRY/raymine",
        "kubectl apply -f cluster/config.yaml",
        "kubectl create -f cluster/rayjob.yaml",
        "kubectl apply -f cluster/config.yaml -f cluster/cronjob.yaml",
        "kubectl apply -f cluster/config.yaml -f cluster/raycronjob.yaml",
        "ray up cluster/launcher.yaml",
    ]


def test_make_demo_and_make_test_are_what_they_say() -> None:
    """They set up, then run the demo (whole in `make test-slow`) and this very suite."""
    assert "raymine demo" in run("make -n demo", ROOT)
    dry = run("make -n test", ROOT)
    assert "pytest" in dry and "mypy" in dry and "ruff check" in dry


def test_the_commands_on_your_data(folder: Path, static_model: str) -> None:
    """In the README's order, with a model that is at hand."""
    for command in commands()[2:9]:
        shown = run(command.replace("mine.yaml", f"mine.yaml --set embed.model={static_model}"), folder)
        assert shown
    assert (folder / "data" / "workspace" / "rounds" / "0001" / "shards" / "triplet").is_dir()
    assert list((folder / "shards" / "tevatron").glob("*.jsonl"))
    for number, command in enumerate(commands()[9:11], start=2):
        checkpoint = folder / "checkpoints" / f"checkpoint-{500 * (number - 1)}"
        tiny_models.save_static(str(checkpoint), seed=number)
        (checkpoint / "trainer_state.json").write_text("{}")
        shown = run(command.replace("mine.yaml", f"mine.yaml --set embed.model={static_model}"), folder)
        assert f"Round {number}:" in shown and "The last round's negatives, by this checkpoint" in shown
    command = commands()[11].replace("mine.yaml", f"mine.yaml --set embed.model={static_model}")
    assert run(command.replace("--rounds 3 --steps 500", "--rounds 1 --steps 2"), folder).count("nDCG@10") == 2


def test_the_config_is_the_jobs_config_and_mines(folder: Path) -> None:
    """What is shown is what is shipped."""
    shown, more = blocks("yaml")
    shipped = (ROOT / "jobs" / "configs" / "mine.yaml").read_text()
    assert shown == shipped and len(shown.splitlines()) < 25
    (folder / "mine.yaml").write_text(shown)
    assert "n-tuple" in run("raymine mine mine.yaml", folder)
    (folder / "more.yaml").write_text(yaml.safe_dump(yaml.safe_load(shown) | yaml.safe_load(more)))
    assert "n-tuple" in run("raymine mine more.yaml", folder)
    assert yaml.safe_load(shown)["embed"]["model"] == "models/embedder"


def test_the_python_runs(folder: Path, static_model: str) -> None:
    """The example of the API, on the config that `raymine init` wrote; then the training, on what it mined."""
    code = "\n".join(block for block in blocks("python") if "raymine" in block)
    assert "raymine.mine(" in code and "SentenceTransformerTrainer(" in code
    code = code.replace('("data/mine.yaml")', f'("data/mine.yaml", ("embed.model={static_model}",))')
    assert run(f"raymine init data || true; {sys.executable} - <<'END'\n{code}\nprint('done')\nEND", folder).endswith(
        "done\n"
    )


def test_the_filter_shown_is_the_filter_there_is() -> None:
    """The example is the code."""
    example = next(block for block in blocks("python") if "candidates" in block)
    assert example in (ROOT / "raymine" / "select" / "score.py").read_text()
