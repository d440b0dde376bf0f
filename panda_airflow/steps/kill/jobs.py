"""Killing single jobs, which belong to no task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from panda_airflow.client.errors import PermissionDenied
from panda_airflow.client.session import PandaClient
from panda_airflow.waiting.poll_checks import JOB_FINAL


def kill_jobs(client: PandaClient, job_ids: Sequence[int], **how: Any) -> list[int]:
    """Kill jobs; those that have ended already, or are ending, are no harm.

    :param how: further arguments of ``job/kill``.
    :return: those that were told nothing, as they had ended or were ending.
    :raises PermissionDenied: one that lives on was refused.
    """
    accepted = client.job.kill(list(job_ids), **how)
    refused = [job_id for job_id, taken in zip(job_ids, accepted, strict=True) if not taken]
    states = client.job.get_status(refused) if refused else []
    alive = [
        job_id
        for job_id, state in zip(refused, states, strict=True)
        if state.status not in JOB_FINAL and state.command != "tobekilled"
    ]
    if alive:
        raise PermissionDenied(
            f"the server refused to kill PanDA job(s) {', '.join(map(str, alive))}.",
            endpoint="job/kill",
            advice="Use the identity that owns them, or the production role with a code such as 9.",
        )
    return refused
