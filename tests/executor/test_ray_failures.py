"""What a cluster does to a run: its driver dies, a node is taken away; and the ways to reach one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_helpers
import toy_stages
from toy_stages import squares

from raymine.artifacts import Artifacts
from raymine.errors import ConfigError
from raymine.executor import make_executor
from raymine.executor.local import LocalExecutor
from raymine.executor.ray import RayExecutor

FACTS = {"run_id": "run", "round": 1}
DRIVER = "import sys, toy_stages; toy_stages.drive(*sys.argv[1:])"


@pytest.fixture
def s3_workspace() -> Iterator[str]:
    with ray_helpers.s3_bucket() as bucket:
        yield f"{bucket}/ws"


def expected(tmp_path: Path, num_tasks: int) -> dict[str, bytes]:
    """What the local executor makes of the tasks."""
    Artifacts(str(tmp_path / "local"), LocalExecutor(), FACTS).run(squares(num_tasks=num_tasks))
    return toy_stages.contents(str(tmp_path / "local"))


def test_a_killed_driver_leaves_what_was_finished(tmp_path: Path) -> None:
    """SIGKILL of the driver of a private cluster; the same command ends it, and redoes only what was in flight."""
    log, workspace = tmp_path / "log", str(tmp_path / "ws")
    command = [sys.executable, "-c", DRIVER, workspace, str(log)]
    with ray_helpers.ray_environment():
        assert ray_helpers.kill_when(command, workspace, num_markers=3)
        assert not ray_helpers.kill_when(command, workspace, num_markers=100)
    assert toy_stages.contents(workspace) == expected(tmp_path, 8)
    assert sum(toy_stages.tries(log).values()) <= 8 + 2


@pytest.mark.parametrize("gpus", [0.5, 0], ids=["pool", "tasks"])
def test_a_lost_node_loses_only_what_it_was_doing(tmp_path: Path, s3_workspace: str, gpus: float) -> None:
    """Two nodes that share only a bucket; one is taken away in mid-run: same bytes, its tasks alone are done twice."""
    log = tmp_path / "log"
    with ray_helpers.two_nodes(gpus_per_node=1) as nodes:
        killer = threading.Thread(target=_kill_node, args=(nodes, log))
        killer.start()
        executor = RayExecutor(nodes.address)
        step = squares(num_tasks=12, actors=3, gpus=gpus, log=str(log), seconds=1)
        Artifacts(s3_workspace, executor, FACTS).run(step)
        killer.join()
        executor.close()
    assert toy_stages.contents(s3_workspace) == expected(tmp_path, 12)
    assert 12 < sum(toy_stages.tries(log).values()) <= 12 + 4


def _kill_node(nodes: ray_helpers.TwoNodes, log: Path) -> None:
    """Takes the second node away while one of its workers is in the middle of a task."""
    folder = Path(nodes.second_folder).name
    ray_helpers.wait_until(lambda: list(log.glob(f"*.{folder}")), 60, "a task on the second node")
    time.sleep(0.3)
    nodes.kill_second()


def test_a_submission_is_tried_again_while_the_head_is_busy(tmp_path: Path) -> None:
    """As its answer asks for; any other fault ends it."""
    script = tmp_path / "submit"
    script.write_text(
        f"""echo try >> {tmp_path}/tries
        [ $(wc -l < {tmp_path}/tries) -ge $2 ] || {{ echo "RuntimeError: status 500: $1." >&2; exit 1; }}
        echo "Job 'a' submitted successfully"
        """
    )
    done = ray_helpers.submitted(["sh", str(script), ray_helpers.BUSY, "3"], 60)
    assert (done.returncode, done.stdout) == (0, "Job 'a' submitted successfully\n")
    failed = ray_helpers.submitted(["sh", str(script), "no such file", "9"], 60)
    assert failed.returncode == 1 and "no such file" in failed.stderr
    assert (tmp_path / "tries").read_text().split() == ["try"] * 4


def test_a_running_cluster_is_reached_as_a_job_and_by_its_address(tmp_path: Path) -> None:
    """The same bytes from `ray job submit`, which sets RAY_ADDRESS, and from the address given."""
    done = expected(tmp_path, 4)
    with ray_helpers.ray_head() as head:
        job = head.submit([sys.executable, "-c", DRIVER, str(tmp_path / "job"), str(tmp_path / "log"), "4"])
        assert job.returncode == 0, job.stdout + job.stderr
        assert toy_stages.contents(str(tmp_path / "job")) == done
        workspace = str(tmp_path / "address")
        with make_executor("ray", head.address) as executor:
            Artifacts(workspace, executor, FACTS).run(squares(num_tasks=4))
        assert toy_stages.contents(workspace) == done


def test_a_client_address_is_refused_with_the_job_to_send_instead() -> None:
    """ray:// is answered with the `ray job submit` command."""
    with make_executor("ray", "ray://head:10001") as executor, pytest.raises(ConfigError, match="ray job submit"):
        list(executor.run(squares(), squares().tasks, LocalExecutor))
