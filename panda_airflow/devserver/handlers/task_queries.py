"""The methods of server module ``task`` that only read."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

from panda_airflow.client.models import Envelope, Json
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.handlers import views
from panda_airflow.devserver.jedi.refiner import scope
from panda_airflow.devserver.jedi.registration import parameters_of, submitted_parameters
from panda_airflow.devserver.storage import tasks
from panda_airflow.devserver.storage.store import DatabaseDown, Row

_NO_TASK = Envelope(False, "Task not found")
_NO_INFO = Envelope(False, "Task not found or error retrieving task info")
_NO_DETAILS = Envelope(False, "Task not found or error retrieving the details")
_FEED_LIMIT = 500
_FEED_REACH = timedelta(days=30)
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
_REGEX_CHARACTERS = frozenset(r"^$*+?\|()")


def get_status(backend: Backend, caller: Identity | None, task_id: Any) -> Envelope:
    """Tell the status of a task; a database that is down looks like a task that is not there."""
    try:
        number = int(task_id)
    except ValueError:
        return Envelope(False, "jediTaskID must be an integer")
    try:
        task = tasks.get(backend, number)
    except DatabaseDown:
        task = None
    return Envelope(True, "", task["status"]) if task else _NO_TASK


def get_details(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    include_parameters: bool = False,
    include_status: bool = False,
) -> Envelope:
    """Tell datasets, jobs and statistics of a task; an unknown task has an empty digest."""
    try:
        task = tasks.get(backend, task_id)
        if include_status and task is None:
            return _NO_DETAILS
        digest = views.task_digest(backend, task_id)
        if include_status and task:
            digest["status"] = task["status"]
        if include_parameters:
            digest["cliParams"] = parameters_of(backend, task_id).get("cliParams", "")
    except DatabaseDown:
        return _NO_DETAILS
    return Envelope(True, "", digest)


def get_detailed_info(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Tell everything about a task."""
    try:
        task = tasks.get(backend, task_id)
        return Envelope(True, "", views.task_details(backend, task)) if task else _NO_INFO
    except DatabaseDown:
        return _NO_INFO


