"""What a status feed knows and asks next, as pure decisions: no I/O and no clock of its own.

One question to the server covers every task of one user and label that changed since a watermark. A wait that joins is
taken for one of the caller's own tasks, under its own request ID, until the next question proves it; only where that
does not show its task does the wait look itself, and where the task belongs is then known; a task that is not
registered yet is looked at rarely, as a question shows once it is. A final row ends the wait if its status says all,
and it was asked for after the wait began; any other is a reason to look.

An answer is read by what it leaves out, too. It is keyed by request ID, so a request ID that is absent proves that none
of its tasks has ended; one that is there under another task's name may hide this one, and then the wait looks at its
own pace until that is over. The watermark comes from the server's own times and moves only as rows arrive: an answer
that is empty because the database is down loses nothing. JEDI back-dates active tasks, so that now and then a wide
question asks for all of them. An end that is told in time and under the task's own request ID is noticed after one
interval, any other after two audits at the latest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf

from panda_airflow.client import errors
from panda_airflow.client.models import TaskInfo, TaskRow
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.waiting.task import REACH

AUDIT = 1800.0
"""Seconds between two wide questions; what the narrow ones missed is found by the next wide one."""

SPREAD = 900
"""Seconds over which waits spread their looks once the feed can no longer be trusted."""

GATHERING = 1.0
"""Seconds before the first question, in which all may join that begin together."""

OVERLAP = timedelta(minutes=10)
"""How far behind the watermark a question reaches, for clocks that differ and transactions that end late."""

BACK_DATED = timedelta(hours=7)
"""How far behind the tasks' own times a wide question reaches; JEDI turns them back by up to 6 hours."""

HIDDEN = 5
"""Intervals between looks at a task that is not registered yet, and up to twice that, so that they spread."""


TOO_MANY_FAILURES = 3
LONGEST_BACKOFF = 600.0

State = tuple[str, datetime | None]
"""Status and modification time."""


@dataclass(eq=False, slots=True)
class Waiting:
    """One wait, as the ledger knows it; times are seconds of the feed's clock.

    :param task_id: JediTaskID.
    :param interval: seconds that may pass before a change is noticed.
    :param own_pace: whether it needs more than the end of the task, which the feed cannot tell.
    :param conclusive: final statuses of which a row says all that the wait needs.
    :param due: when it looks if the feed cannot tell about its task.
    :param deadline: when it looks at the latest.
    :param entered: when it was last put under its scope.
    :param shown_by: until when it waits to be shown for the first time.
    :param unregistered_until: until when its task is taken not to be registered yet, which a question shows once it is.
    :param known: whether its task was ever seen.
    :param last_told: the last final state that an answer told and that is no end by itself.
    :param news: whether there is a reason to look now.
    :param maybe_hidden: whether the last answer may hide the task.
    :param look_failed: whether its last look has failed, so that it takes the server to be away.
    :param row: what an answer tells the wait itself: the end of the task, or that the server is back.
    """

    task_id: int
    interval: float
    own_pace: bool = False
    conclusive: frozenset[str] = frozenset()
    due: float = -inf
    deadline: float = inf
    scope: Scope | None = None
    request_id: int = 0
    entered: float = -inf
    shown_by: float = -inf
    unregistered_until: float = -inf
    known: bool = False
    last_told: State | None = None
    news: bool = False
    maybe_hidden: bool = False
    look_failed: bool = False
    row: TaskRow | None = None

    def take_row(self) -> TaskRow | None:
        """Hand over the row, once."""
        row, self.row = self.row, None
        self.news = self.news and row is None
        return row


