"""How far the rounds of a workspace are: steps, shards done and left, cost so far."""

from __future__ import annotations

from typing import Any

from raymine import storage
from raymine.rounds import Round, rounds


def status(workspace: str) -> list[dict[str, Any]]:
    """Rounds with their steps, in the order in which the steps began.

    Returns:
        Per round: number, state, run_id, documents, queries, worker seconds, and steps: each with name, shards done,
        shards in all, and worker seconds so far. Where the round was planned, also the worker seconds that the plan
        said, of the round and of each step (`planned_s`, null of a step that the plan does not have).
    """
    return [_round_status(found) for found in rounds(storage.absolute(workspace))]


def _round_status(found: Round) -> dict[str, Any]:
    planned = _planned(found)
    notes = [storage.read_json(path) for path in storage.list_files(storage.join(found.path, "steps"), ".json")]
    notes.sort(key=lambda note: note["started_at"])
    steps = [{**_step_status(found, note), "planned_s": planned.get(note["step"])} for note in notes]
    return {
        "round": found.number,
        "state": found.facts["state"],
        "run_id": found.facts["run_id"],
        "documents": found.facts.get("num_documents"),
        "queries": found.facts.get("num_queries"),
        "steps": steps,
        "worker_s": sum(step["worker_s"] for step in steps),
        "planned_s": sum(planned.values()) if planned else None,
    }


def _planned(found: Round) -> dict[str, float]:
    """Worker seconds that the round's plan says of each step, but for those that planning itself had done."""
    path = storage.join(found.path, "plan.json")
    lines = storage.read_json(path)["steps"] if storage.exists(path) else []
    return {line["step"]: line["worker_s"] for line in lines if line["state"] != "done"}


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
