"""The rounds of one workspace: which one a config belongs to, running it, and reading what it made.

    rounds/0001/config.yaml     the config, with every default
    rounds/0001/round.json      what the round is made of and where its tables lie; "state": "done" is written last
    rounds/0001/plan.json       what `raymine plan` said it would take, if it was planned
    rounds/0001/ledger.parquet  what each task cost
    rounds/0001/verdicts/       every candidate with its scores and the reason it went
    rounds/0001/negatives/      the sampled negatives
    rounds/0001/queries/        per query: how many negatives, how many missing, and why
    rounds/0001/lineage/        what was ever a query's negative: first and last round, rank in each
    rounds/0001/shards/<format>/  the training shards; shards/index.json lists them with checksums

A round is identified by the contents of its inputs and models and by its config, so the same command finds the same
round: a finished one is not done again, an unfinished one goes on. Anything else is the next round, and what it has in
common with earlier ones is found among the artifacts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raymine import ledger, storage
from raymine.artifacts import Artifacts, Executor, Watcher
from raymine.config import Config
from raymine.config_file import dump_yaml
from raymine.errors import ConfigError, WorkspaceError
from raymine.fingerprint import fingerprint, model_fingerprint
from raymine.ledger import Prices, StepCost
from raymine.lock import Lock, locked
from raymine.models import local_model
from raymine.pipeline.base import Context, Tables
from raymine.storage import HashCache, Shard

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True)
class Round:
    """A finished round.

    Args:
        workspace: folder or URL.
        number: from 1.
        facts: what round.json says.
        is_new: whether this call did any work.
    """

    workspace: str
    number: int
    facts: dict[str, Any]
    is_new: bool = False

    @property
    def path(self) -> str:
        return storage.join(self.workspace, round_folder(self.number))

    def negatives(self) -> pa.Table:
        """The sampled negatives (schemas.negatives)."""
        return _read_all(storage.join(self.path, "negatives"))

    def verdicts(self) -> pyarrow.dataset.Dataset:
        """Every candidate with its verdict (schemas.verdicts), as a dataset: it may be larger than memory."""
        return _dataset(storage.join(self.path, "verdicts"))

    def shortfalls(self) -> pa.Table:
        """One row per query: negatives found and missing (schemas.SHORTFALL)."""
        return _read_all(storage.join(self.path, "queries"))

    def lineage(self) -> pa.Table:
        """What was ever among a query's negatives: first and last round, dense rank in each (schemas.LINEAGE)."""
        return _read_all(storage.join(self.path, "lineage"))

    def training_set(self, format: str) -> Any:
        """The training rows of one written format.

        Returns:
            datasets.Dataset, ready for a trainer.

        Raises:
            WorkspaceError: the round was not written in this format.
        """
        written = self.facts["formats"]
        if format not in written:
            raise WorkspaceError(
                f"round {self.number} has no shards of format {format!r}",
                got=format,
                expected=f"one of {list(written)}",
                fix="name it in `write.formats` and mine again: only the writing is done anew",
            )
        import datasets

        files = [storage.join(self.workspace, shard["path"]) for shard in written[format]]
        from raymine.write import FORMATS

        kind = {"jsonl": "json", "json": "json", "parquet": "parquet"}.get(files[0].rsplit(".", 1)[1])
        if kind is None:
            raise WorkspaceError(
                f"format {format!r} is a file of lines, not a data set",
                got=files[0],
                expected="a format in Parquet or JSON",
                fix="read the file with the trainer that it is for",
            )
        within = {} if FORMATS[format].envelope is None else {"field": "data"}
        return datasets.load_dataset(kind, data_files=files, split="train", **within)

    def ledger(self) -> pa.Table:
        """What each task cost (schemas.LEDGER)."""
        return storage.read_table(storage.join(self.path, "ledger.parquet"))

    @property
    def cost(self) -> list[StepCost]:
        """Sums of the ledger per step, and in total (last)."""
        return ledger.sums(self.ledger())

    def tables(self) -> Tables:
        """The shards of corpus, queries, positives and excluded pairs that the round was made of, and its lineage."""
        named: dict[str, Any] = {
            name: [Shard(**{**shard, "path": storage.join(self.workspace, shard["path"])}) for shard in shards]
            for name, shards in self.facts["tables"].items()
        }
        return Tables(**named)


def round_folder(number: int) -> str:
    return f"rounds/{number:04d}"


def has_rounds(workspace: str) -> bool:
    """Whether a round was begun in a workspace."""
    return bool(storage.list_files(storage.join(workspace, "rounds"), "round.json"))


def rounds(workspace: str) -> list[Round]:
    """All rounds of a workspace, finished or not, by number.

    Raises:
        WorkspaceError: there is no workspace.
    """
    found = []
    for path in storage.list_files(storage.join(workspace, "rounds"), "round.json"):
        number = int(path.rsplit("/", 2)[1])
        found.append(Round(workspace, number, storage.read_json(path)))
    if not found:
        raise WorkspaceError(
            f"{workspace}: no rounds there",
            expected="a workspace of `raymine mine`",
            fix="check the path, or mine first",
        )
    return sorted(found, key=lambda found_round: found_round.number)


