"""JEDI's commando: executes the commands that were registered a while ago, or drops them silently."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi.commands import COMMANDS, refusal
from panda_airflow.devserver.jedi.generation import AVALANCHE
from panda_airflow.devserver.jedi.registration import change_parameters
from panda_airflow.devserver.storage import jobs, tasks
from panda_airflow.devserver.storage.store import Row


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
                _execute(backend, task, command["command"], **json.loads(command["parameters"]))


def _execute(backend: Backend, task: Row, command: str, parameters: dict[str, Any], comment: str | None) -> None:
    task_id = task["jediTaskID"]
    if command == "incexec":
        change_parameters(backend, task_id, parameters)
    elif command == "reassign":
        _reassign(backend, task, parameters)
    elif command == "finish":
        _kill_jobs(backend, task_id, str(comment), queued_only=parameters["soft"])
    columns: dict[str, Any] = {"errorDialog": comment, "modificationTime": backend.clock()}
    if command == "resume":
        if task["oldStatus"]:
            tasks.set_status(backend, task_id, task["oldStatus"], oldStatus=None, **columns)
    elif command == "avalanche":
        tasks.set_status(backend, task_id, "scouting", oldStatus=None, walltimeUnit=AVALANCHE, **columns)
    elif status := COMMANDS[command].status:
        old = task["oldStatus"] if task["status"] == "pending" else task["status"]
        tasks.set_status(backend, task_id, status, oldStatus=old, **columns)


def _kill_jobs(backend: Backend, task_id: int, comment: str, *, queued_only: bool) -> None:
    for job in jobs.active(backend, task_id):
        if job["jobStatus"] in jobs.WAITING or not queued_only:
            jobs.kill(backend, job, comment, jedi=True)


def _reassign(backend: Backend, task: Row, parameters: dict[str, Any]) -> None:
    task_id = task["jediTaskID"]
    target = {name: parameters[name] for name in ("site", "cloud", "nucleus") if parameters.get(name)}
    if target:
        backend.store.update("tasks", "jediTaskID", task_id, **target)
    if parameters.get("mode") == "nokill":
        return
    for job in jobs.active(backend, task_id):
        if job["jobStatus"] in jobs.WAITING:
            columns = {"taskBufferErrorCode": jobs.KILLED, "taskBufferErrorDiag": "reassigned by JEDI"}
            jobs.end(backend, job["PandaID"], "closed", **columns)
        elif parameters.get("mode") != "soft":
            jobs.kill(backend, job, "JEDI", jedi=True)
