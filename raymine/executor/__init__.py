"""Where tasks run: in this process, or on a Ray cluster. The same steps give the same bytes on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raymine.artifacts import Executor
from raymine.errors import ConfigError

EXECUTORS = ("local", "ray")


@contextmanager
def make_executor(name: str, address: str | None = None) -> Iterator[Executor]:
    """An executor by its name; what it started is stopped at the end.

    Args:
        name: one of EXECUTORS.
        address: of the Ray cluster; None: RAY_ADDRESS, else a private cluster on this machine.

    Raises:
        ConfigError: there is no such executor, or it takes no address.
    """
    if name == "ray":
        from raymine.executor.ray import RayExecutor

        executor = RayExecutor(address)
        try:
            yield executor
        finally:
            executor.close()
    elif name != "local":
        raise ConfigError(f"there is no executor {name!r}", got=name, expected=" or ".join(EXECUTORS))
    elif address is not None:
        raise ConfigError(
            "the local executor takes no address",
            got=f"executor local, address {address}",
            expected="an address only with the ray executor",
            fix="add --executor ray, or leave --address out",
        )
    else:
        from raymine.executor.local import LocalExecutor

        yield LocalExecutor()
