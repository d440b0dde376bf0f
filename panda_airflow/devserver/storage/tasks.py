"""The rows of tasks: how a status change is stored, how inputs are counted and given new attempts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.storage.store import Row

AT_ONCE = timedelta(hours=6)
"""How far JEDI turns the clock of a task back that another of its parts shall take at once."""

_BACK_DATED = {
    "running": timedelta(hours=1),
    "scouting": timedelta(hours=1),
    "passed": timedelta(hours=1),
    "ready": AT_ONCE,
    "rerefine": AT_ONCE,
}

_NOT_ACTIVE = FINAL_STATUSES - {"aborted"} | {"paused"}
"""Statuses in which ``activatedTime`` is forgotten; an aborted task keeps it."""

INPUTS, ALL_INPUTS = "jediTaskID = ? AND position IS NOT NULL", "jediTaskID = ? AND maxAttempt IS NOT NULL"
"""The inputs of a task, which have a place in their order, and with them the sequence numbers that go with each."""

USABLE, USED_UP = "status = 'ready' AND attemptNr < maxAttempt", "status = 'ready' AND attemptNr >= maxAttempt"
"""An input that failed is ``ready`` again; whether it has failed for good is told by its attempts alone."""


def get(backend: Backend, task_id: int) -> Row | None:
    """Read a task.

    :return: ``None`` for a task that is unknown or not registered yet.
    :raises DatabaseDown: the database is down.
    """
    return backend.store.row("SELECT * FROM tasks WHERE jediTaskID = ?", task_id)


def modification_time(status: str, now: datetime) -> datetime:
    """Back-date the time of a change as JEDI does in this status."""
    return now - _BACK_DATED.get(status, timedelta())


def set_status(backend: Backend, task_id: int, status: str, **columns: Any) -> None:
    """Put a task into a status.

    :param columns: other columns to change with it.
    :raises DatabaseDown: the database is down.
    """
    now = backend.clock()
    columns = {"stateChangeTime": now, "modificationTime": modification_time(status, now)} | columns
    if status in FINAL_STATUSES:
        columns |= {"superStatus": status, "lockedTime": now}
    elif status in ("running", "scouting", "paused"):
        columns["superStatus"] = "paused" if status == "paused" else "running"
    if status in _NOT_ACTIVE:
        columns["activatedTime"] = None
    backend.store.update("tasks", "jediTaskID", task_id, status=status, **columns)


def lock(backend: Backend, task_id: int) -> None:
    """Note that a part of JEDI works on a task: its modification time is true for a moment.

    :raises DatabaseDown: the database is down.
    """
    backend.store.update("tasks", "jediTaskID", task_id, modificationTime=backend.clock())


def count_inputs(backend: Backend, task_id: int) -> dict[str, int]:
    """Count the inputs of a task by what became of them.

    :return: numbers by status: ``ready``, ``running``, ``finished``, ``failed``.
    :raises DatabaseDown: the database is down.
    """
    rows = backend.store.rows(
        f"SELECT CASE WHEN {USED_UP} THEN 'failed' ELSE status END AS fate, COUNT(*) AS number "  # noqa: S608 - constant
        f"FROM contents WHERE {INPUTS} GROUP BY fate",
        task_id,
    )
    return {row["fate"]: row["number"] for row in rows}


def retry_inputs(backend: Backend, task_id: int, attempts: int) -> None:
    """Give the inputs that have failed for good more attempts; others keep those they have left.

    :param attempts: how many more.
    :raises DatabaseDown: the database is down.
    """
    sql = f"UPDATE contents SET maxAttempt = maxAttempt + ? WHERE {USED_UP} AND {ALL_INPUTS}"  # noqa: S608 - constant
    backend.store.run(sql, attempts, task_id)


def increase_attempts(backend: Backend, task_id: int, attempts: int) -> tuple[int, int]:
    """Give every input that no job has, and that is not finished, more attempts.

    :param attempts: how many more.
    :return: number of inputs, and of those among them that had failed for good.
    :raises DatabaseDown: the database is down.
    """
    store = backend.store
    with store.transaction():
        used_up = store.value(f"SELECT COUNT(*) FROM contents WHERE {USED_UP} AND {ALL_INPUTS}", task_id)  # noqa: S608
        changed = store.run(
            "UPDATE contents SET maxAttempt = MAX(maxAttempt, attemptNr) + ? "  # noqa: S608 - constant
            f"WHERE status = 'ready' AND {ALL_INPUTS}",
            attempts,
            task_id,
        )
    return changed, used_up


def reset_inputs(backend: Backend, task_id: int, *, keep_attempts: bool) -> int:
    """Make every input ready again, those that were processed too.

    :param keep_attempts: go on counting attempts where they stand.
    :return: number of inputs.
    :raises DatabaseDown: the database is down.
    """
    reset = "" if keep_attempts else ", attemptNr = 0"
    return backend.store.run(f"UPDATE contents SET status = 'ready'{reset} WHERE {ALL_INPUTS}", task_id)  # noqa: S608


def give_up_inputs(backend: Backend, task_id: int) -> None:
    """Take the attempts that are left from the inputs of a task that is to finish.

    :raises DatabaseDown: the database is down.
    """
    sql = f"UPDATE contents SET attemptNr = maxAttempt WHERE {USABLE} AND {ALL_INPUTS}"  # noqa: S608 - constant
    backend.store.run(sql, task_id)
