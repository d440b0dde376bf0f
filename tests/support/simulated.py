"""The status feed and its waits in time that passes at once, with a PanDA of which a test moves the tasks."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from panda_airflow.client import errors
from panda_airflow.client.api.creds import CredsApi
from panda_airflow.client.api.system import SystemApi
from panda_airflow.client.api.task import TaskApi
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.http.envelope import encode, open_reply
from panda_airflow.client.models import Envelope, Mark
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver.backend import Backend, Identity, Pace
from panda_airflow.devserver.faults import Faults
from panda_airflow.devserver.handlers import creds, system, task
from panda_airflow.devserver.storage import tasks
from panda_airflow.devserver.storage.store import Store
from panda_airflow.waiting.driver import Plan, adrive
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.feed import joining, poller
from panda_airflow.waiting.feed.joining import join
from panda_airflow.waiting.many import ManyEvent, ManyPlan, read_many
from panda_airflow.waiting.task import WaitPlan

BOB = Identity("Bob Tester/CN=nickname:bob", "Bob Tester")
EPOCH = datetime(2026, 11, 22)  # noqa: DTZ001 - the server's times are naive UTC
INTERVAL = 60.0
EXECUTION = 200.0
"""Seconds until JEDI executes a retry."""

_HANDLERS = {"task": task, "system": system, "creds": creds}

R = TypeVar("R")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its time passes whenever there is nothing else to do."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._pass))

    def time(self) -> float:
        """Seconds since the loop began."""
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, let_pass: Callable[[float], None]) -> None:
        super().__init__()
        self._let_pass = let_pass

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is left to happen"
        self._let_pass(timeout)
        return super().select(0)


class Panda:
    """A server of which a test moves the tasks, and a client of it, without HTTP.

    :ivar requests: how many it was sent, by method.
    :ivar asked: the method of the last one.
    :ivar refuse: methods that it answers with HTTP 503.
    :ivar broken: tasks for which it has only HTTP 500.
    :ivar lie: whether its list of changes is empty.
    """

    def __init__(self, root: Path, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.skew = timedelta()
        self.store = Store(root / "panda.sqlite")
        self.backend = Backend(root, self.store, Faults(self.store, lambda: None), Pace(), lambda: self.utc + self.skew)
        self.task, self.system, self.creds = TaskApi(self), SystemApi(self), CredsApi(self)
        self.config = SimpleNamespace(server="http://localhost")
        self.requests = Counter[str]()
        self.asked = ""
        self.refuse = set[str]()
        self.broken = set[int]()
        self.lie = False
        self.held: dict[int, list[tuple[float, dict[str, Any]]]] = {}

    @property
    def now(self) -> float:
        """Epoch seconds."""
        return self.utc.replace(tzinfo=UTC).timestamp()

    @property
    def utc(self) -> datetime:
        """The time as the client's machine has it."""
        return EPOCH + timedelta(seconds=self._loop.time())

    def send(self, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        """Answer as the embedded server would."""
        module, method = endpoint.path.split("/")
        self.requests[method] += 1
        self.asked = method
        if method in self.refuse or arguments.get("task_id") in self.broken:
            raise errors.ServerError("HTTP 5xx.", endpoint=endpoint.path)
        if self.lie and method == "get_tasks_modified_since":
            return Envelope(True, "", {})
        envelope = cast("Envelope", getattr(_HANDLERS[module], method)(self.backend, BOB, **arguments))
        if method == "retry" and not envelope.data:
            self._loop.call_later(EXECUTION, self.retry, arguments["task_id"])
        if envelope.success and not isinstance(envelope.data, int):
            return envelope
        said = {"success": envelope.success, "message": envelope.message, "data": envelope.data}
        return open_reply(endpoint, 200, encode(said))

    def submit(self, task_id: int, *, request_id: int = 0, user: str = BOB.name, label: str = "user") -> int:
        """Register a task."""
        self.store.insert(
            "tasks", jediTaskID=task_id, taskName=f"user.bob.{task_id}", userName=user, prodSourceLabel=label,
            reqID=request_id or task_id, creationDate=self.backend.clock(), parent_tid=task_id, attemptNr=0,
        )  # fmt: skip
        self.move(task_id, "defined")
        return task_id

    def move(self, task_id: int, status: str, **columns: Any) -> None:
        """Put a task into a status."""
        tasks.set_status(self.backend, task_id, status, **columns)
        self.held.setdefault(task_id, []).append((self.now, self.row(task_id)))

    def retry(self, task_id: int) -> None:
        """Execute a retry, once the database is there."""
        if self.store.down:
            self._loop.call_later(EXECUTION, self.retry, task_id)
        else:
            self.move(task_id, "ready", attemptNr=self.row(task_id)["attemptNr"] + 1)

    def final_since(self, task_id: int) -> float | None:
        """When a task ended, if it is over."""
        moment, row = self.held[task_id][-1] if task_id in self.held else (0.0, {"status": ""})
        return moment if row["status"] in FINAL_STATUSES else None

    def held_until(self, task_id: int, status: str, mark: Mark | None) -> float:
        """When a task last was in a status, other than where it stood before a command."""
        ends = [moment for moment, _ in self.held[task_id][1:]] + [inf]
        return max(
            end for end, (_, row) in zip(ends, self.held[task_id], strict=True)
            if row["status"] == status and mark != Mark(row["attemptNr"], row["stateChangeTime"].isoformat())
        )  # fmt: skip

    def row(self, task_id: int) -> dict[str, Any]:
        """Read what the database holds of a task."""
        return self.store.row("SELECT * FROM tasks WHERE jediTaskID = ?", task_id) or {}


class Wait:
    """A wait for a task or for many, what it said, and how and when it ended."""

    def __init__(self, task_ids: tuple[int, ...], plan: WaitPlan) -> None:
        self.task_ids = task_ids
        self.plan = plan
        self.events: list[WaitEvent] = []
        self.over = inf
        self.said: list[str] = []

    @property
    def event(self) -> WaitEvent | None:
        """How the wait for its first task ended, if it is over."""
        return self.events[0] if self.events else None

    def info(self, event: str, *args: object) -> None:
        """Take a line of its log."""
        self.said.append(event % args)

    warning = info


class Site:
    """The feed, its waits and their time.

    :ivar delays: seconds until the server's answer arrives, by method.
    """

    def __init__(self, root: Path) -> None:
        self.loop = SimulatedLoop()
        self.panda = Panda(root, self.loop)
        self.delays: dict[str, float] = {}
        self.waits: list[Wait] = []
        self._running: dict[asyncio.Task[None], Wait] = {}

    @property
    def questions(self) -> int:
        """Bulk requests that the server was sent."""
        return self.panda.requests["get_tasks_modified_since"]

    @property
    def looks(self) -> int:
        """Requests for single tasks that the server was sent."""
        return self.panda.requests["get_detailed_info"]

    def wait(self, task_id: int, mark: Mark | None = None, *, own_pace: bool = False, **more: Any) -> Wait:
        """Begin to wait for a task, as a trigger does, or alone as a worker."""
        plan = self._plan(task_id, mark=mark, **more)
        return self._begin(Wait((task_id,), plan), plan, own_pace=own_pace)

    def wait_for_all(self, task_ids: Iterable[int], **more: Any) -> Wait:
        """Begin to wait for a list of tasks."""
        plan = ManyPlan(tuple(task_ids), self._plan(0, **more), fail_fast=False)
        return self._begin(Wait(plan.task_ids, plan.each), plan)

    def cancel(self, wait: Wait) -> None:
        """End a wait, as Airflow does when its trigger is not wanted any more."""
        next(task for task, one in self._running.items() if one is wait).cancel()
        self._run(asyncio.sleep(0))

    def advance(self, seconds: float) -> None:
        """Let time pass and all happen that is due."""
        self._run(asyncio.sleep(seconds))

    def close(self) -> None:
        """End all that still waits."""
        for wait in list(self._running.values()):
            self.cancel(wait)
        self.loop.close()
        self.panda.store.close()

    def _plan(self, task_id: int, **more: Any) -> WaitPlan:
        return WaitPlan(task_id, self.panda.now, **({"poll_interval": INTERVAL, "outage": 1e12} | more))

    def _begin(self, wait: Wait, plan: WaitPlan | ManyPlan, *, own_pace: bool = False) -> Wait:
        self.waits.append(wait)
        self._running[self.loop.create_task(self._wait(wait, plan, own_pace=own_pace))] = wait
        self._run(asyncio.sleep(0))
        return wait

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        self.loop.run_until_complete(work)
        for over in [running for running in self._running if running.done()]:
            del self._running[over]
            if not over.cancelled():
                over.result()

    async def _wait(self, wait: Wait, plan: WaitPlan | ManyPlan, *, own_pace: bool) -> None:
        async with join("panda", lambda: cast("PandaClient", self.panda), plan, own_pace=own_pace) as waiter:
            steps = cast("Plan[WaitEvent | ManyEvent]", plan)
            event = await adrive(steps, waiter.perform, sleep=waiter.rest, clock=lambda: self.panda.now, log=wait)
        wait.events = read_many(event)["tasks"]
        wait.over = self.panda.now

    async def link(self, call: Callable[[PandaClient], R]) -> R:
        """Let the feed ask the server; the answer is of the moment of the question."""
        try:
            return call(cast("PandaClient", self.panda))
        finally:
            await asyncio.sleep(self.delays.get(self.panda.asked, 0.0))


@contextmanager
def simulated(root: Path) -> Iterator[Site]:
    """Have the feed live in simulated time."""
    site = Site(root)

    def broken(words: str, *_: object, exc_info: BaseException) -> None:
        raise AssertionError(words) from exc_info

    link = SimpleNamespace(run=site.link, close=lambda: None, listener=None, ways={})
    clocks = SimpleNamespace(monotonic=site.loop.time, time=lambda: site.panda.now)
    failures: list[dict[str, Any]] = []
    site.loop.set_exception_handler(lambda _, context: failures.append(context))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(poller, "ClientThreads", lambda *_: link)
        patch.setattr(poller, "time", clocks)
        patch.setattr(joining, "time", clocks)
        patch.setattr(poller.log, "error", broken)
        try:
            yield site
        finally:
            site.close()
    assert failures == []
