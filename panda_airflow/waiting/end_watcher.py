"""Which ends of tasks a watcher has told of, also after a restart: pure decisions, no I/O and no clock of its own.

An end is a task and the time of the status change that ended it, so that a task which is retried and ends again is a
new end. A watcher remembers a time of the server's and the ends since then that it has told. The time follows the
ends that are seen, at a distance, and one answer late: what one answer leaves out, or shows late, the next still tells.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from panda_airflow.client.errors import ServerError, UsageError
from panda_airflow.client.models import TaskInfo
from panda_airflow.client.status import FINAL_STATUSES, check_statuses

OVERLAP = timedelta(minutes=10)
"""How late the server may show an end, for clocks that differ and transactions that end late."""

FIRST_REACH = timedelta(hours=1)
"""How far back a watcher looks when it begins, for clocks that differ; what it finds there is history."""

LONGEST_MEMORY = 1000
"""Ends that a watcher remembers; after more than so many within the overlap, the overlap shrinks."""

LONGEST_BACKOFF = 600.0

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class TaskFilter:
    """Which ends a watcher tells of.

    :param name: pattern of the task name with ``*``, ``?`` and ``[...]``; upper and lower case differ.
    :param statuses: final statuses; an active one lasts too short to be seen.
    :param user: owner of the tasks, as the server writes the name; the caller if empty.
    :param prod_source_label: such as ``user`` or ``managed``.
    :param working_group: any if empty.
    :param processing_type: any if empty.
    :raises UsageError: a status is not final, or the server would read a value as a regular expression.
    """

    name: str = "*"
    statuses: Sequence[str] = ("done",)
    user: str = ""
    prod_source_label: str = "user"
    working_group: str = ""
    processing_type: str = ""

    def __post_init__(self) -> None:
        """Refuse what would never match."""
        if not self.statuses:
            raise UsageError("the statuses of a watcher are not final ones: there are none.")
        known = check_statuses(self.statuses, "statuses of a watcher", among=FINAL_STATUSES, sort="final")
        object.__setattr__(self, "statuses", known)
        for value in (self.user, self.prod_source_label):
            if set(value) & set("+()|*?^$\\"):
                raise UsageError(f"the server cannot look for {value!r}: it would read a regular expression.")

    def matches(self, info: TaskInfo) -> bool:
        """Whether a watcher wants to know of a task as it is now."""
        return (
            info.status in self.statuses
            and fnmatchcase(info.name, self.name)
            and self.working_group in ("", info.raw.get("workingGroup"))
            and self.processing_type in ("", info.raw.get("processingType"))
        )


def ended_at(info: TaskInfo) -> datetime:
    """Tell when a task that has ended did so, by the server's clock, naive UTC."""
    return info.state_change_time or info.modification_time or datetime.min  # noqa: DTZ901 - as the server's times


def end_of(info: TaskInfo) -> str:
    """Name an end: the same whoever sees it, another after a retry of the task."""
    return f"{info.task_id}@{ended_at(info).isoformat()}"


