from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger

from panda_airflow.client import TaskFailed
from panda_airflow.client.models import Mark
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.steps.decision import submission_retry
from panda_airflow.steps.result import settle
from panda_airflow.triggers import base as triggers
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.task import WaitPlan
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import Memory, Panda, fails_once, task, unnamed
from tests.support.triggers import (
    airflow_says,
    airflow_task,
    by_core,
    by_sdk,
    event_of,
    kill_by_person,
    running_task,
    still_runs,
)


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
    assert ([result["jedi_task_id"]], result["status"]) == (panda.submitted(), "done")


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
