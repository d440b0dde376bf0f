from __future__ import annotations

import copy
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout

from panda_airflow.client import (
    ServerError,
    TaskAborted,
    TaskFailed,
    TaskOutcome,
    TaskPartlyDone,
    UsageError,
    WaitTimeout,
)
from panda_airflow.devserver.backend import Pace
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from tests.airflow.conftest import (
    ATTEMPTS,
    PACE,
    Memory,
    Panda,
    WorkerDied,
    fails_once,
    in_a_worker,
    serve,
    task,
    unnamed,
    wait_until,
)
from tests.support.submitting import DEATHS, as_production, recorded, submit

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("later", [False, True], ids=["at once", "after the task ended"])
@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_worker_that_dies_anywhere_leaves_one_task(
    panda: Panda, memory: Memory, death: tuple[int, str], later: bool
) -> None:
    memory.store.dies_at = death
    with pytest.raises(WorkerDied):
        submit(memory, unnamed(task()))
    for task_id in panda.submitted() if later else []:
        panda.wait(task_id)
    memory.store.dies_at = None
    result = submit(memory, unnamed(task()), wait=True)
    assert [result["jedi_task_id"]] == panda.submitted() == [recorded(memory)["task_id"]]
    assert (result["status"], panda.task(result["jedi_task_id"]).attempt_nr) == ("done", 0)


def test_a_lost_answer_is_looked_for_and_not_submitted_again(panda: Panda, memory: Memory) -> None:
    panda.server.faults.inject("drop_after", "task/submit")
    result = submit(memory, unnamed(task()))
    assert panda.submitted() == [result["jedi_task_id"]]
    assert [kind for kind, _ in panda.server.faults.recorded] == ["drop_after"]


@pytest.mark.parametrize("body", ["html", "truncated"])
def test_after_a_garbled_answer_the_same_try_finds_the_task(panda: Panda, memory: Memory, body: str) -> None:
    panda.server.faults.inject("garbage", "task/submit", body=body)
    found = submit(memory, unnamed(task()))["jedi_task_id"]
    assert panda.submitted() == [found]


def test_after_two_garbled_answers_the_next_try_finds_the_task(panda: Panda, memory: Memory) -> None:
    panda.server.faults.inject("garbage", "task/submit", times=2)
    with pytest.raises(ServerError):
        submit(memory, unnamed(task()))
    assert panda.submitted() == [submit(memory, unnamed(task()))["jedi_task_id"]]


