"""Changes of status that a real message broker pushes: they hurry waits, and can do nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client import PandaClient
from panda_airflow.devserver.server import DevServer
from panda_airflow.waiting.feed.joining import feeds
from panda_airflow.waiting.feed.push import BrokerListener
from panda_airflow.waiting.many import ManyPlan
from tests.support.waits import PACE, plan, submit, until, wait
from tests.system.broker import PASSWORD, Broker, task_status

pytestmark = pytest.mark.system

SLOW = {"poll_interval": 600.0, "max_poll_interval": 600.0}
"""A pace at which only a push is noticed while a test lasts."""

LIMIT = 60.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DevServer]:
    with DevServer(tmp_path, pace=PACE) as running:
        yield running


def connector(server: DevServer, broker: Broker, **more: Any) -> Callable[[], PandaClient]:
    return lambda: PandaClient(broker.config(server.url, token=server.token(), **more))


def status(server: DevServer, task_id: int) -> object:
    return server.backend.store.value("SELECT status FROM tasks WHERE jediTaskID = ?", task_id)


async def listening() -> BrokerListener:
    """Wait until the only feed listens."""
    await until(lambda: any(one.listener and one.listener.listening for one in feeds()))
    (listener,) = (one.listener for one in feeds() if one.listener)
    return listener


def kill(server: DevServer, broker: Broker, task_id: int) -> None:
    with connector(server, broker)() as client:
        client.task.kill(task_id)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("way", ["one", "many", "alone"])
def test_a_pushed_end_is_noticed_long_before_the_next_poll(
    broker: Broker, server: DevServer, way: str, *, tls: bool
) -> None:
    async def life() -> Any:
        gate = server.root / "go"
        task_id = submit(server, "good", f"until [ -e {gate} ]; do sleep 0.1; done")
        await until(lambda: status(server, task_id) == "running")
        each = plan(task_id, **SLOW)
        what = ManyPlan((task_id,), each) if way == "many" else each
        waits = asyncio.create_task(wait(connector(server, broker, tls=tls), what, own_pace=way == "alone"))
        await listening()
        gate.touch()
        await until(lambda: status(server, task_id) == "done")
        broker.publish(task_status(task_id, "done"))
        return await asyncio.wait_for(waits, LIMIT)

    event = asyncio.run(life())
    (one,) = event["tasks"] if way == "many" else [event]
    assert (one["kind"], one["status"]) == ("ended", "done")


def test_false_stale_foreign_and_malformed_messages_end_no_wait(broker: Broker, server: DevServer) -> None:
    malformed: list[str | bytes] = [
        "",
        "done",
        "[1]",
        '{"taskid": 1}',
        '{"msg_type": "task_status", "taskid": "1"}',
        "[" * 50_000,
        b"\xff",
    ]

    async def life() -> Any:
        task_id = submit(server, "long", "sleep 600")
        waits = asyncio.create_task(wait(connector(server, broker), plan(task_id, **SLOW)))
        listener = await listening()
        await until(lambda: status(server, task_id) == "running")
        (joined,) = feeds()
        looks = joined.looks
        job = {"msg_type": "job_status", "jobid": 1, "taskid": task_id, "status": "finished", "timestamp": 1}
        broker.publish(*malformed, json.dumps(job), task_status(task_id + 1, "done"), task_status(task_id, "failed"))
        await until(lambda: joined.looks > looks)
        assert not waits.done()
        assert (listener.malformed, listener.heard, joined.looks) == (len(malformed), 2, looks + 1)
        kill(server, broker, task_id)
        await until(lambda: status(server, task_id) == "aborted")
        broker.publish(task_status(task_id, "aborted"))
        return await asyncio.wait_for(waits, LIMIT)

    event = asyncio.run(life())
    assert (event["kind"], event["status"]) == ("failed", "aborted")


def test_while_the_broker_is_gone_waits_poll_and_the_listener_comes_back(broker: Broker, server: DevServer) -> None:
    async def life() -> tuple[Any, Any]:
        long = submit(server, "long", "sleep 600")
        waits = asyncio.create_task(wait(connector(server, broker), plan(long, **SLOW)))
        listener = await listening()
        broker.kill()
        await until(lambda: not listener.listening)
        polled = await asyncio.wait_for(wait(connector(server, broker), plan(submit(server, "good"))), LIMIT)
        await asyncio.to_thread(broker.start)
        await until(lambda: listener.listening)
        kill(server, broker, long)
        await until(lambda: status(server, long) == "aborted")
        broker.publish(task_status(long, "aborted"))
        return polled, await asyncio.wait_for(waits, LIMIT)

    events = asyncio.run(life())
    assert [(event["kind"], event["status"]) for event in events] == [("ended", "done"), ("failed", "aborted")]


@pytest.mark.parametrize(("password", "tls"), [(PASSWORD, False), (PASSWORD, True), ("another-password", False)])
def test_no_log_holds_the_password_and_a_broker_that_refuses_it_costs_no_wait(
    broker: Broker, server: DevServer, caplog: pytest.LogCaptureFixture, password: str, *, tls: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "stomp.py")

    async def life() -> Any:
        task_id = submit(server, "good")
        waits = asyncio.create_task(wait(connector(server, broker, password=password, tls=tls), plan(task_id)))
        await until(lambda: "pushes changes" in caplog.text or "No changes are pushed" in caplog.text)
        return await waits

    event = asyncio.run(life())
    assert (event["kind"], event["status"]) == ("ended", "done")
    assert ("No changes are pushed, since the broker says" in caplog.text) == (password != PASSWORD)
    assert password not in caplog.text


def test_a_broker_whose_certificate_nobody_vouches_for_is_told_nothing(
    broker: Broker, server: DevServer, caplog: pytest.LogCaptureFixture
) -> None:
    def connect() -> PandaClient:
        return PandaClient(replace(broker.config(server.url, tls=True, token=server.token()), ca=None))

    event = asyncio.run(wait(connect, plan(submit(server, "good", "sleep 2"))))
    assert (event["kind"], event["status"]) == ("ended", "done")
    assert "certificate verify failed" in caplog.text
    assert "No changes are pushed" in caplog.text
