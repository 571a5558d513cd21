"""Files on any filesystem: local paths and fsspec URLs (s3://, gs://, memory:// ...) through one code path.

Local files are memory-mapped, remote ones read by ranges. fsspec's own buffers read ahead as far as suits a file that
is read to its end (50 MB on S3, so that a bucket of 20 kB would cost the whole file); here every reader says how far.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

CHUNK_BYTES = 8 << 20  # read at once, and ahead of a reader that goes on to a remote file's end
JUMP_BYTES = 64 << 10  # read ahead of a reader that jumps: most footers and headers, and little where it is in vain
TEMPORARY = ".tmp-"  # begins the name of a local file that is being written, or whose writer was killed


def is_url(path: str) -> bool:
    """Whether a path names a filesystem (`s3://...`) rather than a local file."""
    return "://" in path


def is_local(path: str) -> bool:
    return not is_url(path) or path.startswith("file://")


def local_path(path: str) -> Path:
    """The local path of a plain path or file:// URL."""
    return Path(path.removeprefix("file://"))


def absolute(path: str, base: str = "") -> str:
    """Makes a path absolute: relative ones are taken from `base` (a folder or URL), else from the working folder."""
    if is_url(path):
        return path.rstrip("/") if path.count("/") > 2 else path
    if Path(path).expanduser().is_absolute() or not base:
        return str(Path(path).expanduser().absolute())
    return join(base, path) if is_url(base) else os.path.normpath(Path(base) / path)


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def relative(path: str, base: str) -> str:
    """`path` as seen from the folder `base`; unchanged where it lies elsewhere."""
    prefix = base.rstrip("/") + "/"
    return path.removeprefix(prefix)


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of a path, and the path inside it."""
    from fsspec.core import url_to_fs

    fs, inner = url_to_fs(path)
    return fs, inner


def _full(path: str, inner: str) -> str:
    return path.split("://", 1)[0] + "://" + inner.lstrip("/") if not is_local(path) else inner


def exists(path: str) -> bool:
    if is_local(path):
        return local_path(path).exists()
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    return bool(fs.exists(inner))


def is_folder(path: str) -> bool:
    if is_local(path):
        return local_path(path).is_dir()
    fs, inner = filesystem(path)
    return bool(fs.isdir(inner))


def list_files(folder: str, suffix: str | tuple[str, ...] = "") -> list[str]:
    """All files below a folder whose name ends in `suffix`, sorted by path; none if the folder does not exist."""
    if is_local(folder):
        root = local_path(folder)
        found = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY))
        prefix = "file://" if folder.startswith("file://") else ""
        return sorted(prefix + str(path) for path in found if path.name.endswith(suffix))
    fs, inner = filesystem(folder)
    fs.invalidate_cache()
    return sorted(_full(folder, path) for path in fs.find(inner) if path.endswith(suffix))


def remove_folder(folder: str) -> None:
    """Deletes a folder and all below it; nothing happens if it is not there."""
    if is_local(folder):
        shutil.rmtree(local_path(folder), ignore_errors=True)
        return
    fs, inner = filesystem(folder)
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


def remove_file(path: str) -> None:
    """Deletes a file; nothing happens if it is not there."""
    if is_local(path):
        local_path(path).unlink(missing_ok=True)
        return
    fs, inner = filesystem(path)
    with suppress(FileNotFoundError):
        fs.rm_file(inner)


@contextmanager
def opened(path: str, ahead_bytes: int = CHUNK_BYTES) -> Iterator[Any]:
    """A file opened for binary reading, local or remote.

    Args:
        path: file or URL.
        ahead_bytes: fetched of a remote file beyond what is read; 0: nothing is kept.
    """
    if is_local(path):
        with local_path(path).open("rb") as file:
            yield file
        return
    with remote_file(path, ahead_bytes) as file:
        yield file


def remote_file(path: str, ahead_bytes: int) -> Any:
    """The fsspec file of a URL, to be closed by the caller; arguments as `opened`."""
    fs, inner = filesystem(path)
    kind = "readahead" if ahead_bytes else "none"
    return fs.open(inner, "rb", block_size=ahead_bytes or JUMP_BYTES, cache_type=kind)


@contextmanager
def mapped(path: str, ahead_bytes: int = JUMP_BYTES) -> Iterator[pa.NativeFile]:
    """A file opened as Arrow's readers take it: memory-mapped where local, else by ranges (see `opened`)."""
    if is_local(path):
        with pa.memory_map(str(local_path(path))) as file:
            yield file
        return
    with remote_file(path, ahead_bytes) as remote, pa.PythonFile(remote, "r") as file:
        yield file


def num_bytes(path: str) -> int:
    """The size of a file."""
    if is_local(path):
        return local_path(path).stat().st_size
    fs, inner = filesystem(path)
    return int(fs.size(inner))


def changed_at(path: str) -> float:
    """When a file was written last, in seconds since the epoch."""
    if is_local(path):
        return local_path(path).stat().st_mtime
    fs, inner = filesystem(path)
    return float(fs.modified(inner).timestamp())


def read_range(path: str, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of a file, and no others; fewer where it ends before."""
    if is_local(path):
        with local_path(path).open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)
    fs, inner = filesystem(path)
    return bytes(fs.cat_file(inner, start=begin, end=end))
