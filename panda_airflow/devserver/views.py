"""The shapes in which the server answers about tasks, jobs and files."""

from __future__ import annotations

from typing import Any

from panda_airflow.client.models import Json
from panda_airflow.devserver import tasks
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.refiner import execution_parameters, stored_parameters
from panda_airflow.devserver.registration import parameters_of
from panda_airflow.devserver.store import Row

FEED_COLUMNS = (
    "jediTaskID", "modificationTime", "status", "processingType", "transUses", "transHome", "architecture", "reqID",
    "creationDate", "site", "cloud", "taskName",
)  # fmt: skip
"""What the feed of modified tasks tells about each."""


def task_details(backend: Backend, task: Row) -> dict[str, Json]:
    """Shape a task as ``get_detailed_info`` does.

    :raises DatabaseDown: the database is down.
    """
    parameters = parameters_of(backend, task["jediTaskID"]) or {}
    refined = task["splitRule"] is not None
    return task | {
        "job_execution_params": execution_parameters(parameters) if refined else None,
        "task_creation_arguments": parameters.get("cliParams"),
        "raw_task_params": stored_parameters(parameters) if refined else parameters,
        **progress(backend, task["jediTaskID"]),
    }


def progress(backend: Backend, task_id: int) -> dict[str, int]:
    """Count the inputs of a task as the server does.

    :raises DatabaseDown: the database is down.
    """
    inputs = tasks.count_inputs(backend, task_id)
    total, finished, failed = sum(inputs.values()), inputs.get("finished", 0), inputs.get("failed", 0)
    return {
        "nFiles": total,
        "nFilesFinished": finished,
        "nFilesFailed": failed,
        "nFilesMissing": 0,
        "pctFinished": 100 * finished // total if total else 0,
        "pctFailed": 100 * failed // total if total else 0,
    }


def empty_digest() -> dict[str, Json]:
    """Shape the digest of a task about which nothing is known."""
    return {"inDS": "", "outDS": "", "statistics": "", "PandaID": [], "mergeStatus": None, "mergePandaID": []}


def task_digest(backend: Backend, task_id: int) -> dict[str, Json]:
    """Shape a task as ``get_details`` does, from what its latest jobs made of each input.

    :raises DatabaseDown: the database is down.
    """
    digest = empty_digest()
    names: dict[str, list[str]] = {"input": [], "output": []}
    for dataset in backend.store.rows("SELECT * FROM datasets WHERE jediTaskID = ? ORDER BY datasetID", task_id):
        if dataset["type"] != "pseudo_input":
            names["input" if dataset["type"] == "input" else "output"].append(dataset["datasetName"])
    digest["inDS"], digest["outDS"] = ",".join(names["input"]), ",".join(names["output"])
    digest["statistics"] = statistics(backend, task_id)
    digest["PandaID"] = latest_jobs(backend, task_id)
    return digest


def statistics(backend: Backend, task_id: int) -> str:
    """Sum up the inputs of a task by status, best first: ``finished*2,failed*2``.

    :raises DatabaseDown: the database is down.
    """
    counted = tasks.count_inputs(backend, task_id)
    order = ("finished", "failed", "running", "ready")
    return ",".join(f"{status}*{counted[status]}" for status in order if counted.get(status))


def latest_jobs(backend: Backend, task_id: int) -> list[int]:
    """List the PandaIDs of the last job of each input.

    :raises DatabaseDown: the database is down.
    """
    rows = backend.store.rows(
        "SELECT DISTINCT c.PandaID FROM contents c JOIN datasets d USING (datasetID) WHERE c.jediTaskID = ? "
        "AND d.type IN ('input', 'pseudo_input') AND c.PandaID IS NOT NULL ORDER BY c.PandaID",
        task_id,
    )
    return [row["PandaID"] for row in rows]


def job_description(backend: Backend, job: Row) -> dict[str, Json]:
    """Shape a job as ``get_description`` does, with its files.

    :raises DatabaseDown: the database is down.
    """
    files = backend.store.rows("SELECT * FROM files WHERE PandaID = ? ORDER BY row_ID", job["PandaID"])
    return job | {"Files": files}


def feed_entry(backend: Backend, task: Row, *, full: bool) -> dict[str, Json]:
    """Shape a task as the feed of modified tasks does.

    :param full: with the digest, in which pseudo datasets count as input and jobs are left out.
    :raises DatabaseDown: the database is down.
    """
    entry: dict[str, Any] = {name: task[name] for name in FEED_COLUMNS}
    if not full:
        return entry
    rows = backend.store.rows("SELECT * FROM datasets WHERE jediTaskID = ? ORDER BY datasetID", task["jediTaskID"])
    inputs = [row["datasetName"] for row in rows if row["type"] in ("input", "pseudo_input")]
    outputs = [row["containerName"] or row["datasetName"] for row in rows if row["type"] == "output"]
    parameters = parameters_of(backend, task["jediTaskID"]) or {}
    return (
        entry
        | empty_digest()
        | {
            "inDS": ",".join(sorted(set(inputs))),
            "outDS": ",".join(sorted(set(outputs))),
            "statistics": statistics(backend, task["jediTaskID"]),
            "cliParams": parameters.get("cliParams", ""),
        }
    )
