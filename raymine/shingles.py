"""Shingles of a text, their MinHash keys, and Jaccard likeness: what near duplicates are told by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raymine.schemas import fold

Hashes = NDArray[np.uint64]
NUM_PERM = 64
RECALL = 0.999  # of the pairs that lie at the threshold, in expectation
MIX = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str, words: int) -> Hashes:
    """The distinct runs of so many words of the folded text, hashed: uint64, ascending; a shorter text is one shingle.

    Two shingles share a hash by chance once in 2**64.
    """
    tokens = fold(text).split()
    if not tokens:
        return np.empty(0, np.uint64)
    runs = {" ".join(tokens[i : i + words]) for i in range(max(1, len(tokens) - words + 1))}
    hashes = b"".join(hashlib.blake2b(run.encode(), digest_size=8).digest() for run in runs)
    return np.sort(np.frombuffer(hashes, "<u8").astype(np.uint64))


def jaccard(left: Hashes, right: Hashes) -> float:
    """Size of the intersection over that of the union of two sets, each without repeats; 0 for two empty ones."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    whole = len(left) + len(right) - common
    return common / whole if whole else 0.0


def rows_per_band(threshold: float) -> int:
    """Hashes per band: the most with which NUM_PERM // rows bands still find RECALL of the pairs at the threshold."""
    found = [r for r in range(1, NUM_PERM + 1) if 1 - (1 - threshold**r) ** (NUM_PERM // r) >= RECALL]
    return max(found, default=1)


def band_keys(sets: Sequence[Hashes], threshold: float) -> list[Hashes]:
    """MinHash signatures cut into bands, a key each.

    Args:
        sets: of shingles.
        threshold: likeness from which on two sets are to share a key.

    Returns:
        uint64 [bands] per set, none for an empty one.
    """
    from datasketch import MinHash

    rows = rows_per_band(threshold)
    bands = NUM_PERM // rows
    signed = MinHash.bulk(sets, num_perm=NUM_PERM, hashfunc=_low_half)
    keys = []
    for each, signature in zip(sets, signed, strict=True):
        values = signature.hashvalues[: bands * rows].astype(np.uint64).reshape(bands, rows)
        mixed = np.zeros(bands, np.uint64)
        for column in values.T:
            mixed = (mixed ^ column) * MIX
            mixed ^= mixed >> np.uint64(29)
        keys.append(mixed if len(each) else mixed[:0])
    return keys


def _low_half(value: np.uint64) -> int:
    return int(value) & 0xFFFFFFFF
