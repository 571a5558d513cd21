"""How far the rounds of a workspace are: steps, shards done and left, cost so far."""

from __future__ import annotations

from typing import Any

from raymine import storage
from raymine.rounds import Round, rounds


def status(workspace: str) -> list[dict[str, Any]]:
    """Rounds with their steps, in the order in which the steps began.

    Returns:
        Per round: number, state, run_id, documents, queries, and steps: each with name, shards done, shards in all, and
        worker seconds so far.
    """
    return [_round_status(found) for found in rounds(storage.absolute(workspace))]


def _round_status(found: Round) -> dict[str, Any]:
    notes = [storage.read_json(path) for path in storage.list_files(storage.join(found.path, "steps"), ".json")]
    steps = [_step_status(found, note) for note in sorted(notes, key=lambda note: note["started_at"])]
    return {
        "round": found.number,
        "state": found.facts["state"],
        "run_id": found.facts["run_id"],
        "documents": found.facts.get("num_documents"),
        "queries": found.facts.get("num_queries"),
        "steps": steps,
        "worker_s": sum(step["worker_s"] for step in steps),
    }


def _step_status(found: Round, note: dict[str, Any]) -> dict[str, Any]:
    folder = storage.join(found.workspace, note["folder"], "done")
    keys = {f"{key}.json" for key in note["tasks"]}
    markers = [path for path in storage.list_files(folder, ".json") if path.rsplit("/", 1)[-1] in keys]
    seconds = [storage.read_json(path)["ledger"] for path in markers]
    return {
        "step": note["step"],
        "done": len(markers),
        "shards": len(keys),
        "worker_s": sum(row["wall_s"] for row in seconds if row["round"] == found.number),
    }
