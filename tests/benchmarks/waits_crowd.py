"""One event loop in which many wait for a task each, in one of several ways; run as a program.

Argument: one of :data:`WAYS`. Which server and as whom is in the environment. Prints a line when it is ready for the
one line of standard input, a :class:`Script`. The answer is two JSON lines: at its end what the waits have cost, and,
once all ends are told, how late they were.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import selectors
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import psutil
from airflow.triggers.base import BaseTrigger, TriggerEvent

from panda_airflow.client import PandaClient
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.triggers.many import PandaManyTasksTrigger
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.driver import adrive
from panda_airflow.waiting.feed.joining import join
from panda_airflow.waiting.many import ManyPlan
from panda_airflow.waiting.task import WaitPlan
from tests.benchmarks.waits_script import Script

Wait = Callable[[int], Awaitable[object]]
"""Waits for a task until it has ended."""

LAGGARDS = 3
"""Minutes after the end of the script in which all ends must be told."""

AT_ONCE = 50
"""Triggers that a triggerer starts together."""

log = logging.getLogger(__name__)


def plan(script: Script, task_id: int) -> WaitPlan:
    """Plan to notice an end within a minute."""
    return WaitPlan(task_id, script.began, poll_interval=script.minute, max_poll_interval=script.minute)


async def event_of(trigger: BaseTrigger) -> object:
    """Run a trigger to its only event, as the triggerer does."""
    [event] = [event async for event in trigger.run()]
    return event.payload


@asynccontextmanager
async def with_triggers(script: Script) -> AsyncIterator[Wait]:
    """The trigger of this project."""
    stored = plan(script, 0).to_json()
    yield lambda task_id: event_of(PandaTaskTrigger("panda_default", stored | {"task_id": task_id}))


@asynccontextmanager
async def with_rare_collections(script: Script) -> AsyncIterator[Wait]:
    """The trigger of this project, where Python's full garbage collections are rare, as the documentation advises."""
    gc.set_threshold(700, 10, 1000)
    async with with_triggers(script) as wait:
        yield wait


@asynccontextmanager
async def with_list(script: Script) -> AsyncIterator[Wait]:
    """One trigger of this project for all tasks, of which only the last end is told as an event."""
    stored = ManyPlan(tuple(script.task_ids), plan(script, 0), fail_fast=False).to_json()
    yield lambda _: event_of(PandaManyTasksTrigger("panda_default", stored))


@asynccontextmanager
async def with_feed(script: Script) -> AsyncIterator[Wait]:
    """The status feed of this project, without Airflow."""

    async def wait(task_id: int) -> object:
        what = plan(script, task_id)
        async with join("panda", PandaClient, what) as waiter:
            return await adrive(what, waiter.perform, sleep=waiter.rest, clock=time.time, log=log)

    yield wait


