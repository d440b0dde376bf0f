"""From the event of a wait to what a step returns, or to the exception that says why it cannot."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from panda_airflow.client import NotOurs, PandaError
from panda_airflow.client.auth.credentials import account_of, server_of
from panda_airflow.client.models import JobInfo, TaskDigest
from panda_airflow.client.stored import Account
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.waiting.event import WaitEvent, with_details
from panda_airflow.waiting.ownership import RESTORE, elsewhere
from panda_airflow.waiting.report import input_counts, job_counts, job_errors
from panda_airflow.waiting.task import read_event, wait_result

MOST_JOBS = 100
"""Jobs of a task that are all read to explain its failure; of larger tasks only the unsuccessful ones."""

LOOK_AGAIN = "A retry of this step looks at the task again."
"""What a retry of a sensor does."""


class TaskResult(TypedDict):
    """What a step leaves in XCom.

    ``server`` is the one that knows the task by its number; ``status`` is the last one seen, empty where the step did
    not wait; ``files`` counts inputs as ``total``, ``finished`` and ``failed``; ``output_datasets`` are those that the
    task declares, logs included; ``message`` says what a command has done.
    """

    jedi_task_id: int
    server: str
    status: str
    name: str
    files: dict[str, int]
    output_datasets: list[str]
    monitor_url: str
    message: NotRequired[str]


def settle(hook: PandaHook, event: object, retry_note: str = "", *, datasets: bool = True) -> TaskResult:
    """Return the result of a wait that ended well, raise the exception of any other.

    :param event: what a wait returned, possibly after a journey through the database.
    :param retry_note: what a retry of the step will do, for the exception.
    :param datasets: read the names of the outputs and what else the event lacks, which costs two requests at most.
    :raises TaskOutcome: with the status, the error dialog, the progress and the most frequent job errors.
    :raises PandaError: it cannot be read what a task has made that ended well.
    :raises NotOurs: it was waited for at another server, or as another user.
    :raises UsageError: this is no event of a wait.
    """
    told = read_event(event)
    _same_account(hook, told)
    known = _completed(hook, told, datasets)
    task_id = known["task_id"]
    page = hook.config.task_page(task_id)
    wait_result(known, () if known["kind"] == "ended" else [*_explanation(hook, known), page, retry_note])
    return {
        "jedi_task_id": task_id,
        "server": server_of(hook.config),
        "status": known["status"],
        "name": known.get("name", ""),
        "files": known.get("files", {}),
        "output_datasets": known["output_datasets"] if "output_datasets" in known else _made(hook, known, datasets),
        "monitor_url": page,
    }


def _same_account(hook: PandaHook, event: WaitEvent) -> None:
    """Read nothing of a task of the same number on another server."""
    account = Account.from_json(event.get("account"))
    if account.server and (found := account_of(hook.config)).differs_from(account):
        what = f"PanDA task {event['task_id']}, which was waited for,"
        raise NotOurs(elsewhere(what, account, hook.panda_conn_id, found), advice=RESTORE)


def _completed(hook: PandaHook, event: WaitEvent, wanted: bool) -> WaitEvent:  # noqa: FBT001 - private
    """Add what a status feed does not tell of an ended task; it may be missing from a failure, not from a success."""
    kinds = ("ended", "failed") if wanted else ("failed",)
    if "files" in event or not event["status"] or event["kind"] not in kinds:
        return event
    try:
        return with_details(event, hook.client.task.get_detailed_info(event["task_id"]))
    except PandaError as error:
        if event["kind"] == "ended":
            raise
        hook.log.warning("The progress of PanDA task %s cannot be read: %s", event["task_id"], error)
        return event


def _made(hook: PandaHook, event: WaitEvent, wanted: bool) -> list[str]:  # noqa: FBT001 - private
    """Read what a task has made of which the wait did not tell that."""
    return hook.client.task.get_details(event["task_id"]).output_datasets if wanted and event["status"] else []


def _explanation(hook: PandaHook, event: WaitEvent) -> list[str]:
    """Tell of a bad end what the server knows, unless it could not be reached before."""
    if event["kind"] in ("outage", "error"):
        return []
    digest = _digest(hook, event["task_id"])
    jobs = _jobs(hook, event["task_id"], len(digest.job_ids))
    return [job_counts(jobs, len(digest.job_ids)), input_counts(digest), *job_errors(jobs, hook.config.log_page)]


def _jobs(hook: PandaHook, task_id: int, total: int) -> list[JobInfo]:
    """Read all jobs of a small task, else the failed ones; they may be missing, the failure itself may not."""
    try:
        return hook.client.task.get_job_descriptions(task_id, unsuccessful_only=not 0 < total <= MOST_JOBS)
    except PandaError as error:
        hook.log.warning("The jobs of PanDA task %s cannot be read: %s", task_id, error)
        return []


def _digest(hook: PandaHook, task_id: int) -> TaskDigest:
    """Read the progress; it may be missing from a failure, the failure itself may not."""
    try:
        return hook.client.task.get_details(task_id)
    except PandaError as error:
        hook.log.warning("The details of PanDA task %s cannot be read: %s", task_id, error)
        return TaskDigest()
