"""What happens at the moment of submission: names are checked and parameters stored, nothing else."""

from __future__ import annotations

import json
from typing import Any

from panda_airflow.client.models import Json
from panda_airflow.client.task_parameters import REQUIRED_TO_REGISTER, TASK_NAME_LIMIT
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.jedi.commands import REACTIVATES, REACTIVATION, REFUSED, RETRIES_JOBS

QUEUED, ACTIVE = 1, 2
"""Codes of the two refusals of a name that is taken."""

NEW_TASK = 0
FAILED = (REFUSED, "failed to register task")

RETRIED_JOBS = 5
"""Code of new parameters that were given to a task which is still running."""

_TAKEN_OVER = frozenset(
    {
        "site", "cloud", "includedSite", "excludedSite", "cliParams", "nFiles", "nEvents", "fixedSandbox",
        "currentPriority", "ramCount", "forceStaged",
        "allowIncompleteInDS", "t1Weight", "nEsConsumers", "nMaxFilesPerJob", "nGBPerJob", "noInputPooling",
        "nFilesPerJob", "nEventsPerWorker", "nJumboJobs", "avoidVP", "allowInputLAN", "useLocalIO", "noLoopingCheck",
        "maxCoreCount", "onlyTagsForFC", "useZipToPin", "ignoreMissingInDS", "noAutoPause",
    }
)  # fmt: skip
"""Parameters that an ended task takes from the submission that runs it again; all others stay what they were."""


def register(
    backend: Backend,
    caller: Identity,
    parameters: dict[str, Json],
    parent_tid: int | None = None,
    *,
    active_too: bool = False,
) -> tuple[int, str, int | None]:
    """Store a task for JEDI, or find the task that holds its unique name.

    :param active_too: give new parameters even to a task that is still running.
    :return: code, message and JediTaskID.
    :raises DatabaseDown: the database is down.
    """
    parameters = _owned(parameters, caller)
    if any(not isinstance(parameters.get(name), str) for name in REQUIRED_TO_REGISTER):
        return (*FAILED, None)
    if len(parameters["taskName"]) > TASK_NAME_LIMIT:
        return (*FAILED, None)
    unique = parameters.get("uniqueTaskName") is True or active_too
    with backend.store.transaction():
        if unique and parameters["taskType"] == "anal":
            answer = _holder_of_name(backend, parameters, active_too=active_too)
            if answer:
                return answer
        task_id = _insert(backend, caller, parameters, parent_tid)
    return NEW_TASK, f"succeeded. new jediTaskID={task_id}", task_id


def _owned(parameters: dict[str, Json], caller: Identity) -> dict[str, Json]:
    owned = dict(parameters)
    if not caller.production or "userName" not in owned:
        owned["userName"] = caller.name
    if not caller.production or "taskType" not in owned:
        owned |= {"taskType": "anal", "taskPriority": 1000}
    return owned


def _insert(backend: Backend, caller: Identity, parameters: dict[str, Json], parent_tid: int | None) -> int:
    return backend.store.insert(
        "submissions",
        submitTime=backend.clock(),
        vo=parameters["vo"],
        prodSourceLabel=parameters["prodSourceLabel"],
        userName=parameters["userName"],
        prodUserID=caller.dn,
        taskName=parameters["taskName"],
        params=json.dumps(parameters),
        parent_tid=parent_tid,
    )


def _holder_of_name(
    backend: Backend, parameters: dict[str, Json], *, active_too: bool
) -> tuple[int, str, int | None] | None:
    name = parameters["taskName"]
    key = (name, parameters["userName"], parameters["vo"], parameters["prodSourceLabel"])
    same = "WHERE taskName = ? AND userName = ? AND vo = ? AND prodSourceLabel = ? ORDER BY jediTaskID DESC"
    task = backend.store.row(f"SELECT jediTaskID, status FROM tasks {same}", *key)  # noqa: S608 - constant
    if task:
        return _held_by_task(backend, parameters, task, active_too=active_too)
    queued = backend.store.value(f"SELECT jediTaskID FROM submissions {same}", *key)  # noqa: S608 - constant
    if queued is None:
        return None
    words = f"jediTaskID={queued} is already queued for outDS={name}. You cannot submit duplicated tasks. "
    return QUEUED, words, queued