@dataclass(eq=False)
class Scope:
    """The tasks of one user and label, which one question covers.

    :param user: empty for the caller.
    :param waiting: waits by request ID.
    :param members: all of them.
    :param unproven: those whose task no answer has shown yet, nor a look since.
    :param maybe_hidden_waits: those that the last answer may hide.
    :param interval: the shortest of all waits.
    :param watermark: a time of the server that had passed at ``marked``, naive UTC, or None.
    :param marked: when that was established, by the feed's clock.
    :param oldest: the oldest time of a task that is waited for, as the server told it.
    :param audited: when a wide question was last answered with a task that is waited for.
    :param next: when to ask again.
    :param prove: when to ask for those that are unproven.
    :param earliest: before which nobody who joins makes the feed ask.
    :param failures: questions that failed in a row.
    """

    user: str
    label: str
    waiting: dict[int, set[Waiting]] = field(default_factory=dict)
    members: set[Waiting] = field(default_factory=set)
    unproven: set[Waiting] = field(default_factory=set)
    maybe_hidden_waits: set[Waiting] = field(default_factory=set)
    interval: float = inf
    watermark: datetime | None = None
    marked: float = 0.0
    oldest: datetime | None = None
    audited: float = -inf
    next: float = -inf
    prove: float = inf
    earliest: float = -inf
    failures: int = 0

    def next_time(self) -> float:
        """When to ask next."""
        return min(self.next, self.prove if self.unproven else inf) if self.members else inf

    def trusted_until(self, waiting: Waiting) -> float:
        """Until when a task is left to the questions."""
        if waiting in self.unproven:
            return -inf if self.failures >= TOO_MANY_FAILURES else max(waiting.shown_by, waiting.unregistered_until)
        return -inf if self.failures >= TOO_MANY_FAILURES else self.audited + 2 * AUDIT - waiting.task_id % SPREAD

    def enter(self, waiting: Waiting, request_id: int, now: float) -> None:
        """Cover a wait from the next question on."""
        self.members.add(waiting)
        self.waiting.setdefault(request_id, set()).add(waiting)
        self.interval = min(self.interval, waiting.interval)
        waiting.scope, waiting.request_id, waiting.entered = self, request_id, now

    def have_proven(self, waiting: Waiting, when: float) -> None:
        """Have a question show that a wait is covered."""
        self.prove = min(self.prove if self.unproven else inf, max(when, self.earliest))
        self.unproven.add(waiting)

    def leave(self, waiting: Waiting) -> None:
        """Cover a wait no more."""
        for group in (self.members, self.unproven, self.maybe_hidden_waits, self.waiting[waiting.request_id]):
            group.discard(waiting)
        if not self.waiting[waiting.request_id]:
            del self.waiting[waiting.request_id]
        waiting.scope, waiting.maybe_hidden = None, False

    def advance(self, question: BulkPoll, latest: datetime | None, now: float) -> None:
        """Move the watermark, but only by an answer that holds something: an empty one may come from nowhere.

        :param latest: of the server's times in the answer; one that lies in the future is none of its clock's.
        """
        if latest:
            aged = [self.watermark + timedelta(seconds=question.asked - self.marked)] if self.watermark else []
            self.watermark, self.marked = max([min(latest, question.utc), *aged]), now


@dataclass(eq=False)
class BulkPoll:
    """One bulk request, and what its answer has told so far.

    :param since: as the server reads it.
    :param min_task_id: leave out this task and all before it.
    :param wide: whether it reaches behind the back-dated times of all tasks waited for.
    :param narrow: whether it asks for changes only, so that nothing follows from a task's absence.
    :param unshown: waits whose task its answer should show and has not shown yet.
    :param asked: when, by the feed's clock.
    :param utc: when, by this machine's clock, naive UTC.
    :param maybe_hidden_waits: waits that its answer may hide.
    :param oldest: the oldest time that it told of a task that is waited for.
    :param shown: whether it told of any such task.
    """

    scope: Scope
    since: str
    min_task_id: int
    wide: bool
    narrow: bool
    unshown: set[Waiting]
    asked: float
    utc: datetime
    maybe_hidden_waits: set[Waiting] = field(default_factory=set)
    oldest: datetime | None = None
    shown: bool = False


