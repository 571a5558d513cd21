"""Precomputed vectors: rows of a .npy file or of a list column, checked, as numpy matrices.

A .npy file is memory-mapped where local and read by ranges where remote, a batch of rows at a time. A vector is wrong
if it is missing, of another length than the first, not finite, or zero (it has no cosine, and the same dot product
with everything).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymine import storage
from raymine.corpus.base import Problems
from raymine.errors import InputError

Matrix = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class NpyHeader:
    """What the header of a .npy file says: a [num_rows, dim] matrix of `dtype` begins at byte `offset`."""

    num_rows: int
    dim: int
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize


def npy_header(path: str) -> NpyHeader:
    """Reads the header of a .npy file.

    Raises:
        InputError: no such file, not .npy, not a C-ordered [n, dim] matrix of numbers, no rows, or truncated.
    """
    if not storage.exists(path) or storage.is_folder(path):
        raise InputError(f"{path}: no such file", expected="a .npy file", fix="correct the path")
    with storage.opened(path, storage.JUMP_BYTES) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
        except ValueError as error:
            raise InputError(f"{path}: not a .npy file", got=str(error), fix="write it with numpy.save") from error
        offset = file.tell()
        num_bytes = file.seek(0, 2) - offset
    if len(shape) != 2 or 0 in shape or dtype.kind not in "fiu":
        raise InputError(f"{path}: not a matrix of vectors", got=f"{dtype} {list(shape)}", expected="numbers [n, dim]")
    if is_fortran:
        raise InputError(f"{path}: saved column by column", fix="save numpy.ascontiguousarray(vectors)")
    header = NpyHeader(shape[0], shape[1], dtype, offset)
    if num_bytes < header.num_rows * header.row_bytes:
        got = f"{num_bytes // header.row_bytes} rows"
        raise InputError(f"{path}: the file is truncated", got=got, expected=f"{header.num_rows}, as its header says")
    return header


@contextmanager
def npy_rows(path: str, begin: int, end: int) -> Iterator[Callable[[int], Matrix]]:
    """Opens rows `begin` to `end` of a .npy file.

    Yields:
        A function that gives the next n rows (fewer at the end) as float16 or float32 [n, dim].
    """
    header = npy_header(path)
    with storage.mapped(path, storage.CHUNK_BYTES) as file:
        file.seek(header.offset + begin * header.row_bytes)
        left = end - begin

        def take(count: int) -> Matrix:
            nonlocal left
            count = min(count, left)
            left -= count
            content = file.read(count * header.row_bytes)
            return as_floats(np.frombuffer(content, header.dtype).reshape(count, header.dim))

        yield take


def as_floats(values: NDArray[Any]) -> Matrix:
    """Numbers as float16 or float32: those stay as they are, all others become float32 (too large ones infinite)."""
    if values.dtype in (np.dtype("float16"), np.dtype("float32")):
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def column_matrix(array: pa.Array, place: Callable[[int], str], dim: int | None, problems: Problems) -> Matrix:
    """The vectors of a list column.

    Args:
        array: list, large list or fixed-size list of numbers, [n].
        place: names the place of row i.
        dim: length that every vector must have; None: that of the first.
        problems: is told of missing vectors and of those of another length.

    Returns:
        float16 or float32 [n, dim]; empty where there are problems.

    Raises:
        InputError: not a list of numbers.
    """
    lengths = _lengths(array, place)
    if dim is None:
        dim = first_length(array, place) or 0
    wrong = np.flatnonzero((lengths != dim) | (lengths <= 0))
    for row in wrong.tolist():
        what = "no vector" if lengths[row] <= 0 else f"a vector of length {lengths[row]}, but the first has {dim}"
        problems.add(place(row), what)
    if len(wrong):
        return np.empty((0, dim), np.float32)
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return as_floats(flat).reshape(len(array), dim)


def first_length(array: pa.Array, place: Callable[[int], str]) -> int | None:
    """Length of the first vector of a list column that has one; arguments and errors as `column_matrix`."""
    lengths = _lengths(array, place)
    return int(lengths[lengths > 0][0]) if (lengths > 0).any() else None


def _lengths(array: pa.Array, place: Callable[[int], str]) -> NDArray[np.int64]:
    """Length of each list, -1 where it is null."""
    kind = array.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise InputError(f"{place(0)}: the vector is not a list of numbers", got=str(kind), expected="list of float")
    return np.asarray(pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False), np.int64)


def check_vectors(vectors: Matrix, place: Callable[[int], str], problems: Problems) -> None:
    """Notes vectors that are not finite or are zero.

    Args:
        vectors: [n, dim].
        place: names the place of row i.
        problems: is told.
    """
    is_finite = np.isfinite(vectors).all(axis=1)
    is_zero = (vectors == 0).all(axis=1)
    for row in np.flatnonzero(~is_finite | is_zero).tolist():
        problems.add(place(row), "the vector is zero" if is_zero[row] else "the vector has NaN or infinite values")
