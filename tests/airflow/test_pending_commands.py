"""A command that JEDI has yet to execute: what it will make of a task counts, not the status that still shows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from panda_airflow.client import PandaClient, TaskAborted, TaskFailed, WaitTimeout, WrongState
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope, Mark
from panda_airflow.devserver.backend import Pace
from panda_airflow.operators import base
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.steps.kill.reaper import Target, reap
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import PACE, Memory, Panda, fails_once, in_a_worker, serve, task, unnamed, wait_until
from tests.support.submitting import submit
from tests.support.triggers import event_of

pytestmark = pytest.mark.usefixtures("impatient")

IDLE = Pace(registration=0.3, cycle=0.1, command=3600)
"""A JEDI that executes no command while a test lasts."""


def long_at_last(root: Path) -> dict[str, Any]:
    """Parameters of a task that fails until a file is there, and then runs for long."""
    return unnamed(task(f"[ -e {root}/second ] && sleep 60; exit 3"))


def step_of(parameters: dict[str, Any], **more: Any) -> PandaSubmitTaskOperator:
    return PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, **({"poll_interval": 0.1} | more))


def played(parameters: dict[str, Any], memory: Memory, **more: Any) -> None:
    """Run a try to its end, in a worker or through each of its deferrals."""
    context, resumed = memory(), dict[str, Any]()
    while True:
        step = step_of(parameters, **more)
        try:
            step.resume_execution(context=context, **resumed) if resumed else step.execute(context)
        except TaskDeferred as deferral:
            resumed = {"next_method": str(deferral.method_name), "next_kwargs": {"event": event_of(deferral.trigger)}}
        else:
            return


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_deadline_before_the_retry_of_a_step_is_executed_ends_the_task_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory, deferrable: bool
) -> None:
    monkeypatch.setattr(base, "LAST_WORDS", 0.5)
    memory.max_tries = 1
    with serve(tmp_path / "panda", monkeypatch, pace=IDLE) as panda:
        parameters = long_at_last(tmp_path)
        with pytest.raises(TaskFailed):
            submit(memory, parameters, wait=True)
        (tmp_path / "second").touch()
        with pytest.raises(WaitTimeout, match="Killing the PanDA task failed"):
            played(parameters, memory, timeout=1.5, deferrable=deferrable)
        panda.server.backend.pace = PACE
        [task_id] = panda.submitted()
        wait_until(lambda: panda.task(task_id).status == "aborted")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_deadline_before_the_retry_of_a_wait_is_executed_ends_the_task_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory, deferrable: bool
) -> None:
    monkeypatch.setattr(base, "LAST_WORDS", 0.5)
    memory.max_tries = 0
    once = TaskRetryPolicy(attempts=1, delay=0)
    with serve(tmp_path / "panda", monkeypatch, pace=IDLE) as panda:
        with pytest.raises(WaitTimeout, match="Killing the PanDA task failed"):
            played(long_at_last(tmp_path), memory, timeout=4, deferrable=deferrable, task_retry=once)
        (tmp_path / "second").touch()
        panda.server.backend.pace = PACE
        [task_id] = panda.submitted()
        wait_until(lambda: panda.task(task_id).status == "aborted")


def test_a_worker_told_to_stop_while_its_retry_is_on_the_way_ends_the_task(
    panda: Panda, memory: Memory, tmp_path: Path
) -> None:
    with pytest.raises(TaskFailed):
        submit(memory, long_at_last(tmp_path), wait=True)
    (tmp_path / "second").touch()
    panda.server.faults.inject("delay", "task/retry", seconds=2)
    step = step_of(long_at_last(tmp_path))

    end = in_a_worker(step, memory())
    wait_until(lambda: panda.server.faults.recorded)
    step.on_kill()
    [task_id] = panda.submitted()
    wait_until(lambda: panda.task(task_id).status == "aborted")
    assert isinstance(end(), TaskAborted)


def test_a_retrying_step_waits_for_a_task_that_is_not_registered_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=2, cycle=0.1, command=0.2)) as panda:
        task_id = panda.client.task.submit(task()).task_id
        again = PandaRetryTaskOperator(task_id="again", jedi_task_id=task_id, poll_interval=0.1)
        assert again.execute(memory())["status"] == "done"


def test_a_retry_is_qualified_as_the_author_says(
    panda: Panda, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, send = list[Arguments](), PandaClient.send

    def noting(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path == "task/retry":
            sent.append(arguments)
        return send(client, endpoint, arguments)

    task_id = panda.client.task.submit(task(fails_once(tmp_path))).task_id
    panda.wait(task_id)
    monkeypatch.setattr(PandaClient, "send", noting)
    again = PandaRetryTaskOperator(
        task_id="again", jedi_task_id=task_id, no_child_retry=True, discard_events=True, poll_interval=0.1
    )
    assert again.execute(memory())["status"] == "done"
    assert sent == [{"task_id": task_id, "no_child_retry": True, "discard_events": True}]


def test_a_retry_that_is_executed_between_the_refusal_of_a_kill_and_the_next_look_is_killed_all_the_same(
    panda: Panda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = panda.client.task.submit(long_at_last(tmp_path) | {"taskName": "user.bob.fit"}).task_id
    mark = Mark.of(panda.wait(task_id, ("failed",)))
    (tmp_path / "second").touch()
    kill = panda.client.task.kill

    def refused_a_moment_too_early(task_id: int) -> object:
        try:
            return kill(task_id)
        except WrongState:
            panda.client.task.retry(task_id)
            panda.wait(task_id, ("running",))
            raise

    monkeypatch.setattr(panda.client.task, "kill", refused_a_moment_too_early)
    reap(panda.client, Target((task_id,), mark=mark, until=time.time() + 30), sleep=lambda _: None)
    assert panda.wait(task_id, ("aborted",)).attempt_nr == 1
