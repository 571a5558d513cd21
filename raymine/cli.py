"""The command line: arguments to config to one call.

Exit codes: 0 done; 2 the user's input or config is wrong (one message, no traceback); 1 anything else.
What is heavy (torch, ray, faiss) is imported by the commands that need it.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from raymine.errors import UserError

app = typer.Typer(
    help="Mines hard negatives for embedding models, on a laptop or a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Workspace = Annotated[str, typer.Option(help="Folder or URL for artifacts and rounds.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Overrides one config value.")]
Json = Annotated[bool, typer.Option("--json", help="Prints one JSON object on stdout.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="local (in this process) or ray.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else one on this machine.")]


def out() -> Console:
    return Console(soft_wrap=False)


def say() -> Console:
    return Console(stderr=True)


@app.command()
def mine(
    config: Annotated[str, typer.Argument(help="YAML config (`raymine init` writes one).")],
    workspace: Workspace = "",
    override: Set = None,
    executor: ExecutorName = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Mines one round: from corpus, queries and positives to training shards.

    The same command again goes on where a run stopped, and does nothing when it is done.
    """
    from raymine.config_file import load_config

    loaded = load_config(config, tuple(override or ()))
    _mine(loaded, workspace or default_workspace(config), executor, address, as_json)


@app.command()
def remine(
    config: Annotated[str, typer.Argument(help="YAML config of the rounds.")],
    checkpoint: Annotated[str, typer.Option(help="Folder, URL or hub name of the embedder as it is now.")],
    workspace: Workspace = "",
    override: Set = None,
    executor: ExecutorName = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Mines the next round with another checkpoint: only what depends on it, and nothing if its weights are known."""
    from raymine import rounds
    from raymine.config_file import absolute_model, load_config

    loaded = load_config(config, tuple(override or ()))
    place, model = workspace or default_workspace(config), absolute_model(checkpoint)
    with _running(executor, address) as (runner, watcher):
        found = rounds.remine(loaded, place, model, runner, watcher, run_id=runner.job_id)
    _show(found, as_json, "it was mined with these weights")


@app.command()
def watch(
    config: Annotated[str, typer.Argument(help="YAML config of the rounds.")],
    checkpoints: Annotated[str, typer.Option(help="Folder or URL in which a trainer leaves its checkpoints.")],
    workspace: Workspace = "",
    override: Set = None,
    executor: ExecutorName = "local",
    address: Address = None,
    once: Annotated[bool, typer.Option("--once", help="Looks once, for a scheduler.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 30,
    as_json: Json = False,
) -> None:
    """Mines a round for each new complete checkpoint, the newest first; may be stopped and started at any moment."""
    from raymine.config_file import load_config
    from raymine.watch import watch as run_watch

    def failed(checkpoint: Any, error: UserError) -> None:
        print(f"raymine: {checkpoint.path}: {error}", file=sys.stderr)

    loaded = load_config(config, tuple(override or ()))
    with _running(executor, address) as (runner, watcher):
        rounds = run_watch(
            loaded,
            workspace or default_workspace(config),
            checkpoints,
            runner,
            watcher,
            every,
            once,
            None if once else failed,
        )
        found = None
        for found in rounds:
            _show(found, as_json, "it was mined with these weights")
        if found is None:
            say().print(f"{checkpoints}: no complete checkpoint there", highlight=False)


def default_workspace(config: str) -> str:
    """`workspace` beside the config."""
    from raymine import storage

    return storage.join(storage.absolute(config).rsplit("/", 1)[0], "workspace")


@contextmanager
def _running(executor: str, address: str | None) -> Iterator[tuple[Any, Any]]:
    """An executor, and a watcher that shows progress on stderr."""
    from raymine.console import ProgressWatcher
    from raymine.executor import make_executor

    watcher = ProgressWatcher(say())
    try:
        with make_executor(executor, address) as runner:
            yield runner, watcher
    finally:
        watcher.close()


def _mine(config: Any, workspace: str, executor: str, address: str | None, as_json: bool) -> Any:
    from raymine import rounds

    with _running(executor, address) as (runner, watcher):
        found = rounds.mine(config, workspace, runner, watcher, run_id=runner.job_id)
    _show(found, as_json)
    return found


def _show(found: Any, as_json: bool, why: str = "nothing has changed since") -> None:
    """A round that was mined or found, for people or for programs.

    Args:
        found: the round.
        as_json: one JSON object.
        why: there was nothing to do, if so.
    """
    from raymine.console import print_round, round_summary

    if as_json:
        print(json.dumps(round_summary(found)))
    else:
        print_round(found, out(), why)


@app.command()
def plan(
    config: Annotated[str, typer.Argument(help="YAML config.")],
    workspace: Workspace = "",
    override: Set = None,
    executor: ExecutorName = "local",
    address: Address = None,
    rounds: Annotated[int, typer.Option(help="With a checkpoint each.", min=1)] = 1,
    documents: Annotated[str | None, typer.Option(help="As if there were so many: 2500000, 100M.")] = None,
    queries: Annotated[str | None, typer.Option(help="As if there were so many.")] = None,
    gpus: Annotated[int | None, typer.Option(help="On a cluster with so many GPUs.", min=1)] = None,
    gpu: Annotated[str | None, typer.Option(help="Which: H100, A100, L4, T4, ...; by published rates.")] = None,
    cpus: Annotated[int | None, typer.Option(help="On a cluster with so many CPUs.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """What a round will take, before it runs: seconds, hours of devices, bytes, memory and money of each step.

    Reads the inputs, which the round then finds read, and mines samples of them once, to see how fast that goes here.
    """
    from raymine.config_file import load_config
    from raymine.console import parse_count, print_plan
    from raymine.plan import Variation
    from raymine.plan import plan as make_plan
    from raymine.planning.published import make_cluster

    counts = [parse_count(text) if text is not None else None for text in (documents, queries)]
    asked = Variation(counts[0], counts[1], make_cluster(gpus, gpu, cpus), rounds)
    loaded = load_config(config, tuple(override or ()))
    with _running(executor, address) as (runner, watcher):
        found = make_plan(loaded, workspace or default_workspace(config), runner, watcher, asked)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        print_plan(found, out())


@app.command()
def status(workspace: Annotated[str, typer.Argument(help="Folder or URL.")], as_json: Json = False) -> None:
    """Rounds of a workspace: steps, shards done and left, cost so far; beside it what was planned, if it was."""
    from raymine.console import print_status
    from raymine.status import status as read_status

    found = read_status(workspace)
    if as_json:
        print(json.dumps(found))
    else:
        print_status(found, out())


@app.command()
def inspect(
    workspace: Annotated[str, typer.Argument(help="Folder or URL.")],
    query: Annotated[str, typer.Option(help="Id of the query.")],
    number: Annotated[int | None, typer.Option("--round", help="Default: the last finished one.")] = None,
    as_json: Json = False,
) -> None:
    """One query: its positives, every candidate with its scores and verdict, its negatives."""
    from raymine.inspect import inspect as read_story
    from raymine.inspect import show

    story = read_story(_pick_round(workspace, number), query)
    if as_json:
        print(json.dumps(story.to_json()))
    else:
        show(story, out())


def _pick_round(workspace: str, number: int | None) -> Any:
    from raymine import storage
    from raymine.errors import WorkspaceError
    from raymine.rounds import rounds

    known = rounds(storage.absolute(workspace))
    finished = [found for found in known if found.facts["state"] == "done"]
    wanted = [found for found in known if found.number == number] if number is not None else finished[-1:]
    if not wanted:
        raise WorkspaceError(
            f"{workspace}: no such round" if number is not None else f"{workspace}: no round is finished",
            got=str(number) if number is not None else f"{len(known)} unfinished",
            expected=f"one of {[found.number for found in known]}",
            fix="see `raymine status`",
        )
    return wanted[0]


@app.command()
def export(
    workspace: Annotated[str, typer.Argument(help="Folder or URL.")],
    formats: Annotated[list[str], typer.Option("--format", metavar="NAME", help="Trainer's format; may be repeated.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder for a copy.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="Default: the last finished one.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Overrides a key of `select` or `write` of the round."),
    ] = None,
    executor: ExecutorName = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Other formats, filters or samples from a finished round's verdicts, without mining again."""
    from dataclasses import asdict

    from raymine.export import export as make_export

    found = _pick_round(workspace, number)
    with _running(executor, address) as (runner, watcher):
        made = make_export(found, formats, runner, tuple(override or ()), output, watcher)
    if as_json:
        print(json.dumps(asdict(made)))
        return
    console = out()
    console.print(f"{made.num_negatives:,} negatives of round {found.number}", highlight=False)
    for name, rows in made.rows.items():
        console.print(f"{name}: {rows:,} rows in {made.path}/{name}", highlight=False, soft_wrap=True)
    if made.num_unscored:
        console.print(
            f"{made.num_unscored:,} candidates that are let through have no teacher score: a filter of the round took "
            "them before the teacher was asked",
            highlight=False,
        )


@app.command()
def audit(
    paths: Annotated[list[str], typer.Argument(help="Files or folders of training rows, of any format.")],
    evaluation: Annotated[
        list[str] | None,
        typer.Option(help="BEIR folder whose test queries and relevant documents must not be trained on."),
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="JSON lines of the documents, to resolve ids.")] = None,
    as_json: Json = False,
) -> None:
    """Is a training set clean? Exits with 1 if a hard rule is broken."""
    from dataclasses import asdict

    from raymine.audit import audit as make_audit
    from raymine.audit.evaluation import ids_of, texts_of
    from raymine.console import audit_table

    queries, documents = texts_of(evaluation or [])
    found = make_audit(paths, queries, documents, None if corpus is None else ids_of(corpus))
    if as_json:
        print(json.dumps({**asdict(found), "is_clean": found.is_clean}))
    else:
        console = out()
        console.print(
            f"{found.num_rows:,} rows, {found.num_queries:,} queries, {found.num_negatives:,} negatives",
            highlight=False,
        )
        console.print(audit_table(found))
        for check in found.checks:
            for example in check.examples if check.is_hard else []:
                console.print(f"{check.name}: {example}", highlight=False, markup=False, soft_wrap=True)
    if not found.is_clean:
        raise typer.Exit(1)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Prints this one.")] = None) -> None:
    """How others choose negatives, as a few lines of config each: lists them, or prints one."""
    from raymine import recipes as known

    if name is not None:
        print(known.recipe(name), end="")
        return
    for each in known.names():
        print(f"{each:14}{known.recipe(each).splitlines()[0].removeprefix('# ')}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with data.")],
    recipe: Annotated[str | None, typer.Option(help="One of `raymine recipes`; default: raymine's own choice.")] = None,
) -> None:
    """Writes a commented config for the data it finds in a folder."""
    from raymine.init import write_config

    path, notes = write_config(folder, recipe)
    console = out()
    for note in notes:
        console.print(note, highlight=False)
    console.print(f"wrote {path}; mine with: raymine mine {path}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's data, models and workspace go.")] = Path("demo"),
    executor: ExecutorName = "local",
    address: Address = None,
) -> None:
    """The whole main job on real text that every machine has: the docstrings of the installed Python packages."""
    from raymine import demo as demos
    from raymine.config_file import load_config

    console = out()
    config = demos.prepare(folder, lambda line: console.print(line, highlight=False))
    console.print(f"\n$ raymine mine {config}", style="bold", highlight=False)
    found = _mine(load_config(str(config)), default_workspace(str(config)), executor, address, as_json=False)
    _show_examples(found, console)