def test_a_production_task_is_waited_for_since_the_server_does_not_refuse_its_twin(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_production(panda, monkeypatch)
    panda.server.faults.inject("drop_after", "task/submit")
    result = submit(memory, unnamed(task(taskType="prod")))
    assert panda.submitted() == [result["jedi_task_id"]]


@pytest.mark.parametrize("visible", [True, False], ids=["running", "invisible"])
def test_a_clear_kills_the_old_task_and_submits_the_next_generation(
    panda: Panda, memory: Memory, visible: bool
) -> None:
    old = submit(memory, unnamed(task("sleep 60")))["jedi_task_id"]
    if visible:
        panda.wait(old, ("running",))
    memory.clear()
    new = submit(memory, unnamed(task()), wait=True)
    assert panda.submitted() == [old, new["jedi_task_id"]]
    assert new["name"] != panda.task(old).name
    assert panda.wait(old).status == "aborted"


def test_a_clear_after_success_submits_anew_once(panda: Panda, memory: Memory) -> None:
    old = submit(memory, unnamed(task()), wait=True)["jedi_task_id"]
    memory.clear()
    new = submit(memory, unnamed(task()))["jedi_task_id"]
    assert submit(memory, unnamed(task()))["jedi_task_id"] == new
    assert panda.submitted() == [old, new]


def test_a_clear_may_mean_to_go_on(panda: Panda, memory: Memory) -> None:
    old = submit(memory, unnamed(task()), on_clear="continue")["jedi_task_id"]
    memory.clear()
    assert submit(memory, unnamed(task()), wait=True, on_clear="continue")["jedi_task_id"] == old
    assert panda.submitted() == [old]


def test_a_broken_task_is_replaced_under_the_next_name(panda: Panda, memory: Memory) -> None:
    broken = unnamed(task()) | {"vo": "nobody"}
    with pytest.raises(TaskFailed, match="ended as broken"):
        submit(memory, broken, wait=True)
    result = submit(memory, unnamed(task()), wait=True)
    assert (len(panda.submitted()), result["status"]) == (2, "done")


def test_a_killed_task_is_replaced_by_the_next_try(panda: Panda, memory: Memory) -> None:
    killed = submit(memory, unnamed(task("sleep 60")))["jedi_task_id"]
    panda.wait(killed, ("running",))
    panda.client.task.kill(killed)
    panda.wait(killed)
    assert submit(memory, unnamed(task("sleep 60")))["jedi_task_id"] != killed
    assert len(panda.submitted()) == 2


def test_the_status_of_before_a_reactivation_is_not_believed(panda: Panda) -> None:
    """A name of the author's own is used again: the server runs the old task once more, minutes later."""
    parameters = task(fails_once(panda.server.root))
    before = copy.deepcopy(parameters)
    with pytest.raises(TaskPartlyDone):
        submit(Memory(), parameters, wait=True)
    again = submit(Memory(), parameters, wait=True, on_existing="rerun")
    assert panda.submitted() == [again["jedi_task_id"]]
    assert (again["status"], parameters) == ("done", before)


def test_a_running_task_that_holds_the_name_is_adopted_where_the_author_says_so(panda: Panda) -> None:
    first = submit(Memory(), task("sleep 60"))["jedi_task_id"]
    panda.wait(first, ("running",))
    assert submit(Memory(), task("sleep 60"), on_existing="adopt")["jedi_task_id"] == first


def test_a_worker_that_dies_in_a_retry_retries_the_task_once(panda: Panda, memory: Memory, tmp_path: Path) -> None:
    parameters = unnamed(task(fails_once(tmp_path)))
    with pytest.raises(TaskPartlyDone):
        submit(memory, parameters, wait=True)
    panda.server.faults.inject("drop_after", "task/retry", times=9)
    with pytest.raises(Exception, match="task/retry"):
        submit(memory, parameters, wait=True)
    panda.server.faults.clear()
    result = submit(memory, parameters, wait=True)
    assert (result["status"], panda.task(result["jedi_task_id"]).attempt_nr) == ("done", 1)


def test_the_patience_with_a_retry_counts_from_each_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=0.1, cycle=0.1, command=60)) as panda:
        step = PandaRetryTaskOperator(task_id="again", jedi_task_id=panda.client.task.submit(task("exit 1")).task_id)
        panda.wait(int(step.jedi_task_id))
        first, second = (step.obtain(memory()) for _ in range(2))
    assert second.since > first.since
    assert second.mark == first.mark is not None


def test_a_retrying_step_waits_for_what_it_retried(panda: Panda, memory: Memory, tmp_path: Path) -> None:
    task_id = panda.client.task.submit(task(fails_once(tmp_path))).task_id
    assert panda.wait(task_id).status == "finished"
    again = PandaRetryTaskOperator(task_id="again", jedi_task_id=str(task_id), poll_interval=0.1)
    assert again.execute(memory())["status"] == "done"
    assert again.execute(memory())["status"] == "done"
    assert panda.task(task_id).attempt_nr == 1


def test_what_cannot_be_retried_is_said(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    panda.client.task.kill(task_id)
    panda.wait(task_id)
    again = PandaRetryTaskOperator(task_id="again", jedi_task_id=task_id)
    with pytest.raises(TaskAborted, match=f"PanDA task {task_id} is aborted and cannot be retried. Submit it anew."):
        again.execute(memory())


def test_bad_parameters_are_refused_before_anything_is_recorded_or_sent(panda: Panda, memory: Memory) -> None:
    with pytest.raises(ValueError, match="lack vo, transUses; nothing was submitted"):
        submit(memory, {name: value for name, value in unnamed(task()).items() if name not in {"vo", "transUses"}})
    assert "panda_submission" not in memory.store.values
    assert panda.submitted() == []


def test_a_worker_told_to_stop_kills_the_task_it_waits_for(panda: Panda, memory: Memory) -> None:
    step = PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task("sleep 60")), poll_interval=0.1)
    end = in_a_worker(step, memory())
    wait_until(panda.submitted)
    [task_id] = panda.submitted()
    panda.wait(task_id, ("running",))
    step.on_kill()
    assert isinstance(end(), TaskAborted)


