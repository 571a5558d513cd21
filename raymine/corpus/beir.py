"""A BEIR folder: corpus.jsonl and queries.jsonl, each plain, gzip or zstd, beside qrels/.

The same folder may be named as the corpus and as the queries; each takes its own file.
"""

from __future__ import annotations

from typing import Any

from raymine import storage
from raymine.corpus.jsonl import JsonlReader
from raymine.errors import InputError

CODECS = ("", ".gz", ".zst")


class BeirReader(JsonlReader):
    """Reads `<kind>.jsonl` of a BEIR folder."""

    def splits(self, path: str, kind: str, whole_files: bool = False) -> list[dict[str, Any]]:
        found = beir_files(path, kind)
        if len(found) != 1:
            raise InputError(
                f"{path}: not a BEIR folder",
                got=" and ".join(storage.relative(file, path) for file in found) or f"no {kind}.jsonl in it",
                expected=f"exactly one of {kind}.jsonl, {kind}.jsonl.gz, {kind}.jsonl.zst",
            )
        return super().splits(found[0], kind, whole_files)


def beir_files(path: str, kind: str) -> list[str]:
    """The files of a folder that may be its `kind` (corpus or queries)."""
    candidates = [storage.join(path, f"{kind}.jsonl{codec}") for codec in CODECS]
    return [file for file in candidates if storage.exists(file)]
