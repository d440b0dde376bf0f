"""Triggers of one connection share a status feed: what they end by, what they ask, and what they tell Airflow."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest
from airflow._shared.observability.metrics import stats as shared_stats
from airflow.observability import stats
from airflow.sdk import PokeReturnValue
from airflow.triggers.base import BaseTrigger

from panda_airflow.client import PandaClient, ServerError, TaskFailed
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.client.status import ACTIVE_STATUSES
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps.result import settle
from panda_airflow.triggers.many import PandaManyTasksTrigger
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.feed import poller
from panda_airflow.waiting.feed.joining import feeds
from panda_airflow.waiting.many import ManyPlan
from panda_airflow.waiting.task import WaitPlan
from panda_airflow.waiting.task_polls import AT_A_TIME
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import Memory, Panda, connection, task

Event = dict[str, Any]


def plan(task_id: int, **more: Any) -> WaitPlan:
    return WaitPlan(task_id, time.time(), **({"poll_interval": 0.5, "max_poll_interval": 0.5} | more))


def trigger(task_id: int, **more: Any) -> PandaTaskTrigger:
    return PandaTaskTrigger("panda_default", plan(task_id, **more).to_json())


async def event_of(one: BaseTrigger) -> Any:
    [event] = [event.payload async for event in one.run()]
    return event


async def events_of(triggers: list[BaseTrigger]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*map(event_of, triggers)), 60)


def running(panda: Panda, *commands: str) -> list[int]:
    """Submit tasks and wait until they run, so that the first question shows them."""
    names = [f"user.bob.{number}" for number in range(len(commands))]
    ids = [panda.client.task.submit(task(c, name=name)).task_id for c, name in zip(commands, names, strict=True)]
    for task_id in ids:
        panda.wait(task_id, ("running",))
    return ids


def test_triggers_of_one_connection_share_one_feed_and_hardly_need_a_look(panda: Panda, tmp_path: Path) -> None:
    ids = running(panda, *[f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"] * 3)

    calm = {"poll_interval": 4.0, "max_poll_interval": 4.0}

    async def life() -> tuple[list[Event], poller.Feed]:
        many = PandaManyTasksTrigger("panda_default", ManyPlan(tuple(ids), plan(0, **calm)).to_json())
        waits = asyncio.create_task(events_of([*(trigger(task_id, **calm) for task_id in ids), many]))
        await asyncio.sleep(0.1)
        (shared,) = feeds()
        assert len(shared.waiters) == 2 * len(ids)
        while shared.answered is None:
            await asyncio.sleep(0.1)
        (tmp_path / "go").touch()
        events = await waits
        assert feeds() == []
        return events, shared

    events, shared = asyncio.run(life())
    assert [(event["task_id"], event["status"]) for event in events[:3]] == [(task_id, "done") for task_id in ids]
    assert [told["status"] for told in events[3]["tasks"]] == ["done"] * 3
    assert shared.looks <= len(ids), "twice as many waits, some of which may begin before the first answer comes"


def test_what_a_feed_does_not_tell_of_a_done_task_the_worker_reads_or_fails(panda: Panda) -> None:
    [task_id] = running(panda, "sleep 2")
    [event] = asyncio.run(events_of([trigger(task_id)]))
    assert "files" not in event
    assert settle(PandaHook(), event)["files"] == {"total": 2, "finished": 2, "failed": 0}
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=9)
    with pytest.raises(ServerError):
        settle(PandaHook(), event)


def test_a_failure_that_a_feed_told_is_explained_as_any_other(panda: Panda) -> None:
    [task_id] = running(panda, "sleep 2; exit 7")
    [event] = asyncio.run(events_of([trigger(task_id)]))
    assert event["kind"] == "failed"
    with pytest.raises(TaskFailed, match=r"JEDI says: failed[\s\S]*Attempts of the task that JEDI counts: 1"):
        settle(PandaHook(), event)


def test_an_aborted_task_is_looked_at_for_the_reason(panda: Panda) -> None:
    [task_id] = running(panda, "sleep 60")

    async def life() -> Event:
        wait = asyncio.create_task(event_of(trigger(task_id)))
        await asyncio.sleep(1)
        await asyncio.to_thread(panda.client.task.kill, task_id)
        event: Event = await asyncio.wait_for(wait, 60)
        return event

    event = asyncio.run(life())
    assert (event["status"], event["attempt_nr"]) == ("aborted", 0)


def test_a_task_of_another_label_ends_the_wait_whether_or_not_the_plan_knows_it(panda: Panda) -> None:
    parameters = [task("sleep 2", name=f"user.bob.{label}") | {"prodSourceLabel": "managed"} for label in "ab"]
    ids = [panda.client.task.submit(one).task_id for one in parameters]
    for task_id in ids:
        panda.wait(task_id, ("running",))
    events = asyncio.run(events_of([trigger(ids[0]), trigger(ids[1], label="managed")]))
    assert [event["status"] for event in events] == ["done", "done"]


def test_a_production_task_is_not_retried_with_new_parameters(panda: Panda) -> None:
    [task_id] = running(panda, "sleep 2; exit 7")
    panda.server.backend.store.update("tasks", "jediTaskID", task_id, taskType="prod")
    retry = TaskRetryPolicy(attempts=1, delay=0.1, new_parameters=[{"ramCount": 4000}])
    [event] = asyncio.run(events_of([trigger(task_id, retry=retry)]))
    assert "would make a new task of a production task" in event["note"]
    assert panda.task(task_id).attempt_nr == 0


class Told:
    """What Airflow's metrics were told."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.gauges: dict[str, list[float]] = {}
        self.tags: list[Any] = []

    def incr(self, stat: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
        self.counts[stat] = self.counts.get(stat, 0) + count
        self.tags.append(tags)

    def gauge(self, stat: str, value: float, rate: float = 1, delta: bool = False, *, tags: Any = None) -> None:
        self.gauges.setdefault(stat, []).append(value)
        self.tags.append(tags)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Listen to the metrics of this process, and no longer than a test."""
    for name in ("_factory", "_backend", "_export_legacy_names"):
        monkeypatch.setattr(shared_stats, name, getattr(shared_stats, name))
    listening: Any = Told()
    stats.initialize(factory=lambda: listening, export_legacy_names=False)
    return cast("Told", listening)


def test_a_feed_tells_airflows_metrics_what_it_does(panda: Panda, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "REPORT_INTERVAL", 0.0)
    [task_id] = running(panda, "sleep 2")
    asyncio.run(events_of([trigger(task_id)]))
    assert told.counts["panda.feed.questions"] >= 2
    assert told.counts["panda.feed.changes"] == 1
    assert "panda.feed.failures" not in told.counts
    assert told.gauges["panda.feed.waiting"][0] == 1
    assert told.gauges["panda.feed.waiting"][-1] == 0
    assert max(told.gauges["panda.feed.lag"]) < 30
    assert {tuple(tags.items()) for tags in told.tags} == {(("connection", "panda_default"),)}


@pytest.mark.parametrize(("label", "production"), [("user", False), ("managed", True)])
def test_a_poke_at_a_list_asks_once_for_all(
    panda: Panda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, production: bool
) -> None:
    asked, send = list[str](), PandaClient.send

    def noting(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        asked.append(endpoint.path)
        return send(client, endpoint, arguments)

    gate = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    tasks = [task(gate, name=f"user.bob.{number}", jobs=1) for number in range(AT_A_TIME + 1)]
    ids = [panda.client.task.submit(one | {"prodSourceLabel": label}).task_id for one in tasks]
    for task_id in ids:
        panda.wait(task_id, tuple(ACTIVE_STATUSES - {"registered"}))
    token = panda.server.token(production=production)
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", connection(panda.server, token, production=production))
    sensor = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=ids, poke_interval=0.1)
    memory = Memory()
    monkeypatch.setattr(PandaClient, "send", noting)
    assert not sensor.poke(memory())
    assert asked == ["task/get_tasks_modified_since"]
    (tmp_path / "go").touch()
    for task_id in ids:
        panda.wait(task_id, ("done",))
    told = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=ids, poke_interval=0.1).poke(memory())
    assert isinstance(told, PokeReturnValue)
    assert told.xcom_value
    assert [(result["jedi_task_id"], result["status"]) for result in told.xcom_value] == [(one, "done") for one in ids]
