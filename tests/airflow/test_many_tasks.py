from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSensorTimeout, TaskDeferred
from airflow.triggers.base import BaseTrigger

from panda_airflow.client import NotFound, PandaError, TaskFailed, TaskOutcome, UsageError
from panda_airflow.client.errors import InvalidArgument
from panda_airflow.client.models import TaskInfo
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps import many
from panda_airflow.triggers import panda as triggers
from panda_airflow.waiting.task_polls import AT_A_TIME, look_at_many
from tests.airflow.conftest import ATTEMPTS, Memory, Panda, Run, task, unnamed, wait_until
from tests.support.sensing import ended, sense
from tests.support.triggers import airflow_says, by_core, by_sdk, event_of, kill_by_person, running_task

Play = Callable[[DAG], Run]
both_travels = pytest.mark.parametrize("travel", [by_sdk, by_core])

NOBODYS = 987_654_321
"""A JediTaskID that was never given out."""


def poked(sensor: PandaWaitTaskStatusSensor, memory: Memory) -> Any:
    """Poke until the end, as a sensor in a worker does."""
    context = memory()
    found: list[Any] = []

    def reached() -> bool:
        poke = sensor.poke(context)
        if poke:
            found.append(poke.xcom_value)
        return bool(poke)

    wait_until(reached)
    return found[0]


def deferred(sensor: PandaWaitTaskStatusSensor, memory: Memory) -> BaseTrigger:
    with pytest.raises(TaskDeferred) as stopped:
        sensor.execute(memory())
    assert isinstance(stopped.value.trigger, BaseTrigger)
    return stopped.value.trigger


def resumed(sensor: PandaWaitTaskStatusSensor, memory: Memory) -> Any:
    """Defer, wait in a trigger that was made elsewhere, and go on in another worker."""
    return sensor.execute_complete(memory(), event_of(by_sdk(deferred(sensor, memory))))


def test_a_list_from_the_steps_upstream_gives_its_results_however_the_sensor_waits(panda: Panda, play: Play) -> None:
    ways: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "defer": {"deferrable": True}}
    with DAG("sense_many") as dag:
        first, second = (
            PandaSubmitTaskOperator(task_id=name, task_parameters=unnamed(task()), wait_for_completion=False)
            for name in ("first", "second")
        )
        for name, way in ways.items():
            [first, second] >> PandaWaitTaskStatusSensor(
                task_id=name,
                jedi_task_id="{{ ti.xcom_pull(['second', 'first', 'second']) }}",
                poke_interval=0.2,
                timeout=30,
                **way,
            )
    run = play(dag)
    assert set(run.states.values()) == {"success"}
    submitted = [run.results[name]["jedi_task_id"] for name in ("second", "first")]
    assert [result["jedi_task_id"] for result in run.results["poke"]] == submitted
    assert {result["status"] for result in run.results["poke"]} == {"done"}
    assert all(result["output_datasets"] and result["name"] for result in run.results["poke"])
    assert run.results["poke"] == run.results["reschedule"] == run.results["defer"]


def test_mapped_steps_and_single_results_can_be_given_as_they_are(panda: Panda, play: Play) -> None:
    with DAG("sense_mapped") as dag:
        mapped = PandaSubmitTaskOperator.partial(task_id="mapped", wait_for_completion=False).expand(
            task_parameters=[unnamed(task()), unnamed(task())]
        )
        single = PandaSubmitTaskOperator(task_id="single", task_parameters=unnamed(task()), wait_for_completion=False)
        PandaWaitTaskStatusSensor(task_id="all", jedi_task_id=mapped.output, poke_interval=0.2, deferrable=True)
        PandaWaitTaskStatusSensor(task_id="one", jedi_task_id=single.output, poke_interval=0.2)
        PandaWaitTaskStatusSensor(task_id="listed", jedi_task_id=[single.output], poke_interval=0.2)
    run = play(dag)
    assert (run.states["all"], run.states["one"], run.states["listed"]) == ("success",) * 3
    one = run.results["one"]
    assert run.results["listed"] == [one]
    assert {one["jedi_task_id"], *(result["jedi_task_id"] for result in run.results["all"])} == set(panda.submitted())


