"""The life of jobs in the database: what their states mean for the inputs and files of the task."""

from __future__ import annotations

from typing import Any

from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.storage.store import Row

ENDED = ("finished", "failed", "cancelled", "closed")
"""States that a job never leaves."""

WAITING = ("defined", "assigned", "activated")
"""States in which no pilot has the job yet."""

KILLED, LOST_HEARTBEAT = 100, 100
"""Codes of a killed job (``taskBuffer``) and of a job whose pilot fell silent (``jobDispatcher``)."""

_FOR_ROLE = (2, 4, 7, 8, 9, 50, 51, 52, 91, 10, 99)
"""Kill codes with which the production role may end the jobs of users."""

_STOP = "tobekilled"
_ACTIVE = "jobStatus NOT IN ('finished', 'failed', 'cancelled', 'closed')"


def get(backend: Backend, job_id: int) -> Row | None:
    """Read a job.

    :return: ``None`` for an unknown job.
    :raises DatabaseDown: the database is down.
    """
    return backend.store.row("SELECT * FROM jobs WHERE PandaID = ?", job_id)


def active(backend: Backend, task_id: int) -> list[Row]:
    """Read the jobs of a task that have not ended.

    :raises DatabaseDown: the database is down.
    """
    return backend.store.rows(f"SELECT * FROM jobs WHERE jediTaskID = ? AND {_ACTIVE}", task_id)  # noqa: S608 - constant


def move(backend: Backend, job_id: int, status: str, **columns: Any) -> bool:
    """Put a job into another state, unless it has ended meanwhile.

    :return: whether it moved.
    :raises DatabaseDown: the database is down.
    """
    now = backend.clock()
    columns |= {"jobStatus": status, "modificationTime": now, "stateChangeTime": now}
    with backend.store.transaction():
        state = backend.store.value("SELECT jobStatus FROM jobs WHERE PandaID = ?", job_id)
        if state is None or state in ENDED:
            return False
        return bool(backend.store.update("jobs", "PandaID", job_id, **columns))


def end(backend: Backend, job_id: int, status: str, **columns: Any) -> bool:
    """End a job and account for its inputs and outputs.

    :param status: one of :data:`ENDED`.
    :return: ``False`` if it had ended before.
    :raises DatabaseDown: the database is down.
    """
    with backend.store.transaction():
        if not move(backend, job_id, status, **{"endTime": backend.clock()} | columns):
            return False
        if status == "finished":
            _account(backend, job_id, inputs="finished", attempts=1, outputs="finished", files="ready")
        else:
            outputs = "failed" if status == "failed" else "cancelled"
            _account(backend, job_id, inputs="ready", attempts=int(status != "closed"), outputs=outputs, files="failed")
    return True


def _account(backend: Backend, job_id: int, *, inputs: str, attempts: int, outputs: str, files: str) -> None:
    """Count the attempt, and say what became of the files."""
    store = backend.store
    used = "SELECT fileID FROM files WHERE PandaID = ? AND type IN ('input', 'pseudo_input')"
    made = "SELECT fileID FROM files WHERE PandaID = ? AND type IN ('output', 'log')"
    store.run(
        "UPDATE contents SET attemptNr = attemptNr + ?, status = ? "  # noqa: S608 - constant
        f"WHERE status = 'running' AND fileID IN ({used})",
        attempts,
        inputs,
        job_id,
    )
    store.run(f"UPDATE contents SET status = ? WHERE fileID IN ({made})", outputs, job_id)  # noqa: S608 - constant
    store.run("UPDATE files SET status = ? WHERE PandaID = ? AND type IN ('output', 'log')", files, job_id)


def record_file(backend: Backend, job_id: int, lfn: str, *, fsize: int, checksum: str) -> None:
    """Note size and checksum of a file that a job made.

    :param fsize: in bytes.
    :param checksum: Adler-32, as ``ad:0a1b2c3d``.
    :raises DatabaseDown: the database is down.
    """
    with backend.store.transaction():
        backend.store.run(
            "UPDATE files SET fsize = ?, checksum = ? WHERE PandaID = ? AND lfn = ?", fsize, checksum, job_id, lfn
        )
        backend.store.run(
            "UPDATE contents SET fsize = ?, checksum = ? WHERE PandaID = ? AND lfn = ?", fsize, checksum, job_id, lfn
        )


def kill(backend: Backend, job: Row, by: str, *, jedi: bool = False) -> bool:
    """Ask for the end of a job: at once where no pilot has it, by its pilot otherwise.

    :param by: who wants it, for the job's diagnostics; JEDI gives the command's comment, ``kill by Alice Tester``.
    :param jedi: whether it is JEDI that asks.
    :return: ``False`` if the job has ended already.
    :raises DatabaseDown: the database is down.
    """
    said = f"killed by {by}"
    if job["jobStatus"] in WAITING:
        columns = {"taskBufferErrorDiag": by if jedi else said, "commandToPilot": _STOP}
        return end(backend, job["PandaID"], "cancelled", taskBufferErrorCode=KILLED, **columns)
    asked = backend.store.run(
        f"UPDATE jobs SET commandToPilot = '{_STOP}', taskBufferErrorDiag = ? WHERE PandaID = ? "  # noqa: S608
        f"AND {_ACTIVE} AND commandToPilot IS NOT '{_STOP}'",
        said,
        job["PandaID"],
    )
    return bool(asked)


def kill_for(backend: Backend, caller: Identity, job: Row, code: int | None = None) -> bool:
    """Ask for the end of a job on behalf of a user.

    :param code: why, in the server's numbers; with the production role, users' jobs need one of these codes.
    :return: ``False`` for a job that has ended, or that this user may not kill.
    :raises DatabaseDown: the database is down.
    """
    own = job["prodUserName"] == caller.name
    by_role = job["prodSourceLabel"] not in ("user", "panda") or code in _FOR_ROLE
    allowed = by_role if caller.production else own
    return allowed and job["jobStatus"] not in ENDED and kill(backend, job, caller.name)
