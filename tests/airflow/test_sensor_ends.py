"""However a sensor ends, it ends the PanDA tasks that its author wants ended, and no other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from panda_airflow.client import TaskFailed, WaitTimeout
from panda_airflow.sensors import task as sensors
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps.kill.reaper import Target
from tests.airflow.conftest import ATTEMPTS, Memory, Panda, Run, task
from tests.support.sensing import ended, sense
from tests.support.triggers import (
    airflow_says,
    airflow_task,
    by_sdk,
    event_of,
    kill_by_person,
    running_task,
    still_runs,
)

Play = Callable[[DAG], Run]
both_ways = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def waited(memory: Memory, task_ids: Any, **more: Any) -> Any:
    """Wait as Airflow lets a sensor wait: one that defers goes on in another worker."""
    try:
        return sense(task_ids, **more).execute(memory())
    except TaskDeferred as stopped:
        event = event_of(by_sdk(stopped.trigger))
    return sense(task_ids, **more).resume_execution("execute_complete", {"event": event}, memory())


@pytest.fixture
def reaped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The tasks that a sensor wants to have killed, each time; they live on."""
    targets: list[tuple[int, ...]] = []

    def note(_config: object, target: Target, _patience: float) -> str:
        targets.append(target.task_ids)
        return "noted"

    monkeypatch.setattr(sensors, "send_reaper", note)
    return targets


@pytest.mark.parametrize("fails", [False, True])
def test_a_kill_that_the_triggerer_was_refused_is_not_given_up(panda: Panda, memory: Memory, fails: bool) -> None:
    others = ended(panda, "exit 7" if fails else "true")
    running = running_task(panda)
    panda.server.faults.inject("refuse", "task/kill", times=ATTEMPTS)
    options: dict[str, Any] = {"timeout": 0.5, "cancel_on_timeout": True, "fail_fast": False, "deferrable": True}
    with pytest.raises(TaskFailed if fails else AirflowSensorTimeout, match="Killing 1 PanDA task of 1 failed"):
        waited(memory, [*others, running], **options)
    assert panda.wait(running).status == "aborted"


@both_ways
def test_a_failure_that_skips_the_sensor_leaves_the_other_tasks_alone(
    panda: Panda, memory: Memory, reaped: list[tuple[int, ...]], deferrable: bool
) -> None:
    ids = [*ended(panda, "exit 7"), running_task(panda)]
    with pytest.raises(AirflowSkipException, match="never_fail"):
        waited(memory, ids, deferrable=deferrable, never_fail=True, cancel_on_timeout=True)
    assert reaped == []


@both_ways
def test_a_timeout_that_skips_the_sensor_ends_what_still_runs(
    panda: Panda, memory: Memory, reaped: list[tuple[int, ...]], deferrable: bool
) -> None:
    running = running_task(panda)
    with pytest.raises(AirflowSkipException):
        waited(memory, running, deferrable=deferrable, timeout=0.3, soft_fail=True, cancel_on_timeout=True)
    assert reaped == [(running,)]


def test_an_execution_timeout_may_be_retried_and_ends_what_still_runs(
    panda: Panda, play: Play, reaped: list[tuple[int, ...]]
) -> None:
    running = {
        name: panda.client.task.submit(task("sleep 60", f"user.bob.{name}")).task_id for name in ("poke", "defer")
    }
    with DAG("sense_too_long") as dag:
        for name, jedi_task_id in running.items():
            deferrable = name == "defer"
            PandaWaitTaskStatusSensor(
                task_id=name,
                jedi_task_id=jedi_task_id,
                poke_interval=0.2,
                execution_timeout=timedelta(seconds=4),
                deferrable=deferrable,
                cancel_on_kill=not deferrable,
                cancel_on_timeout=True,
            )
    run = play(dag)
    assert {name: type(error) for name, error in run.errors.items()} == {
        "poke": AirflowTaskTimeout,
        "defer": WaitTimeout,
    }
    assert sorted(reaped) == [(task_id,) for task_id in running.values()]


def test_the_connection_is_known_before_a_signal_may_come(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[bool] = []

    def note(sensor: PandaWaitTaskStatusSensor) -> bool:
        known.append("config" in vars(sensor.hook))
        return True

    monkeypatch.setattr(PandaWaitTaskStatusSensor, "poke", lambda sensor, _: note(sensor))
    monkeypatch.setattr(PandaWaitTaskStatusSensor, "execute_complete", lambda sensor, *_, **__: note(sensor))
    sense([1, 2]).execute(memory())
    sense([1, 2]).resume_execution("execute_complete", {"event": {}}, memory())
    assert known == [True, True]


def test_a_kill_that_cannot_be_tried_disturbs_nobody(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> str:
        raise BlockingIOError("no more processes")

    running = running_task(panda)
    monkeypatch.setattr(sensors, "send_reaper", break_down)
    sensor = sense(running, cancel_on_kill=True, cancel_on_timeout=True, mode="reschedule")
    with pytest.raises(AirflowRescheduleException):
        sensor.execute(memory())
    sensor.on_kill()
    with pytest.raises(AirflowSensorTimeout):
        waited(memory, running, cancel_on_timeout=True, timeout=0)


@both_ways
def test_a_sensor_kills_nothing_unless_its_author_says_so(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    running = running_task(panda)
    with pytest.raises(AirflowSensorTimeout):
        waited(memory, running, deferrable=deferrable, timeout=0.3)
    sensor = sense(running, deferrable=deferrable, mode="reschedule")
    with pytest.raises((AirflowRescheduleException, TaskDeferred)) as stopped:
        sensor.execute(memory())
    sensor.on_kill()
    if deferrable:
        airflow_says(monkeypatch, "failed")
        trigger: Any = getattr(stopped.value, "trigger", None)
        trigger.task_instance = airflow_task()
        kill_by_person(trigger)
    assert still_runs(panda, running)
