"""Recovery of lost files: outputs that a task made and that are not in the cache any more are made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from panda_airflow.client.models import Json
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver.auth.identity import clean_name
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi.commands import REFUSED, REGISTERED, acceptance, comment, refusal
from panda_airflow.devserver.jedi.registration import put_command
from panda_airflow.devserver.storage.store import Row

_OUTPUTS = (
    "SELECT c.*, d.datasetName, t.userName, t.status AS taskStatus FROM contents c JOIN datasets d USING (datasetID) "
    "JOIN tasks t ON t.jediTaskID = c.jediTaskID WHERE d.type = 'output' AND c.status = 'finished' AND "
)


class _Refused(Exception):
    """The recovery cannot be carried out, for the reason in the message."""


def recover_lost_files(backend: Backend, before: datetime) -> None:
    """Carry out every request that has waited long enough, and write its log.

    :param before: time of the request up to which it has, naive UTC.
    :raises DatabaseDown: the database is down; the request is kept.
    """
    for path in sorted(backend.cache.glob("recov.*")):
        request = _read(path)
        if request and datetime.fromisoformat(request["creationTime"]) <= before:
            with backend.store.transaction():
                lines = list(_recover_or_say_why_not(backend, request))
            text = "".join(f"{backend.clock():%Y-%m-%d %H:%M:%S} : {line}\n" for line in lines)
            (backend.cache / request["logFilename"]).write_text(f"{text}done\n")
            path.unlink()


def _read(path: Path) -> dict[str, Json]:
    """Read a request; what somebody else has put under such a name is none, and empty."""
    try:
        request: Json = json.loads(path.read_text())
    except ValueError:
        return {}
    return request if isinstance(request, dict) and {"creationTime", "logFilename"} <= request.keys() else {}


def _recover_or_say_why_not(backend: Backend, request: dict[str, Json]) -> Iterator[str]:
    yield f"User='{request['userName']}' is_prod={request.get('isProductionManager', False)}"
    try:
        yield from _recover(backend, request)
    except _Refused as refused:
        yield f"Error: {refused}"


def _recover(backend: Backend, request: dict[str, Json]) -> Iterator[str]:
    lost = _lost_files(backend, request)
    if not lost and not request.get("force"):
        yield "No lost files. Use --force to ignore this check"
        return
    names = ",".join(row["lfn"] for row in lost)
    task_id = int(lost[0]["jediTaskID"] if lost else request.get("jediTaskID", 0))
    yield f"task {task_id} has {len(lost)} lost files -> {names}"
    _check(lost, request)
    if request.get("dryRun"):
        yield "Done in the dry-run mode with True"
        return
    for row in lost:
        _make_again(backend, row)
    reply = _retry(backend, task_id, lost[0]["taskStatus"], clean_name(request["userName"]))
    yield f"Retried task {task_id}: done with {(0, json.dumps(reply))}"


def _retry(backend: Backend, task_id: int, status: str, user: str) -> dict[str, Json]:
    """Register a retry, for which a task that was done is finished from now on."""
    if status == "done":
        status = "finished"
        backend.store.update("tasks", "jediTaskID", task_id, status=status)
    if words := refusal("retry", status, production=True):
        return {"success": True, "message": words, "data": REFUSED}
    put_command(backend, task_id, "retry", {}, comment("retry", user))
    return {"success": True, "message": acceptance("retry", task_id), "data": REGISTERED}


def _lost_files(backend: Backend, request: dict[str, Json]) -> list[Row]:
    """Find the outputs that somebody names, or else those that are in the database and not in the cache."""
    if request.get("jediTaskID"):
        found = backend.store.rows(f"{_OUTPUTS} c.jediTaskID = ?", request["jediTaskID"])
    else:
        name = request["ds"].rsplit(":", 1)[-1].rstrip("/")
        found = backend.store.rows(f"{_OUTPUTS} ? IN (d.datasetName, d.containerName)", name)
    named = set(request.get("files", "").split(",")) - {""}
    return [row for row in found if (row["lfn"] in named if named else _is_missing(backend.cache / row["lfn"]))]


def _is_missing(path: Path) -> bool:
    return not path.exists()


def _check(lost: list[Row], request: dict[str, Json]) -> None:
    if not lost:
        raise _Refused("Failed")
    owner, status = lost[0]["userName"], lost[0]["taskStatus"]
    if not request.get("isProductionManager") and owner != clean_name(request["userName"]):
        raise _Refused(f"Failed to reset file status in the DB since the task belongs to {owner}")
    if status not in FINAL_STATUSES:
        raise _Refused(f"Failed to reset file status in the DB since the task is {status}")


def _make_again(backend: Backend, lost: Row) -> None:
    """Forget an output and take the inputs of the job that made it as untouched."""
    inputs = "SELECT fileID FROM files WHERE PandaID = ? AND type IN ('input', 'pseudo_input')"
    backend.store.run("UPDATE contents SET status = 'lost' WHERE fileID = ?", lost["fileID"])
    backend.store.run(
        f"UPDATE contents SET status = 'ready', maxAttempt = maxAttempt + 1 WHERE fileID IN ({inputs})",  # noqa: S608
        lost["PandaID"],
    )
