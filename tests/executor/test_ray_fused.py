"""Search beside the embedder on Ray, with a pretended GPU: the bytes of the local executor, through killed workers."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import mining
import psutil

from raymine.config_file import make_config
from raymine.executor.local import LocalExecutor
from raymine.executor.ray import RayExecutor
from raymine.rounds import mine


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_the_same_bytes_though_its_worker_is_killed(
    ray_executor: RayExecutor, static_model: str, tmp_path: Path
) -> None:
    """The worker that takes its place has seen nothing; the round is that of a machine without a GPU."""
    values = mining.config(mining.write_beir(tmp_path / "data"), static_model, write={"formats": ["triplet"]})
    values["corpus"]["shard_documents"] = 12
    config = make_config(values)
    expected = mine(config, str(tmp_path / "plain"), LocalExecutor())
    workspace, stop, killed = tmp_path / "fused", threading.Event(), []

    def kill_the_embedder() -> None:
        while not stop.wait(0.02) and not killed:
            if len(list(workspace.glob("artifacts/search_shards-*/done/*.json"))) >= 3:
                for process in psutil.Process().children(recursive=True):  # of this test's own cluster
                    if not killed and _title(process).startswith("ray::MapWorker(MapBatches(ActorWorker))"):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)

    killer = threading.Thread(target=kill_the_embedder)
    killer.start()
    try:
        found = mine(config, str(workspace), ray_executor)
    finally:
        stop.set()
        killer.join()
    assert killed
    steps = {cost.step: cost.tasks for cost in found.cost}
    assert steps["embed_documents"] == steps["search_shards"] == 22 and "search_exact" not in steps
    assert mining.bytes_of_round(Path(found.path)) == mining.bytes_of_round(Path(expected.path))
