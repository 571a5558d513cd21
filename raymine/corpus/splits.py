"""What of a source can be read on its own: its format, its files, and the task inputs that name them.

Cheap: names, footers and headers are read, and contents are hashed (or remembered by the cache). A split's dict has
`path` and `vectors` (where it lies), and beside them only what decides its rows: `content`, and byte ranges, row groups
or row ranges.

A file of any size is cut into splits of some 200 MB: Parquet by row groups, plain text by byte ranges, local Arrow
files by record batches, .npy by rows. One task each: a compressed text file, a remote Arrow file, and text that a .npy
file lies beside (its rows would have to be counted first). A split ends in a smaller shard, so there are at most
num_documents / shard_documents + num_splits shards: 10 million documents of 150 characters are 8 splits and 619 shards.
Many small files are joined into fewer splits for the same reason: ten thousand part files are not ten thousand shards.
"""

from __future__ import annotations

import json
from typing import Any

from raymine import storage
from raymine.config import CorpusConfig, TextSource
from raymine.corpus import READERS, hf, jsonl, parquet
from raymine.corpus.beir import beir_files
from raymine.corpus.vectors import NpyHeader, npy_header
from raymine.errors import InputError
from raymine.fingerprint import fingerprint

NPY_SPLIT_BYTES = 200_000_000  # as a Parquet split
MANY_SPLITS = 256  # up to here a file is a split of its own, so that an added file changes no other
SMALL_BYTES = 4 << 20  # a smaller file has less than the text of a shard: 16384 documents of 256 characters
JOINED_BYTES = 64 << 20
PLACES = ("path", "vectors", "parts")  # of a split: where it lies; all else decides its rows


def kind_of(config: TextSource) -> str:
    """corpus or queries: the name of the BEIR file that belongs to a config."""
    return "corpus" if isinstance(config, CorpusConfig) else "queries"


def format_of(config: TextSource) -> str:
    """The format of `config.path`, as given or by its name and content.

    Returns:
        A key of READERS.

    Raises:
        InputError: no such path, or nothing tells the format.
    """
    path = config.path or ""
    if not storage.exists(path):
        raise InputError(f"{path}: no such file or folder", fix="correct the path")
    if storage.is_folder(path):
        return config.format if config.format != "auto" else _folder_format(path, kind_of(config))
    if config.format in ("beir", "hf"):
        raise InputError(f"{path}: not a folder", expected=f"a folder, as `format: {config.format}` says")
    return config.format if config.format != "auto" else _file_format(path)


def _folder_format(path: str, kind: str) -> str:
    if beir_files(path, kind):
        return "beir"
    if hf.is_hf_folder(path):
        return "hf"
    found = [
        name for name, suffixes in (("parquet", parquet.SUFFIXES), ("jsonl", jsonl.SUFFIXES)) if _has(path, suffixes)
    ]
    if len(found) == 1:
        return found[0]
    names = [storage.relative(file, path) for file in storage.list_files(path)[:5]]
    problem = "both Parquet and jsonl files in the folder" if found else "no readable files in the folder"
    raise InputError(
        f"{path}: {problem}",
        got=", ".join(names) or "an empty folder",
        expected=f"{kind}.jsonl (a BEIR folder), state.json (a saved dataset), or files named *.parquet or *.jsonl",
        fix="say which with `format`" if found else "correct the path",
    )


def _has(path: str, suffixes: tuple[str, ...]) -> bool:
    return bool(storage.list_files(path, suffixes))


def _file_format(path: str) -> str:
    for name, suffixes in (("jsonl", jsonl.SUFFIXES), ("parquet", parquet.SUFFIXES)):
        if path.endswith(suffixes):
            return name
    fix = "give it as `vectors`" if path.endswith(".npy") else "say which with `format`, or convert it"
    raise InputError(
        f"{path}: its name does not tell its format",
        expected=f"a name that ends in {', '.join([*jsonl.SUFFIXES[:3], parquet.SUFFIXES[0]])}, or a folder",
        fix=fix,
    )