def mine(
    config: Config,
    workspace: str,
    executor: Executor,
    watcher: Watcher | None = None,
    run_id: str | None = None,
) -> Round:
    """Runs one round, or goes on with it, or finds it finished.

    Args:
        config: of the round.
        workspace: folder or URL; made if it is not there.
        executor: where the steps run.
        watcher: is told how it goes.
        run_id: of a submitted job; a finished round of this id is not done again, whatever has changed. None: made up.

    Raises:
        InputError: the input is wrong; nothing finished is lost.
        ConfigError: a model cannot be loaded, or does not fit the config.
        ResourceError: the machine or cluster has less than the config asks for.
        WorkspaceError: another run is at work in the workspace.
    """
    workspace = storage.absolute(workspace)
    cache = HashCache(storage.join(workspace, "cache", "hashes.json"))
    identity = round_identity(config, cache)
    cache.save()
    if finished := _finished(workspace, identity, run_id):
        return finished
    with locked(workspace, "a round") as lock:
        # Another run may have finished it while this one waited.
        finished = _finished(workspace, identity, run_id)
        return finished or _run(config, workspace, _Run(identity, run_id, cache, lock), executor, watcher)


def remine(
    config: Config,
    workspace: str,
    checkpoint: str,
    executor: Executor,
    watcher: Watcher | None = None,
    run_id: str | None = None,
) -> Round:
    """The next round, with another checkpoint of the embedder; only what depends on it is done again.

    Args:
        config: of the rounds; `embed.model` does not matter.
        checkpoint: saved model: folder, URL or hub name.
        workspace, executor, watcher, run_id: as of `mine`.

    Returns:
        The round; that of the last round, not new, if the checkpoint has the same weights.

    Raises:
        UserError: as `mine`; ConfigError too where the config has no embedder.
    """
    if config.embed is None or config.embed.model is None:
        raise ConfigError(
            "a round without an embedder has no checkpoints",
            got="no `embed.model` in the config",
            expected="a config that mines with an embedder",
            fix="add `embed.model` and `retrieve.dense`",
        )
    embed = config.embed.model_copy(update={"model": checkpoint, "revision": None})
    config = config.model_copy(update={"embed": embed})
    workspace = storage.absolute(workspace)
    cache = HashCache(storage.join(workspace, "cache", "hashes.json"))
    weights = embedder_fingerprint(config, cache)
    cache.save()
    known = rounds(workspace) if has_rounds(workspace) else []
    if known and known[-1].facts["state"] == "done" and known[-1].facts["embedder"] == weights:
        return known[-1]
    return mine(config, workspace, executor, watcher, run_id)


def _finished(workspace: str, identity: str, run_id: str | None) -> Round | None:
    """The finished round of this identity, or of this run."""
    done = [found for found in rounds(workspace) if found.facts["state"] == "done"] if has_rounds(workspace) else []
    same = [found for found in done if found.facts["identity"] == identity or found.facts["run_id"] == run_id]
    return same[-1] if same else None


@dataclass(frozen=True)
class _Run:
    """What `mine` knows when it begins to work.

    Args:
        identity: of the round.
        run_id: of a submitted job; None: it goes on with that of the round, or one is made up.
        cache: content hashes of input files.
        lock: of the workspace.
    """

    identity: str
    run_id: str | None
    cache: HashCache
    lock: Lock


def _run(config: Config, workspace: str, run: _Run, executor: Executor, watcher: Watcher | None) -> Round:
    """Runs a round that is not finished."""
    number, known = number_of(workspace, run.identity)
    folder = round_folder(number)
    path = storage.join(workspace, folder)
    if known is None:
        storage.remove_folder(path)
    made_up = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    run_id = run.run_id or (known.facts["run_id"] if known else made_up)
    facts: dict[str, Any] = {"state": "running", "identity": run.identity, "run_id": run_id, "executor": executor.name}
    facts["embedder"] = embedder_fingerprint(config, run.cache)
    storage.write_bytes(storage.join(path, "config.yaml"), dump_yaml(config).encode())
    storage.write_json(storage.join(path, "round.json"), facts)
    from raymine.pipeline.run import run_round

    named = {"run_id": run_id, "round": number}
    artifacts = Artifacts(workspace, executor, named, watcher, storage.join(path, "steps"), run.lock.check)
    if storage.exists(planned := plan_path(workspace, run.identity)):
        storage.copy_file(planned, storage.join(path, "plan.json"))
    context = Context(config, artifacts, run.cache, number, folder, previous=tables_before(workspace, number))
    run_round(context)
    prices = Prices(config.cost.gpu_hour_usd, config.cost.cpu_hour_usd)
    rows = [done.ledger for result in context.results for done in result.done]
    storage.write_table(storage.join(path, "ledger.parquet"), ledger.ledger_table(rows, number, prices))
    facts = {**facts, **_summary(context, workspace), "state": "done", "finished_at": time.time()}
    storage.write_json(storage.join(path, "shards", "index.json"), _index(facts, path, workspace))
    storage.write_json(storage.join(path, "round.json"), facts)
    return Round(workspace, number, facts, is_new=True)