@pytest.mark.parametrize("fail_fast", [True, False])
def test_a_failure_is_told_in_the_same_words_however_the_sensor_waits(
    panda: Panda, memory: Memory, fail_fast: bool
) -> None:
    good, bad, worse = ended(panda, "true", "exit 7", "exit 8")
    sensor = sense([good, bad, worse, bad], fail_fast=fail_fast, deferrable=True)
    told = []
    for wait in (poked, resumed):
        with pytest.raises(TaskFailed) as raised:
            wait(sensor, memory)
        assert (raised.value.task_id, raised.value.status) == (bad, "failed")
        told.append(str(raised.value))
    assert told[0] == told[1]
    assert "2 of 3 PanDA tasks did not end as wanted" in told[0]
    for task_id in (bad, worse):
        assert re.search(rf"- {task_id}: failed, status failed, \S+/task/{task_id}/", told[0])
    assert f"PanDA task {bad} ended as failed" in told[0]
    assert "payload exit 7" in told[0]
    assert "payload exit 8" not in told[0]
    assert sensor.monitor_url == f"{panda.server.url}/task/{bad}/"


def test_without_fail_fast_the_sensor_fails_once_all_have_ended(panda: Panda, memory: Memory) -> None:
    (bad,) = ended(panda, "exit 7")
    running = running_task(panda)
    context, patient = memory(), sense([bad, running], fail_fast=False)
    assert not patient.poke(context)
    with pytest.raises(TaskFailed, match="1 of 2 PanDA tasks"):
        sense([bad, running]).poke(memory())
    panda.client.task.kill(running)
    panda.wait(running)
    with pytest.raises(TaskFailed, match=rf"2 of 2[\s\S]*- {running}: failed, status aborted"):
        patient.poke(context)


def test_an_exception_names_ten_tasks_and_the_number_of_the_rest(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "TOLD", 2)
    ids = ended(panda, *["exit 7"] * 4)
    with pytest.raises(TaskFailed, match="4 of 4") as raised:
        poked(sense(ids), memory)
    assert str(raised.value).count("status failed") == 2
    assert "- and 2 more" in str(raised.value)


def test_an_empty_list_is_success(panda: Panda, memory: Memory) -> None:
    nothings: list[Any] = [[], "[]", ()]
    for nothing in nothings:
        assert sense(nothing, deferrable=True).execute(memory()) == []


@pytest.mark.parametrize("form", ["{0}, {1}", "[{0}, {1}]", "['{0}', {{'jedi_task_id': {1}}}]", ' ["{0}", {1}, {0}]\n'])
def test_a_list_may_come_as_text(panda: Panda, form: str) -> None:
    assert sense(form.format(4, 2)).task_ids == [4, 2]


@pytest.mark.parametrize(
    "value", [[None], ["x"], [[1]], "[1, None]", "1, x", [1.5], [True], {"status": "done"}, {1, 2}]
)
def test_what_is_no_list_of_task_ids_is_refused_in_a_sentence(panda: Panda, memory: Memory, value: Any) -> None:
    with pytest.raises(UsageError, match="jedi_task_id must be a JediTaskID"):
        sense(value).execute(memory())


@pytest.mark.parametrize("min_finished", [0.0, 1.5, -1])
def test_a_fraction_that_is_none_is_refused(panda: Panda, memory: Memory, min_finished: float) -> None:
    with pytest.raises(UsageError, match="min_finished"):
        sense([1, 2], min_finished=min_finished, deferrable=True).execute(memory())


@both_travels
def test_half_of_the_files_are_enough_where_the_author_says_so(
    panda: Panda, memory: Memory, travel: Callable[[BaseTrigger], BaseTrigger]
) -> None:
    (done,) = ended(panda, "true")
    slow = panda.client.task.submit(task("[ %RNDM:0 = 1 ] || sleep 60", name="user.bob.slow")).task_id
    sensor = sense([slow, done], min_finished=0.5, deferrable=True)
    trigger = deferred(sensor, memory)
    assert travel(trigger).serialize() == trigger.serialize()
    results = sensor.execute_complete(memory(), event_of(travel(trigger)))
    assert isinstance(results, list)
    assert [(result["jedi_task_id"], result["files"]["finished"]) for result in results] == [(slow, 1), (done, 2)]
    assert panda.task(slow).status == "running"
    assert poked(sensor, memory) == results


def test_ids_that_were_never_given_out_fail_the_sensor_at_once(panda: Panda, memory: Memory) -> None:
    fresh = panda.client.task.submit(task("sleep 60")).task_id
    told = []
    for wait in (poked, resumed):
        with pytest.raises(TaskOutcome, match=f"PanDA task {NOBODYS} is not found, and nothing was ever") as raised:
            wait(sense([fresh, NOBODYS], deferrable=True), memory)
        assert (type(raised.value), raised.value.task_id) == (TaskOutcome, NOBODYS)
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_not_found_proves_nothing_while_a_task_may_be_registered_or_the_database_is_down(panda: Panda) -> None:
    fresh = panda.client.task.submit(task("sleep 60")).task_id
    seen = look_at_many(panda.client, [fresh, NOBODYS])
    assert isinstance(seen[fresh], NotFound | TaskInfo)
    assert isinstance(seen[NOBODYS], InvalidArgument)
    panda.server.faults.inject("database_down")
    assert {type(answer) for answer in look_at_many(panda.client, [fresh, NOBODYS]).values()} == {NotFound}


