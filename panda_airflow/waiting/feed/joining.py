"""How a wait joins a status feed, and what it uses of it in place of pauses and looks of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Self
from weakref import WeakKeyDictionary

from panda_airflow.client.models import TaskInfo
from panda_airflow.client.session import PandaClient
from panda_airflow.client.stored import Account
from panda_airflow.waiting.driver import Request
from panda_airflow.waiting.feed.planner import Waiting
from panda_airflow.waiting.feed.poller import WAKES_AT_ONCE, Feed
from panda_airflow.waiting.feed.threads import LOOKS_AT_ONCE
from panda_airflow.waiting.many import ManyPlan
from panda_airflow.waiting.task import WaitPlan
from panda_airflow.waiting.task_polls import perform, perform_many

ENTRIES_AT_ONCE = 1000

MANY_LOOKS = 1000
"""Looks after which a wait for many tells the feed what it saw, before that is old."""

_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Account, str], Feed]] = WeakKeyDictionary()


class Waiter:
    """A wait that has joined a feed.

    :param plan: what it waits for; the feed tells only of ends, so that a wait for anything else looks for itself.
    :param task_ids: JediTaskIDs.
    :param own_pace: whether it looks for itself in any case.
    """

    def __init__(self, feed: Feed, plan: WaitPlan, task_ids: Iterable[int], *, own_pace: bool) -> None:
        own_pace, conclusive = own_pace or plan.looks_itself, plan.conclusive
        self._feed = feed
        self._label = plan.label
        self._deadline = plan.deadline
        self._called: asyncio.Future[None] | None = None
        self.waiting = {task_id: Waiting(task_id, plan.poll_interval, own_pace, conclusive) for task_id in task_ids}

    async def __aenter__(self) -> Self:
        """Begin, in portions."""
        try:
            for number, waiting in enumerate(self.waiting.values(), 1):
                self._feed.waiters[waiting] = self
                self._feed.enter(waiting, self._label)
                if number % ENTRIES_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait no more; with the last wait the feed ends."""
        self.leave()
        if not self._feed.waiters:
            self._feed.close()

    def wake(self) -> None:
        """Have the wait ask again how long to rest."""
        if self._called and not self._called.done():
            self._called.set_result(None)

    def leave(self, task_ids: Iterable[int] | None = None) -> None:
        """Wait no more for these tasks, or for any."""
        for task_id in list(self.waiting) if task_ids is None else task_ids:
            self._feed.leave(self.waiting.pop(task_id))

    async def rest(self, seconds: float) -> None:
        """Say how long the next look may wait while the feed cannot tell about a task; the look itself does."""
        now = time.monotonic()
        deadline = inf if self._deadline is None else now + self._deadline - time.time()
        for waiting in self.waiting.values():
            waiting.due, waiting.deadline = now + seconds, deadline

    async def perform(self, request: Request) -> object:
        """Do what a step of the wait asks for, a look once there is a reason; see :func:`.task_polls.perform`.

        :return: for a look a ``TaskInfo``, or the ``TaskRow`` that an answer told.
        :raises PandaError: the server did not answer, or refused.
        """
        (waiting,) = self.waiting.values()
        if request.act != "look":
            return await self._feed.run(partial(perform, task_id=waiting.task_id, request=request))
        while True:
            await self._rest()
            async with self._feed.semaphore:
                if self._feed.left(waiting) <= 0:
                    return waiting.take_row() or await self._feed.look(waiting)

    async def _rest(self) -> None:
        """Pause until there is news of a task, its own look is due, or the deadline has come."""
        loop = asyncio.get_running_loop()
        while (left := min(map(self._feed.left, self.waiting.values()), default=0.0)) > 0:
            self._called = loop.create_future()
            timer = loop.call_later(left, self.wake) if left < inf else None
            try:
                await self._called
            finally:
                if timer:
                    timer.cancel()


class ManyWaiter(Waiter):
    """A wait for many tasks that has joined a feed; its looks tell only of those tasks of which there is news."""

    async def perform(self, request: Request) -> dict[int, object]:
        """Do what a step of the wait asks for; see :func:`panda_airflow.waiting.task_polls.perform_many`."""
        if request.act != "look":
            return await self._feed.run(partial(perform_many, request=request))
        self.leave(self.waiting.keys() - set(request.task_ids))
        await self._rest()
        seen: dict[int, object] = {task_id: row for task_id, one in self.waiting.items() if (row := one.take_row())}
        due = [task_id for task_id, one in self.waiting.items() if task_id not in seen and self._feed.left(one) <= 0]
        first, number = 0, LOOKS_AT_ONCE  # few first: a server in trouble is spared the others
        while first < len(due):
            seen |= await self._look(replace(request, task_ids=tuple(due[first : first + number])))
            first, number = first + number, MANY_LOOKS
        return seen

    async def _look(self, request: Request) -> dict[int, object]:
        waits = [self.waiting[task_id] for task_id in request.task_ids]
        for waiting in waits:
            waiting.news = False
        answers = await self._feed.look_at_many(waits, request)
        for number, (task_id, answer) in enumerate(answers.items(), 1):
            answers[task_id] = self._learned(self.waiting[task_id], answer)
            if number % WAKES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return answers

    def _learned(self, waiting: Waiting, answer: object) -> object:
        if isinstance(answer, TaskInfo):
            return self._feed.saw(waiting, answer)
        self._feed.look_failed(waiting, answer)
        return answer


def join(
    name: str,
    connect: Callable[[], PandaClient],
    plan: WaitPlan | ManyPlan,
    report: Callable[[Feed], None] | None = None,
    *,
    own_pace: bool = False,
) -> Waiter:
    """Wait for a task, or for many, together with all other waits of the same account in this event loop.

    The feed begins with its first wait and ends with the last. It is known by server and user, as a connection may
    come to mean others; only where the plan does not tell these, the waits of one connection are taken together.

    :param name: of the connection.
    :param connect: makes the client, in a thread; called once, and again after the server refused the credential.
    :param plan: what to wait for, and at which account.
    :param report: called once a minute and at the end of a feed, for its counters.
    :param own_pace: look at the task as often as the plan says, which costs least where no other wait is to come.
    """
    feeds = _feeds.setdefault(asyncio.get_running_loop(), {})
    account = plan.each.account if isinstance(plan, ManyPlan) else plan.account
    key = (account, "" if account.user else name)
    feed = feeds.get(key) or feeds.setdefault(key, Feed(name, account, report, partial(feeds.pop, key)))
    feed.may_connect(name, connect)
    if isinstance(plan, ManyPlan):
        return ManyWaiter(feed, plan.each, plan.task_ids, own_pace=own_pace)
    return Waiter(feed, plan, (plan.task_id,), own_pace=own_pace)


def feeds() -> list[Feed]:
    """List the feeds of this event loop, for their counters."""
    return list(_feeds.get(asyncio.get_running_loop(), {}).values())
