"""The teacher's scores that are known already, keyed by the exact texts of a pair.

One folder per teacher and document shard, one file per task that added to it, each sorted by key: a reader takes the
union. Texts, not rows, are the key, so queries may be renumbered, added or mined again with another embedder, and
every pair that was ever scored is found.

Cost: 36 bytes per known pair of one shard in memory; a look-up is a binary search among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.errors import WorkspaceError

KEY_BYTES = 2 * schemas.HASH_BYTES
KEY = np.dtype(f"S{KEY_BYTES}")


def hashes(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """A column of 16-byte hashes as uint8 [n, 16]."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, schemas.HASH_BYTES)[chunk.offset :][: len(chunk)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.empty((0, schemas.HASH_BYTES), np.uint8)


def keys_of(query_hashes: NDArray[np.uint8], doc_hashes: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """One key per pair, from uint8 [n, 16] each; keys sort as their bytes do."""
    # All keys are equally long, so that numpy's S32, which ignores trailing zeros, compares them exactly.
    return np.ascontiguousarray(np.hstack([query_hashes, doc_hashes])).view(KEY).reshape(-1)


def read(paths: Sequence[str], teacher: str) -> tuple[NDArray[np.bytes_], NDArray[np.float32]]:
    """The scores in some cache files: keys, sorted and unique, and their scores float32.

    Where two files know a pair, the first one counts.

    Args:
        paths: files of one teacher and document shard.
        teacher: fingerprint that they must carry.

    Raises:
        WorkspaceError: a file carries another teacher's.
    """
    tables = [_checked(path, teacher) for path in paths]
    table = pa.concat_tables(tables) if tables else schemas.TEACHER_CACHE.empty_table()
    keys = keys_of(hashes(table["query_hash"]), hashes(table["doc_hash"]))
    unique, first = np.unique(keys, return_index=True)
    return unique, table["teacher_score"].to_numpy()[first]


def _checked(path: str, teacher: str) -> pa.Table:
    table = storage.read_table(path)
    found = ((table.schema.metadata or {}).get(b"teacher") or b"").decode()
    if found != teacher:
        raise WorkspaceError(
            f"{path}: scores of another teacher",
            got=found or "no teacher named",
            expected=teacher,
            fix="remove the file; its scores are computed again",
        )
    return schemas.check(table, schemas.TEACHER_CACHE).replace_schema_metadata(None)


def look_up(
    known: NDArray[np.bytes_], scores: NDArray[np.float32], keys: NDArray[np.bytes_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores of keys (0 where unknown), and whether each is known.

    Args:
        known: sorted keys.
        scores: float32, of `known`.
        keys: [n], in any order.
    """
    if not len(known):
        return np.zeros(len(keys), np.float32), np.zeros(len(keys), np.bool_)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found = known[at] == keys
    return np.where(found, scores[at], np.float32(0)), found


def write(path: str, keys: NDArray[np.bytes_], scores: NDArray[np.float32], teacher: str) -> storage.Shard:
    """Writes one cache file.

    Args:
        path: where.
        keys: unique, in any order.
        scores: float32, of `keys`.
        teacher: fingerprint of the teacher that gave them.
    """
    order = np.argsort(keys, kind="stable")
    halves = np.ascontiguousarray(keys[order]).view(np.uint8).reshape(-1, 2, schemas.HASH_BYTES)
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(schemas.HASH_BYTES), len(keys), [None, pa.py_buffer(halves[:, half].tobytes())]
        )
        for half in (0, 1)
    ]
    table = pa.Table.from_arrays([*columns, pa.array(scores[order], pa.float32())], schema=schemas.TEACHER_CACHE)
    return storage.write_table(path, table.replace_schema_metadata({"teacher": teacher}))