@dataclass(frozen=True)
class Position:
    """How far a watcher has come.

    :param since: earlier ends are history.
    :param upcoming: the next ``since``, which must wait for one more answer. Naive UTC of the server, both.
    :param told: time of the last end told, by task ID; none before ``since``.
    """

    since: datetime
    upcoming: datetime
    told: Mapping[int, datetime] = field(default_factory=dict)

    @classmethod
    def at(cls, since: datetime) -> Position:
        """Begin at a time."""
        return cls(since, since)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        """Read what :meth:`to_json` wrote."""
        read = datetime.fromisoformat
        told = {int(task_id): read(time) for task_id, time in value["told"].items()}
        return cls(read(value["since"]), read(value["upcoming"]), told)

    def to_json(self) -> dict[str, Any]:
        """Write the position in JSON primitives."""
        told = {str(task_id): time.isoformat() for task_id, time in self.told.items()}
        return {"since": self.since.isoformat(), "upcoming": self.upcoming.isoformat(), "told": told}

    def is_new(self, info: TaskInfo) -> bool:
        """Whether an end has not been told and is no history."""
        told = self.told.get(info.task_id)
        return ended_at(info) >= self.since and (told is None or ended_at(info) > told)

    def after(self, told: Iterable[TaskInfo], seen: Collection[TaskInfo], utc: datetime) -> Position:
        """Go on after an answer.

        :param told: ends that have been told because of it.
        :param seen: all that it held.
        :param utc: when it was asked for, by this machine's clock; a time after that is none of the server's clock.
        """
        times = {**self.told, **{info.task_id: ended_at(info) for info in told}}
        kept = {task_id: time for task_id, time in times.items() if time >= self.upcoming}
        latest = max((ended_at(info) for info in seen if ended_at(info) <= utc), default=self.upcoming)
        overlap = sorted(kept.values())[-LONGEST_MEMORY:] if len(kept) > LONGEST_MEMORY else [self.upcoming]
        return Position(self.upcoming, max(self.upcoming, latest - OVERLAP, overlap[0]), kept)


@dataclass(eq=False)
class EndWatcher:
    """One watcher.

    :param filter: what it tells of.
    :param position: how far it has come; None before its first answer, which is history.
    """

    filter: TaskFilter
    position: Position | None = None

    def new(self, tasks: Iterable[TaskInfo]) -> list[TaskInfo]:
        """Pick the ends to tell of, the oldest first."""
        found = {end_of(info): info for info in tasks if self.filter.matches(info)}
        return sorted((info for info in found.values() if self.position and self.position.is_new(info)), key=ended_at)

    def take(self, question: EndQuery, tasks: Collection[TaskInfo]) -> list[TaskInfo]:
        """Take an answer and go on; return the ends to tell of, the oldest first."""
        new = self.new(tasks)
        told = new if self.position else sorted(filter(self.filter.matches, tasks), key=ended_at)
        self.position = (self.position or Position.at(question.since)).after(told, tasks, question.utc)
        return new


@dataclass(frozen=True)
class EndQuery:
    """What to ask the server, on behalf of all watchers of one user and label.

    :param watches: whom the answer serves.
    :param since: a time of the server's that is early enough for all of them, naive UTC.
    :param utc: when it is asked, by this machine's clock, naive UTC.
    """

    watches: Collection[EndWatcher]
    since: datetime
    utc: datetime

    @classmethod
    def of(cls, watches: Collection[EndWatcher], utc: datetime) -> EndQuery:
        """Ask for as much as the watchers need, who are one at least."""
        since = (watch.position.since if watch.position else utc - FIRST_REACH for watch in watches)
        return cls(tuple(watches), min(since), utc)

    def filters(self) -> list[str]:
        """Write the server's filters: one request for each status, since it compares with one value only."""
        asked = next(iter(self.watches)).filter
        scope = {"prodSourceLabel": asked.prod_source_label} | ({"userName": asked.user} if asked.user else {})
        statuses = set(chain.from_iterable(watch.filter.statuses for watch in self.watches))
        return [json.dumps(scope | {"status": status}) for status in sorted(statuses)]


def backoff(interval: float, failures: int, error: Exception) -> float:
    """Seconds until the next question after some have failed in a row.

    :param interval: seconds between questions when all is well.
    :param failures: how many have failed.
    :param error: the last of these errors.
    """
    asked = error.retry_after or 0.0 if isinstance(error, ServerError) else 0.0
    return max(interval, min(max(interval * 2.0 ** min(failures, 10), asked), LONGEST_BACKOFF))


def read_time(text: str) -> datetime:
    """Read a time as an author writes it, into naive UTC.

    :param text: ISO 8601; UTC where it names no zone.
    :raises UsageError: it is no time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"this is no time: {text!r}.", advice="Write it like 2026-11-24 08:00:00.") from None
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
