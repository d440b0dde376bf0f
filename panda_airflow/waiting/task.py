"""Waiting for a task, as pure decisions: no I/O and no clock of its own.

:class:`Watch` judges one look at a task after another and says whether the wait is over. :func:`wait_flow` strings
the looks together as a generator that yields what it wants done and returns one JSON event; the drivers are in
:mod:`panda_airflow.waiting.driver`. :func:`wait_result` is the only place that turns an event into a result or an
exception. An operator, a sensor's poke and a trigger therefore cannot disagree.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal

from panda_airflow.client import errors
from panda_airflow.client.models import Mark, TaskInfo, TaskRow
from panda_airflow.client.status import FINAL_STATUSES, Outcome, check_statuses, classify, is_known
from panda_airflow.client.stored import UNKNOWN, Account, known
from panda_airflow.waiting import report
from panda_airflow.waiting.driver import (
    NO_FAILURES,
    Answer,
    Failures,
    Request,
    check_interval,
    is_permanent,
    pause,
    utc_time,
)
from panda_airflow.waiting.event import WaitEnd, WaitEvent, with_details, with_fate, with_products
from panda_airflow.waiting.task_retry import Retries, TaskRetryPolicy

SETTLED = 300.0
"""Seconds after which a wait has had its answers, if perhaps in another triggerer."""

JEDI_PATIENCE = 3600.0
"""Seconds within which JEDI is expected to register a task or to execute a command."""

REACH = timedelta(days=7)
"""How far back a question reaches that is to show tasks of which nothing is known."""


@dataclass(frozen=True)
class WaitPlan:
    """What a wait needs to know, in JSON primitives so that a trigger can carry it.

    :param task_id: JediTaskID.
    :param since: epoch seconds of the submission or of the command that is waited for.
    :param poll_interval: seconds between looks at first.
    :param max_poll_interval: seconds between looks after long waiting.
    :param deadline: epoch seconds after which the wait gives up, or None.
    :param statuses: statuses that end the wait well; any other final status ends it badly.
    :param patience: seconds for JEDI to register the task or to execute the command.
    :param outage: seconds during which looks may fail before the wait gives up; at least three must fail.
    :param cancel_on_timeout: kill the task when the deadline passes.
    :param mark: where the task stood before the command, as in :class:`Mark`, or None.
    :param retry: when the wait retries the task in place instead of ending badly, or None for never. A deadline
        that comes before the next retry ends the wait at once, as that ended task deserves.
    :param made: how many such retries the step has recorded.
    :param min_finished: fraction of the input files (without input: of the jobs), above 0 and up to 1, that are
        enough: the wait ends well once they are finished, whatever the status; None for no such shortcut.
    :param details: end well only once it is known what the task has made, which the event then tells.
    :param label: the task's prodSourceLabel, for all that is known; a wrong one costs a request.
    :param key: what the task has to carry before its end is believed or it is killed; empty for one that is named.
    :param account: on which server the task is, and as whom it is looked at; a connection may come to mean another.
    """

    task_id: int
    since: float
    poll_interval: float = 60.0
    max_poll_interval: float = 300.0
    deadline: float | None = None
    statuses: tuple[str, ...] = ("done",)
    patience: float = JEDI_PATIENCE
    outage: float = 6 * 3600.0
    cancel_on_timeout: bool = True
    mark: Mark | None = None
    retry: TaskRetryPolicy | None = None
    made: int = 0
    min_finished: float | None = None
    label: str = "user"
    details: bool = False
    key: str = ""
    account: Account = UNKNOWN

    def __post_init__(self) -> None:
        """Check the interval, the statuses and the fraction.

        :raises UsageError: a value makes no sense.
        """
        check_interval(self.poll_interval)
        object.__setattr__(self, "statuses", check_statuses(self.statuses, "WaitPlan.statuses"))
        if self.min_finished is not None and not 0 < self.min_finished <= 1:
            raise errors.UsageError(f"min_finished must be above 0 and at most 1, not {self.min_finished!r}.")

    @property
    def looks_itself(self) -> bool:
        """Whether it needs more than the end of the task, so that only looks can tell."""
        return not FINAL_STATUSES.issuperset(self.statuses) or self.min_finished is not None

    @property
    def conclusive(self) -> frozenset[str]:
        """Final statuses of which a row of the server's list of changes says all that the wait needs."""
        if self.mark or self.looks_itself:
            return frozenset()
        return _told_by_row(self.retry.statuses if self.retry else ())

    def to_json(self) -> dict[str, Any]:
        """Write the plan as JSON primitives."""
        retry = self.retry.to_json() if self.retry else None
        return asdict(self) | {"statuses": list(self.statuses), "retry": retry}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WaitPlan:
        """Read what :meth:`to_json` wrote, also in another version that knew fewer fields, or more."""
        words = value.get("statuses", cls.statuses)
        read = {
            # a plan under way is not refused
            "statuses": tuple(word for word in words if is_known(word)) or cls.statuses,
            "mark": Mark.from_json(value.get("mark")),
            "retry": TaskRetryPolicy.from_json(value["retry"]) if value.get("retry") else None,
            "account": Account.from_json(value.get("account")),
        }
        return cls(**(known(cls, value) | read))

    def delay(self, now: float) -> float:
        """Seconds until the next look; see :func:`pause`."""
        return pause(now, self.since, self.poll_interval, self.max_poll_interval, self.deadline, self.task_id)

    @property
    def limits(self) -> dict[str, Any]:
        """How long to go on asking what the task has made; see :func:`~panda_airflow.waiting.driver.insist`."""
        return {"delay": self.delay, "outage": self.outage, "deadline": self.deadline}

    def flow(self) -> Generator[Request, Answer, WaitEvent]:
        """Begin the wait, for one of the drivers."""
        return wait_flow(self)


