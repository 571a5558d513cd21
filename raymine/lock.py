"""One run at a time in a workspace, on any filesystem: two schedulers never work on one round.

    lock/00000007.json        who holds the lock, created only if there is no such file
    lock/<owner's token>      its heartbeat, written anew every BEAT_S

The lock is held by the highest number. Whoever wants it waits while that one's heartbeat may still come: seeing it
change, they are refused; seeing it stand still for EXPIRY_S by their own clock (so that clocks need not agree), or its
process gone from this machine, they create the next number. Creating a file only if there is none is one act on local
disks, S3 and Google Cloud Storage, so one of several wins. An owner that was taken for dead and wakes up finds a higher
number at its next `check`, and stops. Releasing removes the files.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from raymine import storage
from raymine.errors import WorkspaceError

BEAT_S = 5.0
EXPIRY_S = 60.0
FOLDER = "lock"


class LockLostError(RuntimeError):
    """Another run took the lock, because this one's heartbeat stood still for too long."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Args:
        token: of this holding alone.
        what: is being done, for whoever is refused.
        host: name of the machine.
        machine: of its boot and its process namespace; empty where the system does not say.
        pid: process.
        since: when it was taken, UTC.
    """

    token: str
    what: str
    host: str
    machine: str
    pid: int
    since: str

    @classmethod
    def of_this_process(cls, what: str) -> Owner:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(uuid.uuid4().hex, what, socket.gethostname(), _machine(), os.getpid(), since)

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine and is no more; False where that cannot be known."""
        if not self.machine or self.machine != _machine():
            return False
        return not Path(f"/proc/{self.pid}").exists()

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host}, since {self.since})"


class Lock:
    """A lock that is held.

    Args:
        workspace: folder or URL.
        number: of this holding.
        owner: of it.
    """

    def __init__(self, workspace: str, number: int, owner: Owner) -> None:
        self.workspace, self.number, self.owner = workspace, number, owner
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="raymine-lock")

    def check(self) -> None:
        """Is called before each step.

        Raises:
            LockLostError: another run has the lock.
        """
        top = _top(self.workspace)
        if top is None or top[1].token != self.owner.token:
            raise LockLostError(
                f"{self.workspace}: the lock of this run was taken by {top[1] if top else 'somebody'}, because its "
                f"heartbeat stood still for {EXPIRY_S:g} s; what was finished is kept"
            )

    def start(self) -> None:
        """Begins to send heartbeats."""
        self._beating.start()

    def release(self) -> None:
        self._stopped.set()
        self._beating.join()
        for path in (_path(self.workspace, self.number), _beat_path(self.workspace, self.owner)):
            storage.remove_file(path)

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT_S):
            # A network that fails now and then, in whichever way its library says so; for too long, the lock is lost.
            with suppress(Exception):
                storage.write_bytes(_beat_path(self.workspace, self.owner), str(time.time_ns()).encode())


@contextmanager
def locked(workspace: str, what: str) -> Iterator[Lock]:
    """Holds the lock of a workspace.

    Args:
        workspace: folder or URL.
        what: is being done, for whoever is refused meanwhile.

    Raises:
        WorkspaceError: another run holds it, and is alive.
    """
    owner = Owner.of_this_process(what)
    lock = Lock(workspace, _taken(workspace, owner), owner)
    lock.start()
    try:
        yield lock
    finally:
        lock.release()


def _taken(workspace: str, owner: Owner) -> int:
    """The number under which the lock was taken, after waiting for one that seems dead."""
    seen: tuple[str, bytes] | None = None
    seen_at = 0.0
    while True:
        top = _top(workspace)
        number = 1 if top is None else top[0] + 1
        if top is not None:
            state = (top[1].token, _last_beat(workspace, top[1]))
            if seen is not None and seen[0] == state[0] and seen != state:
                raise _refusal(workspace, top[1])
            if seen is None or seen[0] != state[0]:
                seen, seen_at = state, time.monotonic()
            is_dead = top[1].is_gone or time.monotonic() - seen_at > EXPIRY_S
        if top is None or is_dead:
            content = json.dumps(asdict(owner)).encode()
            if storage.create_file(_path(workspace, number), content):
                now = _top(workspace)
                if now is not None and now[1].token == owner.token:
                    _remove_older(workspace, number)
                    return number
                storage.remove_file(_path(workspace, number))  # older than what another one created meanwhile
            continue
        time.sleep(min(1.0, BEAT_S / 4))


def _refusal(workspace: str, owner: Owner) -> WorkspaceError:
    return WorkspaceError(
        f"{workspace}: another run is at work there",
        got=str(owner),
        expected="one run at a time in a workspace",
        fix="wait for it, stop it, or give another --workspace",
    )


def _top(workspace: str) -> tuple[int, Owner] | None:
    """The highest number and its owner; None where nobody holds the lock."""
    for path in reversed(storage.list_files(storage.join(workspace, FOLDER), ".json")):
        with suppress(FileNotFoundError, json.JSONDecodeError):  # released, or being created
            return int(path.rsplit("/", 1)[1].removesuffix(".json")), Owner(**storage.read_json(path))
    return None


def _last_beat(workspace: str, owner: Owner) -> bytes:
    try:
        return storage.read_bytes(_beat_path(workspace, owner))
    except FileNotFoundError:
        return b""


def _remove_older(workspace: str, number: int) -> None:
    for path in storage.list_files(storage.join(workspace, FOLDER), ".json"):
        if int(path.rsplit("/", 1)[1].removesuffix(".json")) < number:
            with suppress(FileNotFoundError, json.JSONDecodeError):
                storage.remove_file(_beat_path(workspace, Owner(**storage.read_json(path))))
            storage.remove_file(path)


def _path(workspace: str, number: int) -> str:
    return storage.join(workspace, FOLDER, f"{number:08d}.json")


def _beat_path(workspace: str, owner: Owner) -> str:
    return storage.join(workspace, FOLDER, owner.token)


def _machine() -> str:
    """Names this boot of this machine and the namespace of its processes; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
