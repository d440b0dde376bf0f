"""JEDI's commando: executes the commands that were registered a while ago, or drops them silently."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from panda_airflow.client.models import Json
from panda_airflow.devserver import jobs, tasks
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.commands import COMMANDS, refusal
from panda_airflow.devserver.registration import change_parameters
from panda_airflow.devserver.store import Row


def execute_commands(backend: Backend, before: datetime) -> None:
    """Execute every command that has waited long enough.

    A task that has left the statuses in which the command applies is left alone, and nobody is told.

    :param before: time of registration up to which it has, naive UTC.
    :raises DatabaseDown: the database is down.
    """
    sql = "SELECT c.*, t.status FROM commands c JOIN tasks t USING (jediTaskID) WHERE registeredTime <= ?"
    for command in backend.store.rows(sql, before):
        with backend.store.transaction():
            backend.store.run("DELETE FROM commands WHERE jediTaskID = ?", command["jediTaskID"])
            task = tasks.get(backend, command["jediTaskID"])
            if task and not refusal(command["command"], task["status"], production=True):
                _execute(backend, task, command["command"], json.loads(command["parameters"]))


def _execute(backend: Backend, task: Row, command: str, parameters: Json) -> None:
    task_id = task["jediTaskID"]
    if command == "incexec":
        change_parameters(backend, task_id, parameters)
    if command == "reassign":
        _reassign(backend, task_id, parameters)
    if command == "finish" and not parameters.get("soft"):
        _kill_jobs(backend, task_id)
    status = COMMANDS[command].status or _status_before(task)
    if command == "release" and task["status"] != "pending":
        status = task["status"]
    old = task["status"] if command in ("pause", "incexec", "finish", "kill") else None
    changes: dict[str, Any] = {} if status == task["status"] else {"oldStatus": old}
    tasks.set_status(backend, task_id, status, **changes)


def _status_before(task: Row) -> str:
    return str(task["oldStatus"] or "ready")


def _kill_jobs(backend: Backend, task_id: int) -> None:
    for job in jobs.active(backend, task_id):
        jobs.kill(backend, job, "JEDI")


def _reassign(backend: Backend, task_id: int, parameters: dict[str, Any]) -> None:
    target = {name: parameters[name] for name in ("site", "cloud", "nucleus") if parameters.get(name)}
    if target:
        backend.store.update("tasks", "jediTaskID", task_id, **target)
    if parameters.get("mode") == "nokill":
        return
    for job in jobs.active(backend, task_id):
        if job["jobStatus"] in ("defined", "activated"):
            jobs.end(
                backend, job["PandaID"], "closed", taskBufferErrorCode=51, taskBufferErrorDiag="reassigned by JEDI"
            )
        elif parameters.get("mode") != "soft":
            jobs.kill(backend, job, "JEDI")
