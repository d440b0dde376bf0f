"""What a step promises is waited for through an outage: never a success without files, outputs and asset events."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from panda_airflow.client import ServerAway
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from tests.airflow.conftest import ATTEMPTS, Memory, Panda, task, unnamed
from tests.support.triggers import by_sdk, event_of

pytestmark = pytest.mark.usefixtures("impatient")

both_ways = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def ended(step: Any, memory: Memory) -> Any:
    """Run a try to its end, in a worker or deferred."""
    context = memory()
    try:
        return step.execute(context)
    except TaskDeferred as deferral:
        event = {"event": event_of(by_sdk(deferral.trigger))}
        return step.resume_execution(str(deferral.method_name), event, context)


def submitting(**more: Any) -> PandaSubmitTaskOperator:
    return PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task()), **({"poll_interval": 0.1} | more))


@both_ways
@pytest.mark.parametrize("fault", ["refuse", "garbage"])
def test_the_outputs_of_a_step_are_waited_for(panda: Panda, memory: Memory, fault: Any, deferrable: bool) -> None:
    panda.server.faults.inject(fault, "task/get_details", times=3 * ATTEMPTS)
    result = ended(submitting(deferrable=deferrable), memory)
    assert (result["status"], result["files"]["finished"]) == ("done", 2)
    assert result["output_datasets"] == panda.client.task.get_details(result["jedi_task_id"]).output_datasets != []


@both_ways
@pytest.mark.parametrize("many", [False, True])
def test_the_outputs_of_sensed_tasks_are_waited_for(panda: Panda, memory: Memory, many: bool, deferrable: bool) -> None:
    ids = [panda.client.task.submit(task(name=f"user.bob.{number}")).task_id for number in range(2)]
    for task_id in ids:
        panda.wait(task_id)
    panda.server.faults.inject("garbage", "task/get_details", times=3 * ATTEMPTS)
    given: Any = ids if many else ids[0]
    sensor = PandaWaitTaskStatusSensor(task_id="wait", jedi_task_id=given, poke_interval=0.1, deferrable=deferrable)
    result = ended(sensor, memory)
    for one in result if many else [result]:
        assert one["output_datasets"] == panda.client.task.get_details(one["jedi_task_id"]).output_datasets != []


@both_ways
def test_a_step_whose_outputs_stay_hidden_fails_and_its_retry_finds_them(
    panda: Panda, memory: Memory, deferrable: bool
) -> None:
    memory.max_tries = 0
    panda.server.faults.inject("garbage", "task/get_details", times=1000)
    with pytest.raises(ServerAway, match=r"What it has made cannot be read: .*The PanDA task has ended"):
        ended(submitting(deferrable=deferrable, outage=0), memory)
    panda.server.faults.clear()
    [task_id] = panda.submitted()
    assert not panda.server.backend.store.rows("SELECT * FROM commands"), "it has ended: nobody kills it"
    result = ended(submitting(deferrable=deferrable), memory)
    assert (result["jedi_task_id"], bool(result["output_datasets"])) == (task_id, True)


def test_a_sensor_whose_outputs_stay_hidden_fails(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task()).task_id
    panda.wait(task_id)
    panda.server.faults.inject("garbage", "task/get_details", times=1000)
    sensor = PandaWaitTaskStatusSensor(task_id="wait", jedi_task_id=task_id, poke_interval=0.1, outage=0)
    with pytest.raises(ServerAway, match="could not be read for too long"):
        sensor.execute(memory())


def test_an_event_of_an_older_trigger_is_no_hollow_success_either(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task()).task_id
    panda.wait(task_id)
    event = {"kind": "ended", "task_id": task_id, "status": "done", "note": ""}
    step = submitting()
    assert step.execute_complete(memory(), event)["output_datasets"]
    panda.server.faults.inject("garbage", "task/get_details", times=1000)
    with pytest.raises(Exception, match="not a PanDA envelope"):
        step.execute_complete(memory(), event)
