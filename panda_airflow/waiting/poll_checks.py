"""Looks at what is no task: each asks the server and says whether a wait for it is over."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from panda_airflow.client.errors import NotFound, ServerError, UsageError
from panda_airflow.client.http.envelope import CHECK_ID, fit
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.records import ODD, read_id, shown
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import check_statuses
from panda_airflow.waiting.polling import Finding, PollPlan
from panda_airflow.waiting.report import job_errors

T = TypeVar("T")

JOB_FINAL = frozenset({"finished", "failed", "cancelled", "closed"})
"""Statuses that a job never leaves."""

REQUEST_FINAL = frozenset({"Finished", "SubFinished", "Failed", "Cancelled", "Suspended", "Expired", "Terminated"})
"""Statuses in which iDDS leaves a request alone."""


def look_at_jobs(client: PandaClient, job_ids: Sequence[int], statuses: Sequence[str]) -> Finding:
    """Say whether all jobs have one of these statuses; any other final status is a failure.

    :param job_ids: PandaIDs.
    :raises NotFound: one of them is unknown, also in the archive.
    """
    found = _job_statuses(client, list(job_ids))
    bad = [job_id for job_id, status in found.items() if status in JOB_FINAL and status not in statuses]
    told = ", ".join(f"{number} {status}" for status, number in sorted(Counter(found.values()).items()))
    if bad:
        described = [job for job in client.job.get_description_incl_archive(bad) if job]
        return Finding("failed", "\n".join([f"They are {told}.", *job_errors(described, client.config.log_page)]))
    value = {
        "jobs": {str(job_id): status for job_id, status in found.items()},
        "statuses": dict(Counter(found.values())),
    }
    return Finding("ended" if all(status in statuses for status in found.values()) else "", f"Jobs: {told}.", value)


def jobs_plan(
    job_ids: list[int], statuses: Sequence[str], since: float, poll_interval: float, **limits: Any
) -> PollPlan:
    """Plan a wait that looks at jobs; see :class:`PollPlan` for the other parameters.

    :param limits: ``deadline`` and ``outage``.
    """
    what = f"PanDA job {job_ids[0]}" if len(job_ids) == 1 else f"{len(job_ids)} PanDA jobs from {job_ids[0]} on"
    arguments = {"job_ids": job_ids, "statuses": list(check_statuses(statuses, "statuses of the jobs", "job"))}
    return PollPlan("jobs", arguments, what, since, poll_interval=poll_interval, **limits)


def panda_ids(value: object) -> list[int]:
    """Read PandaIDs as a DAG author or a template gives them.

    :param value: a number, its digits, a list of these, or the text of a list.
    :raises UsageError: it is none of these, or empty.
    """
    try:
        plain = json.loads(value) if isinstance(value, str) else value
        items: list[Any] = list(plain) if isinstance(plain, list | tuple) else [plain]
        ids = [read_id(item) for item in items]
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"these are no PandaIDs: {value!r:.100}") from error
    if not ids:
        raise UsageError("no PandaID was given.")
    return ids


def _job_statuses(client: PandaClient, job_ids: list[int]) -> dict[int, str]:
    states = client.job.get_status(job_ids)
    found = {job_id: state.status for job_id, state in _paired(job_ids, states)}
    if unknown := [job_id for job_id, status in found.items() if status == "unknown"]:
        archived = client.job.get_description_incl_archive(unknown)
        found |= {job_id: job.status for job_id, job in _paired(unknown, archived) if job}
    if missing := [job_id for job_id, status in found.items() if status == "unknown"]:
        raise NotFound(
            f"no job has the PandaID {', '.join(map(str, missing))}.", endpoint="job/get_status", advice=CHECK_ID
        )
    return found


def _paired(job_ids: list[int], answers: list[T]) -> list[tuple[int, T]]:
    """Give each job its answer, which comes in the order asked."""
    if len(job_ids) != len(answers):
        raise ServerError(f"the server answered about {len(answers)} jobs, not about {len(job_ids)}.")
    return list(zip(job_ids, answers, strict=True))


def look_at_server(client: PandaClient) -> Finding:
    """Say that the server lives, accepts this identity and reaches its database; otherwise raise."""
    client.system.is_alive()
    client.creds.get_user_secrets(["no secret has this name"])
    return Finding("ended", "PanDA is up.", {"server": client.config.server})


def look_at_recovery(
    client: PandaClient, log_name: str, task_id: int | None = None, mark: dict[str, Any] | None = None
) -> Finding:
    """Read the log of a recovery of lost files, which is complete when its last line is ``done``.

    :param log_name: path below ``/cache/``.
    :param task_id: JediTaskID; if the recovery runs this task again, it is over once JEDI has begun to.
    :param mark: where the task stood before, as the fields of :class:`~panda_airflow.client.models.Mark`.
    """
    found = judge_recovery(_read_cache(client, log_name))
    runs_again = found.verdict == "ended" and _RETRIED.search(found.value["log"][-1])
    before = Mark.from_json(mark)
    if before and task_id and runs_again and _is_untouched(before, client.task.get_detailed_info(task_id)):
        return Finding("", f"The recovery is registered; JEDI has yet to run PanDA task {task_id} again.")
    return found


def _is_untouched(mark: Mark, info: TaskInfo) -> bool:
    """Whether JEDI has yet to begin: the recovery itself makes a done task a finished one, at no time of its own."""
    return replace(mark, status="").holds(info)


def _read_cache(client: PandaClient, name: str) -> str:
    with TemporaryDirectory() as folder:
        try:
            return fit(client.download(name, Path(folder)).read_text(errors="replace"))
        except NotFound:
            return ""


_RETRIED = re.compile(r"Retried task \d+: done with \(0, .*\bdata\W{1,4}[03]\b")
"""The server calls a refused retry a success too; only its code tells."""

_SUCCEEDED = re.compile(r"No lost files\.|Done in the dry-run mode with True")


def judge_recovery(text: str) -> Finding:
    """Say from its log how a recovery of lost files ended.

    :param text: of the log; empty while the recovery has not begun.
    """
    lines = text.splitlines()
    if not lines or lines[-1].strip() != "done":
        return Finding("", "The recovery has not been carried out yet.")
    said = "\n".join(lines[:-1])
    last = lines[-2] if len(lines) > 1 else ""
    succeeded = "Error: " not in last and (_SUCCEEDED.search(last) or _RETRIED.search(last))
    return Finding("ended", "", {"log": lines[:-1]}) if succeeded else Finding("failed", said)


def look_at_request(client: PandaClient, request_id: int, statuses: Sequence[str]) -> Finding:
    """Say whether an iDDS request has one of these statuses; any other final status is a failure.

    :param request_id: of the request.
    :raises NotFound: iDDS does not know it.
    """
    requests = client.idds.call("get_requests", manager=True, json_outputs=True, request_id=request_id)
    if not requests:
        raise NotFound(f"iDDS has no request {request_id}.", endpoint="idds/relay_idds_command", advice=CHECK_ID)
    try:
        status, said = _status_name(requests[0]["status"]), requests[0].get("errors") or ""
    except ODD as error:
        raise ServerError(f"iDDS describes request {request_id} in another way: {shown(requests)}") from error
    if status in statuses:
        return Finding("ended", "", {"request_id": request_id, "status": status})
    if status in REQUEST_FINAL:
        return Finding("failed", f"It is {status}. {said}".strip())
    return Finding("", f"iDDS request {request_id} is {status}.")


def request_plan(
    request_id: int, statuses: Sequence[str], since: float, poll_interval: float, **limits: Any
) -> PollPlan:
    """Plan a wait that looks at an iDDS request; see :class:`PollPlan` for the other parameters.

    :param limits: ``deadline`` and ``outage``.
    """
    known = check_statuses(statuses, "statuses of the request", "request")
    arguments = {"request_id": request_id, "statuses": list(known)}
    return PollPlan("request", arguments, f"iDDS request {request_id}", since, poll_interval=poll_interval, **limits)


def _status_name(status: Any) -> str:
    """Read a status, which is a word or an enumeration written as JSON."""
    return status if isinstance(status, str) else str(status["attributes"]["_name_"])


POLL_CHECKS: dict[str, Callable[..., Finding]] = {
    "jobs": look_at_jobs,
    "server": look_at_server,
    "recovery": look_at_recovery,
    "request": look_at_request,
}
"""Every look by the name under which a plan knows it."""