class PollTrigger(BaseTrigger):
    """Polls by itself, as the triggers of Databricks and dbt Cloud do."""

    def __init__(self, session: aiohttp.ClientSession, task_id: int, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.session = session
        self.panda_task_id = task_id
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "", {"task_id": self.panda_task_id, "poll_interval": self.poll_interval}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while (status := await self.status()) not in FINAL_STATUSES:
            await asyncio.sleep(self.poll_interval)
        yield TriggerEvent({"task_id": self.panda_task_id, "status": status})

    async def status(self) -> str:
        async with self.session.get("/api/v1/task/get_status", params={"task_id": self.panda_task_id}) as answer:
            answer.raise_for_status()
            return str((await answer.json(content_type=None))["data"])


@asynccontextmanager
async def connected(script: Script, context: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that keeps an idle connection for a quarter of a minute, as aiohttp does."""
    headers = {"Authorization": f"Bearer {os.environ['PANDA_AUTH_ID_TOKEN']}", "Origin": os.environ["PANDA_AUTH_VO"]}
    connector = aiohttp.TCPConnector(ssl=context, keepalive_timeout=script.minute / 4)
    async with aiohttp.ClientSession(os.environ["PANDA_URL_SSL"], connector=connector, headers=headers) as session:
        yield session


def trusted() -> ssl.SSLContext:
    """Trust the server."""
    return ssl.create_default_context(capath=os.environ["X509_CERT_DIR"])


@asynccontextmanager
async def with_sessions(script: Script) -> AsyncIterator[Wait]:
    """One poll loop per trigger, in a session of its own, as Databricks has it; dbt Cloud makes one for each poll."""
    context = trusted()

    async def wait(task_id: int) -> object:
        async with connected(script, context) as session:
            return await event_of(PollTrigger(session, task_id, script.minute))

    yield wait


@asynccontextmanager
async def with_polls(script: Script) -> AsyncIterator[Wait]:
    """One poll loop per trigger, over connections that all share, which neither does."""
    async with connected(script, trusted()) as session:
        yield lambda task_id: event_of(PollTrigger(session, task_id, script.minute))


class IdleTrigger(BaseTrigger):
    """Waits for nothing: what Airflow itself needs for a trigger."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.plan = plan

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "", {"plan": self.plan}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.Event().wait()
        yield TriggerEvent({})


@asynccontextmanager
async def with_nothing(script: Script) -> AsyncIterator[Wait]:
    """Triggers that never fire."""
    stored = plan(script, 0).to_json()
    yield lambda task_id: event_of(IdleTrigger(stored | {"task_id": task_id}))


WAYS: dict[str, Callable[[Script], AbstractAsyncContextManager[Wait]]] = {
    "triggers": with_triggers,
    "tuned": with_rare_collections,
    "list": with_list,
    "feed": with_feed,
    "polls": with_polls,
    "sessions": with_sessions,
    "idle": with_nothing,
}


class Crowd:
    """Those who wait.

    :param members: of whom each waits for the task of its number, or the only one for all.
    :ivar begun: when each wait began, in epoch seconds.
    :ivar told: when each end was told.
    """

    def __init__(self, script: Script, wait: Wait, members: range) -> None:
        self.begun: dict[int, float] = {}
        self.told: dict[int, float] = {}
        self._script = script
        self._wait = wait
        self._members = members
        self._waits: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Begin all waits, some at a time."""
        for task_id in self._members:
            if (task_id - self._script.task_ids[0]) % AT_ONCE == 0:
                await until(self._script.starts(task_id))
            self._waits.append(asyncio.create_task(self._one(task_id)))

    async def _one(self, task_id: int) -> None:
        self.begun[task_id] = time.time()
        await self._wait(task_id)
        self.told[task_id] = time.time()

    def lateness(self) -> list[float]:
        """Minutes from each end, or from the begin of a wait that came later, until it was told, in order."""
        ends = self._script.ends()
        late = [told - max(ends[task_id], self.begun[task_id]) for task_id, told in self.told.items()]
        return sorted(seconds / self._script.minute for seconds in late)

    async def all_told(self) -> None:
        """Wait until all ends are told, or too late; let nobody wait any more."""
        ends = self._script.ends().keys()
        latest = self._script.began + (self._script.minutes + LAGGARDS) * self._script.minute
        while not ends <= self.told.keys() and time.time() < latest:
            await asyncio.sleep(0.1)
        for wait in self._waits:
            wait.cancel()
        await asyncio.gather(*self._waits, return_exceptions=True)


class Blocks(selectors.DefaultSelector):
    """Measures for how long an event loop does not come round, or comes late to what is due, at no cost.

    :ivar longest: seconds.
    :ivar own: the same without what Python's garbage collector takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.longest = self.own = self._collected = 0.0
        self._collecting = False
        self._back = self._counted = time.perf_counter()
        gc.callbacks.append(self._collect)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the loop wait for its next event."""
        left = time.perf_counter()
        self._note(left - self._back)
        events = super().select(timeout)
        self._back = time.perf_counter()
        self._note(0.0 if timeout is None else self._back - left - max(0.0, timeout))
        return events

    def _note(self, seconds: float) -> None:
        self._count()
        self.longest = max(self.longest, seconds)
        self.own = max(self.own, seconds - self._collected)
        self._collected = 0.0

    def _collect(self, phase: str, _info: dict[str, int]) -> None:
        self._count()
        self._collecting = phase == "start"

    def _count(self) -> None:
        """Count the time of a collection, which another thread may have begun."""
        now = time.perf_counter()
        if self._collecting:
            self._collected += now - self._counted
        self._counted = now


async def until(moment: float) -> None:
    """Wait for a time in epoch seconds; let others run in any case."""
    await asyncio.sleep(max(0.0, moment - time.time()))


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


async def live(way: str, script: Script, blocks: Blocks) -> None:
    """Wait as the script has it, and report."""
    async with WAYS[way](script) as wait:
        crowd = Crowd(script, wait, script.task_ids[:1] if way == "list" else script.task_ids)
        memory, cpu = resident(), time.process_time()
        await crowd.begin()
        await until(script.began + min(2, script.minutes) * script.minute)
        memory, waiting = resident() - memory, script.number - len(crowd.told)
        await until(script.began + script.minutes * script.minute)
        cpu = time.process_time() - cpu
        say({"cpu": cpu, "memory": memory / waiting, "block": blocks.longest, "own_block": blocks.own})
        await crowd.all_told()
        say({"untold": len(script.ends().keys() - crowd.told.keys()), "late": crowd.lateness()})


def say(what: object) -> None:
    """Print a line at once."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(way: str) -> None:
    """Wait in one of the ways."""
    say("ready")
    script, blocks = Script.from_line(sys.stdin.readline()), Blocks()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(blocks)) as runner:
        runner.run(live(way, script, blocks))


if __name__ == "__main__":
    main(*sys.argv[1:])
