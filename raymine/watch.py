"""A round for each new checkpoint that a trainer leaves in a folder.

    checkpoints/checkpoint-500/     a Trainer's: complete when its trainer_state.json is there, which is written last
    checkpoints/final/              any other saved model: complete when nothing in it has changed for SETTLE_S

A checkpoint is complete only if every safetensors file in it is as long as its header says. The newest complete one is
mined with: by the number that its name ends in, or, for names without one, by time. Those that were overtaken
meanwhile are left out, as are weights that the last round was made with; so the watch can be stopped and started at
any moment, and knows from the workspace where it was. The model is copied into the workspace first: trainers delete
old checkpoints while a round is still at work.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raymine import storage
from raymine.artifacts import Executor, Watcher
from raymine.config import Config
from raymine.errors import InputError, UserError
from raymine.fingerprint import model_files, model_fingerprint
from raymine.rounds import Round, remine

SETTLE_S = 60.0
TRAINER_STATE = "trainer_state.json"
TRAINERS_NAME = re.compile(r"checkpoint-\d+")
WEIGHTS = (".safetensors", ".bin")
FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        path: folder or URL.
        number: at the end of its name; None: there is none.
        changed_at: when its last file was written, seconds since the epoch.
        files: all that is in it.
    """

    path: str
    number: int | None
    changed_at: float
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[1]


def newest(folder: str) -> Checkpoint | None:
    """The newest complete checkpoint in a folder; None where there is none yet.

    Args:
        folder: folder or URL that has a folder per checkpoint.
    """
    complete = list(_complete(folder))
    numbered = [found for found in complete if found.number is not None]
    named = [found for found in complete if found.number is None]
    best = [max(numbered, key=lambda found: found.number or 0)] if numbered else []
    best += [max(named, key=lambda found: found.changed_at)] if named else []
    return max(best, key=lambda found: found.changed_at, default=None)


def _complete(folder: str) -> Iterator[Checkpoint]:
    files: dict[str, list[str]] = {}
    for path in storage.list_files(folder):
        inside = storage.relative(path, folder)
        if "/" in inside:
            files.setdefault(inside.split("/", 1)[0], []).append(path)
    for name, paths in files.items():
        try:
            changed_at = max(storage.changed_at(path) for path in paths)
            if _is_complete(name, paths, changed_at):
                number = re.search(r"(\d+)$", name)
                path = storage.join(folder, name)
                yield Checkpoint(path, int(number[1]) if number else None, changed_at, tuple(paths))
        except FileNotFoundError:  # the trainer is deleting it
            continue


def _is_complete(name: str, paths: list[str], changed_at: float) -> bool:
    """Whether nothing is missing of a checkpoint.

    Args:
        name: of its folder.
        paths: of its files.
        changed_at: when the last of them was written.
    """
    names = {path.rsplit("/", 1)[1] for path in paths}
    weights = [path for path in paths if path.endswith(WEIGHTS) and not path.endswith("training_args.bin")]
    if not weights or not names & {"modules.json", "config.json"}:
        return False
    if TRAINERS_NAME.fullmatch(name):
        if TRAINER_STATE not in names:
            return False
    elif time.time() - changed_at < SETTLE_S:
        return False
    return all(_is_whole(path) for path in weights if path.endswith(".safetensors"))


def _is_whole(path: str) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = storage.num_bytes(path)
    if size < 8:
        return False
    (header_bytes,) = struct.unpack("<Q", storage.read_range(path, 0, 8))
    if 8 + header_bytes > size:
        return False
    header = json.loads(storage.read_range(path, 8, 8 + header_bytes))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return bool(size == 8 + header_bytes + max(ends, default=0))


def watch(
    config: Config,
    workspace: str,
    folder: str,
    executor: Executor,
    watcher: Watcher | None = None,
    every_s: float = 30,
    once: bool = False,
    failed: Callable[[Checkpoint, UserError], None] | None = None,
) -> Iterator[Round]:
    """Mines a round for each new checkpoint, for ever or once.

    Args:
        config: of the rounds; `embed.model` does not matter.
        workspace: folder or URL.
        folder: folder or URL that has a folder per checkpoint.
        executor: where the steps run.
        watcher: is told how it goes.
        every_s: seconds between looks at the folder.
        once: looks once and ends.
        failed: is told of a checkpoint that cannot be mined with; the watch then waits for another one. None: raised.

    Yields:
        Rounds as they are found or finished; not new, where the newest checkpoint's weights are those of the last one.

    Raises:
        UserError: as `rounds.remine`, unless `failed` takes it.
    """
    workspace, folder = storage.absolute(workspace), storage.absolute(folder)
    if not storage.is_folder(folder) and not once and not storage.is_url(folder):
        raise InputError(
            f"{folder}: no such folder",
            expected="the folder in which the trainer leaves its checkpoints",
            fix="correct --checkpoints, or make the folder first",
        )
    last: Checkpoint | None = None
    while True:
        found = newest(folder)
        if found is not None and found != last:
            try:
                kept = _kept(found, workspace)
                if kept is None:
                    continue  # the trainer is deleting it: there may be a newer one
                yield remine(config, workspace, kept, executor, watcher)
                last = found
            except UserError as error:
                if failed is None:
                    raise
                failed(found, error)
                last = found
        if once:
            return
        time.sleep(every_s)


def _kept(found: Checkpoint, workspace: str) -> str | None:
    """A copy of a checkpoint's model in the workspace; None where its files have changed since it was found."""
    try:
        copy = _copied(found, workspace)
    except (FileNotFoundError, InputError):
        if tuple(storage.list_files(found.path)) == found.files:
            raise
        return None
    return copy if tuple(storage.list_files(found.path)) == found.files else None


def _copied(found: Checkpoint, workspace: str) -> str:
    """Copies a checkpoint's model; the copies of earlier checkpoints go."""
    weights = model_fingerprint(found.path, storage.HashCache())
    kept = storage.join(workspace, FOLDER)
    copy = storage.join(kept, f"{found.name}-{weights}")
    for name in model_files(found.path):
        if not storage.exists(storage.join(copy, name)):
            storage.copy_file(storage.join(found.path, name), storage.join(copy, name))
    folders = {storage.relative(path, kept).split("/", 1)[0] for path in storage.list_files(kept)}
    for name in folders - {copy.rsplit("/", 1)[1]}:
        storage.remove_folder(storage.join(kept, name))
    return copy