@cache
def _told_by_row(retried: tuple[str, ...]) -> frozenset[str]:
    """One set for many waits; what ``aborted`` and ``broken`` mean, only the error dialog says."""
    return FINAL_STATUSES - {"aborted", "broken"} - set(retried)


class Watch:
    """Judges looks at one task, each with the time it was made.

    :param plan: what to wait for.
    :param status: the last status seen, empty if none was.
    :param failing_since: epoch seconds since when every look has failed, or None.
    :param failures: how many looks have failed since then.
    """

    def __init__(
        self,
        plan: WaitPlan,
        *,
        status: str = "",
        failing_since: float | None = None,
        failures: int = 0,
        **_: object,  # what another version remembers
    ) -> None:
        self.plan = plan
        self.status = status
        self.failures = Failures(failing_since, failures) if failures else NO_FAILURES
        self._doubts = NO_FAILURES
        self.note = ""
        self.warn = False

    def memory(self) -> dict[str, Any]:
        """Tell in JSON primitives what a successor needs as its keyword arguments."""
        return {"status": self.status, "failing_since": self.failures.since, "failures": self.failures.number}

    def judge(self, seen: object, now: float) -> WaitEvent | None:
        """Say how the wait ended, or None if it goes on; ``note`` and ``warn`` then hold what to log.

        :param seen: a ``TaskInfo``, a ``TaskRow``, or an error.
        """
        if isinstance(seen, TaskInfo):
            event = self._judge_state(seen, now)
        elif isinstance(seen, TaskRow):
            event = self._judge_row(seen)
        elif isinstance(seen, errors.PandaError):
            event = self._judge_failure(seen, now)
        else:
            raise TypeError(f"a look gave neither a task nor an error: {seen!r}")
        if event is None and self.plan.deadline is not None and now >= self.plan.deadline:
            return self._event("timeout", note=f"The deadline was {utc_time(self.plan.deadline)}.")
        return event

    def prove(self, event: WaitEvent, answer: object, now: float) -> WaitEvent | None:
        """Say whether an end is believed, or None if that cannot be told now, and the wait goes on.

        :param answer: an error, unless the task carries the key of the plan.
        """
        if isinstance(answer, errors.NotOurs):
            return {**self._event("error", note=str(answer)), "hopeless": True}
        self._doubts = self._doubts.and_one(now) if isinstance(answer, errors.PandaError) else NO_FAILURES
        if self._doubts is NO_FAILURES:
            return event
        self.note, self.warn = f"Whose PanDA task {self.plan.task_id} is cannot be told now: {answer}", True
        if self.plan.deadline is not None and now >= self.plan.deadline:
            return self._event("timeout", note=self.note)
        return self._event("outage", note=self.note) if self._doubts.are_too_many(now, self.plan.outage) else None

    def delay(self, now: float) -> float:
        """Seconds until the next look."""
        return self.plan.delay(now)

    def _judge_state(self, info: TaskInfo, now: float) -> WaitEvent | None:
        self.failures = NO_FAILURES
        self.status = info.status
        accepted = info.status in self.plan.statuses or self._has_enough(info)
        over = accepted or classify(info.status).is_final
        stale = self.plan.mark is not None and self.plan.mark.holds(info)
        if over and not stale:
            return self._ended("ended" if accepted else "failed", info)
        if over and now >= self.plan.since + self.plan.patience:
            return self._event("stuck", note="JEDI may have dropped the command: a retry of this step gives it again.")
        self.warn = not is_known(info.status)
        self.note = _progress(self.plan.task_id, info, stale=stale)
        return None

    def _judge_row(self, row: TaskRow) -> WaitEvent | None:
        """End with a task that a status feed says has ended; what it does not tell the event leaves out."""
        self.failures = NO_FAILURES
        self.status = row.status
        if row.status not in self.plan.statuses and not classify(row.status).is_final:
            self.note, self.warn = f"PanDA task {self.plan.task_id} is {row.status}.", False
            return None
        return {**self._event("ended" if row.status in self.plan.statuses else "failed"), "name": row.name}

    def _has_enough(self, info: TaskInfo) -> bool:
        enough = self.plan.min_finished
        return enough is not None and info.n_files > 0 and info.n_files_finished / info.n_files >= enough

    def _judge_failure(self, error: errors.PandaError, now: float) -> WaitEvent | None:
        plan = self.plan
        if isinstance(error, errors.NotFound) and not self.status and now < plan.since + plan.patience:
            self.note, self.warn = f"PanDA task {plan.task_id} is not registered yet.", False
            return None
        if not self._is_odd(error) and is_permanent(error, seen=bool(self.status) or now > plan.since + SETTLED):
            event = with_fate(self._event("error", note=str(error)), "The PanDA task was left running.")
            return {**event, "hopeless": error.hopeless}
        self.failures = self.failures.and_one(now)
        over = self.failures.are_too_many(now, plan.outage)
        self.note, self.warn = (
            f"Look {self.failures.number} at PanDA task {plan.task_id} failed in a row: {error}",
            True,
        )
        return (
            self._event("outage", note=f"No look succeeded since {utc_time(self.failures.since)}: {error}")
            if over
            else None
        )

    def _is_odd(self, error: errors.PandaError) -> bool:
        """Whether a refusal cannot be right, as the task was seen before, or submitted by the step itself."""
        return isinstance(error, errors.InvalidArgument) and bool(self.status or self.plan.key)

    def _ended(self, kind: Literal["ended", "failed"], info: TaskInfo) -> WaitEvent:
        return with_details(self._event(kind), info)

    def _event(self, kind: WaitEnd, *, note: str = "") -> WaitEvent:
        return {"kind": kind, "task_id": self.plan.task_id, "status": self.status, "note": note}


