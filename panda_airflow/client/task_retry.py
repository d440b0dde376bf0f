"""Retries of a PanDA task while it is waited for: how often, when and with which parameters. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from math import isfinite
from typing import Any

from panda_airflow.client.driver import NO_FAILURES, Step, clock, is_permanent
from panda_airflow.client.errors import NotFound, PandaError, Refused, UsageError
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.status import RETRYABLE_STATUSES, check_statuses


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
        return cls(**value)


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
    """The retries of one task in one wait: how many there were, and whether there is another.

    :param policy: of the wait; None retries nothing.
    :param first_attempt: attempts that JEDI had executed when the step began.
    :param deadline: epoch seconds after which nothing is retried, or None.
    :param outage: seconds during which a retry may fail to be registered before the wait gives up.
    """

    def __init__(
        self, policy: TaskRetryPolicy | None, *, first_attempt: int, deadline: float | None, outage: float
    ) -> None:
        self._policy = policy or _NEVER
        self._first_attempt = first_attempt
        self._deadline = deadline
        self._outage = outage
        self._failures = NO_FAILURES
        self._paused: Mark | None = None
        self._refused: tuple[Mark, str] | None = None
        self.made = 0

    def count(self, info: TaskInfo) -> None:
        """Learn from a look how many retries there were; JEDI counts those that it has executed."""
        self.made = max(self.made, info.attempt_nr - self._first_attempt)

    def objection(self, info: TaskInfo, now: float) -> str | None:
        """Say why an ended task is not retried, in an empty text where its policy says all; None if it is."""
        if info.status not in self._policy.statuses or self.made >= self._policy.attempts:
            return ""
        if self._refused and self._refused[0] == Mark.of(info):
            return self._refused[1]
        if self._policy.parameters_of(self.made + 1) and info.raw.get("taskType", "anal") != "anal":
            return "It was not retried: with new parameters, the server would make a new task of a production task."
        if self._deadline is not None and now + self._pause_before(info) >= self._deadline:
            return f"It was not retried: the deadline, {clock(self._deadline)}, is before its next retry."
        return None

    def step(self, info: TaskInfo) -> Step:
        """Pause before the retry of an ended task, and after that, if the task has not moved, ask for it."""
        number, parameters = self.made + 1, self._policy.parameters_of(self.made + 1)
        if self._paused == Mark.of(info):
            return Step(act="retry", parameters=parameters)
        seconds = self._pause_before(info)
        self._paused = Mark.of(info)
        self._failures = NO_FAILURES
        changed = "".join(f", {name}={value!r:.80}" for name, value in parameters.items())
        note = (
            f"PanDA task {info.task_id} ended as {info.status}: it is retried in {seconds:.0f} s "
            f"(retry {number} of {self._policy.attempts}{changed})."
        )
        return Step(seconds, note=note, warn=True)

    def accept(self) -> None:
        """Count a retry that the server has registered, whether or not JEDI will count it."""
        self.made += 1
        self._failures = NO_FAILURES

    def refuse(self, error: PandaError, info: TaskInfo, now: float) -> str:
        """Take note of a retry that was not registered, and say so; give up if that is for good.

        :param error: a refusal is for good unless the task has moved; other failures are after an outage.
        """
        is_refusal = isinstance(error, Refused) and not isinstance(error, NotFound)
        self._failures = self._failures.and_one(now)
        over = self._failures.are_too_many(now, self._outage)
        if is_refusal or over or is_permanent(error, seen=True):
            self._refused = Mark.of(info), f"Its retry could not be registered: {error}"
        return f"The retry of PanDA task {info.task_id} was not registered: {error}"

    def _pause_before(self, info: TaskInfo) -> float:
        return 0.0 if self._paused == Mark.of(info) else self._policy.delay_of(self.made + 1)