def tables_before(workspace: str, number: int) -> Tables | None:
    """The tables of the round before one; None: it is the first."""
    known = rounds(workspace) if has_rounds(workspace) else []
    return next((found.tables() for found in known if found.number == number - 1), None)


def plan_path(workspace: str, identity: str) -> str:
    """Where the plan of a round of this identity is kept."""
    return storage.join(workspace, "plans", f"{identity}.json")


def round_identity(config: Config, cache: HashCache) -> str:
    """Fingerprint of everything that decides a round: config, contents of inputs, weights of models."""
    from raymine.corpus.judgements import judgement_files
    from raymine.corpus.splits import splits

    plain = config.model_dump(exclude={"cost", "resources"})
    files = [file.path for file in judgement_files(config.positives, config.exclude)]
    files += [config.retrieve.run.path] if config.retrieve.run else []
    contents: dict[str, Any] = {"files": [cache.content_hash(path) for path in files]}
    for name, source in (("corpus", config.corpus), ("queries", config.queries)):
        if source is not None:
            contents[name] = [split["content"] for split in splits(source, cache)]
            plain[name].update(path=None, vectors=None)
    plain["positives"]["path"], plain["exclude"] = None, []
    if config.retrieve.run:
        plain["retrieve"]["run"]["path"] = None
    for name, model in (("embed", config.embed), ("rescore", config.rescore)):
        if model is not None and model.model is not None:
            plain[name]["model"] = model_fingerprint(local_model(model.model, model.revision), cache)
    return fingerprint({"config": plain, "contents": contents})


def embedder_fingerprint(config: Config, cache: HashCache) -> str | None:
    """Names the embedder by its weights; None where there is none."""
    if config.embed is None or config.embed.model is None:
        return None
    return model_fingerprint(local_model(config.embed.model, config.embed.revision), cache)


def number_of(workspace: str, identity: str) -> tuple[int, Round | None]:
    """The number that a round of this identity has or will have, and the round if there is one already."""
    if not has_rounds(workspace):
        return 1, None
    known = rounds(workspace)
    same = [found for found in known if found.facts["identity"] == identity]
    if same:
        return same[-1].number, same[-1]
    last = known[-1]
    return (last.number + 1 if last.facts["state"] == "done" else last.number), None


def _summary(context: Context, workspace: str) -> dict[str, Any]:
    """What round.json keeps of a finished round; paths are relative to the workspace."""

    def plain(shards: Sequence[Shard]) -> list[dict[str, Any]]:
        return [replace(shard, path=storage.relative(shard.path, workspace)).to_json() for shard in shards]

    tables, facts = context.tables, dict(context.facts)
    written = {
        key: {name: plain(shards) for name, shards in facts.pop(key).items()} for key in ("formats", "companions")
    }
    selection = facts.pop("selection")
    names = (
        "corpus",
        "corpus_vectors",
        "queries",
        "positives",
        "excluded",
        "lineage",
        "earlier",
        "settled",
        "verdicts",
        "pool",
        "centroids",
    )
    return {
        "num_documents": tables.num_documents,
        "num_queries": tables.num_queries,
        "default_score": context.config.default_score,
        **facts,
        "selection": _summed(selection),
        **written,
        "tables": {name: plain(getattr(tables, name)) for name in names},
    }


def _summed(infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums of the numbers in several equal-shaped dicts (nested dicts likewise)."""
    total: dict[str, Any] = {}
    for info in infos:
        for key, value in info.items():
            if isinstance(value, dict):
                total[key] = _summed([total.get(key, {}), value])
            elif isinstance(value, int | float):
                total[key] = total.get(key, 0) + value
    return total


def _index(facts: dict[str, Any], path: str, workspace: str) -> dict[str, Any]:
    """shards/index.json: what was written, with rows, bytes and checksums; paths relative to the shards folder."""
    base = storage.relative(storage.join(path, "shards"), workspace)
    written = {
        kind: {
            name: [
                {**{key: value for key, value in shard.items() if key != "first_row"},
                 "path": storage.relative(shard["path"], base)}
                for shard in shards
            ]
            for name, shards in facts[kind].items()
        }
        for kind in ("formats", "companions")
    }  # fmt: skip
    return {"run_id": facts["run_id"], **written}


def _dataset(folder: str) -> pyarrow.dataset.Dataset:
    import pyarrow.dataset  # takes a third of a second

    files = storage.list_files(folder, ".parquet")
    if storage.is_local(folder):
        return pyarrow.dataset.dataset([str(storage.local_path(file)) for file in files], format="parquet")
    fs, _ = storage.filesystem(folder)
    return pyarrow.dataset.dataset([storage.filesystem(file)[1] for file in files], filesystem=fs, format="parquet")


def _read_all(folder: str) -> pa.Table:
    return pa.concat_tables([storage.read_table(file) for file in storage.list_files(folder, ".parquet")])