def wait_flow(plan: WaitPlan) -> Generator[Request, Answer, WaitEvent]:
    """Wait for a task: yield what to do, receive its answer, return how the wait ended."""
    event = yield from _look_on(Watch(plan))
    if plan.account.server:
        event = {**event, "account": asdict(plan.account)}
    if plan.mark and event["kind"] not in ("ended", "failed"):
        event = {**event, "mark": asdict(plan.mark)}
    if event["kind"] == "ended" and plan.details:
        return (yield from with_products({plan.task_id: event}, **plan.limits))[plan.task_id]
    if event["kind"] != "timeout":
        return event
    if not plan.cancel_on_timeout:
        return with_fate(event, "The PanDA task was left running.")
    note = f"Killing PanDA task {plan.task_id}: the deadline passed."
    answer, _ = yield Request(act="kill", key=plan.key, note=note, warn=True)
    if isinstance(answer, errors.PandaError):
        return {**event, "note": f"{event.get('note')} Killing the PanDA task failed: {answer}"}
    return with_fate(event, "The PanDA task was told to stop.")


def _look_on(watch: Watch) -> Generator[Request, Answer, WaitEvent]:
    """Look until the task has ended for good, or is to be retried as its policy says."""
    plan = watch.plan
    retries = Retries(plan.retry, plan.made, plan.poll_interval, plan.deadline)
    seen, now = yield Request()
    while True:
        event, pause = watch.judge(seen, now), None
        if event and event["kind"] == "failed" and isinstance(seen, TaskInfo):
            event, pause = _retried(event, retries, seen, now)
        if event and event["kind"] in ("ended", "failed") and plan.key and not event.get("retry"):
            answer, now = yield Request(act="prove", key=plan.key)
            event = watch.prove(event, answer, now)
        if event:
            return event
        seen, now = yield pause or Request(watch.delay(now), note=watch.note, warn=watch.warn)


