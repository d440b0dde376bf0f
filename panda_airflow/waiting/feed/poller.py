"""The status feed: all waits of one user at one server in one event loop share one poller.

A wait joins the feed of its account and uses its :class:`Waiter` in place of a pause and of a look of its own::

    async with join(conn_id, lambda: PandaHook(conn_id).client, plan) as waiter:
        event = await adrive(plan, waiter.perform, sleep=waiter.rest, clock=time.time, log=log)

What is asked and why is decided in :mod:`panda_airflow.waiting.feed.planner`. A change is noticed after the shortest
``poll_interval`` of all waits, and at the latest after two audits (an hour). Whatever concerns all waits is done in
portions, so that the event loop is never busy for long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from threading import Event
from typing import Protocol, TypeVar

from panda_airflow.client.auth.reread import is_renewed
from panda_airflow.client.errors import NotFound, PandaError
from panda_airflow.client.models import TaskInfo
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.client.stored import Account
from panda_airflow.waiting.driver import Request
from panda_airflow.waiting.feed.backoff import Backoff
from panda_airflow.waiting.feed.planner import BulkPoll, Planner, Waiting
from panda_airflow.waiting.feed.push import BrokerListener
from panda_airflow.waiting.feed.threads import LOOKS_AT_ONCE, ClientThreads, send_bulk_poll
from panda_airflow.waiting.task_polls import perform_many

log = logging.getLogger(__name__)

R = TypeVar("R")

ROWS_AT_ONCE = 500
REPORT_INTERVAL = 60.0
RESTART = 10.0

_KEPT = frozenset({"taskType"})
"""What a wait reads in the raw data of a look: whether its task may be retried with new parameters."""

WAKES_AT_ONCE = 50


class Joined(Protocol):
    """A wait that has joined a feed."""

    def wake(self) -> None:
        """Have the wait ask again how long to rest."""


class Feed:
    """One poller for all waits of an account.

    :param name: of the connection of the first wait.
    :param account: whose tasks are where.
    :param report: receives the feed, once a minute and at its end.
    :param forget: called at the end.
    :ivar waiters: who waits for a task, by wait.
    :ivar semaphore: what a look at a single task has to hold.
    :ivar questions: bulk requests made.
    :ivar looks: requests made for single tasks.
    :ivar changes: times that a wait was given a reason to look.
    :ivar failures: requests that failed.
    :ivar answered: when the last bulk request was answered, by ``time.monotonic``, or None.
    """

    def __init__(
        self, name: str, account: Account, report: Callable[[Feed], None] | None, forget: Callable[[], object]
    ) -> None:
        self.name = name
        self._forget = forget
        self.waiters: dict[Waiting, Joined] = {}
        self.questions = self.looks = self.changes = self.failures = 0
        self.answered: float | None = None
        loop = asyncio.get_running_loop()
        self._planner = Planner()
        self._backoff = Backoff()
        self._threads = ClientThreads(account, lambda config: BrokerListener(config, loop, self.tell))
        self.semaphore = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._one_list = asyncio.Lock()
        self._more = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._report = report
        self._reported = time.monotonic()
        self._told: Counter[str] = Counter()

    @property
    def lag(self) -> float:
        """Seconds since the last bulk answer; infinite if none came yet."""
        return inf if self.answered is None else time.monotonic() - self.answered

    @property
    def listener(self) -> BrokerListener | None:
        """What hears of changes from a message broker, if the connection names one."""
        return self._threads.listener

    def may_connect(self, name: str, connect: Callable[[], PandaClient]) -> None:
        """Learn of a connection by which the client can be made."""
        self._threads.ways.setdefault(name, connect)

    def tell(self, task_id: int, status: str) -> None:
        """Give the waits for a task a reason to look now; only what they see themselves can end them.

        :param status: that somebody else saw.
        """
        for waiting, waiter in self.waiters.items():
            if waiting.task_id == task_id and (waiting.own_pace or status in FINAL_STATUSES):
                waiting.news = True
                self.changes += 1
                waiter.wake()

    def counts(self) -> dict[str, int]:
        """Count what happened since the last call, or since the feed began."""
        total = Counter(questions=self.questions, looks=self.looks, changes=self.changes, failures=self.failures)
        new, self._told = total - self._told, total
        return dict(new)

    def enter(self, waiting: Waiting, label: str) -> None:
        """Take in a wait.

        :param label: that its task has, for all that is known.
        """
        self._planner.join(waiting, label, time.monotonic())
        self._poll_on()

    def left(self, waiting: Waiting) -> float:
        """Seconds until a wait should look; see :meth:`Planner.left`."""
        return self._planner.left(waiting, time.monotonic())

    async def look(self, waiting: Waiting) -> TaskInfo:
        """Look at one task.

        :raises PandaError: the look failed, or would fail as those before it did.
        """
        waiting.news = False
        try:
            self._check(waiting)
            info = await self._request(waiting)
        except PandaError as error:
            self.look_failed(waiting, error)
            raise
        self._backoff.succeeded()
        return self.saw(waiting, info)

    async def look_at_many(self, waits: Sequence[Waiting], request: Request) -> dict[int, object]:
        """Look at the tasks of one list at a time, or at a single one as :meth:`look` does."""
        gone = Event()
        async with self.semaphore if len(waits) == 1 else self._one_list:
            try:
                self._check(waits[0])
                answers = await self.run(partial(perform_many, request=request, gone=gone))
            except PandaError as error:
                return dict.fromkeys(request.task_ids, error)
            finally:
                gone.set()
        failed = [(one, answer) for one in waits if isinstance(answer := answers[one.task_id], PandaError)]
        self.looks += len(waits)
        self.failures += len(failed)
        if len(failed) < len(waits):
            self._backoff.succeeded()
        else:
            for waiting, answer in failed:
                self._backoff.failed(waiting, answer, time.monotonic())
        return answers

    def _check(self, waiting: Waiting) -> None:
        """Spare the server a look that would fail, unless the credential was renewed since."""
        if is_renewed(self._backoff.error):
            self._backoff.succeeded()
        self._backoff.check(waiting, time.monotonic())

    def saw(self, waiting: Waiting, info: TaskInfo) -> TaskInfo:
        """Learn from a look.

        :return: the task with little of its raw data, as that would be kept for as long as the wait lasts.
        """
        self._planner.saw(waiting, info, time.monotonic())
        self._poll_on()
        return replace(info, raw={name: info.raw[name] for name in _KEPT & info.raw.keys()})

    def look_failed(self, waiting: Waiting, error: object) -> None:
        """Learn that a look failed."""
        if isinstance(error, NotFound) and not waiting.known:
            self._planner.not_registered(waiting, time.monotonic())
        else:
            self._planner.look_failed(waiting)

    def leave(self, waiting: Waiting) -> None:
        """Forget a wait that is over."""
        self.waiters.pop(waiting, None)
        self._planner.forget(waiting)

    def close(self) -> None:
        """Stop asking and close the client, in its thread."""
        self._forget()
        if self._poller:
            self._poller.cancel()
        self._threads.close()
        if self._report:
            asyncio.get_running_loop().call_soon(self._report, self)  # no wait fails with it

    async def run(self, call: Callable[[PandaClient], R]) -> R:
        """Let a thread use the client."""
        return await self._threads.run(call)

    async def _request(self, waiting: Waiting) -> TaskInfo:
        self.looks += 1
        try:
            return await self.run(lambda client: client.task.get_detailed_info(waiting.task_id))
        except PandaError as error:
            self.failures += 1
            self._backoff.failed(waiting, error, time.monotonic())
            raise

    def _poll_on(self) -> None:
        """Wake the poller, or start it."""
        self._more.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name=f"status feed of {self.name}")
            self._poller.add_done_callback(self._restart)

    def _restart(self, poller: asyncio.Task[None]) -> None:
        """Go on a little later, after an error that is not PanDA's."""
        if not poller.cancelled() and (error := poller.exception()):
            log.error("Status feed of %s: it goes on after an error that was not foreseen.", self.name, exc_info=error)
            asyncio.get_running_loop().call_later(RESTART, lambda: self._poll_on() if self.waiters else None)

    async def _poll(self) -> None:
        while True:
            self._more.clear()
            ends = min(self._planner.next_time(), self._reported + REPORT_INTERVAL)
            await _wait(self._more, ends - time.monotonic())
            now = time.monotonic()
            if now >= self._planner.next_time():
                utc = datetime.fromtimestamp(time.time(), UTC).replace(tzinfo=None)
                await self._ask(self._planner.question(now, utc))
            await self._tell()

    async def _ask(self, question: BulkPoll) -> None:
        self.questions += 1
        try:
            rows, latest = await self.run(lambda client: send_bulk_poll(client, question))
        except PandaError as error:
            self.failures += 1
            self._backoff.heard(None)
            log.debug("Status feed of %s: %s", self.name, error)
            await self._wake(self._planner.failed(question, error, time.monotonic()))
            return
        self.answered = now = time.monotonic()
        self._backoff.heard(rows)
        for first in range(0, len(rows), ROWS_AT_ONCE):
            await self._wake(self._planner.read(question, rows[first : first + ROWS_AT_ONCE]))
        await self._wake(self._planner.finish(question, latest, now))

    async def _wake(self, changed: Sequence[Waiting]) -> None:
        for number, waiting in enumerate(changed, 1):
            self.changes += waiting.news
            if waiter := self.waiters.get(waiting):
                waiter.wake()
            if number % WAKES_AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _tell(self) -> None:
        if time.monotonic() < self._reported + REPORT_INTERVAL:
            return
        self._reported = time.monotonic()
        say = log.info if self._report or self.questions else log.debug  # a wait in a worker reports by itself
        say(
            "Status feed of %s: %d waits; %d bulk requests, %d looks, %d changes and %d failures so far.",
            self.name, len(self.waiters), self.questions, self.looks, self.changes, self.failures,
        )  # fmt: skip
        if self._report:
            await asyncio.to_thread(self._report, self)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None if seconds == inf else seconds):
            await event.wait()
