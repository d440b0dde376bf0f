"""A connection that has come to mean another server or user: numbers known from before are not believed there."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSensorTimeout

from panda_airflow.client import NotOurs
from panda_airflow.operators.command import PandaIncreaseAttemptsOperator, PandaKillTaskOperator
from panda_airflow.operators.file import PandaFileRecoveryOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.task_groups import panda_task_group
from tests.airflow.conftest import Memory, Panda
from tests.airflow.test_exactly_once import submit
from tests.airflow.test_whose import LONG, commanded, mean, running, servers

__all__ = ["servers"]

Servers = tuple[Panda, Panda]


# What a step returned, given to another one

GIVEN: dict[str, Any] = {
    "kill": lambda result: PandaKillTaskOperator(task_id="next", jedi_task_id=result),
    "increase": lambda result: PandaIncreaseAttemptsOperator(task_id="next", jedi_task_id=result, increase=1),
    "retry": lambda result: PandaRetryTaskOperator(task_id="next", jedi_task_id=result),
    "recover": lambda result: PandaFileRecoveryOperator(task_id="next", jedi_task_id=result),
    "child": lambda result: PandaSubmitTaskOperator(task_id="next", task_parameters=LONG, parent_tid=result),
    "sensor": lambda result: PandaWaitTaskStatusSensor(task_id="next", jedi_task_id=result),
    "list": lambda result: PandaWaitTaskStatusSensor(task_id="next", jedi_task_id=[result]),
    "text": lambda result: PandaWaitTaskStatusSensor(task_id="next", jedi_task_id=str(result)),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_a_step_returned_is_not_looked_for_at_another_server(
    servers: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    here, there = servers
    result = submit(memory, LONG)
    mean(there, monkeypatch)
    step, later = GIVEN[kind](result), Memory()
    with pytest.raises(NotOurs, match=r"PanDA task 1 is one of https.*means https.*: nothing was touched") as raised:
        step.execute(later())
    step.on_kill()
    assert raised.value.hopeless
    assert (there.submitted(), commanded(there)) == ([1], [])
    assert later.store.values.keys() <= {"panda_clears"}
    mean(here, monkeypatch, "Eve Other")
    assert GIVEN[kind](result).task_id_of(result) == 1


def test_a_number_and_a_result_of_an_earlier_version_are_the_authors_word(servers: Servers) -> None:
    for given in (1, "1", {"task_id": 1, "status": ""}, {"task_id": "1", "server": ""}):
        assert PandaKillTaskOperator(task_id="kill", jedi_task_id=given).task_id_of(given) == 1


@pytest.mark.parametrize("name", ["wait", "retry", "recover", "publish"])
def test_a_chain_goes_on_with_its_task_and_no_other(
    servers: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _, there = servers
    with DAG("chain_moved"):
        group = panda_task_group("fit", task_parameters=LONG)
    step: Any = group[name]
    step.jedi_task_id = group["submit"].execute(memory())  # type: ignore[attr-defined] # what Airflow makes of XCom
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match="nothing was touched there"):
        step.execute(Memory()())
    assert commanded(there) == []


def test_a_later_try_of_a_sensor_looks_where_the_first_one_looked(
    servers: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = servers
    running(here)
    there.client.task.kill(1)
    there.wait(1)
    sensor: dict[str, Any] = {"task_id": "wait", "jedi_task_id": 1, "statuses": ["aborted"], "poke_interval": 0.1}
    with pytest.raises(AirflowSensorTimeout):
        PandaWaitTaskStatusSensor(timeout=0.1, **sensor).execute(memory())
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match=r"what this sensor waits for belongs to Bob Tester at .* now means"):
        PandaWaitTaskStatusSensor(**sensor).execute(memory())
    memory.clear()
    assert PandaWaitTaskStatusSensor(**sensor).execute(memory())["status"] == "aborted"
