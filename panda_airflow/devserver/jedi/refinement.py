"""JEDI's task refiner: from a submission to a task that is defined, and from one that ran to one that runs again."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from panda_airflow.client.models import Json
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi import feeder, refiner
from panda_airflow.devserver.jedi.registration import keep_parameters, parameters_of
from panda_airflow.devserver.storage import tasks
from panda_airflow.devserver.storage.store import Row

_NOBODY = "tobeset"

_UNUSABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What parameters of the wrong shape end in; such a task keeps its name."""

_HELD_BACK = ("splitRule", "startTime", "ramCount", "walltime", "cpuTime", "cpuTimeUnit")
"""Columns that a task does not get before it is defined."""


def register(backend: Backend, before: datetime) -> None:
    """Make a task of every submission whose registration window has passed.

    Until it is refined the task has neither its name nor its owner.

    :param before: time of submission up to which it has, naive UTC.
    :raises DatabaseDown: the database is down.
    """
    sql = "SELECT * FROM submissions WHERE status = 'waiting' AND submitTime <= ? ORDER BY jediTaskID"
    for submission in backend.store.rows(sql, before):
        task_id, now = submission["jediTaskID"], backend.clock()
        with backend.store.transaction():
            backend.store.insert(
                "tasks",
                jediTaskID=task_id,
                taskName=str(uuid4()),
                status="registered",
                userName=_NOBODY,
                creationDate=submission["submitTime"],
                modificationTime=now,
                stateChangeTime=now,
                reqID=task_id,
                parent_tid=submission["parent_tid"] or task_id,
            )
            backend.store.update("submissions", "jediTaskID", task_id, status="registered")


def refine(backend: Backend, task: Row) -> None:
    """Give a new task its name, owner and datasets; hold it while it waits for its parent or its input."""
    try:
        refined = refiner.refine(parameters_of(backend, task["jediTaskID"]))
    except refiner.WithoutName as error:
        tasks.set_status(backend, task["jediTaskID"], "tobroken", errorDialog=str(error))
        return
    columns = refined.attributes | {"startTime": task["startTime"] or backend.clock()}
    parent = _parent_status(backend, task)
    if parent in ("broken", "aborted", "failed", "unknown"):
        _break(backend, task, columns, f"parent task {task['parent_tid']} failed to complete")
    elif parent in ("done", "finished") or refined.parameters.get("noWaitParent"):
        _define(backend, task, refined, columns, parent)
    else:
        _hold(backend, task, columns, f"pending until parent task {task['parent_tid']} is done")


def _parent_status(backend: Backend, task: Row) -> str:
    """Tell the status of a task's parent: ``unknown`` where there is no such task, ``done`` where it needs none."""
    if task["parent_tid"] == task["jediTaskID"]:
        return "done"
    parent = tasks.get(backend, task["parent_tid"])
    return str(parent["status"]) if parent else "unknown"


def _define(backend: Backend, task: Row, refined: refiner.Refined, columns: dict[str, Any], parent: str) -> None:
    task_id, parameters = task["jediTaskID"], refined.parameters
    try:
        refiner.make_datasets(backend, task_id, parameters)
    except _UNUSABLE as error:
        backend.store.run("DELETE FROM datasets WHERE jediTaskID = ?", task_id)
        _break(backend, task, columns, f"failed to refine task with {type(error).__name__}:{error}")
        return
    except refiner.CannotRefine as error:
        backend.store.run("DELETE FROM datasets WHERE jediTaskID = ?", task_id)
        waits = isinstance(error, refiner.InputUnknown)
        if waits and parent not in ("done", "finished"):
            _hold(backend, task, columns, f"pending until parent produces input. parent is {parent}")
        elif waits and parameters.get("waitInput"):
            _hold(backend, task, columns, "pending until input is staged")
        else:
            _break(backend, task, columns, str(error))
        return
    keep_parameters(backend, task_id, parameters)
    columns |= {"status": "defined", "oldStatus": None, "errorDialog": None, "frozenTime": None}
    if twins := _twins(backend, task_id, parameters):
        said = f"toabort since there is duplicated task -> jediTaskID={twins}"
        columns |= {"status": "toabort", "taskName": None, "errorDialog": said}
    # JEDI does not move stateChangeTime here.
    backend.store.update("tasks", "jediTaskID", task_id, **columns, modificationTime=backend.clock())


def _hold(backend: Backend, task: Row, columns: dict[str, Any], why: str) -> None:
    if task["errorDialog"] != why:
        shown = {name: value for name, value in columns.items() if name not in _HELD_BACK}
        tasks.set_status(backend, task["jediTaskID"], "pending", **shown, oldStatus="registered", errorDialog=why)


def _break(backend: Backend, task: Row, columns: dict[str, Any], why: str) -> None:
    tasks.set_status(backend, task["jediTaskID"], "tobroken", **columns | {"errorDialog": why})


def _twins(backend: Backend, task_id: int, parameters: dict[str, Json]) -> str:
    """List the other tasks of this name that were refined before; production tasks meet them only here."""
    if parameters.get("uniqueTaskName") is not True:
        return ""
    rows = backend.store.rows(
        "SELECT jediTaskID FROM tasks WHERE userName = ? AND taskName = ? AND jediTaskID <> ?",
        parameters["userName"],
        parameters["taskName"],
        task_id,
    )
    return ",".join(str(row["jediTaskID"]) for row in rows)


def refine_again(backend: Backend, task: Row) -> None:
    """Refine a task that is to run again: it keeps what it has, but its attempts are counted from 0 again."""
    task_id = task["jediTaskID"]
    try:
        refined = refiner.refine(parameters_of(backend, task_id))
    except refiner.WithoutName as error:
        _break(backend, task, {}, str(error))
        return
    keep_parameters(backend, task_id, refined.parameters)
    sql = "UPDATE datasets SET status = 'toupdate' WHERE jediTaskID = ? AND type IN ('input', 'pseudo_input')"
    backend.store.run(sql, task_id)
    columns = refiner.refined_again(refined) | {"modificationTime": backend.clock() - tasks.AT_ONCE}
    tasks.set_status(backend, task_id, "defined", **columns)


def feed(backend: Backend, task: Row) -> None:
    """Look up the inputs of a task, then make it ready; a task that has no input dataset at all stays as it is."""
    task_id, dataset = task["jediTaskID"], refiner.master(backend, task["jediTaskID"])
    if dataset is None:
        return
    if dataset["status"] == "ready":
        columns = {"errorDialog": None, "oldStatus": None, "activatedTime": backend.clock()}
        tasks.set_status(backend, task_id, "ready", **columns)
        return
    try:
        feeder.add_inputs(backend, task_id, parameters_of(backend, task_id))
    except feeder.NoInput as error:
        tasks.set_status(backend, task_id, "tobroken", errorDialog=str(error))
    else:
        backend.store.update("datasets", "datasetID", dataset["datasetID"], status="ready")
