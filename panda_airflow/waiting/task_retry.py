"""Retries of a PanDA task while it is waited for: how often, when and with which parameters. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from math import isfinite
from typing import Any

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import NO_MARK, Json, Mark, TaskInfo
from panda_airflow.client.status import RETRYABLE_STATUSES, check_statuses
from panda_airflow.client.stored import known
from panda_airflow.waiting.driver import Request, utc_time


@dataclass(frozen=True, kw_only=True)
class TaskRetryPolicy:
    """When a step retries its PanDA task in place instead of failing.

    :param attempts: how often, at most.
    :param statuses: final statuses in which it does; ``exhausted`` needs the production role.
    :param delay: time before the first retry, as a timedelta or in seconds.
    :param factor: by how much each delay is longer than the one before.
    :param max_delay: longest delay, as a timedelta or in seconds.
    :param new_parameters: task parameters to overwrite at the first, second, ... retry, of which the last also serve
        for those after it. The server heeds ``ramCount``, ``site``, ``includedSite``, ``excludedSite``, ``cloud``,
        ``nFiles``, ``nEvents``, ``priority`` and the rules of splitting such as ``nFilesPerJob``, and ignores others.
        Only for tasks with ``taskType`` ``anal``.
    :raises UsageError: a value makes no sense.
    """

    attempts: int
    statuses: tuple[str, ...] = ("finished", "failed")
    delay: float | timedelta = 300.0
    factor: float = 2.0
    max_delay: float | timedelta = 4 * 3600.0
    new_parameters: Sequence[Mapping[str, Json]] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        """Check what was given, and keep plain copies of it."""
        _check(type(self.attempts) is int and self.attempts >= 0, "attempts", "a number of retries", self.attempts)
        known = check_statuses(
            self.statuses, "statuses of a TaskRetryPolicy", among=RETRYABLE_STATUSES, sort="retryable"
        )
        object.__setattr__(self, "statuses", known)
        object.__setattr__(self, "new_parameters", tuple(_copies(self.new_parameters)))
        for name in ("delay", "factor", "max_delay"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))

    def delay_of(self, number: int) -> float:
        """Seconds before a retry.

        :param number: 1 for the first.
        """
        seconds, longest = _seconds("delay", self.delay), _seconds("max_delay", self.max_delay)
        for _ in range(number - 1):
            seconds = min(seconds * self.factor, longest)
        return min(seconds, longest)

    def parameters_of(self, number: int) -> dict[str, Json]:
        """Task parameters to overwrite at a retry, none if empty.

        :param number: 1 for the first.
        """
        return dict(self.new_parameters[:number][-1]) if self.new_parameters else {}

    def to_json(self) -> dict[str, Any]:
        """Write the policy as JSON primitives."""
        return asdict(self) | {"statuses": list(self.statuses), "new_parameters": list(self.new_parameters)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TaskRetryPolicy:
        """Read what :meth:`to_json` wrote."""
        return cls(**known(cls, value))


def _check(holds: bool, name: str, wanted: str, given: object) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise UsageError(f"{name} of a TaskRetryPolicy must be {wanted}, not {given!r:.80}.")


def _seconds(name: str, value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and isfinite(seconds) and seconds >= 0
    _check(is_number, name, "a number from 0 on", value)
    return float(seconds)


def _copies(values: Any) -> list[dict[str, Json]]:
    is_list = isinstance(values, Sequence) and all(isinstance(item, Mapping) for item in values)
    _check(is_list, "new_parameters", "a list of dicts, one for each retry", values)
    try:
        return [json.loads(json.dumps(dict(item), allow_nan=False)) for item in values]
    except (TypeError, ValueError) as error:
        raise UsageError(f"new_parameters of a TaskRetryPolicy must be JSON: {error}.") from error


_NEVER = TaskRetryPolicy(attempts=0)


class Retries:
    """Says in a wait whether an ended task is to be retried, and when; the step itself records and sends each retry.

    A wait may be made again in another process at any time and knows no more than its plan, so that it would retry
    more often than the policy says, or with parameters that were used before. JEDI's own count of attempts is no
    help: it begins at 0 whenever the task is refined again.

    :param policy: of the wait; None retries nothing.
    :param made: how many retries the step has recorded.
    :param shortest: seconds to wait at least, so that a retry that cannot be registered goes to and fro no faster.
    :param deadline: epoch seconds after which nothing is retried, or None.
    """

    def __init__(self, policy: TaskRetryPolicy | None, made: int, shortest: float, deadline: float | None) -> None:
        self._policy = policy or _NEVER
        self._made = made
        self._shortest = shortest
        self._deadline = deadline
        self._paused: Mark | None = None

    def objection(self, info: TaskInfo, now: float) -> str | None:
        """Say why an ended task is not retried, in an empty text where its policy says all; None if it is."""
        if info.status not in self._policy.statuses or self._made >= self._policy.attempts:
            return ""
        if self._policy.new_parameters and info.raw.get("taskType", "anal") != "anal":
            return "It was not retried: with new parameters, the server would make a new task of a production task."
        if self._deadline is not None and now + self._pause_before(info) >= self._deadline:
            return f"It was not retried: the deadline, {utc_time(self._deadline)}, is before its next retry."
        return None

    def pause(self, info: TaskInfo) -> Request | None:
        """Pause before the retry of an ended task; None once that is over and the task has not moved."""
        if self._is_paused(info):
            return None
        seconds = self._pause_before(info)
        self._paused = Mark.of(info)
        number = f"retry {self._made + 1} of {self._policy.attempts}"
        note = f"PanDA task {info.task_id} ended as {info.status}: it is retried in {seconds:.0f} s ({number})."
        return Request(seconds, note=note, warn=True)

    def _is_paused(self, info: TaskInfo) -> bool:
        return self._paused is not None and self._paused.holds(info)

    def _pause_before(self, info: TaskInfo) -> float:
        delay = self._policy.delay_of(self._made + 1)
        return 0.0 if self._is_paused(info) else max(delay, min(self._shortest, MOMENT))


MOMENT = 10.0
"""Seconds after which a retry that could not be registered is sent again, if its policy has no delay."""


@dataclass(frozen=True)
class SentRetry:
    """A retry in place that was about to be sent.

    :param at: epoch seconds.
    :param mark: where the task stood: as long as that holds, JEDI has not executed the retry, which may be lost.
    :param by_policy: whether its parameters are those of the policy.
    """

    at: float = 0.0
    mark: Mark = NO_MARK
    by_policy: bool = True

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SentRetry:
        """Read its fields, whatever version wrote them."""
        return cls(**(known(cls, value) | {"mark": Mark.from_json(value.get("mark")) or NO_MARK}))


@dataclass(frozen=True)
class RetryHistory:
    """The retries in place that a step has recorded, each before it was sent.

    :param task_id: of which task; another one has no history yet.
    :param key: what that task carries, since IDs repeat.
    :param sent: all of them.
    :param begun: how many of them there were when the count for the policy last began.
    """

    task_id: int
    key: str = ""
    sent: tuple[SentRetry, ...] = ()
    begun: int = 0

    def to_json(self) -> dict[str, Any]:
        """Write the history as JSON primitives."""
        return asdict(self) | {"sent": [asdict(retry) for retry in self.sent]}

    @classmethod
    def of(cls, task_id: int, key: str, value: Mapping[str, Any] | None) -> RetryHistory:
        """Read what :meth:`to_json` wrote, in whatever version; empty if that is of another task."""
        if not value or (value.get("task_id"), value.get("key")) != (task_id, key):
            return cls(task_id, key)
        sent = tuple(SentRetry.from_json(item) for item in value.get("sent", []))
        return cls(task_id, key, sent, value.get("begun", 0))

    @property
    def here(self) -> int:
        """How many there were since the count for the policy last began."""
        return len(self.sent) - self.begun

    def anew(self) -> RetryHistory:
        """Begin the count for the policy anew."""
        return replace(self, begun=len(self.sent))

    def is_pending(self, info: TaskInfo) -> bool:
        """Whether the task stands where it stood before the last one."""
        return bool(self.sent) and self.sent[-1].mark.holds(info)

    def number(self, info: TaskInfo) -> int:
        """Which of the policy's retries is the next: that which JEDI has yet to execute, if there is one."""
        return max(1, sum(retry.by_policy for retry in self.sent) + (not self.is_pending(info)))

    def noted(self, info: TaskInfo, now: float, *, by_policy: bool = True) -> RetryHistory:
        """Add a retry that is about to be sent; one that JEDI has yet to execute is replaced by it, on the server too.

        :param info: the task as it stands.
        :param now: epoch seconds.
        """
        if self.is_pending(info):
            return self
        return replace(self, sent=(*self.sent, SentRetry(now, Mark.of(info), by_policy)))
