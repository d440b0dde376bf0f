"""Functions of the reference for single jobs and their events."""

from __future__ import annotations

import json
import socket
from typing import Any

from panda_airflow.client.jobs import JobSpec, dump_jobs
from panda_airflow.client.models import Envelope
from panda_airflow.pandaclient.calls import Answer, Given, applied, calls, data, message


def _signed_jobs(given: Given) -> str:
    for job in given["jobs"]:
        job.creationHost = socket.gethostname()
    return dump_jobs(given["jobs"])


def _as_specs(envelope: Envelope, given: Given) -> Answer:
    status, found = data(envelope, given)
    return status, found and [item and JobSpec.from_data(item) for item in found]


@calls("job/submit", data, jobs=_signed_jobs)
def submitJobs(jobs: list[JobSpec], verbose: bool = False) -> Answer:
    """Submit jobs that belong to no task.

    :param jobs: their specifications.
    :param verbose: show verbose messages.
    :return: status and for each job its PandaID, job definition ID and a map of numbers, or ``None`` if refused.
    """


@calls("job/get_description", _as_specs, job_ids="ids")
def getJobStatus(ids: list[int], verbose: bool = False) -> Answer:
    """Read jobs, without those that were archived.

    :param ids: PandaIDs.
    :param verbose: show verbose messages.
    :return: status and specifications in the order asked, ``None`` for an unknown job.
    """


@calls("job/get_description_incl_archive", _as_specs, job_ids="ids")
def getFullJobStatus(ids: list[int], verbose: bool = False) -> Answer:
    """Read jobs, in the archive too.

    :param ids: PandaIDs.
    :param verbose: show verbose messages.
    :return: as from :func:`getJobStatus`.
    """


@calls("job/kill", data, job_ids="ids")
def killJobs(ids: list[int], verbose: bool = False) -> Answer:
    """Kill jobs.

    :param ids: PandaIDs.
    :param verbose: show verbose messages.
    :return: status and for each job whether its kill was accepted.
    """


@calls("job/set_debug_mode", message, job_id="pandaID", mode="modeOn")
def setDebugMode(pandaID: int, modeOn: bool, verbose: bool) -> Answer:
    """Turn the debug mode of a job on or off; production role.

    :param pandaID: PandaID.
    :param modeOn: on.
    :param verbose: show verbose messages.
    :return: status and the server's words, ``Succeeded`` if it did.
    """


@calls("event/get_event_range_statuses", data, job_task_ids=lambda given: applied(json.dumps, given["ids"]))
def get_events_status(ids: list[dict[str, int]], verbose: bool = False) -> Answer:
    """Read how far events are.

    :param ids: ``{"task_id": ..., "panda_id": ...}`` each.
    :param verbose: show verbose messages.
    :return: status and event ranges by PandaID.
    """


@calls("event/update_event_ranges", data, event_ranges=lambda given: applied(json.dumps, given["events"]))
def update_events(events: list[dict[str, Any]], verbose: bool = False) -> Answer:
    """Report events as processed or failed.

    :param events: ``eventRangeID``, ``eventStatus`` and, if they failed, ``errorCode`` and ``errorDiag`` each.
    :param verbose: show verbose messages.
    :return: status and ``Returns``, ``Command`` and ``StatusCode``.
    """
