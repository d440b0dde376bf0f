"""Server module ``job``, as a client sees it."""

from __future__ import annotations

import json

from panda_airflow.client.models import Envelope, Json
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.handlers import views
from panda_airflow.devserver.storage import jobs
from panda_airflow.devserver.storage.store import DatabaseDown, Row

_SCRIPT = """#!/bin/bash

# To rerun the job interactively :
#   1) download this script
#   2) chmod +x ./<this script>
#   3) ./<this script>

#get trf
wget {transformation} || exit 1
chmod +x {name}

#transform commands

./{name} {parameters}
"""


def get_status(backend: Backend, caller: Identity | None, job_ids: list[int], timeout: int = 60) -> Envelope:
    """Tell status and pending command of each job; one that is unknown should kill itself."""
    try:
        found = [jobs.get(backend, job_id) for job_id in job_ids]
    except DatabaseDown:
        return Envelope(False, "failed", {"code": 20})
    return Envelope(True, "", [_state(job) for job in found])


def _state(job: Row | None) -> dict[str, Json]:
    if job is None:
        return {"command": "tobekilled", "status": "unknown"}
    return {"command": job["commandToPilot"], "status": job["jobStatus"]}


def get_description(backend: Backend, caller: Identity | None, job_ids: list[int]) -> Envelope:
    """Describe jobs, ``null`` for each that is unknown."""
    try:
        return Envelope(True, "", [_description(backend, job_id) for job_id in job_ids])
    except DatabaseDown:
        return Envelope(True, "", [None for _ in job_ids])


def _description(backend: Backend, job_id: int) -> dict[str, Json] | None:
    job = jobs.get(backend, job_id)
    return views.job_description(backend, job) if job else None


def get_description_incl_archive(backend: Backend, caller: Identity | None, job_ids: list[int]) -> Envelope:
    """Describe jobs, old ones too; nothing is ever archived here."""
    return get_description(backend, caller, job_ids)


def get_metadata_for_analysis_jobs(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Tell what jobs reported about their outputs; payloads report nothing here."""
    return Envelope(True, "No metadata found", {})


def generate_offline_execution_script(
    backend: Backend, caller: Identity | None, job_id: int, days: int | None = None
) -> str:
    """Write a script that runs a job anew; the reply is the bare text."""
    job = jobs.get(backend, job_id)
    if job is None:
        searched = days or 30
        return f"ERROR: Cannot get PandaID={job_id} in DB for the last {searched} days. You may add &days=N to the URL"
    transformation = job["transformation"] or "runGen-00-00-02"
    name = transformation.rsplit("/", 1)[-1]
    return _SCRIPT.format(transformation=transformation, name=name, parameters=job["jobParameters"])


def kill(
    backend: Backend,
    caller: Identity | None,
    job_ids: list[int],
    code: int | None = None,
    use_email_as_id: bool = False,
    kill_options: list[str] = [],
) -> Envelope:
    """Kill jobs; the list says which of them were the caller's and alive."""
    try:
        return Envelope(True, "", [_kill(backend, caller, job_id, code) for job_id in job_ids])
    except DatabaseDown:
        return Envelope(True, "", [False for _ in job_ids])


def _kill(backend: Backend, caller: Identity | None, job_id: int, code: int | None) -> bool:
    job = jobs.get(backend, job_id)
    return bool(caller and job and jobs.kill_for(backend, caller, job, code))


def reassign(backend: Backend, caller: Identity | None, job_ids: list[int]) -> Envelope:
    """Close jobs that wait, so that JEDI makes new ones of their inputs."""
    for job_id in job_ids:
        job = jobs.get(backend, job_id)
        if job and job["jobStatus"] in jobs.WAITING:
            jobs.end(backend, job_id, "closed", taskBufferErrorCode=jobs.KILLED, taskBufferErrorDiag="reassigned")
    return Envelope(True, "", None)


def set_command(backend: Backend, caller: Identity | None, job_id: int, command: str) -> Envelope:
    """Leave a command for the pilot of a job."""
    job = jobs.get(backend, job_id)
    if job is None or job["jobStatus"] in jobs.ENDED:
        return Envelope(False, f"no active job with PandaID={job_id}")
    backend.store.update("jobs", "PandaID", job_id, commandToPilot=command)
    return Envelope(True, "command received")


def set_debug_mode(backend: Backend, caller: Identity | None, job_id: int, mode: bool) -> Envelope:
    """Switch the debug mode of a job; success and failure are the wrong way round, as on a real server."""
    job = jobs.get(backend, job_id)
    if job is None or job["jobStatus"] in jobs.ENDED:
        return Envelope(True, f"PandaID={job_id} not found in active DB")
    return Envelope(False, "Succeeded")


def submit(backend: Backend, caller: Identity | None, jobs: str) -> Envelope:
    """Take jobs that belong to no task; their parameters are those of ``runGen``, as the jobs of tasks have them."""
    try:
        described = json.loads(jobs)
    except ValueError as error:
        return Envelope(False, f"Failed to deserialize jobs: {error}")
    if not described:
        return Envelope(False, "No jobs were submitted")
    who = caller or Identity("", "")
    rows = [_named(backend, "jobs", values[:-1]) for values in described]
    if any(row.get("prodSourceLabel") == "managed" for row in rows) and not who.production:
        return Envelope(False, f"{who.dn} is missing production for prodSourceLabel=managed submission")
    with backend.store.transaction():
        accepted = [_take(backend, who, row, values[-1]) for row, values in zip(rows, described, strict=True)]
    return Envelope(True, "", accepted)


def _named(backend: Backend, table: str, values: list[Json]) -> Row:
    """Give values the names of the columns, which have their order; those that are not set keep their defaults."""
    names = [column["name"] for column in backend.store.rows(f"PRAGMA table_info({table})")]
    return {name: value for name, value in zip(names, values, strict=False) if value not in (None, "NULL")}


def _take(backend: Backend, who: Identity, row: Row, files: list[list[Json]]) -> list[Json]:
    now = backend.clock()
    times = dict.fromkeys(("creationTime", "modificationTime", "stateChangeTime"), now)
    row |= times | {"jobStatus": "defined", "attemptNr": 1, "prodUserID": who.dn, "prodUserName": who.name}
    job_id = backend.store.insert("jobs", **{"currentPriority": 1000, "jobParameters": ""} | row)
    backend.store.update("jobs", "PandaID", job_id, jobDefinitionID=job_id)
    for values in files:
        backend.store.insert("files", **_named(backend, "files", values) | {"PandaID": job_id})
    return [job_id, job_id, {"jobsetID": job_id}]