def test_a_worker_told_to_stop_while_it_records_the_task_kills_it(panda: Panda, memory: Memory) -> None:
    memory.store.dies_at = DEATHS["before recording"]
    step = PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task("sleep 60")))
    with pytest.raises(WorkerDied):
        step.execute(memory())
    [task_id] = panda.submitted()
    panda.wait(task_id, ("running",))
    step.on_kill()
    assert panda.wait(task_id).status == "aborted"


def test_a_worker_told_to_stop_leaves_the_task_alone_where_the_author_says_so(panda: Panda, memory: Memory) -> None:
    step = PandaSubmitTaskOperator(
        task_id="fit", task_parameters=unnamed(task("sleep 60")), wait_for_completion=False, cancel_on_kill=False
    )
    task_id = step.execute(memory())["jedi_task_id"]
    panda.wait(task_id, ("running",))
    step.on_kill()
    time.sleep(PACE.command + 3 * PACE.cycle)
    assert panda.task(task_id).status == "running"


def test_a_wait_outlives_server_and_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory) -> None:
    """Neither a restart of the server, nor a database that makes it say "not found", fails a healthy task."""
    results: list[dict[str, Any]] = []
    parameters = unnamed(task("sleep 1", max_attempt=3))
    with serve(tmp_path, monkeypatch) as panda:
        ports = {"http_port": urlsplit(panda.server.url).port, "https_port": urlsplit(panda.server.url_ssl).port}
        worker = threading.Thread(daemon=True, target=lambda: results.append(submit(memory, parameters, wait=True)))
        worker.start()
        wait_until(panda.submitted)
        panda.wait(panda.submitted()[0], ("running",))
    with serve(tmp_path, monkeypatch, **ports) as panda:
        panda.server.faults.inject("database_down")
        time.sleep(0.5)
        panda.server.faults.clear()
        worker.join(20)
        assert panda.submitted() == [result["jedi_task_id"] for result in results]
    assert [result["status"] for result in results] == ["done"]


def test_a_page_that_is_not_pandas_is_a_wrong_address_only_before_panda_has_answered(
    panda: Panda, memory: Memory
) -> None:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    sensor = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=task_id)
    panda.server.faults.inject("refuse", "task/get_detailed_info", status=404)
    with pytest.raises(TaskOutcome, match="HTTP 404"):
        sensor.poke(memory())
    context = memory()
    assert not sensor.poke(context)
    panda.server.faults.inject("refuse", "task/get_detailed_info", times=5, status=404)
    assert not any(sensor.poke(context) for _ in range(5))


def test_an_outage_that_lasts_fails_a_poking_sensor_and_the_next_try_begins_anew(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    sensor = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=task_id, outage=0)
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=4 * ATTEMPTS)
    context = memory()
    assert not sensor.poke(context)
    assert not sensor.poke(context)
    with pytest.raises(WaitTimeout, match="could not be looked at for too long"):
        sensor.poke(context)
    assert not sensor.poke(memory())


def test_the_outcome_of_a_deferred_sensor_is_that_of_a_poking_one(panda: Panda, memory: Memory) -> None:
    sensor = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=1)
    event = {"kind": "outage", "task_id": 1, "status": "running"}
    with pytest.raises(WaitTimeout):
        sensor.execute_complete(memory(), event)
    with pytest.raises(AirflowSensorTimeout):
        sensor.execute_complete(memory(), event | {"kind": "timeout"})


@pytest.mark.parametrize("event", [None, "done", {}, {"kind": "ended"}, {"status": "success", "task_id": 1}])
def test_an_event_that_no_wait_made_fails_the_step(panda: Panda, memory: Memory, event: Any) -> None:
    step = PandaSubmitTaskOperator(task_id="fit", task_parameters={})
    sensor = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=1)
    for waiting in (step, sensor):
        with pytest.raises(UsageError, match="not an event"):
            waiting.execute_complete(memory(), event)
