"""The whole job on Ray: the bytes of the local executor, through kills, a submitted job, nodes that share a bucket."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mining
import psutil
import pytest
import ray_helpers

import raymine
from raymine import storage
from raymine.config_file import load_config, make_config


@pytest.fixture(scope="module")
def job(static_model: str, cross_encoder_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a config, and a round mined in process: `reference`."""
    folder = tmp_path_factory.mktemp("job")
    values = mining.config(mining.write_beir(folder / "data"), static_model, cross_encoder_model)
    values["write"]["formats"] = ["triplet", "flagembedding"]
    mining.write_config(folder / "mine.yaml", values)
    raymine.mine(make_config(values), str(folder / "reference"))
    return folder


def reference(job: Path) -> dict[str, str]:
    return mining.bytes_of_round(job / "reference" / "rounds" / "0001")


def command(job: Path, workspace: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "raymine", "mine", str(job / "mine.yaml"), "--workspace", workspace, *options]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A running head of 3 CPUs, so that a driver that is killed leaves nothing behind."""
    with ray_helpers.ray_head(num_cpus=3) as head:
        yield {"address": head.address, "jobs": head.jobs}


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_killed_driver_goes_on_with_the_same_command(
    job: Path, cluster: dict[str, str], tmp_path: Path, executor: str
) -> None:
    """SIGKILL at random moments; what was done before stays done, and the bytes are those of a quiet run."""
    draw = random.Random(executor)
    options = ["--executor", executor, *(["--address", cluster["address"]] if executor == "ray" else [])]
    for moment in sorted(draw.sample(range(3, 55), 3 if executor == "local" else 2)):
        ray_helpers.kill_when(command(job, str(tmp_path), *options), str(tmp_path), moment)
    before = {path: storage.sha256_of(path) for path in ray_helpers.done_markers(str(tmp_path))}
    done = subprocess.run(command(job, str(tmp_path), *options), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert mining.bytes_of_round(tmp_path / "rounds" / "0001") == reference(job)
    assert {path: storage.sha256_of(path) for path in before} == before


@pytest.mark.slow
def test_killed_workers_cost_only_what_they_were_doing(job: Path, cluster: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL to actors and workers in the middle of a task: the run ends by itself, with the bytes of a quiet run.

    Three kills: the crash limit gives up on a task that four workers have died of.
    """
    stop = threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not stop.wait(4) and len(killed) < 3:
            busy = [p for p in psutil.process_iter(["cmdline", "ppid"]) if _is_working(p, cluster["address"])]
            if busy:
                victim = random.Random(len(killed)).choice(busy)
                os.kill(victim.pid, signal.SIGKILL)
                killed.append(victim.pid)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    options = ["--executor", "ray", "--address", cluster["address"]]
    try:
        done = subprocess.run(command(job, str(tmp_path), *options), capture_output=True, text=True, timeout=300)
    finally:
        stop.set()
        killer.join()
    assert done.returncode == 0, done.stderr
    assert killed
    assert mining.bytes_of_round(tmp_path / "rounds" / "0001") == reference(job)


def _is_working(process: psutil.Process, address: str) -> bool:
    """Whether this is a Ray worker in the middle of a task, of this cluster and not of another one on the machine."""
    title = " ".join(process.info["cmdline"] or [])
    if not title.startswith("ray::") or "MapBatches" not in title:
        return False
    try:
        return f":{address.rsplit(':', 1)[1]}" in " ".join(psutil.Process(process.info["ppid"]).cmdline())
    except psutil.NoSuchProcess:
        return False


def test_a_submitted_job_mines(job: Path, cluster: dict[str, str], tmp_path: Path) -> None:
    """The README's command: jobs/mine.py by a real `ray job submit` to a real `ray start --head`.

    The run's id is that of the submission.
    """
    (command,) = re.findall(r"^ray job submit .*$", (ray_helpers.ROOT / "README.md").read_text(), re.MULTILINE)
    here = {
        "http://HEAD:8265": cluster["jobs"],
        "python jobs": f"{sys.executable} jobs",
        "jobs/configs/mine.yaml": str(job / "mine.yaml"),
        "s3://bucket/workspace": str(tmp_path),
    }
    for name, value in here.items():
        assert name in command
        command = command.replace(name, value)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    done = ray_helpers.submitted(["sh", "-c", command], 300, cwd=ray_helpers.ROOT, env=env)
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout + done.stderr
    assert mining.bytes_of_round(tmp_path / "rounds" / "0001") == reference(job)
    (submission,) = re.findall(r"Job '(\S+)' submitted successfully", done.stdout)
    assert storage.read_json(str(tmp_path / "rounds" / "0001" / "round.json"))["run_id"] == submission


def test_workers_that_do_not_fit_are_refused_before_it_hangs(
    job: Path, cluster: dict[str, str], tmp_path: Path
) -> None:
    """Four 1-CPU workers on 3 CPUs; the message has the arithmetic."""
    options = ["--executor", "ray", "--address", cluster["address"], "--set", "resources.embed.actors=4"]
    begin = time.monotonic()
    done = subprocess.run(command(job, str(tmp_path), *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and time.monotonic() - begin < 110
    assert "4 x 1 CPU = 4 CPUs; the cluster has 3 CPUs" in done.stderr and "Traceback" not in done.stderr


def test_nodes_that_share_only_a_bucket_lose_one_and_finish(job: Path, tmp_path: Path) -> None:
    """Inputs, model and workspace lie in S3; the second node is killed in the middle; the bytes are the same."""
    values = load_config(str(job / "mine.yaml"))
    assert values.embed is not None and values.rescore is not None
    with ray_helpers.s3_bucket() as bucket:
        fs, _ = storage.filesystem(bucket)
        fs.put(str(job / "data") + "/", f"{bucket}/data/", recursive=True)
        fs.put(str(values.embed.model) + "/", f"{bucket}/embedder/", recursive=True)
        fs.put(str(values.rescore.model) + "/", f"{bucket}/teacher/", recursive=True)
        raw = values.model_dump(mode="json")
        raw["corpus"]["path"] = raw["queries"]["path"] = f"{bucket}/data"
        raw["positives"]["path"] = f"{bucket}/data/qrels/train.tsv"
        raw["exclude"] = [f"{bucket}/data/qrels/test.tsv"]
        raw["embed"]["model"], raw["rescore"]["model"] = f"{bucket}/embedder", f"{bucket}/teacher"
        path = mining.write_config(tmp_path / "s3.yaml", raw)
        with ray_helpers.two_nodes() as nodes:
            options = ["--workspace", f"{bucket}/ws", "--executor", "ray", "--address", nodes.address]
            run = [sys.executable, "-m", "raymine", "mine", str(path), *options]
            with (tmp_path / "log").open("w") as log, subprocess.Popen(run, stdout=log, stderr=log) as driver:
                ray_helpers.wait_until(
                    lambda: driver.poll() is not None or len(ray_helpers.done_markers(f"{bucket}/ws")) > 20,
                    200,
                    "20 tasks",
                )
                assert driver.poll() is None, (tmp_path / "log").read_text()
                nodes.kill_second()
                assert driver.wait(300) == 0, (tmp_path / "log").read_text()
        fs.invalidate_cache()
        fs.get(f"{bucket}/ws/rounds/0001/", str(tmp_path / "round") + "/", recursive=True)
        texts = [storage.read_bytes(path) for path in storage.list_files(f"{bucket}/ws", ".json")]
    assert mining.bytes_of_round(tmp_path / "round") == reference(job)
    log_text = (tmp_path / "log").read_text()
    assert "AWS_SECRET" not in log_text and not any(b"testing" in text for text in texts)
