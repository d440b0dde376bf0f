"""From the event of a wait to what a step returns, or to the exception that says why it cannot."""

from __future__ import annotations

from typing import TypedDict

from panda_airflow.client import PandaError
from panda_airflow.client.models import JobInfo
from panda_airflow.client.waiting import conclude, read_event
from panda_airflow.hooks.panda import PandaHook


class TaskResult(TypedDict):
    """What a step leaves in XCom.

    ``status`` is the last one seen, empty where the step did not wait; ``files`` counts inputs as ``total``,
    ``finished`` and ``failed``; ``output_datasets`` are those that the task declares, logs included.
    """

    task_id: int
    status: str
    name: str
    files: dict[str, int]
    output_datasets: list[str]
    monitor_url: str


def settle(hook: PandaHook, event: object) -> TaskResult:
    """Return the result of a wait that ended well, raise the exception of any other.

    :param event: what a wait returned, possibly after a journey through the database.
    :raises TaskOutcome: with the status, the error dialog and the most frequent job errors.
    :raises UsageError: this is no event of a wait.
    """
    known = read_event(event)
    task_id = known["task_id"]
    page = hook.config.task_page(task_id)
    conclude(known, _unsuccessful_jobs(hook, task_id) if known["kind"] == "failed" else [], page)
    return {
        "task_id": task_id,
        "status": known["status"],
        "name": known.get("name", ""),
        "files": known.get("files", {}),
        "output_datasets": _output_datasets(hook, task_id) if known["status"] else [],
        "monitor_url": page,
    }


def _unsuccessful_jobs(hook: PandaHook, task_id: int) -> list[JobInfo]:
    """Read the failed jobs; the explanation of a failure may be missing, the failure itself may not."""
    try:
        return hook.client.task.get_job_descriptions(task_id, unsuccessful_only=True)
    except PandaError as error:
        hook.log.warning("The failed jobs of PanDA task %s cannot be read: %s", task_id, error)
        return []


def _output_datasets(hook: PandaHook, task_id: int) -> list[str]:
    """Read the names of the outputs; they may be missing from a result, the result itself may not."""
    try:
        return hook.client.task.get_details(task_id).output_datasets
    except PandaError as error:
        hook.log.warning("The output datasets of PanDA task %s cannot be read: %s", task_id, error)
        return []
