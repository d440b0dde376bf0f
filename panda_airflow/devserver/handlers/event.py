"""Server module ``event``: jobs here do not process single events, so there are none."""

from __future__ import annotations

import json

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, Identity


def get_available_event_range_count(
    backend: Backend, caller: Identity | None, job_id: int, jobset_id: int, task_id: int, timeout: int = 60
) -> Envelope:
    """Count no event ranges."""
    return Envelope(success=True, data=0)


def get_event_range_statuses(backend: Backend, caller: Identity | None, job_task_ids: str) -> Envelope:
    """Tell of each job that it has no event ranges."""
    try:
        jobs = [pair["panda_id"] for pair in json.loads(job_task_ids)]
    except (ValueError, TypeError, KeyError):
        return Envelope(success=False, message="database error in the PanDA server")
    return Envelope(success=True, data={job: {} for job in jobs})


def acquire_event_ranges(
    backend: Backend,
    caller: Identity | None,
    job_id: int,
    jobset_id: int,
    task_id: int | None = None,
    n_ranges: int = 10,
    timeout: int = 60,
    scattered: bool = False,
    segment_id: int | None = None,
) -> Envelope:
    """Hand out no event ranges."""
    return Envelope(success=True, data=[])