def _retried(event: WaitEvent, retries: Retries, info: TaskInfo, now: float) -> tuple[WaitEvent | None, Request | None]:
    """Say how a wait goes on whose task has failed: it ends, for good or for a retry, or pauses before that."""
    objection = retries.objection(info, now)
    pause = retries.pause(info) if objection is None else None
    if pause:
        return None, pause
    end: WaitEvent = {**event, "retry": True} if objection is None else {**event, "note": objection}
    return end, None


def wait_result(event: object, explanation: Iterable[str] = ()) -> WaitEvent:
    """Return the event of a wait that ended well, raise the error of any other.

    :param event: what a wait returned, possibly after a journey through the database.
    :param explanation: further lines of the error, as :mod:`.report` writes them; empty ones are left out.
    :raises TaskOutcome: the task failed, or the wait gave up.
    :raises UsageError: this is no event of a wait.
    """
    told = read_event(event)
    if told["kind"] == "ended":
        return told
    task_id, status = told["task_id"], told["status"]
    error = _ERRORS.get(told["kind"]) or _OUTCOMES[classify(status)]
    lines = [
        f"PanDA task {task_id} {_VERDICTS[told['kind']].format(status=status or 'unknown')}",
        told.get("note", ""),
        report.dialog(told.get("error_dialog", "")),
        report.attempts(told.get("attempt_nr"), told.get("attempts")),
        *explanation,
    ]
    said: errors.Said = {"hopeless": True} if told.get("hopeless") else {}
    fate = told.get("fate", "")
    raise error("\n".join(line for line in lines if line), task_id=task_id, status=status, fate=fate, **said)


_ERRORS: dict[str, type[errors.TaskOutcome]] = {
    "timeout": errors.WaitTimeout,
    "stuck": errors.WaitTimeout,
    "outage": errors.ServerAway,
    "error": errors.TaskOutcome,
}

_OUTCOMES = {
    Outcome.PARTLY_DONE: errors.TaskPartlyDone,
    Outcome.ABORTED: errors.TaskAborted,
    Outcome.FAILED: errors.TaskFailed,
    Outcome.DONE: errors.TaskOutcome,
    Outcome.ACTIVE: errors.TaskOutcome,
}

_VERDICTS = {
    "failed": "ended as {status}.",
    "timeout": "did not end in time; its last status was {status}.",
    "stuck": "was told to go on and did not move in time; its status is still {status}.",
    "outage": "could not be looked at for too long; its last status was {status}.",
    "error": "cannot be looked at; its last status was {status}.",
}

_KINDS = ("ended", *_VERDICTS)


def read_event(event: object) -> WaitEvent:
    """Check that this is an event of a wait, wherever it has been meanwhile.

    :raises UsageError: it is not, so that nothing strange is ever taken for success.
    """
    if (
        isinstance(event, dict)
        and event.get("kind") in _KINDS
        and type(event.get("task_id")) is int
        and isinstance(event.get("status"), str)
    ):
        told: WaitEvent = event  # type: ignore[assignment]
        return told
    raise errors.UsageError(f"this is not an event of a wait for a PanDA task: {event!r:.200}")


def _progress(task_id: int, info: TaskInfo, *, stale: bool) -> str:
    files = f", {info.n_files_finished} of {info.n_files} files finished" if info.n_files else ""
    failed = f", {info.n_files_failed} failed" if info.n_files_failed else ""
    wait = "; the command has yet to be executed" if stale else ""
    return f"PanDA task {task_id} is {info.status}{files}{failed}{wait}."
