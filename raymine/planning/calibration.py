"""What was measured for a round's kind, kept in the workspace: `calibration/<key>.json`.

The key covers what decides the seconds of a unit: the config, the weights of its models, the executor and its CPUs and
GPUs, and the order of magnitude of the corpus and the queries, whose tenth bounds the samples. So it is measured again
when the corpus has grown tenfold, and not when a few documents were added.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raymine import storage
from raymine.artifacts import Resources
from raymine.embed.sentence_transformer import Description
from raymine.errors import InputError
from raymine.fingerprint import fingerprint, model_fingerprint
from raymine.models import local_model
from raymine.pipeline.base import Context
from raymine.planning.measure import Job, Measured, tables_to_json

VERSION = 10  # raised when what is measured changes
Measure = Callable[[Job], Measured]


def calibrate(
    context: Context, embedder: Description | None, index: str | None, measure: Measure
) -> tuple[Measured, bool]:
    """What was measured for this kind of round, or measures it.

    Args:
        context: of the round, its inputs read.
        embedder: what `read_inputs` gave.
        index: exact, ivfflat or ivfpq, as planned.
        measure: does a job.

    Returns:
        What was measured, and whether just now.

    Raises:
        UserError: a sample of the round cannot be mined, so the round cannot.
    """
    workspace = context.artifacts.workspace
    path = storage.join(workspace, "calibration", f"{_key(context, index)}.json")
    if storage.exists(path):
        return Measured.from_json(storage.read_json(path)), False
    folder = storage.join(workspace, "calibration", "samples")
    storage.remove_folder(folder)  # of a run that was killed
    executor = context.artifacts.executor
    job = Job(
        config=_config(context),
        index=index,
        embedder=embedder,
        facts={name: value for name, value in context.facts.items() if name == "dim"},
        tables=tables_to_json(context.tables),
        executor=executor.name,
        cluster=executor.cluster,
        folder=folder,
        hashes=storage.join(workspace, "cache", "hashes.json"),
    )
    try:
        measured = measure(job)
    finally:
        storage.remove_folder(folder)
    storage.write_json(path, asdict(measured))
    return measured, True


def in_a_program_of_its_own(job: Job) -> Measured:
    """Measures in a new process of this Python, which has loaded nothing yet, as the round's will.

    Raises:
        InputError: the process found a fault of the user's.
    """
    found = _run(job)
    if found.get("has_compiled"):  # which a start takes only once on a machine
        storage.remove_folder(job.folder)
        found = _run(job)
    if "error" in found:
        raise InputError(f"calibration: {found['error']}")
    return Measured.from_json(found["measured"])


def _run(job: Job) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="raymine-") as folder:
        given, made = Path(folder) / "job.json", Path(folder) / "measured.json"
        storage.write_json(str(given), asdict(job))
        subprocess.run([sys.executable, "-m", "raymine.planning.measure", str(given), str(made)], check=True)
        found: dict[str, Any] = storage.read_json(str(made))
    return found


def _config(context: Context) -> dict[str, Any]:
    """The round's config, with as many workers as there is room for."""
    config = context.config.model_dump(mode="json")
    for name in ("embed", "index", "rescore"):
        config["resources"][name]["actors"] = None
    return config


def _key(context: Context, index: str | None) -> str:
    config, tables = context.config, context.tables
    plain = config.model_dump(exclude={"cost", "corpus", "queries", "exclude"})
    del plain["positives"]["path"]
    for name, model in (("embed", config.embed), ("rescore", config.rescore)):
        if model is not None and model.model is not None:
            plain[name]["model"] = model_fingerprint(local_model(model.model, model.revision), context.cache)
    executor = context.artifacts.executor
    one = Resources(1)
    return fingerprint(
        {
            "version": VERSION,
            "config": plain,
            "index": index,
            "magnitudes": [len(str(tables.num_documents)), len(str(tables.num_queries))],
            "executor": [executor.name, executor.num_workers(one), asdict(executor.resolve(Resources(None, None), 1))],
            "machine": [platform.machine(), platform.node()] if executor.cluster is None else [],
        }
    )
