"""One small Ray cluster for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray_helpers

from raymine.executor.ray import RayExecutor


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[RayExecutor]:
    """An executor on a running cluster of 2 CPUs and 1 (pretended) GPU."""
    with ray_helpers.private_cluster(num_gpus=1):
        yield RayExecutor()
