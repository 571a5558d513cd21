"""One small Ray cluster for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray_helpers

from raymine.executor.ray import RayExecutor


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[RayExecutor]:
    """An executor on a running cluster of 2 CPUs and 1 (pretended) GPU."""
    import ray

    with ray_helpers.ray_environment():
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=ray_helpers.STORE_BYTES,
        )
        yield RayExecutor()
        ray.shutdown()
