from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
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
from panda_airflow.client.report import submission_retry
from panda_airflow.client.task_retry import TaskRetryPolicy
from panda_airflow.client.waiting import WaitPlan
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.hooks.result import settle
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.triggers import base as triggers
from panda_airflow.triggers.panda import PandaTaskTrigger
from tests.airflow.conftest import Memory, Panda, fails_once, task, unnamed


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
    plan = replace(plan, retry=TaskRetryPolicy(attempts=2, new_parameters=[{"ramCount": 4000}]), made=1)
    again = travel(PandaTaskTrigger("panda_other", plan.to_json(), cancel_on_kill=False))
    assert isinstance(again, PandaTaskTrigger)
    assert (again.panda_conn_id, again.plan, again.cancel_on_kill) == ("panda_other", plan, False)


def test_a_failure_travels_with_all_its_words(panda: Panda, memory: Memory) -> None:
    event = event_of(by_sdk(deferred(memory, "exit 7")))
    with pytest.raises(TaskFailed) as raised:
        step("exit 7").execute_complete(memory(), event)
    told = (
        "ended as failed",
        "JEDI says: failed since no file was",
        "Attempts",
        "Jobs, each attempt counted: 2 failed",
        "payload exit 7",
        "log http",
    )
    lines = str(raised.value).splitlines()
    assert [any(part in line for line in lines) for part in told] == [True] * len(told)
    assert panda.client.config.task_page(event["task_id"]) not in lines[0]


def test_a_failure_says_what_a_retry_does_and_where_to_look(panda: Panda) -> None:
    task_id = panda.client.task.submit(task("exit 7")).task_id
    event = event_of(trigger_for(task_id))
    hook = PandaHook()
    with pytest.raises(TaskFailed) as raised:
        settle(hook, event, submission_retry(task_id, event["kind"], event["status"]))
    assert str(raised.value).splitlines()[-2:] == [
        hook.config.task_page(task_id),
        "A retry of this step retries the PanDA task in place.",
    ]


def test_a_failure_is_told_though_the_server_cannot_explain_it(panda: Panda) -> None:
    task_id = panda.client.task.submit(task("exit 7")).task_id
    event = event_of(trigger_for(task_id))
    for method in ("task/get_job_descriptions", "task/get_details"):
        panda.server.faults.inject("garbage", method, times=9)
    with pytest.raises(TaskFailed, match="ended as failed"):
        settle(PandaHook(), event)


def test_a_trigger_says_when_a_retry_is_due_and_makes_none_itself(panda: Panda, tmp_path: Path) -> None:
    """It has nowhere to record one: killed at the wrong moment, its successor would make it again."""
    task_id = panda.client.task.submit(task(fails_once(tmp_path))).task_id
    policy = TaskRetryPolicy(attempts=1, delay=0.2)
    event = event_of(by_sdk(by_core(trigger_for(task_id, retry=policy))))
    assert (event["kind"], event["status"], event["retry"]) == ("failed", "finished", True)
    assert "retry" not in event_of(trigger_for(task_id, retry=policy, made=1))
    assert not panda.server.backend.store.rows("SELECT * FROM commands")


def test_enough_finished_jobs_end_the_wait_for_a_task_without_input(panda: Panda) -> None:
    command = 'job=%RNDM:1; [ "$job" = 2 ] || sleep 60'
    task_id = panda.client.task.submit(task(command)).task_id
    event = event_of(trigger_for(task_id, min_finished=0.5))
    assert (event["kind"], event["files"]) == ("ended", {"total": 2, "finished": 1, "failed": 0})


def test_a_trigger_carries_no_secret(panda: Panda, memory: Memory) -> None:
    assert panda.client.config.token not in repr(deferred(memory, "true").serialize())


def test_a_trigger_that_cannot_connect_says_so_in_its_event() -> None:
    impatient = WaitPlan(42, time.time(), poll_interval=0.1, max_poll_interval=0.1, outage=0.0)
    event = event_of(PandaTaskTrigger("panda_nowhere", impatient.to_json()))
    assert event["kind"] == "outage"
    assert "'panda_nowhere' does not exist" in event["note"]


def test_a_trigger_looks_outside_the_event_loop(panda: Panda, askers: set[int]) -> None:
    task_id = panda.client.task.submit(task()).task_id
    askers.clear()
    event_of(trigger_for(task_id))
    assert askers
    assert threading.get_ident() not in askers


def attempt_of(panda: Panda, task_id: int) -> int:
    row = panda.server.backend.store.row("SELECT attemptNr FROM tasks WHERE jediTaskID = ?", task_id)
    return int(row["attemptNr"]) if row else 0


def trigger_for(task_id: int, *, cancel_on_kill: bool = True, **more: Any) -> PandaTaskTrigger:
    plan = WaitPlan(task_id, time.time(), poll_interval=0.1, max_poll_interval=0.1, **more)
    trigger = PandaTaskTrigger("panda_default", plan.to_json(), cancel_on_kill=cancel_on_kill)
    trigger.task_instance = airflow_task()
    return trigger


def airflow_task() -> Any:
    """Stand in for the Airflow task that a trigger belongs to."""
    return SimpleNamespace(dag_id="higgs", task_id="fit", run_id="manual__2026", map_index=-1)


async def run_in_triggerer(trigger: triggers.PandaTrigger) -> None:
    """Run a trigger as Airflow's triggerer does, which gives ``on_kill`` until its next loop."""
    try:
        async for _ in trigger.run():
            pass
    except asyncio.CancelledError:
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(trigger.on_kill(), 30)
        raise


def kill_by_person(trigger: triggers.PandaTrigger, *, after: float = 0.3) -> None:
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
    """Whether nobody has asked the server to kill the task."""
    commands = panda.server.backend.store.rows("SELECT * FROM commands")
    return not commands and panda.task(task_id).status == "running"


def test_a_task_that_is_not_registered_yet_is_killed_as_soon_as_it_is(
    panda: Panda, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says(monkeypatch, "failed")
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    kill_by_person(trigger_for(task_id), after=0.05)
    assert panda.wait(task_id).status == "aborted"


def test_a_kill_that_fails_is_tried_again_elsewhere(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, "failed")
    task_id = running_task(panda)
    panda.server.faults.inject("garbage", "task/kill", times=3)
    kill_by_person(trigger_for(task_id))
    assert panda.wait(task_id).status == "aborted"


def test_a_clear_leaves_the_task_to_the_next_try(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_says(monkeypatch, "scheduled")
    task_id = running_task(panda)
    kill_by_person(trigger_for(task_id))
    assert still_runs(panda, task_id)


@pytest.mark.parametrize("answer", [{}, {"manual__2026": {}}, {"another": {"fit": "deferred"}}])
def test_a_step_that_airflow_does_not_know_any_more_has_no_use_for_its_task(
    panda: Panda, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: answer))
    task_id = running_task(panda)
    kill_by_person(trigger_for(task_id))
    assert panda.wait(task_id).status == "aborted"