def _held_by_task(
    backend: Backend, parameters: dict[str, Json], task: dict[str, Any], *, active_too: bool
) -> tuple[int, str, int | None]:
    task_id, status = task["jediTaskID"], task["status"]
    changes = _taken_over(parameters)
    if status in REACTIVATES:
        if changes.get("ramCount") is not None:
            backend.store.update("tasks", "jediTaskID", task_id, ramCount=changes["ramCount"])
        put_command(backend, task_id, "incexec", changes)
        words = f"(currently in {status} state) will be re-executed with old and/or new input"
        return REACTIVATION, f"reactivation accepted. jediTaskID={task_id} {words}", task_id
    if active_too and status in RETRIES_JOBS and parameters["prodSourceLabel"] == "user":
        change_parameters(backend, task_id, changes)
        return RETRIED_JOBS, f"{status}. new tasks params have been set to jediTaskID={task_id}. ", task_id
    words = (
        f"jediTaskID={task_id} is in the {status} state for outDS={parameters['taskName']}. "
        "You can re-submit the task with new parameters for the same or another input "
        "once it goes into finished/failed/done. "
        "Or you can retry the task once it goes into running/finished/failed/done. "
        "Note that retry != resubmission according to "
        "https://twiki.cern.ch/twiki/bin/view/PanDA/PandaJEDI#Task_retry_and_resubmission "
    )
    return ACTIVE, words, task_id


def _taken_over(parameters: dict[str, Json]) -> dict[str, Json]:
    changes = {name: value for name, value in parameters.items() if name in _TAKEN_OVER or name.startswith("dsFor")}
    if "priority" in parameters:
        changes["currentPriority"] = parameters["priority"]
    if "fixedSandbox" in changes and "sourceURL" in parameters:
        changes["sourceURL"] = parameters["sourceURL"]
    return changes


def put_command(backend: Backend, task_id: int, command: str, parameters: Json, comment: str | None = None) -> None:
    """Leave a command for JEDI, in the place and at the time of one that it has not executed yet.

    :param parameters: what goes with the command, as JSON values.
    :param comment: what becomes the task's error dialog when JEDI executes the command.
    :raises DatabaseDown: the database is down.
    """
    backend.store.run(
        "INSERT INTO commands (jediTaskID, command, parameters, registeredTime) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET command = excluded.command, parameters = excluded.parameters",
        task_id,
        command,
        json.dumps({"parameters": parameters, "comment": comment}),
        backend.clock(),
    )


def submitted_parameters(backend: Backend, task_id: int) -> dict[str, Json] | None:
    """Read the parameters of a task as they were submitted, which are known from that moment and never change.

    :return: ``None`` for an unknown task.
    :raises DatabaseDown: the database is down.
    """
    stored = backend.store.value("SELECT params FROM submissions WHERE jediTaskID = ?", task_id)
    return None if stored is None else dict(json.loads(stored))


def refined_parameters(backend: Backend, task_id: int) -> dict[str, Json] | None:
    """Read the parameters of a task as JEDI keeps them since it was defined.

    :return: ``None`` for a task that is unknown or was never defined.
    :raises DatabaseDown: the database is down.
    """
    stored = backend.store.value("SELECT params FROM refined_parameters WHERE jediTaskID = ?", task_id)
    return None if stored is None else dict(json.loads(stored))


def parameters_of(backend: Backend, task_id: int) -> dict[str, Json]:
    """Read the parameters of a task that JEDI works with.

    :return: empty for an unknown task.
    :raises DatabaseDown: the database is down.
    """
    return refined_parameters(backend, task_id) or submitted_parameters(backend, task_id) or {}


def keep_parameters(backend: Backend, task_id: int, parameters: dict[str, Json]) -> None:
    """Store the parameters of a task that JEDI works with from now on.

    :raises DatabaseDown: the database is down.
    """
    backend.store.run(
        "INSERT INTO refined_parameters (jediTaskID, params) VALUES (?, ?) "
        "ON CONFLICT DO UPDATE SET params = excluded.params",
        task_id,
        json.dumps(parameters),
    )


def change_parameters(backend: Backend, task_id: int, changes: dict[str, Json]) -> None:
    """Overwrite some of the parameters that JEDI works with; a change to nothing takes one away.

    :raises DatabaseDown: the database is down.
    """
    with backend.store.transaction():
        kept = {name: value for name, value in parameters_of(backend, task_id).items() if name not in changes}
        given = {name: value for name, value in changes.items() if value is not None}
        keep_parameters(backend, task_id, kept | given)
