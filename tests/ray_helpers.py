"""Harness of tests with several processes: a bucket, a cluster of two nodes, one that takes jobs, a kill.

All of it runs on this machine, on free ports, and is taken down at the end. Nothing here knows what is being run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymine import storage

TESTS = Path(__file__).parent
ROOT = TESTS.parent
STORE_BYTES = 100 << 20
BUSY = "No available agent to submit job, please try again later"  # after 10 s without an answer of the head's agent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables of this process and its children, put back at the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_until(condition: Any, timeout_s: float, what: str, interval_s: float = 0.05) -> None:
    """Waits until `condition()` is true.

    Raises:
        TimeoutError: it stayed false.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(interval_s)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def stop(process: subprocess.Popen[Any]) -> None:
    """Ends a process that was started with `start_new_session`, and all that it started in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


@contextlib.contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[str]:
    """An S3 bucket served by moto in a process of its own.

    The environment of this process, and so of what it starts (Ray's workers, a command line), points to it.

    Yields:
        Its URL: s3://<name>
    """
    import s3fs

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        wait_until(lambda: _listens(port), 60, "moto's server")
        with environment(**variables):
            s3fs.S3FileSystem.clear_instance_cache()  # a filesystem keeps the endpoint it was made with
            s3fs.S3FileSystem().mkdir(name)
            yield f"s3://{name}"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        stop(server)


@dataclass
class TwoNodes:
    """A Ray cluster of a head and one more node, each with its own temporary folder; the driver is on the head."""

    address: str
    cluster: Any
    second: Any
    second_folder: str

    def kill_second(self) -> None:
        """The node and its workers die at once, as when a machine is taken away."""
        self.cluster.remove_node(self.second, allow_graceful=False)


@contextlib.contextmanager
def two_nodes(cpus_per_node: int = 2, gpus_per_node: int = 0) -> Iterator[TwoNodes]:
    """Two nodes on this machine, their GPUs pretended; workers import what is in tests/ and tests/executor/."""
    import ray
    from ray.cluster_utils import Cluster

    folders = [tempfile.mkdtemp(prefix="node-") for _ in range(2)]
    with ray_environment():
        cluster = Cluster()
        try:
            options = {"num_cpus": cpus_per_node, "num_gpus": gpus_per_node, "object_store_memory": STORE_BYTES}
            options["include_dashboard"] = False
            cluster.add_node(**options, env_vars={"TMPDIR": folders[0]})
            del options["include_dashboard"]
            second = cluster.add_node(**options, env_vars={"TMPDIR": folders[1]})
            cluster.wait_for_nodes()
            yield TwoNodes(cluster.address, cluster, second, folders[1])
        finally:
            ray.shutdown()
            cluster.shutdown()
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_environment() -> Iterator[None]:
    """What Ray processes of a test need: modules of the tests, no statistics sent, no token."""
    path = os.pathsep.join([str(ROOT), str(TESTS), str(TESTS / "executor"), os.environ.get("PYTHONPATH", "")])
    with environment(PYTHONPATH=path.rstrip(os.pathsep), RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled"):
        yield


@contextlib.contextmanager
def private_cluster(num_gpus: int = 0) -> Iterator[None]:
    """This process connected to a cluster of its own: 2 CPUs, its GPUs pretended."""
    import ray

    with ray_environment():
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=STORE_BYTES,
        )
        try:
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class Head:
    """A Ray cluster started as people start one: the addresses for drivers on it and for jobs."""

    address: str
    jobs: str

    def submit(
        self, entrypoint: Sequence[str], working_dir: Path = ROOT, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Runs `ray job submit -- <entrypoint>` to its end; the job's log is in stdout."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.jobs]
        command += ["--working-dir", str(working_dir), "--", *entrypoint]
        return submitted(command, timeout_s)


def submitted(command: Sequence[str], timeout_s: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a `ray job submit`, and again while Ray answers that it has started nothing yet and to try again later.

    Args:
        command: the command line.
        timeout_s: of each try; tries begin within as long.
        options: of subprocess.run.
    """
    end = time.monotonic() + timeout_s
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)
        if done.returncode == 0 or BUSY not in done.stdout + done.stderr or time.monotonic() > end:
            return done


@contextlib.contextmanager
def ray_head(num_cpus: int = 3) -> Iterator[Head]:
    """`ray start --head` on free ports, in a temporary folder."""
    ports = [free_port() for _ in range(5)]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: socket paths have at most 107 characters
    options = ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{option}={port}" for option, port in zip(options, ports, strict=True)]
    command += [f"--num-cpus={num_cpus}", f"--temp-dir={folder}", f"--object-store-memory={STORE_BYTES}"]
    with ray_environment(), (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: all(_listens(port) for port in ports[:4]), 90, "ray start --head")
            agent = f"http://127.0.0.1:{ports[3]}/api/local_raylet_healthz"  # it is the one who starts jobs
            wait_until(lambda: _answers(agent), 90, "an answer of the head's agent")
            yield Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
        finally:
            stop(process)
            shutil.rmtree(folder, ignore_errors=True)


def done_markers(workspace: str) -> list[str]:
    """Markers of finished tasks in a workspace."""
    return [path for path in storage.list_files(storage.join(workspace, "artifacts"), ".json") if "/done/" in path]


def kill_when(
    command: Sequence[str],
    workspace: str,
    num_markers: int,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 180,
) -> bool:
    """Runs a command and sends it SIGKILL as soon as `num_markers` tasks are done in the workspace.

    Returns:
        Whether it was killed; False: it was done before.

    Raises:
        TimeoutError: neither happened in time.
    """
    process = subprocess.Popen(
        list(command), env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(
            lambda: process.poll() is not None or len(done_markers(workspace)) >= num_markers,
            timeout_s,
            f"{num_markers} tasks done by {command[:3]}",
            interval_s=0.02,
        )
        killed = process.poll() is None
        process.kill()
        process.wait(30)
        return killed
    finally:
        stop(process)