def get_parent_detailed_info(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Tell everything about the parent of a task."""
    try:
        task = tasks.get(backend, task_id)
        if task is None:
            return Envelope(False, "Child task not found")
        parent = tasks.get(backend, task["parent_tid"]) if task["parent_tid"] != task_id else None
        if parent is None:
            return Envelope(False, "No parent task found")
        return Envelope(True, "", views.task_details(backend, parent))
    except DatabaseDown:
        return Envelope(False, "Child task not found")


def get_task_parameters(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Tell the parameters of a task, as they were submitted; this works from the first moment."""
    try:
        parameters = submitted_parameters(backend, task_id)
    except DatabaseDown:
        parameters = None
    return _NO_TASK if parameters is None else Envelope(True, "", parameters)


def get_job_ids(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """List the PandaIDs of a task."""
    return Envelope(True, "", [job["PandaID"] for job in _jobs(backend, task_id)])


def get_job_descriptions(
    backend: Backend, caller: Identity | None, task_id: int, unsuccessful_only: bool = False
) -> Envelope:
    """Describe the jobs of a task."""
    bad = ("failed", "cancelled", "closed")
    wanted = [job for job in _jobs(backend, task_id) if not unsuccessful_only or job["jobStatus"] in bad]
    return Envelope(True, "", [views.job_description(backend, job) for job in wanted])


def _jobs(backend: Backend, task_id: int) -> list[Row]:
    try:
        return backend.store.rows("SELECT * FROM jobs WHERE jediTaskID = ? ORDER BY PandaID", task_id)
    except DatabaseDown:
        return []


def get_datasets_and_files(
    backend: Backend,
    caller: Identity | None,
    task_id: Any,
    dataset_types: list[str] = ["input", "pseudo_input"],
    dataset_only: bool = False,
) -> Envelope:
    """List the datasets of a task, by type, and their files."""
    try:
        datasets = backend.store.rows("SELECT * FROM datasets WHERE jediTaskID = ? ORDER BY datasetID", int(task_id))
        wanted = [dataset for dataset in datasets if dataset["type"] in dataset_types]
        found = [_dataset(backend, dataset, dataset_only=dataset_only) for dataset in wanted]
    except DatabaseDown:
        return Envelope(False, "Database exception while gathering files")
    return Envelope(True, "", found) if found else Envelope(False, "No data found for the task")


def _dataset(backend: Backend, dataset: Row, *, dataset_only: bool) -> dict[str, Json]:
    entry: dict[str, Json] = {"dataset": {"name": dataset["datasetName"], "id": dataset["datasetID"]}}
    if not dataset_only:
        files = backend.store.rows("SELECT * FROM contents WHERE datasetID = ? ORDER BY fileID", dataset["datasetID"])
        known = None if dataset["type"] == "pseudo_input" else scope(dataset["datasetName"])
        entry["files"] = [
            {"lfn": file["lfn"], "scope": known, "id": file["fileID"], "status": file["status"]} for file in files
        ]
    return entry


def get_jumbo_job_datasets(backend: Backend, caller: Identity | None, from_offset: int, to_offset: int = 0) -> Envelope:
    """List the datasets with jumbo jobs; there are none here."""
    return Envelope(True, "", {})


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME_FORMAT)  # noqa: DTZ007 - the server's times are naive UTC
    except ValueError:
        return None


def get_tasks_modified_since(
    backend: Backend,
    caller: Identity | None,
    since: str,
    dn: str | None = None,
    full: bool = False,
    min_task_id: int | None = None,
    prod_source_label: str = "user",
) -> Envelope:
    """Tell which tasks of a user changed; tasks that share a ``reqID`` hide each other."""
    moment = _time(since)
    user = (dn or (caller.name if caller else "")).split("/CN=nickname:")[0]
    sql = (
        "SELECT * FROM tasks WHERE userName = ? AND prodSourceLabel = ? AND modificationTime >= ? "
        "AND jediTaskID > ? ORDER BY jediTaskID LIMIT ?"
    )
    try:
        oldest = backend.clock() - _FEED_REACH
        key = (user, prod_source_label, max(moment or oldest, oldest), min_task_id or 0, _FEED_LIMIT if full else -1)
        rows = backend.store.rows(sql, *key) if moment else []
        feed = {str(row["reqID"]): views.feed_entry(backend, row, full=full) for row in rows}
    except DatabaseDown:
        feed = {}
    return Envelope(True, "", feed)


def get_tasks_detailed_info_since(
    backend: Backend,
    caller: Identity | None,
    since: str | None = None,
    filters: str | None = None,
    n_tasks: int = 500,
) -> Envelope:
    """Tell everything about the caller's tasks that match; regular expressions apply after the row limit."""
    try:
        wanted = json.loads(filters) if filters else {}
    except ValueError:
        return Envelope(False, "filters is not valid JSON")
    if not isinstance(wanted, dict):
        return Envelope(False, "filters must be a JSON object")
    equal = {"userName": caller.name if caller else ""}
    patterns: dict[str, str] = {}
    for name, value in wanted.items():
        # A number has no characters to look at: it ends in a 500, as on a real server.
        (patterns if any(character in value for character in _REGEX_CHARACTERS) else equal)[name] = value
    try:
        rows = _matching(backend, equal, since, n_tasks)
        details = [views.task_details(backend, row) for row in rows or []]
    except DatabaseDown:
        rows, details = None, []
    if rows is None:
        return Envelope(False, "Failed to retrieve task IDs")
    return Envelope(True, "", [task for task in details if _matches(task, patterns)])


def _matching(backend: Backend, equal: dict[str, Json], since: str | None, limit: int) -> list[Row] | None:
    """Find tasks whose columns have the values; ``None`` for a column or a time that does not exist."""
    columns = {row["name"] for row in backend.store.rows("PRAGMA table_info(tasks)")}
    moment = _time(since) if since else datetime.min  # noqa: DTZ901 - the server's times are naive UTC
    if moment is None or not equal.keys() <= columns:
        return None
    conditions = " AND ".join(f"CAST({name} AS TEXT) = ?" for name in equal)  # a number may be given as text
    sql = (
        f"SELECT * FROM tasks WHERE {conditions} AND modificationTime >= ? "  # noqa: S608 - columns were checked
        "ORDER BY jediTaskID LIMIT ?"
    )
    return backend.store.rows(sql, *map(str, equal.values()), moment, limit)


def _matches(task: dict[str, Json], patterns: dict[str, str]) -> bool:
    try:
        return all(re.search(pattern, str(task[name])) for name, pattern in patterns.items() if name in task)
    except re.error:
        return False
