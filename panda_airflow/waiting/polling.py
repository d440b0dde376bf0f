"""Waiting for what is no task: jobs, a log, a request, the server. Pure decisions, as :mod:`.task` makes them.

A look, by name one of :data:`.poll_checks.POLL_CHECKS`, says itself whether the wait is over; here is decided
what to make of looks that fail, and of the time.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NotRequired, TypedDict, get_args

from panda_airflow.client import errors
from panda_airflow.client.models import Json
from panda_airflow.client.stored import UNKNOWN, Account, known
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

FOREVER = 1e10
"""An outage, in seconds, that nobody lives to see; a page that is not PanDA's is then maintenance too."""


@dataclass(frozen=True)
class Finding:
    """What a look found.

    :param verdict: ``ended`` as wanted, ``failed`` for good, or empty while the wait goes on.
    :param note: the state in a sentence, or why it failed.
    :param value: what the step returns if it ended well.
    """

    verdict: Literal["", "ended", "failed"] = ""
    note: str = ""
    value: Json = None


@dataclass(frozen=True)
class PollPlan:
    """What such a wait needs to know, in JSON primitives so that a trigger can carry it.

    :param look: name of the look.
    :param arguments: its arguments, and no secret among them.
    :param what: what is waited for, for messages.
    :param since: epoch seconds of the begin.
    :param poll_interval: seconds between looks at first.
    :param max_poll_interval: seconds between looks after long waiting.
    :param deadline: epoch seconds after which the wait gives up, or None.
    :param outage: seconds during which looks may fail before the wait gives up; at least three must fail.
    :param account: whom the connection means at which server, as long as the wait is worth anything.
    """

    look: str
    arguments: dict[str, Json]
    what: str
    since: float
    poll_interval: float = 60.0
    max_poll_interval: float = 300.0
    deadline: float | None = None
    outage: float = 6 * 3600.0
    account: Account = UNKNOWN

    def __post_init__(self) -> None:
        """Check the interval.

        :raises UsageError: it is none.
        """
        check_interval(self.poll_interval)

    def to_json(self) -> dict[str, Any]:
        """Write the plan as JSON primitives."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PollPlan:
        """Read what :meth:`to_json` wrote, also in another version that knew fewer fields, or more."""
        return cls(**known(cls, value) | {"account": Account.from_json(value.get("account"))})

    def flow(self) -> Generator[Request, Answer, PollEvent]:
        """Begin the wait, for one of the drivers."""
        poll = Poll(self)
        seen, now = yield Request()
        while (event := poll.judge(seen, now)) is None:
            seen, now = yield Request(poll.delay(now), note=poll.note, warn=poll.warn)
        return event


PollEnd = Literal["ended", "failed", "timeout", "outage", "error"]


class PollEvent(TypedDict):
    """How such a wait ended; ``note`` says why, ``value`` is what the look found in the end, ``account`` the plan's."""

    kind: PollEnd
    what: str
    note: str
    value: Json
    account: NotRequired[dict[str, str]]


class Poll:
    """Judges looks, each with the time it was made.

    :param plan: what to wait for.
    :param seen: whether a look has succeeded.
    :param failing_since: epoch seconds since when every look has failed, or None.
    :param failures: how many looks have failed since then.
    """

    def __init__(
        self,
        plan: PollPlan,
        *,
        seen: bool = False,
        failing_since: float | None = None,
        failures: int = 0,
        **_: object,  # what another version remembers
    ) -> None:
        self.plan = plan
        self.seen = seen
        self.failures = Failures(failing_since, failures) if failures else NO_FAILURES
        self.note = ""
        self.warn = False

    def memory(self) -> dict[str, Any]:
        """Tell in JSON primitives what a successor needs as its keyword arguments."""
        return {"seen": self.seen, "failing_since": self.failures.since, "failures": self.failures.number}

    def judge(self, seen: object, now: float) -> PollEvent | None:
        """Say how the wait ended, or None if it goes on; ``note`` and ``warn`` then hold what to log."""
        if isinstance(seen, Finding):
            event = self._judge_finding(seen)
        elif isinstance(seen, errors.PandaError):
            event = self._judge_failure(seen, now)
        else:
            raise TypeError(f"a look gave neither a finding nor an error: {seen!r}")
        if event is None and self.plan.deadline is not None and now >= self.plan.deadline:
            return self._event("timeout", f"The deadline was {utc_time(self.plan.deadline)}. {self.note}")
        return event

    def delay(self, now: float) -> float:
        """Seconds until the next look; see :func:`~panda_airflow.waiting.driver.pause`."""
        plan = self.plan
        return pause(now, plan.since, plan.poll_interval, plan.max_poll_interval, plan.deadline, len(plan.what))

    def _judge_finding(self, found: Finding) -> PollEvent | None:
        self.failures = NO_FAILURES
        self.seen, self.note, self.warn = True, found.note, False
        return self._event(found.verdict, found.note, found.value) if found.verdict else None

    def _judge_failure(self, error: errors.PandaError, now: float) -> PollEvent | None:
        if is_permanent(error, seen=self.seen or self.plan.outage >= FOREVER):
            return self._event("error", str(error))
        self.failures = self.failures.and_one(now)
        over = self.failures.are_too_many(now, self.plan.outage)
        self.note, self.warn = f"Look {self.failures.number} at {self.plan.what} failed in a row: {error}", True
        return (
            self._event("outage", f"No look succeeded since {utc_time(self.failures.since)}: {error}") if over else None
        )

    def _event(self, kind: PollEnd, note: str, value: Json = None) -> PollEvent:
        account = asdict(self.plan.account)
        return {"kind": kind, "what": self.plan.what, "note": note, "value": value, "account": account}


def poll_result(event: object) -> Json:
    """Return what a wait that ended well has found, raise the error of any other.

    :param event: what a wait returned, possibly after a journey through the database.
    :raises TaskOutcome: what was waited for failed, or the wait gave up.
    :raises UsageError: this is no event of such a wait.
    """
    if not (isinstance(event, dict) and event.get("kind") in get_args(PollEnd) and event.keys() >= {"what", "value"}):
        raise errors.UsageError(f"this is not an event of a wait: {event!r:.200}")
    if event["kind"] == "ended":
        return event["value"]
    error, verdict = _ERRORS[event["kind"]]
    raise error(f"{event['what']} {verdict} {event.get('note', '')}".strip())


_ERRORS: dict[str, tuple[type[errors.TaskOutcome], str]] = {
    "failed": (errors.TaskFailed, "failed."),
    "timeout": (errors.WaitTimeout, "did not end in time."),
    "outage": (errors.ServerAway, "could not be looked at for too long."),
    "error": (errors.TaskOutcome, "cannot be looked at."),
}
