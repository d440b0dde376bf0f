"""Whatever ends a step, its PanDA task ends too, and the task of another definition never takes its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferred
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.listener import get_listener_manager

from panda_airflow.client import (
    DuplicateTask,
    NotDelivered,
    PandaClient,
    PermissionDenied,
    TaskAborted,
    TaskFailed,
    WaitTimeout,
)
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Pace
from panda_airflow.operators import base
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.steps.kill.reaper import Target, reap
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import Memory, Panda, WorkerDied, in_a_worker, serve, task, unnamed, wait_until
from tests.support.submitting import submit
from tests.support.triggers import airflow_says, still_runs

pytestmark = pytest.mark.usefixtures("impatient")

SLOW_TO_REGISTER = Pace(registration=3, cycle=0.1, command=0.2)
LONG = unnamed(task("sleep 60"))


def step_of(parameters: dict[str, Any] = LONG, **more: Any) -> PandaSubmitTaskOperator:
    return PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, **({"poll_interval": 0.1} | more))


def test_a_worker_told_to_stop_while_its_submission_is_on_the_way_ends_the_task(panda: Panda, memory: Memory) -> None:
    panda.server.faults.inject("delay", "task/submit", seconds=2)
    step = step_of()
    end = in_a_worker(step, memory())
    wait_until(lambda: panda.server.faults.recorded)
    step.on_kill()
    [task_id] = panda.submitted()
    assert panda.wait(task_id).status == "aborted"
    assert isinstance(end(), TaskAborted)


@pytest.mark.parametrize(("state", "end"), [("failed", "aborted"), ("success", "aborted"), ("up_for_retry", "running")])
@pytest.mark.parametrize("fails", [False, True])
def test_a_step_that_a_person_has_ended_before_it_defers_or_is_tried_again_ends_the_task(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch, state: str, end: str, fails: bool
) -> None:
    airflow_says(monkeypatch, state)
    step, context = step_of(deferrable=True), memory()
    context["ti"] = RuntimeTaskInstance.model_construct(**vars(context["ti"]))
    if fails:
        monkeypatch.setattr(step, "_defer", Mock(side_effect=NotDelivered("the server is away")))
    with pytest.raises((TaskDeferred, NotDelivered)):
        step.execute(context)
    get_listener_manager().hook.before_stopping(component=None)
    assert not get_listener_manager().pm.get_plugins(), "what runs in this process later is no business of this step"
    [task_id] = panda.submitted()
    assert panda.wait(task_id, (end,)).status == end
    assert still_runs(panda, task_id) == (end == "running")


def test_a_worker_told_to_stop_before_its_task_is_registered_ends_the_task(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    monkeypatch.setattr(base, "FAREWELL", 0.5)
    with serve(tmp_path / "panda", monkeypatch, pace=SLOW_TO_REGISTER) as panda:
        step = step_of(wait_for_completion=False)
        task_id = step.execute(memory())["jedi_task_id"]
        step.on_kill()
        assert panda.submitted() == [task_id]
        wait_until(lambda: panda.server.backend.store.row("SELECT 1 FROM tasks"))
        wait_until(lambda: panda.task(task_id).status == "aborted")


def test_a_worker_told_to_stop_before_it_submits_submits_nothing(panda: Panda, memory: Memory) -> None:
    step = step_of()
    step.on_kill()
    with pytest.raises(TaskAborted, match="nothing was submitted"):
        step.execute(memory())
    assert panda.submitted() == []


def test_a_step_without_tries_left_ends_the_task_that_it_cannot_look_at(panda: Panda, memory: Memory) -> None:
    memory.max_tries = 0
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=50)
    with pytest.raises(WaitTimeout, match=r"could not be looked at for too long[\s\S]*was told to stop"):
        submit(memory, LONG, wait=True, outage=0)
    panda.server.faults.clear()
    [task_id] = panda.submitted()
    assert panda.wait(task_id).status == "aborted"


def test_a_step_with_tries_left_leaves_the_task_to_the_next_one(panda: Panda, memory: Memory) -> None:
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=50)
    with pytest.raises(WaitTimeout, match="runs on; the next try goes on with it"):
        submit(memory, unnamed(task("sleep 2")), wait=True, outage=0)
    panda.server.faults.clear()
    assert [submit(memory, unnamed(task("sleep 2")), wait=True)["jedi_task_id"]] == panda.submitted()


def test_a_task_that_an_earlier_try_had_killed_is_replaced_though_it_still_runs(panda: Panda, memory: Memory) -> None:
    first, second = (panda.server.root / name for name in ("first", "second"))
    parameters = unnamed(task(f"[ -e {second} ] && exit 0; touch {first}; sleep 60"))
    old = submit(memory, parameters)["jedi_task_id"]
    wait_until(first.exists)
    second.touch()
    panda.client.task.kill(old)
    result = submit(memory, parameters, wait=True)
    assert panda.submitted() == [old, result["jedi_task_id"]]
    assert (panda.task(old).status, result["status"]) == ("aborted", "done")


def test_a_changed_definition_replaces_the_task_of_the_old_one(panda: Panda, memory: Memory) -> None:
    old = submit(memory, LONG)["jedi_task_id"]
    panda.wait(old, ("running",))
    new = submit(memory, LONG | {"ramCount": 4000})["jedi_task_id"]
    assert panda.submitted() == [old, new]
    assert panda.wait(old).status == "aborted"
    assert submit(memory, LONG | {"ramCount": 4000})["jedi_task_id"] == new


def test_a_changed_definition_goes_on_where_the_author_says_so(panda: Panda, memory: Memory) -> None:
    old = submit(memory, LONG)["jedi_task_id"]
    assert submit(memory, LONG | {"ramCount": 4000}, on_change="continue")["jedi_task_id"] == old


def test_a_change_while_a_submission_was_lost_replaces_what_it_left(panda: Panda, memory: Memory) -> None:
    memory.store.dies_at = (2, "before")
    with pytest.raises(WorkerDied):
        submit(memory, LONG)
    memory.store.dies_at = None
    [old] = panda.submitted()
    panda.wait(old, ("running",))
    new = submit(memory, LONG | {"ramCount": 4000})["jedi_task_id"]
    assert panda.submitted() == [old, new]
    assert panda.wait(old).status == "aborted"


def test_the_task_of_another_definition_that_holds_the_name_is_not_adopted(panda: Panda, memory: Memory) -> None:
    named = task("sleep 60")
    holder = panda.client.task.submit(named | {"uniqueTaskName": True}).task_id
    panda.wait(holder, ("running",))
    with pytest.raises(DuplicateTask, match=r"is another task: ramCount differ.*on_change='continue'"):
        submit(memory, named | {"ramCount": 4000}, on_existing="adopt")
    with pytest.raises(DuplicateTask, match="belongs to PanDA task"):
        submit(memory, named | {"ramCount": 4000}, on_change="continue")
    way: dict[str, Any] = {"on_existing": "adopt", "on_change": "continue"}
    assert submit(memory, named | {"ramCount": 4000}, **way)["jedi_task_id"] == holder
    assert submit(Memory(), named, on_existing="adopt")["jedi_task_id"] == holder
    assert panda.submitted() == [holder]


def test_a_step_that_is_not_durable_submits_anew_at_each_try(panda: Panda, memory: Memory) -> None:
    old = submit(memory, LONG)["jedi_task_id"]
    panda.wait(old, ("running",))
    new = submit(memory, LONG, durable=False)["jedi_task_id"]
    assert panda.submitted() == [old, new]
    assert panda.wait(old).status == "aborted"


def running(panda: Panda, client: PandaClient, name: str) -> int:
    task_id = client.task.submit(task("sleep 60", name=name)).task_id
    panda.wait(task_id, ("running",))
    return task_id


def test_one_task_that_cannot_be_killed_does_not_spare_the_others(panda: Panda) -> None:
    config = replace(panda.client.config, token=panda.server.token("Eve Other"))
    with PandaClient(config) as eve:
        foreign = running(panda, eve, "user.eve.fit")
    own = running(panda, panda.client, "user.bob.fit")
    with pytest.raises(PermissionDenied):
        reap(panda.client, Target((foreign, own)))
    assert panda.wait(own).status == "aborted"
    assert panda.task(foreign).status == "running"


@pytest.mark.parametrize("fault", [{"kind": "garbage"}, {"kind": "refuse", "status": 404}, {"kind": "refuse"}])
def test_the_kill_of_an_old_task_outlives_a_maintenance(panda: Panda, fault: dict[str, Any]) -> None:
    old = running(panda, panda.client, "user.bob.fit")
    panda.server.faults.inject(endpoint="task/kill", times=3, **fault)
    reap(panda.client, Target((old,)), sleep=lambda _: None)
    assert panda.wait(old).status == "aborted"


def test_the_kill_of_an_old_task_outlives_the_database(panda: Panda) -> None:
    old = running(panda, panda.client, "user.bob.fit")
    panda.server.faults.inject("database_down")
    reap(panda.client, Target((old,)), sleep=lambda _: panda.server.faults.clear())
    assert panda.wait(old).status == "aborted"


def test_the_task_of_another_run_that_a_step_waits_for_is_not_killed_with_the_step(panda: Panda) -> None:
    first = submit(Memory(), task("sleep 60"))["jedi_task_id"]
    panda.wait(first, ("running",))
    cleared = Memory()
    other = step_of(task("sleep 60"), wait_for_completion=False, on_existing="adopt")
    assert other.execute(cleared())["jedi_task_id"] == first
    other.on_kill()
    cleared.clear()
    with pytest.raises(DuplicateTask, match=f"belongs to PanDA task {first}"):
        submit(cleared, task("sleep 60"))
    assert not panda.server.backend.store.rows("SELECT * FROM commands WHERE jediTaskID = ?", first)
    assert panda.task(first).status == "running"


def test_a_kill_waits_for_the_retry_that_jedi_has_yet_to_execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=0.3, cycle=0.1, command=3)) as panda:
        parameters = unnamed(task(f"[ -e {tmp_path}/second ] && sleep 60; exit 3"))
        step = step_of(parameters, task_retry=TaskRetryPolicy(attempts=2, delay=0))
        end = in_a_worker(step, memory())
        wait_until(lambda: panda.server.backend.store.rows("SELECT * FROM commands"))
        (tmp_path / "second").touch()
        [task_id] = panda.submitted()
        assert panda.task(task_id).status == "failed"
        step.on_kill()
        wait_until(lambda: panda.task(task_id).status == "aborted")
        assert isinstance(end(), TaskAborted)


def test_a_step_that_was_told_to_stop_retries_nothing(panda: Panda, memory: Memory) -> None:
    with pytest.raises(TaskFailed):
        submit(memory, unnamed(task("exit 3")), wait=True)
    step = step_of(unnamed(task("exit 3")))
    step.on_kill()
    with pytest.raises(TaskAborted, match="told to stop before it retried"):
        step.execute(memory())


def test_a_trigger_that_breaks_at_the_last_try_leaves_nothing_running(panda: Panda, memory: Memory) -> None:
    memory.max_tries = 0
    context = memory()
    with pytest.raises(TaskDeferred):
        step_of(deferrable=True).execute(context)
    [task_id] = panda.submitted()
    panda.wait(task_id, ("running",))
    with pytest.raises(TaskDeferralError):
        step_of(deferrable=True).resume_execution("__fail__", {"error": "Trigger failure"}, context)
    assert panda.wait(task_id).status == "aborted"


def test_a_retry_policy_that_raises_hides_nothing(panda: Panda, memory: Memory) -> None:
    class Raises(RetryPolicy):
        def evaluate(self, *_: Any, **__: Any) -> RetryDecision:
            raise ValueError("the author's mistake")

    panda.server.faults.inject("garbage", "task/get_detailed_info", times=50)
    with pytest.raises(WaitTimeout, match="could not be looked at for too long"):
        submit(memory, LONG, wait=True, outage=0, retry_policy=Raises())


def test_a_status_may_be_given_as_a_word(panda: Panda, memory: Memory) -> None:
    assert submit(memory, unnamed(task()), wait=True, statuses="done")["status"] == "done"


def test_the_task_of_another_run_is_spared_though_the_trigger_fell_silent(panda: Panda, memory: Memory) -> None:
    first = submit(Memory(), task("sleep 60"))["jedi_task_id"]
    panda.wait(first, ("running",))
    with pytest.raises(TaskDeferred):
        step_of(task("sleep 60"), deferrable=True, timeout=9, on_existing="adopt").execute(memory())
    resumed = step_of(task("sleep 60"), deferrable=True, timeout=9)
    with pytest.raises(WaitTimeout, match="was left running"):
        resumed.resume_execution("__fail__", {"error": "Trigger timeout"}, memory())
    assert not panda.server.backend.store.rows("SELECT * FROM commands")
    assert panda.task(first).status == "running"


def test_what_may_have_arrived_stays_so_though_the_next_request_was_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    """The first answer is lost; the request by which the step wants to find out is not delivered."""
    send = PandaClient.send

    def failing(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if panda.server.faults.recorded and endpoint.path == "task/submit":
            raise NotDelivered("the connection was refused.", endpoint=endpoint.path)
        return send(client, endpoint, arguments)

    with serve(tmp_path / "panda", monkeypatch, pace=SLOW_TO_REGISTER) as panda:
        panda.server.faults.inject("drop_after", "task/submit")
        with monkeypatch.context() as trouble:
            trouble.setattr(PandaClient, "send", failing)
            with pytest.raises(NotDelivered):
                submit(memory, unnamed(task()))
        [task_id] = panda.submitted()
        panda.wait(task_id, ("done",))
        assert submit(memory, unnamed(task()), wait=True)["jedi_task_id"] == task_id
        assert panda.task(task_id).attempt_nr == 0


NAMED = task("sleep 60", name="user.bob.shared")


def submitted_elsewhere(panda: Panda) -> int:
    """Let another step's task run under the name."""
    task_id = panda.client.task.submit(NAMED | {"uniqueTaskName": True}).task_id
    panda.wait(task_id, ("running",))
    return task_id


def test_a_lost_submission_is_not_found_in_a_task_of_other_parameters(panda: Panda, memory: Memory) -> None:
    task_id = submitted_elsewhere(panda)
    panda.server.faults.inject("drop_before", "task/submit")
    with pytest.raises(DuplicateTask, match=r"is another task: ramCount differ"):
        submit(memory, NAMED | {"ramCount": 4000}, on_existing="adopt")
    assert panda.submitted() == [task_id]


@pytest.mark.parametrize("mishap", ["the answer is lost", "the worker dies"])
def test_a_task_of_another_step_is_never_killed_with_this_one(panda: Panda, memory: Memory, mishap: str) -> None:
    task_id = submitted_elsewhere(panda)
    if mishap == "the answer is lost":
        panda.server.faults.inject("drop_before", "task/submit")
    else:
        memory.store.dies_at = (1, "after")
        with pytest.raises(WorkerDied):
            submit(memory, NAMED, on_existing="adopt")
        memory.store.dies_at = None
    step = step_of(NAMED, wait_for_completion=False, on_existing="adopt")
    assert step.execute(memory())["jedi_task_id"] == task_id
    step.on_kill()
    assert not panda.server.backend.store.rows("SELECT * FROM commands")
    assert panda.submitted() == [task_id]
