"""Published rates of GPUs, for planning a cluster that is not at hand. Nothing here was measured.

Peak rates are those of NVIDIA's data sheets, without sparsity: T4 (2018), V100 (SXM2), A10, L4, A100 (80 GB SXM), L40S,
H100 (SXM), H200 (SXM), B200 (HGX). Half precision is float16 or bfloat16 with tensor cores, single is float32 without.
A model multiplies every token with each of its parameters, tables of embeddings left out: 2 operations each. Attention
among the tokens of a text comes on top and is left out: n / (6 dim) of the rest at n tokens, 2 % at 100 tokens and 22 %
at 1,000 for encoders of 768 dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from raymine.errors import ConfigError

# Share of its peak that a GPU reaches: assumed, and said in every plan that goes by it.
REACHED_SHARE = 0.3
OPERATIONS_PER_PARAMETER = 2
CPUS_PER_GPU = 8  # of a cluster whose CPUs are not given


@dataclass(frozen=True)
class Gpu:
    """Peak operations per second and memory in bytes."""

    half: float
    single: float
    memory_bytes: float

    def reached(self, dtype: str) -> float:
        """Operations per second that are assumed for a number format."""
        return REACHED_SHARE * (self.single if dtype == "float32" else self.half)


GPUS = {
    "T4": Gpu(65e12, 8.1e12, 16e9),
    "V100": Gpu(125e12, 15.7e12, 32e9),
    "A10": Gpu(125e12, 31.2e12, 24e9),
    "L4": Gpu(121e12, 30.3e12, 24e9),
    "A100": Gpu(312e12, 19.5e12, 80e9),
    "L40S": Gpu(362e12, 91.6e12, 48e9),
    "H100": Gpu(989e12, 67e12, 80e9),
    "H200": Gpu(989e12, 67e12, 141e9),
    "B200": Gpu(2250e12, 75e12, 180e9),
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that is not at hand.

    Args:
        cpus: in all.
        gpus: in all.
        gpu: which, a name of GPUS; None: there are none.
    """

    cpus: int
    gpus: int = 0
    gpu: str | None = None

    @property
    def model(self) -> Gpu | None:
        return GPUS[self.gpu] if self.gpu else None


def make_cluster(gpus: int | None, gpu: str | None, cpus: int | None) -> Cluster | None:
    """The cluster that options describe; None if they describe none.

    Raises:
        ConfigError: a number of GPUs without their name or the other way round, or a name that is not known.
    """
    if gpus is None and gpu is None:
        return Cluster(cpus) if cpus else None
    if gpus is None or gpu is None or gpu.upper() not in GPUS:
        raise ConfigError(
            "a cluster's GPUs are a number and a name",
            got=f"{gpus or 'no number'} of {gpu or 'no name'}",
            expected=f"--gpus 8 --gpu NAME, with a name of {', '.join(GPUS)}",
        )
    return Cluster(cpus or CPUS_PER_GPU * gpus, gpus, gpu.upper())