def _show_examples(found: Any, console: Console, count: int = 3) -> None:
    from raymine import storage
    from raymine.inspect import inspect as read_story
    from raymine.inspect import snippet

    tables = found.tables()
    ids = storage.read_table(tables.queries[0].path, ["query_id"])["query_id"].to_pylist()
    console.print(f"\n{count} examples", style="bold")
    for query_id in ids[:: max(len(ids) // count, 1)][:count]:
        story = read_story(found, query_id)
        console.print(f"\nquery     {story.text}", style="cyan", highlight=False, markup=False)
        for row in story.candidates:
            if row["relevance"]:
                line = f"positive  {row['doc_id']}: {snippet(row['text'], 200)}"
                console.print(line, style="green", highlight=False, markup=False)
        for row in sorted((r for r in story.candidates if r["slot"] is not None), key=lambda r: r["slot"])[:3]:
            why = f"({row['kind']}, teacher {row['teacher_score']:.3f})"
            line = f"negative  {row['doc_id']}: {snippet(row['text'], 200)} {why}"
            console.print(line, highlight=False, markup=False)
    console.print(
        f"\nSee why: raymine inspect {found.workspace} --query {ids[0]!r}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process."""
    try:
        app(arguments, standalone_mode=True)
    except UserError as error:
        print(f"raymine: {error}", file=sys.stderr)
        _end(2)
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    _end(0)


def _end(code: int) -> NoReturn:
    """As sys.exit, but for taking every imported module apart: 1.5 s with torch, for memory that is freed anyway."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