class Planner:
    """Decides what to ask, and which waits have a reason to look."""

    def __init__(self) -> None:
        self._scopes: dict[tuple[str, str], Scope] = {}

    def join(self, waiting: Waiting, label: str, now: float) -> None:
        """Take a task for the caller's own until the next question shows it, or not."""
        if waiting.own_pace:
            return
        scope = self._scope("", label)
        if not scope.members:
            scope.next = max(scope.next, now + waiting.interval)
        scope.enter(waiting, waiting.task_id, now)
        waiting.shown_by = now + 2 * waiting.interval
        scope.have_proven(waiting, now + min(GATHERING, waiting.interval / 10))

    def saw(self, waiting: Waiting, info: TaskInfo, now: float) -> None:
        """Learn from a look where the task belongs, and from now on leave it to the questions if they cover it."""
        waiting.known, waiting.look_failed = True, False
        label = str(info.raw.get("prodSourceLabel") or "")
        if info.status == "registered":  # not refined: it has no owner yet
            self.not_registered(waiting, now)
        elif waiting.own_pace or info.status in FINAL_STATUSES or not label:  # it may wait for a command to be executed
            self.forget(waiting)
        else:
            self._cover(waiting, info, label, now)

    def _cover(self, waiting: Waiting, info: TaskInfo, label: str, now: float) -> None:
        scope, request_id = waiting.scope, int(info.raw.get("reqID") or 0)
        if not scope or waiting in scope.unproven or waiting.request_id != request_id:
            self.forget(waiting)
            scope = self._scope(info.user_name, label)
            scope.next = max(scope.next, now) if scope.failures else min(max(scope.next, now), now + waiting.interval)
            scope.enter(waiting, request_id, now)
        waiting.entered = now
        scope.oldest = _older(scope.oldest, info.modification_time)

    def look_failed(self, waiting: Waiting) -> None:
        """Take it that a look failed: the wait looks again at its own pace, unless an answer shows its task."""
        waiting.news, waiting.shown_by, waiting.look_failed, waiting.last_told = False, -inf, True, None
        if scope := waiting.scope:
            scope.have_proven(waiting, scope.next)

    def not_registered(self, waiting: Waiting, now: float) -> None:
        """Take it that JEDI has not registered a task; whether there is such a task at all only rare looks tell."""
        self.look_failed(waiting)
        waiting.unregistered_until = now + HIDDEN * (1 + waiting.task_id % 100 / 100) * waiting.interval

    def forget(self, waiting: Waiting) -> None:
        """Ask nothing more for this wait."""
        if waiting.scope:
            waiting.scope.leave(waiting)

    def left(self, waiting: Waiting, now: float) -> float:
        """Seconds until this wait should look, 0 or less for now; ask again when they have passed."""
        trusted = waiting.scope.trusted_until(waiting) if waiting.scope and not waiting.maybe_hidden else -inf
        until = -inf if waiting.news else trusted if now < trusted else waiting.due
        return min(until, waiting.deadline) - now

    def next_time(self) -> float:
        """When to ask the next question, by the feed's clock; never if nobody waits for an answer."""
        return min((scope.next_time() for scope in self._scopes.values()), default=inf)

    def question(self, now: float, utc: datetime) -> BulkPoll:
        """Say what to ask now, when :meth:`next_time` has come.

        :param utc: the time by this machine's clock, naive UTC.
        """
        scope = min(self._scopes.values(), key=Scope.next_time)
        scope.interval = min(waiting.interval for waiting in scope.members)
        wide = scope.watermark is None or now >= scope.audited + AUDIT
        proof = bool(scope.unproven) and scope.prove <= scope.next
        asked_for: Collection[Waiting] = scope.unproven if proof and not wide else scope.members
        since = scope.watermark - OVERLAP if scope.watermark and not wide and not proof else utc
        if wide:
            since = min(since, scope.oldest or utc) - BACK_DATED
        if scope.unproven and (wide or proof):
            since = min(since, utc - REACH)
        first = min(waiting.task_id for waiting in asked_for) - 1
        unshown = set(asked_for) if wide or proof else set[Waiting]()
        return BulkPoll(scope, since.strftime("%Y-%m-%d %H:%M:%S"), first, wide, not (wide or proof), unshown, now, utc)

    def read(self, question: BulkPoll, rows: Iterable[TaskRow]) -> list[Waiting]:
        """Take a part of an answer; return the waits whose :meth:`left` has changed."""
        changed = []
        for row in rows:
            for waiting in question.scope.waiting.get(row.request_id, ()):
                if row.task_id == waiting.task_id:
                    _show(row, waiting, question)
                else:
                    waiting.maybe_hidden = True
                    question.maybe_hidden_waits.add(waiting)
                if waiting.maybe_hidden or waiting.news:
                    changed.append(waiting)
        return changed

    def finish(self, question: BulkPoll, latest: datetime | None, now: float) -> list[Waiting]:
        """Take the end of an answer; return the waits whose :meth:`left` has changed.

        :param latest: of all times in the answer, None if it is empty.
        """
        scope = question.scope
        scope.advance(question, latest, now)
        for waiting in scope.maybe_hidden_waits - question.maybe_hidden_waits:
            waiting.maybe_hidden = False
        scope.maybe_hidden_waits = question.maybe_hidden_waits & scope.members
        is_strange = question.wide and not question.shown and scope.audited > -inf
        unshown = set[Waiting]() if is_strange else question.unshown & scope.members
        missing = [one for one in unshown if one.entered <= question.asked and one.unregistered_until <= now]
        for waiting in missing:
            waiting.shown_by, waiting.news = -inf, waiting.news or waiting not in scope.unproven
        if question.wide and question.shown:
            scope.oldest = question.oldest
        scope.failures = scope.failures + 1 if is_strange else 0
        _schedule(question, now)
        return list(scope.members) if scope.failures == TOO_MANY_FAILURES else missing

    def failed(self, question: BulkPoll, error: errors.PandaError, now: float) -> list[Waiting]:
        """Take it that a question was not answered; return the waits whose :meth:`left` has changed."""
        scope = question.scope
        scope.failures += 1
        _schedule(question, now, error.retry_after if isinstance(error, errors.ServerError) else None)
        return list(scope.members) if scope.failures == TOO_MANY_FAILURES else []

    def _scope(self, user: str, label: str) -> Scope:
        known = self._scopes.get((user, label))
        return known or self._scopes.setdefault((user, label), Scope(user, label))


