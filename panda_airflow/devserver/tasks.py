"""The rows of tasks: how a status change is stored, how inputs are counted and reset."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.store import Row

_BACK_DATED = {"running": timedelta(hours=1), "ready": timedelta(hours=6)}
"""JEDI turns the clock of a task back so that it looks at it again soon."""

_INPUTS = "datasetID IN (SELECT datasetID FROM datasets WHERE jediTaskID = ? AND type IN ('input', 'pseudo_input'))"


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
    columns |= {"status": status, "stateChangeTime": now, "modificationTime": modification_time(status, now)}
    if status in FINAL_STATUSES:
        columns |= {"superStatus": status, "endTime": now, "lockedTime": now}
    elif status in ("running", "scouting"):
        columns["superStatus"] = "running"
    backend.store.update("tasks", "jediTaskID", task_id, **columns)


def count_inputs(backend: Backend, task_id: int) -> dict[str, int]:
    """Count the inputs of a task by what became of them.

    :return: numbers by status: ``ready``, ``running``, ``finished``, ``failed``.
    :raises DatabaseDown: the database is down.
    """
    rows = backend.store.rows(
        f"SELECT status, COUNT(*) AS number FROM contents WHERE {_INPUTS} GROUP BY status",  # noqa: S608 - constant
        task_id,
    )
    return {row["status"]: row["number"] for row in rows}


def retry_failed_inputs(backend: Backend, task_id: int, attempts: int) -> int:
    """Give the inputs that failed more attempts, and the others too.

    :param attempts: how many more.
    :return: number of inputs that are ready again.
    :raises DatabaseDown: the database is down.
    """
    with backend.store.transaction():
        backend.store.run(
            f"UPDATE contents SET maxAttempt = maxAttempt + ? WHERE status IN ('ready', 'running') AND {_INPUTS}",  # noqa: S608
            attempts,
            task_id,
        )
        return backend.store.run(
            "UPDATE contents SET status = 'ready', maxAttempt = attemptNr + ? "  # noqa: S608 - constant
            f"WHERE status = 'failed' AND {_INPUTS}",
            attempts,
            task_id,
        )


def reset_inputs(backend: Backend, task_id: int, *, keep_attempts: bool) -> int:
    """Make every input ready again, those that were processed too.

    :param keep_attempts: go on counting attempts where they stand.
    :return: number of inputs.
    :raises DatabaseDown: the database is down.
    """
    reset = "" if keep_attempts else ", attemptNr = 0"
    return backend.store.run(f"UPDATE contents SET status = 'ready'{reset} WHERE {_INPUTS}", task_id)  # noqa: S608
