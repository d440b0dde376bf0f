"""What JEDI does next with a task, for every status in which it has something to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi import ending, generation, refinement
from panda_airflow.devserver.storage import jobs, tasks
from panda_airflow.devserver.storage.store import Row

Step = Callable[[Backend, Row], None]

_MORE_ATTEMPTS = 5
"""Attempts that a retry gives to each input that has none left, whatever the task says."""


def break_task(backend: Backend, task_id: int, why: str) -> None:
    """Give a task up.

    :param why: for the error dialog.
    :raises DatabaseDown: the database is down.
    """
    tasks.set_status(backend, task_id, "tobroken", errorDialog=why)


def _avalanche(backend: Backend, task: Row) -> None:
    tasks.set_status(backend, task["jediTaskID"], "running", modificationTime=backend.clock() - tasks.AT_ONCE)


def _retry(backend: Backend, task: Row) -> None:
    inputs = tasks.count_inputs(backend, task["jediTaskID"])
    if inputs.get("failed") or inputs.get("ready"):
        _begin_again(backend, task, "ready", activatedTime=backend.clock())
    else:
        said = "no retry since no new/unprocessed files available"
        tasks.set_status(backend, task["jediTaskID"], task["oldStatus"], oldStatus=None, errorDialog=said)


def _run_again(backend: Backend, task: Row) -> None:
    _begin_again(backend, task, "rerefine")


def _begin_again(backend: Backend, task: Row, status: str, **columns: Any) -> None:
    """Begin another attempt of a task that had ended; its end time stays that of the last one."""
    tasks.retry_inputs(backend, task["jediTaskID"], _MORE_ATTEMPTS)
    columns |= dict.fromkeys(("oldStatus", "errorDialog", "startTime", "frozenTime"))
    columns |= {"attemptNr": (task["attemptNr"] or 0) + 1, "currentPriority": task["taskPriority"]}
    tasks.set_status(backend, task["jediTaskID"], status, **columns)


def _reassign(backend: Backend, task: Row) -> None:
    """Go on with a task that was moved once its jobs are gone; one that was given a site goes on where it was.

    By which statuses a real server brokers the others anew is not known; here they are ready for it at once.
    """
    if not any(job["commandToPilot"] for job in jobs.active(backend, task["jediTaskID"])):
        status = task["oldStatus"] if str(task["errorDialog"]).startswith("site:") else "ready"
        columns = dict.fromkeys(("oldStatus", "errorDialog", "frozenTime"))
        tasks.set_status(backend, task["jediTaskID"], status, **columns)


STEPS: dict[str, Step] = {
    "registered": refinement.refine,
    "pending": refinement.refine,
    "rerefine": refinement.refine_again,
    "defined": refinement.feed,
    "ready": generation.start,
    "scouting": generation.scout,
    "scouted": _avalanche,
    "running": generation.run,
    "prepared": ending.conclude,
    "finishing": ending.finish,
    "passed": ending.conclude,
    "aborting": ending.abort,
    "toabort": ending.give_up,
    "tobroken": ending.give_up,
    "toretry": _retry,
    "toincexec": _run_again,
    "toreassign": _reassign,
}
"""What JEDI does with a task in each status."""