def _show(row: TaskRow, waiting: Waiting, question: BulkPoll) -> None:
    """Note what a row means to the wait for its task."""
    scope, state = question.scope, (row.status, row.modification_time)
    if row.status in waiting.conclusive and waiting in scope.unproven and waiting.entered >= question.asked:
        return  # it joined too late to believe this row: the next question, which comes soon, shows it again
    question.shown = waiting.known = True
    question.unshown.discard(waiting)
    scope.unproven.discard(waiting)
    if question.wide:
        scope.audited, question.oldest = question.asked, _older(question.oldest, row.modification_time)
    scope.oldest = _older(scope.oldest, row.modification_time)
    if row.status in waiting.conclusive and waiting.entered < question.asked:
        waiting.row, waiting.news = row, True
    elif row.status in FINAL_STATUSES:
        waiting.news = waiting.news or question.wide or state != waiting.last_told
        waiting.last_told, waiting.maybe_hidden = state, True
        question.maybe_hidden_waits.add(waiting)
    elif waiting.look_failed:
        waiting.row, waiting.news, waiting.look_failed = row, True, False


def _schedule(question: BulkPoll, now: float, retry_after: float | None = None) -> None:
    """Ask again after the shortest interval, rarely while it fails, and never faster than the server answers."""
    scope, took = question.scope, now - question.asked
    interval = scope.interval if scope.members else 0.0
    soon = interval / 10 if scope.unproven and 0 < scope.failures < TOO_MANY_FAILURES else interval
    pause = max(soon, min(max(doubled(soon, scope.failures), retry_after or 0.0), LONGEST_BACKOFF))
    again = max(question.asked + pause, now + took)
    scope.earliest = again if scope.failures else max(question.asked + interval / 10, now + 9 * took)
    if scope.failures or question.wide or question.narrow:
        scope.next = again
    if scope.failures or not question.narrow:
        scope.prove = again


def doubled(seconds: float, times: int) -> float:
    """Grow a pause with each failure."""
    return seconds * 2.0 ** min(times, 10)


def _older(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other
