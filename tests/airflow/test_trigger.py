from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.serde import deserialize, serialize
from airflow.serialization.encoders import encode_trigger
from airflow.serialization.serialized_objects import BaseSerialization
from airflow.triggers.base import BaseTrigger

from panda_airflow.client import TaskFailed
from panda_airflow.client.models import Mark
from panda_airflow.client.waiting import WaitPlan
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.triggers import panda as triggers
from panda_airflow.triggers.panda import PandaTaskTrigger
from tests.airflow.conftest import PACE, Memory, Panda, task, unnamed


def by_sdk(trigger: BaseTrigger) -> BaseTrigger:
    """Make the trigger again as the triggerer does from what a worker sent."""
    classpath, kwargs = trigger.serialize()
    stored = json.loads(json.dumps(serialize(kwargs)))
    return _make(classpath, deserialize(stored))


def by_core(trigger: BaseTrigger) -> BaseTrigger:
    """Make the trigger again as the triggerer does from a serialized DAG."""
    classpath, kwargs = trigger.serialize()
    stored = json.loads(json.dumps(encode_trigger({"classpath": classpath, "kwargs": kwargs})))
    return _make(stored["classpath"], {name: BaseSerialization.deserialize(v) for name, v in stored["kwargs"].items()})


def _make(classpath: str, kwargs: Any) -> BaseTrigger:
    made = resolve_name(classpath)(**kwargs)
    assert isinstance(made, BaseTrigger)
    return made


def event_of(trigger: BaseTrigger) -> Any:
    """Run a trigger to its only event, which then travels through the database."""

    async def run() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    [payload] = asyncio.run(run())
    return deserialize(json.loads(json.dumps(serialize(payload))))


def deferred(memory: Memory, command: str) -> BaseTrigger:
    with pytest.raises(TaskDeferred) as stopped:
        step(command).execute(memory())
    assert stopped.value.method_name == "execute_complete"
    assert stopped.value.kwargs is None
    assert isinstance(stopped.value.trigger, BaseTrigger)
    return stopped.value.trigger


def step(command: str) -> PandaSubmitTaskOperator:
    return PandaSubmitTaskOperator(
        task_id="fit", task_parameters=unnamed(task(command)), poll_interval=0.1, deferrable=True
    )


@pytest.mark.parametrize("travel", [by_sdk, by_core])
def test_a_deferred_step_is_resumed_elsewhere(
    panda: Panda, memory: Memory, travel: Callable[[BaseTrigger], BaseTrigger]
) -> None:
    trigger = deferred(memory, "true")
    elsewhere = travel(trigger)
    assert elsewhere.serialize() == trigger.serialize()
    result = step("true").execute_complete(memory(), event_of(elsewhere))
    assert ([result["task_id"]], result["status"]) == (panda.submitted(), "done")


@pytest.mark.parametrize("travel", [by_sdk, by_core])
def test_a_trigger_made_again_knows_what_the_first_knew(travel: Callable[[BaseTrigger], BaseTrigger]) -> None:
    plan = WaitPlan(42, 1.5, deadline=99.5, statuses=("done", "finished"), mark=Mark(1, "2026-01-01T00:00:00"))
    again = travel(PandaTaskTrigger("panda_other", plan.to_json(), cancel_on_kill=False))
    assert isinstance(again, PandaTaskTrigger)
    assert (again.panda_conn_id, again.plan, again.cancel_on_kill) == ("panda_other", plan, False)


def test_a_failure_travels_with_all_its_words(panda: Panda, memory: Memory) -> None:
    event = event_of(by_sdk(deferred(memory, "exit 7")))
    with pytest.raises(TaskFailed, match=r"ended as failed[\s\S]*no file was[\s\S]*payload exit 7[\s\S]*/task/"):
        step("exit 7").execute_complete(memory(), event)


def test_a_trigger_carries_no_secret(panda: Panda, memory: Memory) -> None:
    assert panda.client.config.token not in repr(deferred(memory, "true").serialize())


def test_a_trigger_that_cannot_connect_says_so_in_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    event = event_of(PandaTaskTrigger("panda_nowhere", WaitPlan(42, 0.0).to_json()))
    assert event["kind"] == "error"
    assert "'panda_nowhere' does not exist" in event["note"]


def test_a_trigger_frees_the_event_loop_while_it_looks(panda: Panda) -> None:
    panda.server.faults.inject("delay", "task/get_detailed_info", seconds=1.5)
    task_id = panda.client.task.submit(task()).task_id
    gaps: list[float] = []

    async def watch_the_loop() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async def run() -> None:
        watcher = asyncio.create_task(watch_the_loop())
        await anext(aiter(trigger_for(task_id).run()))
        watcher.cancel()

    asyncio.run(run())
    assert max(gaps) < 1


