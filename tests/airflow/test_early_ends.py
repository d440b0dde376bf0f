"""What has ended already is not deferred for, and no event comes before the scheduler has taken in the deferral."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from panda_airflow.client import TaskFailed
from panda_airflow.operators.command import PandaKillTaskOperator
from panda_airflow.operators.job import PandaKillJobsOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.job import PandaWaitJobStatusSensor
from panda_airflow.sensors.server import PandaServerSensor
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.triggers import base
from panda_airflow.triggers.many import PandaManyTasksTrigger
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.triggers.polling import PandaPollTrigger
from panda_airflow.waiting.polling import PollPlan
from panda_airflow.waiting.task import WaitPlan
from tests.airflow.conftest import ATTEMPTS, Memory, Panda, task, unnamed
from tests.support.sensing import ended
from tests.support.triggers import airflow_task, by_core, by_sdk

Make = Callable[[int, list[int]], Any]

WAITS: dict[str, Make] = {
    "retry": lambda task_id, _: PandaRetryTaskOperator(task_id="x", jedi_task_id=task_id, deferrable=True),
    "kill": lambda task_id, _: PandaKillTaskOperator(task_id="x", jedi_task_id=task_id, deferrable=True),
    "sensor": lambda task_id, _: PandaWaitTaskStatusSensor(task_id="x", jedi_task_id=task_id, deferrable=True),
    "list": lambda task_id, _: PandaWaitTaskStatusSensor(task_id="x", jedi_task_id=[task_id], deferrable=True),
    "kill jobs": lambda _, job_ids: PandaKillJobsOperator(task_id="x", job_ids=job_ids, deferrable=True),
    "job sensor": lambda _, job_ids: PandaWaitJobStatusSensor(task_id="x", job_ids=job_ids, deferrable=True),
    "server": lambda *_: PandaServerSensor(task_id="x", deferrable=True),
}

LOOKS = {"kill jobs": "job/get_status", "job sensor": "job/get_status", "server": "creds/get_user_secrets"}


@pytest.mark.parametrize("name", WAITS)
def test_what_has_ended_is_not_deferred_for(panda: Panda, memory: Memory, name: str) -> None:
    [task_id] = ended(panda, "true")
    result = WAITS[name](task_id, panda.client.task.get_job_ids(task_id)).execute(memory())
    assert isinstance(result, list | dict)


def test_a_submission_that_ended_meanwhile_is_not_deferred_for(panda: Panda, memory: Memory) -> None:
    parameters = unnamed(task())
    first = PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, wait_for_completion=False)
    panda.wait(first.execute(memory())["jedi_task_id"])
    second = PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, deferrable=True)
    result = second.execute(memory())
    assert (result["status"], bool(result["output_datasets"])) == ("done", True)


@pytest.mark.parametrize("name", ["sensor", "list", "job sensor", "server"])
def test_a_first_look_that_fails_fails_no_step(panda: Panda, memory: Memory, name: str) -> None:
    [task_id] = ended(panda, "true")
    job_ids = panda.client.task.get_job_ids(task_id)
    panda.server.faults.inject("garbage", LOOKS.get(name, "task/get_detailed_info"), times=ATTEMPTS)
    with pytest.raises(TaskDeferred):
        WAITS[name](task_id, job_ids).execute(memory())


def test_a_bad_end_that_is_seen_at_once_is_that_of_the_sensor(panda: Panda, memory: Memory) -> None:
    [task_id] = ended(panda, "exit 7")
    with pytest.raises(TaskFailed, match="ended as failed"):
        WAITS["sensor"](task_id, []).execute(memory())
    sensor = PandaWaitTaskStatusSensor(task_id="x", jedi_task_id=task_id, deferrable=True, never_fail=True)
    with pytest.raises(AirflowSkipException):
        sensor.execute(memory())


PLAN = WaitPlan(42, 0.0)

TRIGGERS: dict[str, Callable[..., base.PandaTrigger]] = {
    "task": lambda **more: PandaTaskTrigger("panda_default", PLAN.to_json(), **more),
    "list": lambda **more: PandaManyTasksTrigger(
        "panda_default", {"task_ids": [42], "each": PLAN.to_json(), "fail_fast": True}, **more
    ),
    "server": lambda **more: PandaPollTrigger("panda_default", PollPlan("server", {}, "It", 0.0).to_json(), **more),
}


@pytest.mark.parametrize("kind", TRIGGERS)
def test_an_event_is_kept_back_from_the_deferral_on(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(base, "HOLD", 20.0)
    now = time.time()
    made = {ago: TRIGGERS[kind](deferred=now - ago) for ago in (0.0, 15.0, 25.0, 3600.0)}
    for trigger in made.values():
        trigger.task_instance = airflow_task()
    at_once = {ago: trigger._hold(trigger.deferred) for ago, trigger in made.items()}
    assert at_once == pytest.approx({0.0: 20, 15.0: 5, 25.0: 0, 3600.0: 0}, abs=2)
    assert made[25.0]._hold(now) == pytest.approx(50, abs=2), "a triggerer that is so late shows a busy machine"
    assert made[3600.0]._hold(now) == 0, "it has only been started again"


@pytest.mark.parametrize("kind", TRIGGERS)
def test_the_moment_of_the_deferral_travels_with_the_trigger(kind: str) -> None:
    began = time.time()
    trigger = TRIGGERS[kind]()
    assert began <= trigger.deferred <= time.time()
    for travel in (by_sdk, by_core):
        again = travel(trigger)
        assert isinstance(again, base.PandaTrigger)
        assert again.deferred == trigger.deferred


@pytest.mark.parametrize("kind", TRIGGERS)
def test_a_trigger_of_another_version_is_made_all_the_same(kind: str) -> None:
    assert TRIGGERS[kind](argument_of_tomorrow=1).what


def test_a_trigger_that_sees_the_end_at_once_fires_when_it_may(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    [task_id] = ended(panda, "true")
    monkeypatch.setattr(base, "HOLD", 1.5)

    async def fired(trigger: base.PandaTrigger) -> float:
        async for _ in trigger.run():
            pass
        return time.time() - trigger.deferred

    trigger = PandaTaskTrigger("panda_default", WaitPlan(task_id, time.time()).to_json())
    trigger.task_instance = airflow_task()
    assert asyncio.run(fired(trigger)) >= 1.5
    monkeypatch.setattr(base, "HOLD", 3600.0)
    in_dag_test = PandaTaskTrigger("panda_default", WaitPlan(task_id, time.time()).to_json())
    assert asyncio.run(fired(in_dag_test)) < 3600


def deferral_of(step: Any, context: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as stopped:
        step.execute(context)
    return stopped.value


@pytest.mark.parametrize("kind", ["task", "jobs"])
def test_a_deferred_step_heeds_its_execution_timeout(panda: Panda, memory: Memory, kind: str) -> None:
    limit: Any = {"deferrable": True, "execution_timeout": timedelta(seconds=77), "poll_interval": 5.0}
    task_id = panda.client.task.submit(task("sleep 60", name="user.bob.other")).task_id
    panda.wait(task_id, ("running",))
    step: Any = PandaSubmitTaskOperator(task_id="x", task_parameters=unnamed(task("sleep 60")), **limit)
    if kind == "jobs":
        step = PandaKillJobsOperator(task_id="x", job_ids=panda.client.task.get_job_ids(task_id), **limit)
        panda.server.faults.inject("garbage", "job/get_status", times=ATTEMPTS)
    context = memory()
    deferral = deferral_of(step, context)
    trigger: Any = deferral.trigger
    assert trigger.plan.deadline == pytest.approx(context["ti"].start_date.timestamp() + 77)
    if kind == "task":
        step.timeout = 50.0
        other: Any = deferral_of(step, memory()).trigger
        assert other.plan.deadline < trigger.plan.deadline, "whichever comes first"


@pytest.mark.parametrize("name", ["submit", "sensor", "job sensor"])
def test_airflow_ends_a_deferral_only_after_the_slowest_last_look(panda: Panda, memory: Memory, name: str) -> None:
    [task_id] = ended(panda, "true")
    for look in ("job/get_status", "task/get_detailed_info"):
        panda.server.faults.inject("garbage", look, times=ATTEMPTS)
    step: Any = PandaSubmitTaskOperator(
        task_id="x", task_parameters=unnamed(task("sleep 60")), deferrable=True, timeout=40.0, poll_interval=10.0
    )
    if name != "submit":
        step = WAITS[name](task_id, panda.client.task.get_job_ids(task_id))
        step.timeout, step.poke_interval = 40.0, 10.0
    timeout = deferral_of(step, memory()).timeout
    assert isinstance(timeout, timedelta)
    assert timeout.total_seconds() > 40 + 2 * 10 + base.SLOWEST_LOOK - 20
    assert base.backstop(None, 10.0) is None
    assert base.backstop(0.0, 10.0) == timedelta(seconds=2 * 10 + base.SLOWEST_LOOK)
