"""A connection that has come to mean another server or user: numbers known from before are not believed there."""

from __future__ import annotations

import time
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from panda_airflow.client import NotOurs, PandaClient, WaitTimeout
from panda_airflow.operators.command import PandaIncreaseAttemptsOperator, PandaKillTaskOperator
from panda_airflow.operators.file import PandaFileRecoveryOperator
from panda_airflow.operators.idds import PandaIddsCommandOperator
from panda_airflow.operators.job import PandaKillJobsOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.operators.workflow import PandaSubmitWorkflowOperator
from panda_airflow.sensors.job import PandaWaitJobStatusSensor
from panda_airflow.sensors.server import PandaServerSensor
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.task_groups import panda_task_group
from panda_airflow.waiting.polling import Finding, Poll
from tests.airflow.conftest import Memory, Panda, wait_until
from tests.airflow.test_job_steps import are_told_to_stop, sleepers
from tests.airflow.test_whose import LONG, commanded, mean, running, servers
from tests.support.submitting import submit
from tests.support.triggers import by_core, event_of

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


# What a step did at most once

ONCE: dict[str, Any] = {
    "workflow": (PandaSubmitWorkflowOperator, "_submit", {"workflow_definition": {"nodes": {}}}, {"workflow_id": 1}),
    "idds": (PandaIddsCommandOperator, "_call", {"command": "abort"}, ["registered"]),
    "recovery": (PandaFileRecoveryOperator, "_request", {"jedi_task_id": 1, "wait_for_completion": False}, "/cache/a"),
    "increase": (PandaIncreaseAttemptsOperator, "_increase", {"jedi_task_id": 1, "increase": 1}, "1 input"),
}


@pytest.mark.parametrize("kind", ONCE)
def test_what_was_done_once_is_neither_believed_nor_done_again_elsewhere_until_a_clear(
    servers: Servers,
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    here, there = servers
    running(here)
    step, method, options, answer = ONCE[kind]
    sent: list[str] = []

    def send(self: Any, *_: object) -> Any:
        sent.append(self.account.server)
        return answer

    monkeypatch.setattr(step, method, send)
    result = step(task_id="once", **options).execute(memory())
    mean(there, monkeypatch)
    with monkeypatch.context() as silence:
        silence.setattr(PandaClient, "send", None)
        with pytest.raises(NotOurs, match=r"belongs to Bob Tester at .* now means"):
            step(task_id="once", **options).execute(memory())
    assert sent == [here.server.url_ssl]
    mean(here, monkeypatch)
    assert step(task_id="once", **options).execute(memory()) == result
    mean(there, monkeypatch)
    memory.clear()
    step(task_id="once", **options).execute(memory())
    assert sent == [here.server.url_ssl, there.server.url_ssl]
    assert "What came of it was left alone" in capsys.readouterr().out


# Jobs


@pytest.fixture
def jobs(servers: Servers) -> Servers:
    """Each server has the jobs 1 and 2, those of the second belong to somebody else."""
    _, there = servers
    wait_until(lambda: len(there.client.task.get_job_ids(1)) == 2)
    return servers


def told_to_stop(servers: Servers) -> list[bool]:
    return [are_told_to_stop(panda, [1, 2]) for panda in servers]


def test_jobs_of_another_server_are_neither_reported_nor_killed(
    jobs: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = jobs
    assert sleepers(wait_for_completion=False).execute(memory()) == {"job_ids": [1, 2]}
    mean(there, monkeypatch)
    step = sleepers(wait_for_completion=False)
    with pytest.raises(NotOurs, match="submission of the jobs belongs to Bob Tester"):
        step.execute(memory())
    step.on_kill()
    memory.clear()
    assert step.execute(memory()) == {"job_ids": [3, 4]}
    assert told_to_stop(jobs) == [False, False]


def test_a_trigger_neither_reports_nor_kills_jobs_of_another_server(
    jobs: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = jobs
    with pytest.raises(TaskDeferred) as deferred:
        sleepers(deferrable=True).execute(memory())
    trigger: Any = by_core(deferred.value.trigger)
    there.client.task.kill(1)
    there.wait(1)
    mean(there, monkeypatch)
    event = event_of(trigger)
    assert (event["kind"], "now means" in event["note"]) == ("error", True)
    fresh: Any = by_core(trigger)
    assert "They were left running" in fresh._end()
    with pytest.raises(NotOurs, match="now means"):
        sleepers().resume_execution("execute_complete", {"event": event}, memory())
    with pytest.raises(WaitTimeout, match=r"killing them failed.*now means"):
        sleepers().resume_execution("__fail__", {"error": "Trigger timeout"}, memory())
    assert not are_told_to_stop(here, [1, 2])


def test_the_end_of_a_wait_for_jobs_is_no_success_elsewhere(
    jobs: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = jobs
    with pytest.raises(TaskDeferred) as deferred:
        sleepers(deferrable=True).execute(memory())
    trigger: Any = deferred.value.trigger
    event = Poll(trigger.plan).judge(Finding("ended", value={"jobs": {"1": "finished"}}), time.time())
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match="now means"):
        sleepers().resume_execution("execute_complete", {"event": event}, memory())


@pytest.mark.parametrize("options", [{}, {"deferrable": True}], ids=["poke", "defer"])
def test_a_later_try_of_a_job_sensor_looks_where_the_first_one_looked(
    jobs: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    here, there = jobs
    sensor: dict[str, Any] = {"task_id": "wait", "job_ids": [1], "poke_interval": 0.1, "timeout": 0.1}
    mean(there, monkeypatch)
    with pytest.raises((AirflowSensorTimeout, TaskDeferred)):
        PandaWaitJobStatusSensor(**sensor, **options).execute(memory())
    mean(here, monkeypatch)
    with pytest.raises(NotOurs, match=r"PanDA job 1 belongs to Bob Tester at .* now means"):
        PandaWaitJobStatusSensor(**sensor, **options).execute(memory())


def test_a_later_try_kills_no_jobs_of_another_server(
    jobs: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = jobs
    sleepers(wait_for_completion=False).execute(Memory()())
    PandaKillJobsOperator(task_id="kill", job_ids=[1, 2], wait_for_completion=False).execute(memory())
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match="what this step kills belongs to Bob Tester"):
        PandaKillJobsOperator(task_id="kill", job_ids=[1, 2], wait_for_completion=False).execute(memory())
    assert told_to_stop(jobs) == [True, False]


@pytest.mark.parametrize("options", [{}, {"deferrable": True}], ids=["poke", "defer"])
def test_the_server_sensor_waits_for_whichever_server_is_meant(
    servers: Servers, memory: Memory, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    for panda in servers:
        mean(panda, monkeypatch)
        up = PandaServerSensor(task_id="up", poke_interval=0.1, timeout=30, **options).execute(memory())
        assert up == {"server": panda.server.url_ssl}


@pytest.mark.parametrize("stored", [{"clears": 2}, {"sent": True}, {"clears": 2, "answer": [1, 2], "new": 1}])
def test_what_another_version_remembered_is_read(servers: Servers, memory: Memory, stored: dict[str, Any]) -> None:
    """What does not say whether it was sent may have been; what does not say since which clear was before it."""
    memory.store.set("panda_once", stored)
    step = sleepers(wait_for_completion=False)
    if "answer" in stored or "clears" not in stored:
        assert step.execute(memory()) == {"job_ids": [1, 2]}
    else:
        with pytest.raises(AirflowFailException, match="is unknown"):
            step.execute(memory())
