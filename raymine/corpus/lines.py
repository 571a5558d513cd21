"""Text files as a stream of numbered lines: plain, gzip or zstd, local or remote.

A file is decompressed block by block, every block is cut at its last newline, and a block's lines are numbered from the
newlines before it. Cost: one pass, two blocks of memory whatever the file's size. The decompressors are driven by hand
because the streaming readers of gzip and zstandard disagree about what a truncated file is (zstandard's ends silently).

A plain file can also be read in spans, each by a task of its own: byte ranges that begin where a line begins. Their
lines are counted from the span's first; only a message needs to know how many lines lie before a span, and then they
are counted (once per span that has something to say). A compressed file has no such places: it is one span.

Use `text_lines` for str lines, `lines` for bytes, `text_blocks` where a whole block is parsed at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from raymine import storage
from raymine.errors import InputError

READ_BYTES = 1 << 20  # per read, compressed
MAX_LINE_BYTES = 256 << 20  # a longer line is a file that is not made of lines; reading on would fill the memory
GZIP, ZSTD = ".gz", ".zst"
MAGIC = {GZIP: (b"\x1f\x8b",), ZSTD: (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16)))}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BORDER_BYTES = 1 << 16  # per read, where a line's end is looked for: more than most lines have


def place(path: str, line: int) -> str:
    """Names a place as error messages do: `file:line` for text (from 1), `file: row n` for tables (from 0)."""
    return f"{path}: row {line}" if path.endswith((".parquet", ".pq", ".arrow", ".npy")) else f"{path}:{line}"


@dataclass(frozen=True)
class Span:
    """Whole lines of a text file: all of them, or those of a byte range of a plain one.

    Args:
        path: of the file.
        begin: where a line begins.
        end: where a line ends; None: the file's end.
    """

    path: str
    begin: int = 0
    end: int | None = None

    def place(self, line: int) -> str:
        """Names a line of the span (from 1) by its number in the file."""
        return place(self.path, self.num_lines_before + line)

    @cached_property
    def num_lines_before(self) -> int:
        """Lines of the file before the span; counted when first asked for."""
        return sum(piece.count(b"\n") for piece in pieces(self.path, 0, self.begin)) if self.begin else 0


def cut_lines(path: str, span_bytes: int) -> list[Span]:
    """Cuts a plain text file into spans of about `span_bytes`.

    A span's first line is the first one that begins at or after a multiple of `span_bytes`, so that lines that are
    appended leave all spans but the last as they were. The last has half of `span_bytes` at least. A compressed file,
    and one that does not consist of lines, is not cut (any further).
    """
    if not is_plain(path):
        return [Span(path)]
    borders = [0]
    num_bytes = storage.num_bytes(path)
    for position in range(span_bytes, num_bytes - span_bytes // 2 + 1, span_bytes):
        border = _next_line(path, position, num_bytes)
        if border is None:
            break
        if border > borders[-1]:
            borders.append(border)
    if len(borders) == 1:
        return [Span(path)]
    return [Span(path, *pair) for pair in zip(borders, [*borders[1:], num_bytes], strict=True)]


def is_plain(path: str) -> bool:
    """Whether a file is text as it stands; False also where it lacks the compression that its name promises."""
    return not path.endswith(tuple(MAGIC)) and _codec(path, storage.read_range(path, 0, 4)) is None


def _next_line(path: str, position: int, num_bytes: int) -> int | None:
    """Where the first line begins that begins at `position` or after; None: nowhere, or behind an endless line."""
    last = min(num_bytes, position + MAX_LINE_BYTES)
    for begin in range(position - 1, last, BORDER_BYTES):
        found = storage.read_range(path, begin, min(begin + BORDER_BYTES, num_bytes)).find(b"\n")
        if found >= 0:
            border = begin + found + 1
            return border if border < num_bytes else None
    return None


def text_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file.

    Args:
        path: plain, .gz or .zst; local or URL.

    Yields:
        Line number (from 1) and the line, without its end (LF or CRLF). A byte order mark is skipped.

    Raises:
        InputError: truncated or damaged compression, invalid UTF-8 or an endless line; names the file and line.
    """
    for first_line, text in text_blocks(path):
        for number, line in enumerate(text.removesuffix("\n").split("\n"), first_line):
            yield number, line.removesuffix("\r")


def lines(path: str) -> Iterator[tuple[int, bytes]]:
    """As `text_lines`, but the lines are bytes and their UTF-8 is not checked."""
    for first_line, block in blocks(path):
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), first_line):
            yield number, line.removesuffix(b"\r")


