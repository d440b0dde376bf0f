"""The shapes in which the server answers about tasks, jobs and files."""

from __future__ import annotations

from typing import Any

from panda_airflow.client.models import Json
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi.refiner import execution_parameters, stored_parameters
from panda_airflow.devserver.jedi.registration import parameters_of, refined_parameters
from panda_airflow.devserver.storage import tasks
from panda_airflow.devserver.storage.store import Row

FEED_COLUMNS = (
    "jediTaskID", "modificationTime", "status", "processingType", "transUses", "transHome", "architecture", "reqID",
    "creationDate", "site", "cloud", "taskName",
)  # fmt: skip
"""What the feed of modified tasks tells about each."""


def task_details(backend: Backend, task: Row) -> dict[str, Json]:
    """Shape a task as ``get_detailed_info`` does.

    :raises DatabaseDown: the database is down.
    """
    refined = refined_parameters(backend, task["jediTaskID"])
    parameters = stored_parameters(refined) if refined else parameters_of(backend, task["jediTaskID"])
    return task | {
        "job_execution_params": execution_parameters(parameters) if refined else None,
        "task_creation_arguments": parameters.get("cliParams"),
        "raw_task_params": parameters,
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
    datasets = backend.store.rows("SELECT * FROM datasets WHERE jediTaskID = ? ORDER BY datasetID", task_id)
    return empty_digest() | {
        "inDS": _names([dataset for dataset in datasets if dataset["type"] == "input"]),
        "outDS": _names([dataset for dataset in datasets if dataset["type"].endswith(("output", "log"))]),
        "statistics": statistics(backend, task_id),
        "PandaID": latest_jobs(backend, task_id),
    }


def _names(datasets: list[Row]) -> str:
    """List the containers of datasets, or those that are in none, each once."""
    return ",".join(dict.fromkeys(dataset["containerName"] or dataset["datasetName"] for dataset in datasets))


def statistics(backend: Backend, task_id: int) -> str:
    """Sum up the inputs of a task: ``finished*2,failed*2``, and by the status of their jobs those that have some.

    :raises DatabaseDown: the database is down.
    """
    counted = tasks.count_inputs(backend, task_id)
    settled = {"tobedone": counted.get("ready"), "finished": counted.get("finished"), "failed": counted.get("failed")}
    at_work = backend.store.rows(
        "SELECT jobStatus, COUNT(*) AS number FROM contents c JOIN jobs j USING (PandaID) "  # noqa: S608 - constant
        f"WHERE c.status = 'running' AND c.{tasks.INPUTS} GROUP BY jobStatus",
        task_id,
    )
    parts = settled | {row["jobStatus"]: row["number"] for row in at_work}
    return ",".join(f"{status}*{number}" for status, number in parts.items() if number)


def latest_jobs(backend: Backend, task_id: int) -> list[int]:
    """List the PandaIDs of the last job of each input.

    :raises DatabaseDown: the database is down.
    """
    rows = backend.store.rows(
        f"SELECT DISTINCT PandaID FROM contents WHERE {tasks.INPUTS} AND PandaID IS NOT NULL ORDER BY PandaID",  # noqa: S608
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
    counted = tasks.count_inputs(backend, task["jediTaskID"])
    rows = backend.store.rows("SELECT * FROM datasets WHERE jediTaskID = ? ORDER BY datasetID", task["jediTaskID"])
    inputs = [row["datasetName"] for row in rows if row["type"] in ("input", "pseudo_input")][:1]
    outputs = [row["containerName"] or row["datasetName"] for row in rows if row["type"] in ("output", "tmpl_output")]
    parameters = parameters_of(backend, task["jediTaskID"])
    return (
        entry
        | empty_digest()
        | {
            "inDS": ",".join(sorted(set(inputs))),
            "outDS": ",".join(sorted(set(outputs))),
            "statistics": ",".join(f"{fate}*{number}" for fate, number in sorted(counted.items())),
            "cliParams": parameters.get("cliParams", ""),
        }
    )
