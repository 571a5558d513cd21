"""Other formats, filters or samples from the verdicts of a finished round, in seconds: nothing is mined again.

A round keeps every candidate with all its scores and the reason it went, so thresholds can be chosen afterwards. What a
filter of the round took before the teacher was asked has no teacher score; if the new filters let it through, it counts
as unscored (`Export.num_unscored` says how many).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raymine import storage
from raymine.artifacts import Artifacts, Executor, Watcher
from raymine.config_file import load_config
from raymine.errors import ConfigError
from raymine.fingerprint import fingerprint
from raymine.pipeline import selection
from raymine.pipeline.base import Context
from raymine.rounds import Round
from raymine.select_config import NearDuplicate, OtherCluster, SelectConfig
from raymine.storage import HashCache, Shard

EXPORTED = ("select.", "write.")


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        path: folder with a folder per format.
        rows: of each format.
        num_negatives: selected.
        num_unscored: candidates let through that the teacher has not scored.
    """

    path: str
    rows: dict[str, int]
    num_negatives: int
    num_unscored: int


def export(
    found: Round,
    formats: Sequence[str],
    executor: Executor,
    overrides: Sequence[str] = (),
    output: str | None = None,
    watcher: Watcher | None = None,
) -> Export:
    """Writes training shards from a round's verdicts.

    Args:
        found: a finished round.
        formats: names of formats.
        executor: where it is done.
        overrides: "select...=value" or "write...=value", instead of what the round's config says.
        output: folder for a copy; None: they stay in `exports` of the workspace.
        watcher: is told how it goes.

    Raises:
        ConfigError: an override of something that only mining can change, or a wrong value.
    """
    for override in overrides:
        if not override.startswith(EXPORTED):
            raise ConfigError(
                f"--set {override}",
                got=override.split("=")[0],
                expected="a key of `select` or `write`: the rest is what was mined",
                fix="mine with it: what has not changed is reused",
            )
    named = f"write.formats=[{', '.join(formats)}]"
    config = load_config(storage.join(found.path, "config.yaml"), (*overrides, named))
    _check_traits(found, config.select)
    cache = HashCache(storage.join(found.workspace, "cache", "hashes.json"))
    folder = f"exports/{fingerprint({'round': found.number, **config.model_dump(include={'select', 'write'})})[:12]}"
    artifacts = Artifacts(found.workspace, executor, {"run_id": "export", "round": found.number}, watcher)
    facts = {"sources": found.facts["sources"]}
    context = Context(config, artifacts, cache, found.number, folder, found.tables(), facts)
    files = storage.list_files(storage.join(found.path, "verdicts"), ".parquet")
    verdicts = [Shard(path, 0, 0, cache.content_hash(path)) for path in sorted(files)]
    selected = selection.select(context, verdicts, None, is_again=True)
    selection.write(context, selected)
    path = storage.join(found.workspace, folder, "shards")
    if output is not None:
        target = storage.absolute(output)
        for file in storage.list_files(path):
            storage.write_bytes(storage.join(target, storage.relative(file, path)), storage.read_bytes(file))
        path = target
    written = context.facts["formats"]
    return Export(
        path,
        {name: sum(shard.num_rows for shard in shards) for name, shards in written.items()},
        sum(done.info["num_negatives"] for done in selected),
        sum(done.info["num_without_teacher_score"] for done in selected),
    )


def _check_traits(found: Round, select: SelectConfig) -> None:
    """Refuses filters that go by what the round has not found out."""
    mined = load_config(storage.join(found.path, "config.yaml")).select
    lacking = [name for name in select.traits if name not in mined.traits]
    asked, near = select.one(NearDuplicate), mined.one(NearDuplicate)
    if asked and near and (asked.words != near.words or asked.threshold < near.threshold):
        lacking.append(f"near duplicates of {asked.words} words from {asked.threshold} on")
    if select.one(OtherCluster) and mined.one(OtherCluster) and _cut(select) != _cut(mined):
        lacking.append(f"{_cut(select)} clusters")
    if lacking:
        raise ConfigError(
            "a filter goes by what the round has not found out",
            got=", ".join(lacking),
            expected=f"what it was mined with: {[*mined.traits, 'ranks', 'scores']}",
            fix="mine with it: what has not changed is reused",
        )


def _cut(select: SelectConfig) -> int | None:
    """The number of clusters that the vectors are cut into."""
    return next((f.clusters for f in select.filters if isinstance(f, OtherCluster) and f.column is None), None)
