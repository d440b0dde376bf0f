"""What a step does about its PanDA task: one pure decision, from what it remembers, sees and is told. No I/O."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from panda_airflow.client.models import TaskInfo
from panda_airflow.client.status import ABOUT_TO_ABORT, RETRYABLE_STATUSES, Outcome, classify
from panda_airflow.steps.record import SubmissionRecord, surviving_twins
from panda_airflow.waiting.report import _AFTER_A_TIMEOUT, _TIMEOUT_COUNTS_ON, CONTINUE_AFTER_THE_LAST

AFTER_THE_LAST = (
    "This was the last try. A clear of this step submits the work anew; with on_clear='continue' it goes on with this "
    "PanDA task instead, and retries it in place if it can be."
)


class Action(Enum):
    """What a step does about its PanDA task."""

    SUBMIT = "submit a new task"
    FIND = "find out whether the intended submission reached the server"
    FOLLOW = "wait for the task that exists"
    RETRY = "retry the task that exists, in place"
    REPLACE = "submit anew, under another name"
    TWIN = "go on with the twin in whose favour JEDI aborted the task"
    REFUSE = "touch nothing"


@dataclass(frozen=True)
class Situation:
    """All that counts.

    :param record: what the step remembers, or None at its first try.
    :param info: the recorded task, or None where the server does not show it (yet).
    :param ours: whether that task carries the recorded key; None where that cannot be told now.
    :param accepted: statuses that satisfy the step.
    :param elsewhere: whether the record is of another server or user than the connection means now.
    :param unwanted: why this try wants another task than the recorded one: a clear, a change; empty if it does not.
    :param cleared: whether a clear is among the reasons.
    :param own_twin: where JEDI aborted the recorded task as a duplicate, the twin that carries the same key.
    :param overdue: whether JEDI should long have executed what was submitted.
    """

    record: SubmissionRecord | None = None
    info: TaskInfo | None = None
    ours: bool | None = True
    accepted: Collection[str] = ("done",)
    elsewhere: bool = False
    unwanted: str = ""
    cleared: bool = False
    own_twin: int | None = None
    overdue: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do.

    :param why: for the log, or for the error of a refusal.
    :param kill: whether the recorded task, which still runs, is to end before another one takes its place.
    """

    action: Action
    why: str = ""
    kill: bool = False


def decide(now: Situation) -> Decision:
    """Decide what a step does; what comes first overrules what comes later."""
    record = now.record
    if record is None or not record.sent:
        return Decision(Action.SUBMIT)
    if now.elsewhere or (record.task_id and now.ours is False):
        why = "it belongs to another server or user" if now.elsewhere else "it is the task of somebody else"
        return Decision(Action.REPLACE if now.cleared else Action.REFUSE, why)
    if record.task_id is None:
        return Decision(Action.FIND)
    return _about_our_task(now, record)


def _about_our_task(now: Situation, record: SubmissionRecord) -> Decision:
    info = now.info
    if info and surviving_twins(info.status, info.error_dialog) and (now.own_twin or not now.unwanted):
        return Decision(Action.TWIN)
    if now.unwanted:
        runs = info is None or not classify(info.status).is_final
        return Decision(Action.REPLACE, now.unwanted, kill=runs and record.owned)
    if info and record.mark and classify(info.status).is_final and record.mark.holds(info):
        # the end is that of before the task was to run again: no answer, and one that JEDI never began is asked anew
        return Decision(Action.FIND if now.overdue else Action.FOLLOW)
    if info is None or info.status in now.accepted:
        return Decision(Action.FOLLOW)
    return _about_its_status(info.status, may_retry=bool(now.ours) and record.may_retry)


def _about_its_status(status: str, *, may_retry: bool) -> Decision:
    """Decide by a status that does not satisfy the step; a task that ended well is never done again."""
    if status in RETRYABLE_STATUSES:
        return Decision(Action.RETRY if may_retry else Action.FOLLOW)
    is_lost = status in ABOUT_TO_ABORT or classify(status) in (Outcome.ABORTED, Outcome.FAILED)
    return Decision(Action.REPLACE, f"it is {status}") if is_lost else Decision(Action.FOLLOW)


def submission_retry(
    task_id: int,
    kind: str,
    status: str,
    *,
    last: bool = False,
    may_retry: bool = True,
    durable: bool = True,
    on_clear: str = "resubmit",
    killed: bool = True,
) -> str:
    """Tell what a retry of a step that submitted a task does, which depends on how its wait has ended.

    :param kind: of the wait's event.
    :param status: the last status seen.
    :param last: whether Airflow has no retry left, so that only a clear by a person makes the step go on.
    :param may_retry: whether the task is this step's to work on.
    :param durable: whether a retry goes on with the task; this and the next as the step is told.
    :param killed: whether a wait whose deadline has passed has the task killed.
    """
    if not may_retry and status in RETRYABLE_STATUSES:
        return "This step did not submit the task and does not retry it: it only looks at it again."
    if last:
        return CONTINUE_AFTER_THE_LAST if on_clear == "continue" else AFTER_THE_LAST
    if not durable:
        return "A retry of this step submits the work anew under another name, and kills what still runs."
    if kind == "timeout":
        return _AFTER_A_TIMEOUT if killed else _TIMEOUT_COUNTS_ON
    record = SubmissionRecord(task_id=task_id)
    found = decide(Situation(record, TaskInfo(task_id, status=status), accepted=()))
    return _SUBMISSION_RETRIES.get(found.action, "")


_SUBMISSION_RETRIES = {
    Action.FOLLOW: "A retry of this step waits on for the task.",
    Action.RETRY: "A retry of this step retries the PanDA task in place.",
    Action.REPLACE: "A retry of this step submits the work anew under another name.",
}
