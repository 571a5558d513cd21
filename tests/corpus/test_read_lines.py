"""Numbered lines of text files, whatever their compression."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import zstandard

from raymine.corpus import lines
from raymine.errors import InputError

LINES = [f"line {number} é \u2028 " for number in range(5000)]
CONTENT = "\n".join(LINES).encode() + b"\n"


def members(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Compresses in two members, the way parallel compressors write a file."""
    return lambda content: compress(content[:20001]) + compress(content[20001:])


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "plain.txt": lambda content: content,
    "one.gz": gzip.compress,
    "two-members.gz": members(gzip.compress),
    "padded.gz": lambda content: gzip.compress(content) + b"\0" * 512,
    "one.zst": zstandard.ZstdCompressor().compress,
    "two-frames.zst": members(zstandard.ZstdCompressor().compress),
    "no-size.zst": zstandard.ZstdCompressor(write_content_size=False).compress,
    "unnamed": gzip.compress,
}


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads of 7 bytes, so that every cut there can be happens."""
    monkeypatch.setattr(lines, "READ_BYTES", 7)


@pytest.mark.parametrize("name", CODECS)
def test_lines_are_numbered_from_one(name: str, tmp_path: Path) -> None:
    """Every compression gives the same lines; only LF ends a line."""
    path = tmp_path / name
    path.write_bytes(CODECS[name](CONTENT))
    assert list(lines.text_lines(str(path))) == list(enumerate(LINES, 1))
    assert list(lines.lines(str(path))) == [(number, line.encode()) for number, line in enumerate(LINES, 1)]


@pytest.mark.parametrize("name", CODECS)
def test_blocks_end_at_line_ends(name: str, tmp_path: Path, small_reads: None) -> None:
    """Wherever the reads cut a file, its lines come out whole."""
    path = tmp_path / name
    path.write_bytes(CODECS[name](CONTENT[:20000]))
    assert b"\n".join(line for _, line in lines.lines(str(path))) == CONTENT[:20000]


def test_remote_files_are_read_through_storage() -> None:
    """A URL is read as a local file is."""
    with fsspec.open("memory://test-read-lines/a.gz", "wb") as file:
        file.write(gzip.compress(CONTENT))
    assert list(lines.text_lines("memory://test-read-lines/a.gz")) == list(enumerate(LINES, 1))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [(1, "")]),
        (b"a", [(1, "a")]),
        (b"a\r\nb\r\n", [(1, "a"), (2, "b")]),
        (b"a\n\nb", [(1, "a"), (2, ""), (3, "b")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [(1, "a"), (2, "\ufeffb")]),
    ],
    ids=["empty", "blank", "no-newline", "crlf", "blank-between", "byte-order-mark"],
)
@pytest.mark.parametrize("codec", ["plain", "gzip"])
def test_ends_of_lines(content: bytes, expected: list[tuple[int, str]], codec: str, tmp_path: Path) -> None:
    """CRLF is taken off, blank lines count, and a byte order mark is skipped only where a file begins."""
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if codec == "gzip" else content)
    assert list(lines.text_lines(str(path))) == expected


@pytest.mark.parametrize("name", ["one.gz", "two-members.gz", "one.zst", "two-frames.zst"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 1.0])
def test_truncated_files_name_the_line(name: str, share: float, tmp_path: Path) -> None:
    """A file cut anywhere inside its compressed data is an error (zstandard's own reader ends silently)."""
    whole = CODECS[name](CONTENT)
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share) - 1])
    seen = 0
    with pytest.raises(InputError, match="truncated") as caught:
        for number, line in lines.text_lines(str(path)):
            assert line == LINES[number - 1]
            seen = number
    assert str(caught.value).startswith(f"{path}:{seen + 1}: the {path.suffix} file is truncated")


@pytest.mark.parametrize("name", ["one.gz", "one.zst"])
def test_damaged_files_name_the_line(name: str, tmp_path: Path) -> None:
    """Flipped bits are found by the format's checks or checksum."""
    compress = zstandard.ZstdCompressor(write_checksum=True).compress if name == "one.zst" else CODECS[name]
    whole = bytearray(compress(CONTENT))
    whole[len(whole) // 2] ^= 0xFF
    path = tmp_path / name
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=rf"{name}:\d+: the {path.suffix} file is damaged"):
        list(lines.lines(str(path)))


def test_garbage_after_gzip_is_damage(tmp_path: Path) -> None:
    """What follows a member must be another member or padding."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(CONTENT) + b"garbage")
    with pytest.raises(InputError, match=r"a\.gz:5001: the \.gz file is damaged"):
        list(lines.lines(str(path)))


def test_a_name_that_promises_compression(tmp_path: Path) -> None:
    """A plain file named .gz is refused by name, with what it begins with."""
    path = tmp_path / "a.gz"
    path.write_bytes(CONTENT)
    with pytest.raises(InputError, match=r"a\.gz: not a \.gz file\n  got: a file that begins with b'line 0"):
        list(lines.lines(str(path)))


def test_invalid_utf8_names_the_line(tmp_path: Path) -> None:
    """The line of the first wrong byte is named, beyond the first block too."""
    path = tmp_path / "a.txt"
    path.write_bytes(CONTENT * 30 + b"good\nb\xffd\n")
    with pytest.raises(InputError, match=r"a\.txt:150002: invalid UTF-8\n  got: byte 0xff"):
        list(lines.text_lines(str(path)))


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_reads: None) -> None:
    """A file without line ends is not read into memory whole."""
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "a.txt"
    path.write_bytes(b"ok\n" + b"x" * 2000)
    with pytest.raises(InputError, match=r"a\.txt:2: the line is longer than"):
        list(lines.lines(str(path)))


def test_a_missing_file(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        list(lines.lines(str(tmp_path / "nowhere.txt")))
