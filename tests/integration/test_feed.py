"""The status feed in an event loop: many waits, one poller, an embedded server behind HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from panda_airflow.client import ClientConfig, CredentialExpired, PandaClient
from panda_airflow.client.api.task import TaskApi
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.devserver.faults import Kind
from panda_airflow.devserver.server import DevServer
from panda_airflow.waiting.driver import adrive
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.feed import poller
from panda_airflow.waiting.feed.joining import feeds, join
from panda_airflow.waiting.feed.threads import LOOKS_AT_ONCE
from panda_airflow.waiting.many import ManyEvent, ManyPlan
from tests.support.waits import PACE, connector, log, outcomes, plan, submit, until, wait, wait_for_all


def threads() -> int:
    return sum("panda-status-feed" in thread.name for thread in threading.enumerate())


def test_tasks_end_each_in_its_own_way_from_registration_to_a_kill(tmp_path: Path) -> None:
    async def life(server: DevServer) -> list[WaitEvent]:
        asleep = submit(server, "killed", "sleep 60")
        numbers = [submit(server, "good"), submit(server, "bad", "false"), asleep]
        numbers += [submit(server, f"shared{number}", f"sleep {number}", reqID=77) for number in (0, 1)]
        waits = asyncio.create_task(wait_for_all(connector(server), [plan(number) for number in numbers]))
        await until(lambda: server.backend.store.value("SELECT status FROM tasks WHERE jediTaskID = ?", asleep))
        await asyncio.sleep(1)
        with connector(server)() as client:
            client.task.kill(asleep)
        return await waits

    with DevServer(tmp_path, pace=PACE) as server:
        found = outcomes(asyncio.run(life(server)))
    done = ("ended", "done")
    assert found == [done, ("failed", "failed"), ("failed", "aborted"), done, done]


def test_a_deadline_passes_while_nothing_changes_and_the_task_is_killed(tmp_path: Path) -> None:
    with DevServer(tmp_path, pace=PACE) as server:
        late = plan(submit(server, "late", "sleep 60"), deadline=time.time() + 3, max_poll_interval=600.0)
        (event,) = asyncio.run(wait_for_all(connector(server), [late]))
    assert event["kind"] == "timeout"
    assert "was told to stop" in event["note"]


def test_a_report_that_fails_hurts_no_wait(tmp_path: Path) -> None:
    def report(_: poller.Feed) -> None:
        raise OSError("no metrics")

    async def life(server: DevServer) -> WaitEvent:
        what = plan(submit(server, "good"))
        async with join("panda_default", connector(server), what, report) as waiter:
            return await adrive(what, waiter.perform, sleep=waiter.rest, clock=time.time, log=log)

    with DevServer(tmp_path, pace=PACE) as server:
        assert outcomes([asyncio.run(life(server))]) == [("ended", "done")]


def test_a_wait_for_a_status_that_does_not_last_looks_for_itself(tmp_path: Path) -> None:
    with DevServer(tmp_path, pace=PACE) as server:
        what = plan(submit(server, "seen", "sleep 3", skipScout=True), statuses=("running", "scouting"))
        assert outcomes(asyncio.run(wait_for_all(connector(server), [what])))[0][0] == "ended"


def test_a_server_that_stops_and_starts_and_a_token_that_expires_cost_no_wait(tmp_path: Path) -> None:
    async def life() -> list[WaitEvent]:
        with DevServer(tmp_path, pace=PACE) as server:
            port = int(server.url.rpartition(":")[2])
            numbers = [submit(server, f"task{number}", "sleep 2", max_attempt=3) for number in range(5)]
            waits = asyncio.create_task(wait_for_all(connector(server), [plan(number) for number in numbers]))
            await until(lambda: feeds() and feeds()[0].questions > 2)
            server.faults.inject("expire_tokens")
            await until(lambda: feeds()[0].failures)
            failed = feeds()[0].failures
        await until(lambda: feeds()[0].failures > failed)
        with DevServer(tmp_path, pace=PACE, http_port=port):
            return await waits

    assert outcomes(asyncio.run(life())) == [("ended", "done")] * 5


def test_answers_that_are_lost_refused_or_nonsense_cost_no_wait(tmp_path: Path) -> None:
    with DevServer(tmp_path, pace=PACE) as server:
        plans = [plan(submit(server, f"task{number}", "sleep 1")) for number in range(5)]
        kinds: list[Kind] = ["refuse", "drop_before", "drop_after", "garbage"]
        for kind in kinds:
            server.faults.inject(kind, "task/get_*", times=2)
        events = asyncio.run(wait_for_all(connector(server), plans))
        assert len(server.faults.recorded) == 8
    assert outcomes(events) == [("ended", "done")] * 5


def test_the_feed_begins_with_the_first_wait_and_leaves_nothing_behind(tmp_path: Path) -> None:
    connections: list[object] = []

    async def life(server: DevServer) -> None:
        def connect() -> PandaClient:
            connections.append(None)
            return connector(server)()

        await wait_for_all(connect, [plan(submit(server, f"task{number}")) for number in range(4)])
        assert feeds() == []
        assert [task.get_name() for task in asyncio.all_tasks() if "feed" in task.get_name()] == []
        await until(lambda: not threads())

    with DevServer(tmp_path, pace=PACE) as server:
        asyncio.run(life(server))
    assert len(connections) == 1


class Crowd:
    """A server of many tasks that run until a test says that they are done."""

    def __init__(self, number: int) -> None:
        self.done: set[int] = set()
        self.calls: list[str] = []
        self.threads = 0
        self._began = datetime.now(UTC).replace(tzinfo=None)
        self._numbers = range(1, number + 1)

    def connect(self) -> PandaClient:
        return cast("PandaClient", SimpleNamespace(config=ClientConfig(), task=TaskApi(self), close=lambda: None))

    def send(self, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        self.calls.append(endpoint.path)
        self.threads = max(self.threads, threads())
        if endpoint.path == "task/get_detailed_info":
            return Envelope(True, "", self._details(arguments["task_id"]) | {"raw": "x" * 20_000})
        return Envelope(True, "", {str(task_id): self._details(task_id) for task_id in self._numbers})

    def _details(self, task_id: int) -> dict[str, Any]:
        status = "done" if task_id in self.done else "running"
        row = {"jediTaskID": task_id, "reqID": task_id, "modificationTime": self._began}
        return row | {"status": status, "prodSourceLabel": "user"}

    @property
    def looks(self) -> int:
        return self.calls.count("task/get_detailed_info")

    async def answers(self, times: int) -> None:
        """Let some questions pass."""
        calls = len(self.calls)
        await until(lambda: len(self.calls) >= calls + times)


def test_a_crowd_waits_in_little_memory_with_few_threads_and_needs_no_look_from_begin_to_end() -> None:
    number = 1000
    crowd = Crowd(number)

    async def life() -> list[WaitEvent]:
        plans = [plan(task_id, poll_interval=2.0, deadline=time.time() + 3600) for task_id in range(1, number + 1)]
        tracemalloc.start()
        waits = [asyncio.create_task(wait(crowd.connect, one)) for one in plans]
        await crowd.answers(2)
        memory, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert memory / number < 15_000
        crowd.done = set(range(1, number + 1))
        return await asyncio.wait_for(asyncio.gather(*waits), 60)

    assert outcomes(asyncio.run(life())) == [("ended", "done")] * number
    assert crowd.threads <= LOOKS_AT_ONCE + 1
    assert crowd.looks == 0


def test_a_list_of_many_tasks_needs_no_look_either() -> None:
    number = 500
    crowd = Crowd(number)
    many = ManyPlan(tuple(range(1, number + 1)), plan(0, poll_interval=2.0))

    async def life() -> ManyEvent:
        waits = asyncio.create_task(wait(crowd.connect, many))
        await crowd.answers(1)
        crowd.done = {7, 77}
        await crowd.answers(2)
        crowd.done = set(range(1, number + 1))
        return await asyncio.wait_for(waits, 60)

    event = asyncio.run(life())
    assert [(task["task_id"], task["status"]) for task in event["tasks"]] == [(one, "done") for one in many.task_ids]
    assert crowd.looks == 0


def test_a_list_of_tasks_ends_as_each_of_them_does(tmp_path: Path) -> None:
    with DevServer(tmp_path, pace=PACE) as server:
        numbers = [submit(server, "good"), submit(server, "bad", "false"), submit(server, "long", "sleep 60")]
        each = plan(0, deadline=time.time() + 5)
        event = asyncio.run(wait(connector(server), ManyPlan(tuple(numbers), each, fail_fast=False)))
    assert [(task["kind"], task["status"]) for task in event["tasks"][:2]] == [("ended", "done"), ("failed", "failed")]
    assert event["tasks"][2]["kind"] == "timeout"
    assert "was told to stop: 1 PanDA task" in event["fate"]


class Renewing(Crowd):
    """The same, whose clients are refused once a newer token is in the connection."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.token = 0
        self.connections = 0
        self.trouble: Exception | None = None

    def connect(self) -> PandaClient:
        if self.trouble:
            raise self.trouble
        self.connections += 1
        token = self.token

        def send(endpoint: Endpoint, arguments: Arguments) -> Envelope:
            if token != self.token:
                raise CredentialExpired("the token expired.", endpoint=endpoint.path)
            return self.send(endpoint, arguments)

        client = SimpleNamespace(config=ClientConfig(), task=TaskApi(SimpleNamespace(send=send)), close=lambda: None)
        return cast("PandaClient", client)


