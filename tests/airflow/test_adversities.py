"""What may go wrong between a step and a server, told from the side of the person who is on call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from panda_airflow.client import DuplicateTask, PandaError, TaskFailed, UsageError, WaitTimeout
from panda_airflow.devserver.backend import Pace
from panda_airflow.operators import base
from panda_airflow.operators import task as submitting
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps import lookup
from tests.airflow.conftest import Memory, Panda, WorkerDied, serve, task, unnamed
from tests.support.submitting import as_production, recorded, submit

pytestmark = pytest.mark.usefixtures("impatient")

DATED = "user.bob.manual__2026-11-22T10:00:00+00:00"
"""A name with a run ID in it, which the server's filter takes for a regular expression."""


def test_a_dated_name_that_an_ended_task_holds_is_found_and_said(panda: Panda, memory: Memory) -> None:
    holder = panda.client.task.submit(task(name=DATED) | {"uniqueTaskName": True}).task_id
    panda.wait(holder)
    with pytest.raises(DuplicateTask, match=f"belongs to PanDA task {holder}"):
        submit(memory, task(name=DATED), wait=True)
    assert panda.submitted() == [holder]


def test_a_dated_task_whose_id_a_dying_worker_took_along_is_found_and_not_run_again(
    panda: Panda, memory: Memory
) -> None:
    memory.store.dies_at = (2, "before")
    with pytest.raises(WorkerDied):
        submit(memory, task(name=DATED))
    (submitted,) = panda.submitted()
    panda.wait(submitted)
    memory.store.dies_at = None
    assert submit(memory, task(name=DATED), wait=True)["jedi_task_id"] == submitted
    assert panda.task(submitted).attempt_nr == 0


def test_a_production_task_that_is_seen_to_run_gets_no_twin(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_production(panda, monkeypatch)
    parameters = task("sleep 2", name="user.bob.twin", taskType="prod")
    first = panda.client.task.submit(parameters | {"uniqueTaskName": True}).task_id
    panda.wait(first, ("running",))
    assert submit(memory, parameters, wait=True, on_existing="adopt")["jedi_task_id"] == first
    assert panda.submitted() == [first]


def test_each_retry_is_given_its_time_and_a_stale_status_is_never_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    """JEDI sleeps longer than the patience of the first try; the next waits anew and sees it wake."""
    for module in (base, submitting):
        monkeypatch.setattr(module, "JEDI_PATIENCE", 1.5)
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=0.1, cycle=0.1, command=2.5)) as panda:
        parameters = unnamed(task("exit 1"))
        with pytest.raises(TaskFailed):
            submit(memory, parameters, wait=True)
        with pytest.raises(WaitTimeout, match="did not move in time"):
            submit(memory, parameters, wait=True)
        for module in (base, submitting):
            monkeypatch.setattr(module, "JEDI_PATIENCE", 60)
        with pytest.raises(TaskFailed):
            submit(memory, parameters, wait=True)
        (submitted,) = panda.submitted()
        assert panda.task(submitted).attempt_nr == 1


def test_the_old_done_of_a_reactivation_that_jedi_does_not_execute_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    monkeypatch.setattr(base, "JEDI_PATIENCE", 0.5)
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=0.1, cycle=0.1, command=60)) as panda:
        holder = panda.client.task.submit(task(name="user.bob.again") | {"uniqueTaskName": True}).task_id
        panda.wait(holder)
        with pytest.raises(WaitTimeout, match="its status is still done"):
            submit(memory, task(name="user.bob.again"), wait=True, on_existing="rerun")


def test_a_trigger_that_fell_silent_leaves_nothing_running(panda: Panda, memory: Memory) -> None:
    step = PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task("sleep 60")), deferrable=True, timeout=9)
    with pytest.raises(TaskDeferred) as deferred:
        step.execute(memory())
    assert deferred.value.timeout is not None
    (submitted,) = panda.submitted()
    panda.wait(submitted, ("running",))
    resumed = PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task("sleep 60")), timeout=9)
    with pytest.raises(WaitTimeout, match=f"PanDA task {submitted}.*told to stop"):
        resumed.resume_execution("__fail__", {"error": "Trigger timeout"}, memory())
    panda.wait(submitted, ("aborted",))


@pytest.mark.parametrize("parameters", ["{}", None, [], {"taskName": 5}])
def test_parameters_that_are_none_are_refused_in_a_sentence(panda: Panda, memory: Memory, parameters: Any) -> None:
    with pytest.raises(UsageError, match="nothing was s"):
        submit(memory, parameters)
    assert panda.submitted() == []


@pytest.mark.parametrize("value", ["None", "", None, "abc", "-1", True, {"status": "done"}])
@pytest.mark.parametrize("kind", [PandaRetryTaskOperator, PandaWaitTaskStatusSensor])
def test_what_is_no_task_id_is_refused_in_a_sentence(panda: Panda, memory: Memory, kind: Any, value: Any) -> None:
    with pytest.raises(UsageError, match="jedi_task_id must be a JediTaskID"):
        kind(task_id="x", jedi_task_id=value).execute(memory())


def test_parameters_without_a_json_form_leave_no_intent_that_blocks_the_mended_dag(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_production(panda, monkeypatch)
    with pytest.raises(PandaError, match="has no JSON form"):
        submit(memory, unnamed(task(taskType="prod", note={1, 2})))
    assert recorded(memory)["sent"] is False
    monkeypatch.setattr(lookup, "LOOKUP_INTERVAL", 3600)
    mended = submit(memory, unnamed(task(taskType="prod")))
    assert panda.submitted() == [mended["jedi_task_id"]]
    assert recorded(memory)["generation"] == 0
