"""JEDI's post-processor: how a task comes to its final status, and what its children get of it."""

from __future__ import annotations

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.storage import jobs, tasks
from panda_airflow.devserver.storage.store import Row

_UNTOUCHABLE = (
    "finished", "done", "prepared", "broken", "tobroken", "aborted", "toabort", "aborting", "failed", "passed"
)  # fmt: skip
"""Statuses of children that the end of their parent does not change any more."""


def finish(backend: Backend, task: Row) -> None:
    """Wait for the last jobs of a task that is to finish, and take all other attempts from its inputs."""
    if not jobs.active(backend, task["jediTaskID"]):
        tasks.give_up_inputs(backend, task["jediTaskID"])
        tasks.set_status(backend, task["jediTaskID"], "passed", oldStatus=None)


def conclude(backend: Backend, task: Row) -> None:
    """Give a task the final status that its inputs deserve."""
    inputs = tasks.count_inputs(backend, task["jediTaskID"])
    finished, total = inputs.get("finished", 0), sum(inputs.values())
    if not finished:
        _fail(backend, task, "failed since no file was successfully processed")
    elif finished < total:
        _end(backend, task, "finished")
    else:
        _conclude_with_parent(backend, task)


def _conclude_with_parent(backend: Backend, task: Row) -> None:
    """End a task all whose files were processed; as long as its parent is not done, it cannot be either."""
    own = task["parent_tid"] == task["jediTaskID"]
    parent = None if own else tasks.get(backend, task["parent_tid"])
    if own or (parent and parent["status"] == "done"):
        _end(backend, task, "done")
    elif parent and parent["status"] in ("failed", "broken", "aborted"):
        _fail(backend, task, f"failed since the parent task is {parent['status']} although all files were processed")
    else:
        _end(backend, task, "finished")


def _fail(backend: Backend, task: Row, why: str) -> None:
    said = f"{task['errorDialog']} {why}" if task["errorDialog"] else why
    _end(backend, task | {"errorDialog": said}, "failed")


def abort(backend: Backend, task: Row) -> None:
    """Kill the jobs of a task until none is left."""
    running = jobs.active(backend, task["jediTaskID"])
    for job in running:
        jobs.kill(backend, job, str(task["errorDialog"]), jedi=True)
    if not running:
        tasks.set_status(backend, task["jediTaskID"], "toabort", oldStatus=None)


def give_up(backend: Backend, task: Row) -> None:
    """End a task that is to be aborted or is broken.

    The post-processor fails on one that never got its attributes, which is broken then and has no end time.
    """
    if task["vo"] is None:
        said = "post-process permanently failed"
        tasks.set_status(backend, task["jediTaskID"], "broken", errorDialog=said, oldStatus=None)
    else:
        _end(backend, task, "aborted" if task["status"] == "toabort" else "broken")


def _end(backend: Backend, task: Row, status: str) -> None:
    columns = {"endTime": backend.clock(), "oldStatus": None, "errorDialog": task["errorDialog"]}
    tasks.set_status(backend, task["jediTaskID"], status, **columns)
    if status in ("failed", "broken", "aborted"):
        _abort_children(backend, task["jediTaskID"], status)


def _abort_children(backend: Backend, task_id: int, status: str) -> None:
    why, now = f"parent task is {status}", backend.clock()
    children = backend.store.rows("SELECT * FROM tasks WHERE parent_tid = ? AND jediTaskID <> ?", task_id, task_id)
    for child in children:
        if child["status"] not in _UNTOUCHABLE:
            columns = {"status": "toabort", "errorDialog": why, "stateChangeTime": now}
            backend.store.update("tasks", "jediTaskID", child["jediTaskID"], **columns)
            for job in jobs.active(backend, child["jediTaskID"]):
                jobs.kill(backend, job, why, jedi=True)
            _abort_children(backend, child["jediTaskID"], "toabort")