@pytest.mark.parametrize("many", [False, True])
def test_a_wait_that_looks_for_itself_goes_on_with_a_renewed_token(many: bool) -> None:
    async def life() -> Any:
        crowd = Renewing(2)
        each = plan(1, poll_interval=0.1, max_poll_interval=0.1, min_finished=0.5)
        one = asyncio.create_task(wait(crowd.connect, ManyPlan((1, 2), each) if many else each))
        await crowd.answers(3)
        crowd.token, crowd.done = 1, {1, 2}
        event = await asyncio.wait_for(one, 30)
        assert crowd.connections == 2
        return event

    event = asyncio.run(life())
    assert [told["status"] for told in event["tasks"]] == ["done"] * 2 if many else event["status"] == "done"


def test_the_poller_goes_on_after_an_error_that_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(poller, "RESTART", 0.2)

    async def life() -> list[WaitEvent]:
        crowd = Renewing(3)
        waits = asyncio.create_task(wait_for_all(crowd.connect, [plan(number) for number in (1, 2, 3)]))
        await crowd.answers(3)
        crowd.trouble, crowd.token = RuntimeError("Airflow is away"), 1
        await until(lambda: "an error that was not foreseen" in caplog.text)
        crowd.trouble, crowd.done = None, {1, 2, 3}
        return await waits

    assert outcomes(asyncio.run(life())) == [("ended", "done")] * 3


def test_a_feed_tells_of_itself_though_nobody_needs_its_questions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(poller, "REPORT_INTERVAL", 0.5)
    caplog.set_level(logging.INFO)
    reports = list[dict[str, int]]()

    async def life() -> None:
        crowd = Crowd(2)
        what = ManyPlan((1, 2), plan(1, poll_interval=0.1, max_poll_interval=0.1, min_finished=0.5))
        async with join("list", crowd.connect, what, lambda told: reports.append(told.counts())) as waiter:
            waits = adrive(what, waiter.perform, sleep=waiter.rest, clock=time.time, log=log)
            one = asyncio.create_task(waits)
            await until(lambda: len(reports) > 1)
            crowd.done = {1, 2}
            await asyncio.wait_for(one, 30)

    asyncio.run(life())
    assert all(told.get("looks") for told in reports[:2])
    assert not any(told.get("questions") for told in reports)
    lines = [record.message for record in caplog.records if record.message.startswith("Status feed of list: 2 waits")]
    assert 1 < len(lines) <= len(reports)
