"""What cannot work, said before it is tried: memory, disk, workers that take every CPU."""

from __future__ import annotations

import os
import shutil

from raymine import storage
from raymine.artifacts import Executor, Resources
from raymine.config import Config
from raymine.errors import ResourceError
from raymine.pipeline.base import LIGHT, workers
from raymine.pipeline.search import search_resources
from raymine.pipeline.sizes import SHARE
from raymine.planning.published import Cluster
from raymine.planning.size import Size

# Columns of a block's candidates and their copies while filters run, and of a shard's pairs for the teacher.
BYTES_PER_CANDIDATE = 200
TOKEN_BYTES = 8  # ids and mask of the shard in hand and of the one that is tokenised beside it


def blocks_at_once(executor: Executor, cluster: Cluster | None, num_blocks: int) -> int:
    """How many blocks' candidates one process works on: the local executor has a task of each CPU in its own."""
    return (executor.resolve(LIGHT, num_blocks).actors or 1) if _is_local(executor, cluster) else 1


def worker_bytes(size: Size, config: Config, base_bytes: int, tokens_per_document: float, num_blocks: int) -> float:
    """Memory of the largest worker: what it has loaded, and the largest of what it takes in at a time.

    Args:
        size: of the round.
        config: of the round.
        base_bytes: of a worker that has loaded everything.
        tokens_per_document: that the embedder takes in.
        num_blocks: whose candidates it works on at once.
    """
    num_queries = max(1, sum(size.queries))
    largest = sum(sorted(size.queries)[-num_blocks:])
    blocks = largest * size.candidates / num_queries * BYTES_PER_CANDIDATE
    vectors = sum(size.documents) * size.dim * 6.0
    search = min(SHARE * config.resources.memory_gb * 1e9, vectors)
    shard = max(size.documents, default=0) * (2 * TOKEN_BYTES * tokens_per_document + 6.0 * size.dim)
    return base_bytes + max(blocks, search, shard)


def warnings(
    config: Config,
    workspace: str,
    executor: Executor,
    cluster: Cluster | None,
    memory_bytes: float,
    num_bytes: float,
    parameters: dict[str, int],
) -> list[str]:
    """One line for each thing that will not do.

    Args:
        config: of the round.
        workspace: where it writes.
        executor: where it runs.
        cluster: where it would run; None: where the executor does.
        memory_bytes: of the largest worker.
        num_bytes: to be written.
        parameters: of the models.
    """
    found = [*_memory(config, executor, cluster, memory_bytes), *_pools(config, executor, cluster)]
    if storage.is_local(workspace):
        free = shutil.disk_usage(_existing(workspace)).free
        if num_bytes > free:
            found.append(
                f"disk: {num_bytes / 1e9:,.1f} GB are to be written, {workspace} has {free / 1e9:,.1f} GB free"
            )
    if cluster is not None and cluster.model is not None:
        for name, count in parameters.items():
            if 4 * count > cluster.model.memory_bytes:
                found.append(
                    f"GPU memory: the model of `{name}` has {4 * count / 1e9:,.1f} GB of parameters, "
                    f"a {cluster.gpu} has {cluster.model.memory_bytes / 1e9:,.0f} GB"
                )
    return found


def _is_local(executor: Executor, cluster: Cluster | None) -> bool:
    return executor.cluster is None and cluster is None


def _memory(config: Config, executor: Executor, cluster: Cluster | None, memory_bytes: float) -> list[str]:
    budget = config.resources.memory_gb * 1e9
    found = []
    if memory_bytes > budget:
        found.append(
            f"memory: a worker takes about {memory_bytes / 1e9:.2f} GB, `resources.memory_gb` is "
            f"{config.resources.memory_gb:g}: raise it, or lower corpus.shard_documents and queries.block_queries"
        )
    if _is_local(executor, cluster):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if memory_bytes > there:
            found.append(f"memory: a worker takes about {memory_bytes / 1e9:.2f} GB, the machine has {there / 1e9:.1f}")
    return found


def _pools(config: Config, executor: Executor, cluster: Cluster | None) -> list[str]:
    """Workers that do not fit: Ray would wait for them for ever."""
    asked_for = {"index": search_resources(config)}
    if config.embed is not None and config.embed.model is not None:
        asked_for["embed"] = workers(config.resources.embed)
    if config.rescore is not None:
        asked_for["rescore"] = workers(config.resources.rescore)
    found = []
    for name, asked in asked_for.items():
        try:
            if cluster is None:
                executor.check(name, asked)
            else:
                from raymine.executor.ray import check_fit

                gpus = asked.gpus if asked.gpus is not None else float(bool(cluster.gpus))
                nodes = [{"CPU": float(cluster.cpus), "GPU": float(cluster.gpus)}]
                check_fit(name, Resources(asked.cpus or 1, gpus, asked.actors), nodes)
        except ResourceError as error:
            found.append(f"workers: {' '.join(str(error).split())}")
    return found


def _existing(path: str) -> str:
    """The folder, or the one that it would be made in."""
    folder = storage.local_path(path)
    while not folder.exists():
        folder = folder.parent
    return str(folder)