def splits(config: TextSource, cache: storage.HashCache) -> list[dict[str, Any]]:
    """The task inputs of ReadDocuments or ReadQueries, in the order of the rows.

    Args:
        config: CorpusConfig or QueriesConfig.
        cache: remembers content hashes.

    Returns:
        Dicts with `path` (a file, or None), `content` (hash of all that is read), `num_bytes`; `format`; and where they
        apply `byte_range`, `row_groups` (both [begin, end)), `num_rows`, `vectors` (.npy path) and `vector_rows`. Small
        files that are read as one split are its `parts`, such dicts themselves.

    Raises:
        InputError: nothing to read, no rows, or another number of vectors than of rows.
    """
    if config.path is None:
        found = _vector_splits(config.vectors or "", cache)
    else:
        found = file_splits(config, whole_files=config.vectors is not None)
        if not found:
            what = {"corpus": "documents", "queries": "queries"}[kind_of(config)]
            raise InputError(f"{config.path}: empty: it has no {what}", expected="at least one", fix="check the path")
        for split in found:
            split["content"] = cache.content_hash(split["path"], split.get("byte_range"))
            split.setdefault("num_bytes", storage.num_bytes(split["path"]))
        if config.vectors is not None:
            _give_vectors(config.path, found, config.vectors, cache)
        elif config.vector_column is None and len(found) > MANY_SPLITS:
            found = _joined(found)
    _tell_copies_apart(found)
    return found


def file_splits(config: TextSource, whole_files: bool = False) -> list[dict[str, Any]]:
    """The splits of the files under `config.path`, without a look at their contents: `path`, `format`, ranges.

    Args:
        config: CorpusConfig or QueriesConfig with a path.
        whole_files: see `Reader.splits`.

    Raises:
        InputError: nothing tells the format, or there are no files.
    """
    name = format_of(config)
    found = READERS[name].splits(config.path or "", kind_of(config), whole_files)
    return [{**split, "format": name} for split in found]


def _vector_splits(path: str, cache: storage.HashCache) -> list[dict[str, Any]]:
    """Ranges of a .npy file that has no texts."""
    header = npy_header(path)
    step = max(1, NPY_SPLIT_BYTES // header.row_bytes)
    ranges = [[begin, min(begin + step, header.num_rows)] for begin in range(0, header.num_rows, step)]
    content = cache.content_hash(path)
    return [{"path": None, "vectors": path, "content": content, **_range(span, header)} for span in ranges]


def _range(span: list[int], header: NpyHeader) -> dict[str, Any]:
    return {"vector_rows": span, "num_rows": span[1] - span[0], "num_bytes": (span[1] - span[0]) * header.row_bytes}


def _give_vectors(path: str, found: list[dict[str, Any]], vectors: str, cache: storage.HashCache) -> None:
    """Lays the rows of one .npy file beside the splits of `path`."""
    num_vectors = npy_header(vectors).num_rows
    if len(found) > 1 and not all("num_rows" in split for split in found):
        raise InputError(
            f"{vectors}: cannot tell which vectors belong to which of the {len(found)} files of {path}",
            fix="join the files into one, or use Parquet with the vectors as a column (`vector_column`)",
        )
    if all("num_rows" in split for split in found):
        check_num_vectors(vectors, num_vectors, path, sum(split["num_rows"] for split in found))
    begin = 0
    for split in found:
        end = begin + split["num_rows"] if "num_rows" in split else num_vectors
        split["vectors"], split["vector_rows"] = vectors, [begin, end]
        split["content"] = fingerprint([split["content"], cache.content_hash(vectors)])
        begin = end


def check_num_vectors(vectors: str, num_vectors: int, path: str, num_rows: int) -> None:
    """Raises InputError unless there is one vector per row."""
    if num_vectors != num_rows:
        raise InputError(
            f"{vectors}: {num_vectors} vectors, but {path} has {num_rows} rows",
            expected="one vector per row, in the same order",
        )


def _joined(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins neighbouring small splits; a file added behind them changes the last group only."""
    groups: list[list[dict[str, Any]]] = []
    num_bytes = JOINED_BYTES
    for split in found:
        is_small = split["num_bytes"] < SMALL_BYTES
        if not is_small or num_bytes + split["num_bytes"] > JOINED_BYTES:
            groups.append([])
            num_bytes = 0
        groups[-1].append(split)
        num_bytes += split["num_bytes"] if is_small else JOINED_BYTES
    return [group[0] if len(group) == 1 else _group(group) for group in groups]


def _group(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "path": parts[0]["path"],
        "format": parts[0]["format"],
        "content": fingerprint([without_places(part) for part in parts]),
        "num_bytes": sum(part["num_bytes"] for part in parts),
        "parts": parts,
    }


def without_places(split: dict[str, Any]) -> dict[str, Any]:
    """What decides a split's rows."""
    return {name: value for name, value in split.items() if name not in PLACES}


def _tell_copies_apart(found: list[dict[str, Any]]) -> None:
    """Numbers splits that are alike in content, so that each has a task key of its own."""
    seen: dict[str, int] = {}
    for split in found:
        alike = json.dumps(without_places(split))
        if alike in seen:
            split["copy"] = seen[alike]
        seen[alike] = seen.get(alike, 0) + 1