def trigger_for(task_id: int, **more: Any) -> PandaTaskTrigger:
    plan = WaitPlan(task_id, time.time(), poll_interval=0.1)
    trigger = PandaTaskTrigger("panda_default", plan.to_json(), **more)
    ti: Any = SimpleNamespace(dag_id="higgs", task_id="fit", run_id="manual__2026", map_index=-1)
    trigger.task_instance = ti
    return trigger


async def run_in_triggerer(trigger: PandaTaskTrigger) -> None:
    """Run a trigger as Airflow's triggerer does, which gives ``on_kill`` until its next loop."""
    try:
        async for _ in trigger.run():
            pass
    except asyncio.CancelledError:
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(trigger.on_kill(), 30)
        raise


def kill_by_person(trigger: PandaTaskTrigger, *, after: float = 0.3) -> None:
    """Cancel a running trigger twice, as the triggerer does when a person ends the task."""

    async def live() -> None:
        running = asyncio.create_task(run_in_triggerer(trigger))
        await asyncio.sleep(after)
        for _ in range(2):
            running.cancel("user-action")
            await asyncio.sleep(0.1)
        assert running.cancelled()
        await asyncio.gather(*triggers._kills)

    asyncio.run(live())


def airflow_says(monkeypatch: pytest.MonkeyPatch, state: str, key: str = "fit") -> None:
    """Stand in for the question to Airflow, which only a triggerer can ask."""

    def get_task_states(**asked: Any) -> dict[str, Any]:
        assert (asked["dag_id"], asked["task_ids"], asked["run_ids"]) == ("higgs", ["fit"], ["manual__2026"])
        return {"manual__2026": {key: state}}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))


def running_task(panda: Panda) -> int:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    return task_id


def test_a_person_who_ends_the_step_ends_the_task_though_airflow_cancels_twice(
    panda: Panda, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says(monkeypatch, "failed")
    task_id = running_task(panda)
    panda.server.faults.inject("delay", "task/kill", seconds=0.4)
    kill_by_person(trigger_for(task_id))
    assert panda.wait(task_id).status == "aborted"
    assert not triggers._kills


@pytest.mark.parametrize(("map_index", "key"), [(-1, "fit"), (3, "fit_3")])
def test_a_trigger_that_only_moves_leaves_the_task_alone(
    panda: Panda, monkeypatch: pytest.MonkeyPatch, map_index: int, key: str
) -> None:
    airflow_says(monkeypatch, "deferred", key)
    task_id = running_task(panda)
    trigger = trigger_for(task_id)
    assert trigger.task_instance
    trigger.task_instance.map_index = map_index
    kill_by_person(trigger)
    assert still_runs(panda, task_id)


def test_a_trigger_leaves_the_task_alone_where_the_author_says_so(
    panda: Panda, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says(monkeypatch, "failed")
    task_id = running_task(panda)
    kill_by_person(trigger_for(task_id, cancel_on_kill=False))
    assert still_runs(panda, task_id)


def test_a_triggerer_that_stops_leaves_the_task_alone(panda: Panda) -> None:
    task_id = running_task(panda)

    async def live() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(aiter(trigger_for(task_id).run())), 0.3)

    asyncio.run(live())
    assert still_runs(panda, task_id)


def still_runs(panda: Panda, task_id: int) -> bool:
    time.sleep(PACE.command + 2 * PACE.cycle)
    return panda.task(task_id).status == "running"


def test_a_task_that_is_not_registered_yet_is_killed_as_soon_as_it_is(
    panda: Panda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "KILL_RETRY_INTERVAL", 0.1)
    airflow_says(monkeypatch, "failed")
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    kill_by_person(trigger_for(task_id), after=0.05)
    assert panda.wait(task_id).status == "aborted"


def test_a_kill_that_fails_is_said_in_the_log(
    panda: Panda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    airflow_says(monkeypatch, "failed")
    task_id = running_task(panda)
    trigger = trigger_for(task_id)
    said: list[str] = []
    log = SimpleNamespace(
        info=lambda *_: None, warning=lambda *_: None, exception=lambda text, *a: said.append(text % a)
    )
    monkeypatch.setattr(PandaTaskTrigger, "log", log)
    panda.server.faults.inject("garbage", "task/kill", times=9)
    kill_by_person(trigger)
    assert said == [f"PanDA task {task_id} may still be running: killing it failed."]