def test_a_look_at_many_spares_a_server_in_trouble(panda: Panda) -> None:
    panda.server.faults.inject("refuse", "task/get_detailed_info", times=10_000)
    ids = range(1, 301)
    seen = look_at_many(panda.client, ids)
    assert list(seen) == list(ids)
    assert all(isinstance(answer, PandaError) and not isinstance(answer, NotFound) for answer in seen.values())
    requests = len(panda.server.faults.recorded)
    assert requests < 3 * AT_A_TIME


def test_a_few_looks_that_fail_hide_no_other_task(panda: Panda) -> None:
    few = AT_A_TIME - 1
    panda.server.faults.inject("refuse", "task/get_detailed_info", times=few)
    seen = look_at_many(panda.client, range(1000, 1100))
    assert sum(isinstance(answer, InvalidArgument) for answer in seen.values()) >= len(seen) - few


def test_an_outage_of_all_tasks_is_told_as_that_of_one(panda: Panda, memory: Memory) -> None:
    running = running_task(panda)
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=100 * ATTEMPTS)
    with pytest.raises(TaskOutcome, match=rf"2 of 2[\s\S]*{running} could not be looked at for too long"):
        poked(sense([running, NOBODYS], outage=0), memory)


def test_a_late_sensor_kills_what_still_runs_if_the_author_says_so(panda: Panda, memory: Memory) -> None:
    (done,) = ended(panda, "true")
    running = running_task(panda)
    sensor = sense([done, running], deferrable=True, timeout=0.5, cancel_on_timeout=True)
    event = event_of(deferred(sensor, memory))
    with pytest.raises(
        AirflowSensorTimeout, match=rf"1 of 2[\s\S]*{running} did not end in time[\s\S]*told to stop: 1"
    ):
        sensor.execute_complete(memory(), event)
    assert panda.wait(running).status == "aborted"


def test_a_person_who_ends_a_deferred_sensor_ends_what_still_runs_if_the_author_says_so(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_says(monkeypatch, "failed")
    (done,) = ended(panda, "true")
    running = running_task(panda)
    fresh = panda.client.task.submit(task("sleep 60", name="user.bob.fresh")).task_id
    trigger = deferred(sense([done, running, fresh], deferrable=True, cancel_on_kill=True), memory)
    assert isinstance(trigger, triggers.PandaTaskTrigger)
    ti: Any = type("TI", (), {"dag_id": "higgs", "task_id": "fit", "run_id": "manual__2026", "map_index": -1})()
    trigger.task_instance = ti
    kill_by_person(trigger)
    assert [panda.wait(task_id).status for task_id in (running, fresh)] == ["aborted", "aborted"]
    assert panda.task(done).status == "done"


def test_a_worker_told_to_stop_ends_what_a_sensor_waits_for_if_the_author_says_so(panda: Panda, memory: Memory) -> None:
    (done,) = ended(panda, "true")
    running = running_task(panda)
    sensor = sense([done, running], cancel_on_kill=True, mode="reschedule", poke_interval=60)
    with pytest.raises(AirflowRescheduleException):
        sensor.execute(memory())
    sensor.on_kill()
    assert panda.wait(running).status == "aborted"


def test_a_poking_sensor_that_is_too_late_ends_what_still_runs_if_the_author_says_so(
    panda: Panda, memory: Memory
) -> None:
    running = running_task(panda)
    with pytest.raises(AirflowSensorTimeout):
        sense(running, cancel_on_timeout=True, timeout=0.3).execute(memory())
    assert panda.wait(running).status == "aborted"


def test_a_rescheduled_sensor_remembers_what_has_ended(panda: Panda, memory: Memory) -> None:
    (done,) = ended(panda, "true")
    running = running_task(panda)
    context = memory()
    assert not sense([done, running]).poke(context)
    panda.server.faults.inject("refuse", "task/get_detailed_info", times=100)
    before = time.time()
    assert not sense([done, running]).poke(context)
    stored = memory.store.get("panda_watches")
    assert list(stored["seen"]["over"].values()) == [[done]]
    assert stored["since"] <= before
