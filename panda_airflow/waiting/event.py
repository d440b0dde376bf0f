"""What a wait for a task says in the end: how it ended, and what the task has made."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal, NotRequired, TypedDict

from panda_airflow.client import errors
from panda_airflow.client.models import TaskDigest, TaskInfo
from panda_airflow.waiting.driver import Answer, Request, insist

WaitEnd = Literal["ended", "failed", "timeout", "stuck", "outage", "error"]


class WaitEvent(TypedDict):
    """How a wait ended.

    ``kind`` is ``ended`` (in a status the plan accepts), ``failed`` (in any other final status), ``timeout``,
    ``stuck`` (a command was not executed), ``outage`` (too many looks failed) or ``error`` (looking is impossible).
    ``note`` says what became of the task, ``attempts`` how often the step retried it, ``attempt_nr`` how often JEDI
    has since it last refined it, ``fate`` what the wait did about the task when the deadline passed, if it did what it
    should, and ``mark`` where the task stood before a command that JEDI may have yet to execute, as the fields of
    ``Mark``. ``retry`` is true where the task is to be retried now, which another version takes for the failure that
    it is, ``hopeless`` where to wait again is useless, and ``account`` says where the task was looked at.
    """

    kind: WaitEnd
    task_id: int
    status: str
    name: NotRequired[str]
    error_dialog: NotRequired[str]
    files: NotRequired[dict[str, int]]
    note: NotRequired[str]
    fate: NotRequired[str]
    mark: NotRequired[dict[str, Any]]
    attempts: NotRequired[int]
    attempt_nr: NotRequired[int]
    output_datasets: NotRequired[list[str]]
    retry: NotRequired[bool]
    hopeless: NotRequired[bool]
    account: NotRequired[dict[str, str]]


def with_details(event: WaitEvent, info: TaskInfo) -> WaitEvent:
    """Add to an event what a look tells of its task."""
    return {
        **event,
        "name": info.name,
        "error_dialog": info.error_dialog,
        "files": {"total": info.n_files, "finished": info.n_files_finished, "failed": info.n_files_failed},
        "attempt_nr": info.attempt_nr,
    }


def with_fate(event: WaitEvent, fate: str) -> WaitEvent:
    """Say what became of the task."""
    return {**event, "note": f"{event.get('note')} {fate}", "fate": fate}


def with_products(events: dict[int, WaitEvent], **limits: Any) -> Generator[Request, Answer, dict[int, WaitEvent]]:
    """Add what ended tasks have made; where an outage hides that, a success would be hollow and is none.

    :param events: how the waits for tasks ended, by task ID.
    :param limits: those of :func:`~panda_airflow.waiting.driver.insist`.
    """
    bare = tuple(task_id for task_id, event in events.items() if "files" not in event)
    states = (yield from insist("state", bare, **limits)) if bare else {}
    digests = yield from insist("details", tuple(events), **limits)
    return {task_id: _told(event, states.get(task_id), digests[task_id]) for task_id, event in events.items()}


def _told(event: WaitEvent, info: object, digest: object) -> WaitEvent:
    for answer in (info, digest):
        if isinstance(answer, errors.PandaError):
            away: WaitEvent = {**event, "kind": "outage", "note": f"What it has made cannot be read: {answer}"}
            return with_fate(away, "The PanDA task has ended.")
    if isinstance(info, TaskInfo):
        event = with_details(event, info)
    return {**event, "output_datasets": digest.output_datasets if isinstance(digest, TaskDigest) else []}
