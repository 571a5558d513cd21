"""The lock of a workspace: one owner at a time on every filesystem, and none that died keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_helpers

from raymine import lock, storage
from raymine.errors import WorkspaceError
from raymine.lock import LockLostError, Owner, locked

HOLDER = """
import sys, time
from raymine.lock import locked
with locked(sys.argv[1], "a round"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats and expiry of a test's length."""
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "EXPIRY_S", 1.5)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with ray_helpers.s3_bucket() as url:
        yield url


@pytest.fixture(params=["path", "memory", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return storage.join(request.getfixturevalue("bucket"), uuid.uuid4().hex)
    return {"path": str(tmp_path), "memory": f"memory://{uuid.uuid4().hex}"}[request.param]


def leave(workspace: str, number: int, **facts: object) -> Owner:
    """A lock whose owner is no more: an owner of another machine, whose heartbeat nobody sends."""
    values = {"token": uuid.uuid4().hex, "what": "a round", "host": "far", "machine": "another", "pid": 1, "since": "?"}
    owner = Owner(**{**values, **facts})  # type: ignore[arg-type]
    content = json.dumps({name: getattr(owner, name) for name in values}).encode()
    assert storage.create_file(storage.join(workspace, "lock", f"{number:08d}.json"), content)
    return owner


def test_a_file_is_created_once(workspace: str) -> None:
    """The first content stays, and the second writer is told."""
    path = storage.join(workspace, "lock", "1")
    assert storage.create_file(path, b"first")
    assert not storage.create_file(path, b"second")
    assert storage.read_bytes(path) == b"first"


def test_one_of_many_creates_it(workspace: str) -> None:
    """Eight threads at once: one wins."""
    path, won = storage.join(workspace, "one"), []
    gate = threading.Barrier(8)

    def create(number: int) -> None:
        gate.wait()
        if storage.create_file(path, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [storage.read_bytes(path)]


def test_a_living_owner_is_left_alone_and_named(workspace: str) -> None:
    """Whoever comes second is refused with who holds it; once it is released nothing is left of it."""
    with locked(workspace, "round 7") as held:
        held.check()
        with pytest.raises(WorkspaceError, match="another run is at work") as refused, locked(workspace, "x"):
            pytest.fail("two owners")
        assert "round 7" in refused.value.got and str(os.getpid()) in refused.value.got
    assert storage.list_files(storage.join(workspace, "lock")) == []
    with locked(workspace, "the next"):
        pass


def test_a_heartbeat_that_stands_still_is_taken_over(workspace: str) -> None:
    """Only after the expiry, by the taker's own clock; what the dead one left is cleared away."""
    leave(workspace, 3)
    begin = time.monotonic()
    with locked(workspace, "the next") as held:
        assert time.monotonic() - begin >= 1.5
        assert held.number == 4
        held.check()
        assert len(storage.list_files(storage.join(workspace, "lock"), ".json")) == 1


def test_a_heartbeat_that_fails_now_and_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage libraries raise errors of their own, which are no OSError: one of them ended the heartbeat for good."""
    failures, write = [0], storage.write_bytes

    def fails_thrice(path: str, content: bytes) -> None:
        failures[0] += 1
        if failures[0] <= 3:
            raise RuntimeError("SlowDown")
        write(path, content)

    with locked(str(tmp_path), "a round") as held:
        monkeypatch.setattr(storage, "write_bytes", fails_thrice)
        ray_helpers.wait_until(lambda: failures[0] > 5, 5, "heartbeats after three that failed")
        held.check()
        with pytest.raises(WorkspaceError, match="another run is at work"), locked(str(tmp_path), "x"):
            pytest.fail("two owners")


def test_an_owner_that_wakes_up_finds_the_lock_lost(workspace: str) -> None:
    """A higher number means that another one has it; the late owner's release leaves that one alone."""
    with pytest.raises(LockLostError, match="was taken by"), locked(workspace, "late") as late:
        owner = leave(workspace, late.number + 1)
        late.check()
    assert lock._top(workspace) == (2, owner)


def test_of_many_at_once_one_holds_it(tmp_path: Path) -> None:
    """Threads that take it as often as they can never hold it together."""
    inside, seen = [0], []

    def take() -> None:
        for _ in range(5):
            try:
                with locked(str(tmp_path), "x"):
                    inside[0] += 1
                    seen.append(inside[0])
                    time.sleep(0.02)
                    inside[0] -= 1
            except WorkspaceError:
                time.sleep(0.01)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen and set(seen) == {1}


def test_a_killed_process_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    """SIGKILL leaves the lock there; the next one sees that its process is gone."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    assert storage.list_files(str(tmp_path / "lock"), ".json")
    begin = time.monotonic()
    with locked(str(tmp_path), "the next"):
        assert time.monotonic() - begin < 1.4