def text_blocks(source: str | Span) -> Iterator[tuple[int, str]]:
    """As `blocks`, decoded.

    Raises:
        InputError: as `blocks`, or invalid UTF-8.
    """
    span = source if isinstance(source, Span) else Span(source)
    for first_line, block in blocks(span):
        try:
            yield first_line, block.decode()
        except UnicodeDecodeError as error:
            line = first_line + block.count(b"\n", 0, error.start)
            raise InputError(
                f"{span.place(line)}: invalid UTF-8",
                got=f"byte 0x{block[error.start]:02x} ({error.reason})",
                fix="write the file in UTF-8, e.g. with iconv",
            ) from error


def blocks(source: str | Span) -> Iterator[tuple[int, bytes]]:
    """The decompressed content of a text file, or of a span of it, in blocks of whole lines.

    Yields:
        Number of the block's first line (from 1, where the file or span begins) and the block; it ends in a newline,
        except perhaps the last.

    Raises:
        InputError: no such file, truncated or damaged compression, or a line above MAX_LINE_BYTES; names the place.
    """
    span = source if isinstance(source, Span) else Span(source)
    next_line = 1
    try:
        for block in _whole_lines(_decompressed(span)):
            yield next_line, block
            next_line += block.count(b"\n")
    except _BrokenError as error:
        raise InputError(f"{span.place(next_line)}: {error}", fix="copy or make the file again") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{span.path}: no such file", fix="correct the path") from error


def pieces(path: str, begin: int, end: int) -> Iterator[bytes]:
    """Bytes `begin` to `end` of a file, as they stand, READ_BYTES at a time.

    Raises:
        InputError: the file has fewer bytes: it was changed since it was cut.
    """
    with storage.opened(path) as file:
        file.seek(begin)
        while begin < end:
            piece = file.read(min(READ_BYTES, end - begin))
            if not piece:
                raise InputError(f"{path}: the file became shorter while it was read", fix="start again")
            yield piece
            begin += len(piece)


class _BrokenError(Exception):
    """The bytes of a file cannot be lines of text."""


def _whole_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts chunks anew so that each ends in a newline; what is whole comes out before an error of `chunks`."""
    parts: list[bytes] = []
    num_bytes = 0
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield b"".join([*parts, chunk[:cut]])
            parts, num_bytes = [], 0
        parts.append(chunk[cut:])
        num_bytes += len(chunk) - cut
        if num_bytes > MAX_LINE_BYTES:
            raise _BrokenError(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
    if num_bytes:
        yield b"".join(parts)


class _Decompressor(Protocol):
    """What zlib's and zstandard's decompression objects have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressed(span: Span) -> Iterator[bytes]:
    """The content of a file or span in non-empty pieces, without the file's byte order mark."""
    if span.begin or span.end is not None:
        end = storage.num_bytes(span.path) if span.end is None else span.end
        for number, piece in enumerate(pieces(span.path, span.begin, end)):
            yield piece if span.begin or number else piece.removeprefix(BYTE_ORDER_MARK)
        return
    with storage.opened(span.path) as file:
        head = file.read(READ_BYTES)
        codec = _codec(span.path, head)
        if codec:
            yield from _members(file, head, codec)
            return
        head = head.removeprefix(BYTE_ORDER_MARK)
        while head:
            yield head
            head = file.read(READ_BYTES)


def _codec(path: str, head: bytes) -> str | None:
    """By content; a name that promises otherwise is an error."""
    found = next((codec for codec, magics in MAGIC.items() if head.startswith(magics)), None)
    promised = next((codec for codec in MAGIC if path.endswith(codec)), None)
    if promised and head and found != promised:
        raise InputError(
            f"{path}: not a {promised} file",
            got=f"a file that begins with {head[:8]!r}",
            fix=f"compress it, or take {promised} off its name",
        )
    return found


def _members(file: Any, data: bytes, codec: str) -> Iterator[bytes]:
    """Decompresses one member (gzip) or frame (zstd) after the other; zero bytes after a member are padding.

    Raises:
        _BrokenError: the file ends inside a member, or is damaged.
    """
    make, error_class = _decompressors(codec)
    decompressor: _Decompressor | None = None
    is_first = True
    while data or (data := file.read(READ_BYTES)):
        if decompressor is None:
            data = data.lstrip(b"\0")
            if not data:
                continue
            decompressor = make()
        try:
            piece = decompressor.decompress(data)
        except error_class as error:
            raise _BrokenError(f"the {codec} file is damaged ({error})") from error
        if piece:
            yield piece.removeprefix(BYTE_ORDER_MARK) if is_first else piece
            is_first = False
        data = decompressor.unused_data if decompressor.eof else b""
        if decompressor.eof:
            decompressor = None
    if decompressor is not None:
        raise _BrokenError(f"the {codec} file is truncated: it ends inside its compressed data")


def _decompressors(codec: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Makes decompression objects, and the error that they raise."""
    if codec == GZIP:
        return lambda: zlib.decompressobj(wbits=31), zlib.error
    import zstandard

    return lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(), zstandard.ZstdError
