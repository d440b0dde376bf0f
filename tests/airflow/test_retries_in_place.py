"""Retries of a PanDA task in place: as often as the policy says, whoever is killed, and with each parameters once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from airflow.sdk.exceptions import TaskDeferred

from panda_airflow.client import PandaClient, PandaError, ServerError, TaskFailed, WrongState
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import ATTEMPTS, Memory, Panda, WorkerDied, fails_once, task, unnamed, wait_until
from tests.support.triggers import by_core, by_sdk, event_of

pytestmark = pytest.mark.usefixtures("impatient")

FAILS = unnamed(task("exit 7"))
TWICE = TaskRetryPolicy(attempts=2, delay=0.1)
WAYS = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def step_of(parameters: dict[str, Any] = FAILS, **more: Any) -> PandaSubmitTaskOperator:
    given: dict[str, Any] = {"poll_interval": 0.1, "retries": 2, "task_retry": TWICE} | more
    return PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, **given)


def in_another_process(trigger: Any) -> Any:
    return event_of(by_sdk(by_core(trigger)))


def play(
    memory: Memory,
    parameters: dict[str, Any] = FAILS,
    waits: Callable[[Any], Any] = in_another_process,
    **more: Any,
) -> dict[str, Any]:
    """Run a try to its end, through as many deferrals as it takes, each process knowing only what Airflow stores."""
    context = memory()
    step, call = step_of(parameters, **more), None
    while True:
        try:
            if call is None:
                return dict(step.execute(context))
            return dict(step.resume_execution("execute_complete", {"event": call}, context))
        except TaskDeferred as deferral:
            call = waits(deferral.trigger)
            step = step_of(parameters, **more)


@pytest.fixture
def retries(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The new parameters of each retry that this process sends."""
    sent, send = list[dict[str, Any]](), PandaClient.send

    def noting(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path == "task/retry":
            sent.append(arguments.get("new_parameters") or {})
        return send(client, endpoint, arguments)

    monkeypatch.setattr(PandaClient, "send", noting)
    return sent


@WAYS
def test_a_task_is_retried_in_place_and_done(panda: Panda, memory: Memory, tmp_path: Path, deferrable: bool) -> None:
    result = play(memory, unnamed(task(fails_once(tmp_path))), deferrable=deferrable)
    assert (result["status"], panda.task(result["jedi_task_id"]).attempt_nr) == ("done", 1)


@WAYS
def test_a_task_that_goes_on_failing_is_retried_as_often_as_the_policy_says(
    panda: Panda, memory: Memory, retries: list[Any], deferrable: bool
) -> None:
    with pytest.raises(TaskFailed, match="Attempts of the task: 3, 2 of them retries by this step"):
        play(memory, deferrable=deferrable)
    assert retries == [{}, {}]


@WAYS
def test_each_parameters_are_used_once_though_jedi_counts_from_0_after_each(
    panda: Panda, memory: Memory, retries: list[Any], deferrable: bool
) -> None:
    """The next try of the step goes on with the next ones, and the last serve for all after them."""
    more = [{"ramCount": 3000}, {"ramCount": 4000}, {"ramCount": 5000}]
    policy = TaskRetryPolicy(attempts=2, delay=0.1, new_parameters=more)
    with pytest.raises(TaskFailed, match="2 of them retries by this step"):
        play(memory, deferrable=deferrable, task_retry=policy)
    assert retries == more[:2]
    with pytest.raises(TaskFailed, match="Attempts of the task: 6, 5 of them"):
        play(memory, deferrable=deferrable, task_retry=policy)
    assert retries == [*more, more[-1], more[-1]]


def test_a_triggerer_that_is_killed_at_any_moment_adds_no_retry(
    panda: Panda, memory: Memory, retries: list[Any]
) -> None:
    """Its successor begins with what Airflow stores of the trigger, as often as it is killed."""

    def event_at_last(trigger: Any) -> Any:
        for seconds in (0.05, 0.2, 0.6):
            kill_after(seconds, by_sdk(trigger))
        return event_of(by_sdk(trigger))

    with pytest.raises(TaskFailed, match="2 of them retries by this step"):
        play(memory, waits=event_at_last, deferrable=True)
    assert len(retries) == 2


def kill_after(seconds: float, trigger: Any) -> None:
    async def live() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(anext(aiter(trigger.run())), seconds)

    asyncio.run(live())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_in_a_retry_makes_it_once(panda: Panda, memory: Memory, tmp_path: Path, when: str) -> None:
    """The first record is that of the intent, the second that of the task, the third that of the retry."""
    memory.store.dies_at = (3, when)
    parameters = unnamed(task(fails_once(tmp_path)))
    with pytest.raises(WorkerDied):
        play(memory, parameters)
    memory.store.dies_at = None
    result = play(memory, parameters)
    assert (result["status"], panda.task(result["jedi_task_id"]).attempt_nr) == ("done", 1)


@WAYS
@pytest.mark.parametrize("lost", ["drop_before", "drop_after"])
def test_a_retry_of_which_the_request_or_the_answer_is_lost_is_made_once(
    panda: Panda, memory: Memory, tmp_path: Path, lost: Literal["drop_before", "drop_after"], deferrable: bool
) -> None:
    panda.server.faults.inject(lost, "task/retry", times=ATTEMPTS)
    result = play(memory, unnamed(task(fails_once(tmp_path))), deferrable=deferrable)
    assert (result["status"], panda.task(result["jedi_task_id"]).attempt_nr) == ("done", 1)


def test_a_retry_that_is_never_registered_ends_the_step_after_an_outage(
    panda: Panda, memory: Memory, retries: list[Any]
) -> None:
    panda.server.faults.inject("refuse", "task/retry", times=99)
    with pytest.raises(TaskFailed, match="Its retry could not be registered"):
        play(memory, outage=3)
    assert len(retries) > 1


def test_a_refused_retry_ends_the_step_at_once(panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, WrongState("the retry command is not accepted"))
    with pytest.raises(TaskFailed, match="Its retry could not be registered: the retry command is not accepted"):
        play(memory)


def test_a_retry_is_not_given_up_for_a_look_that_fails(
    panda: Panda, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, ServerError("HTTP 500"), times=2)
    assert play(memory, unnamed(task(fails_once(tmp_path))))["status"] == "done"


def answer(monkeypatch: pytest.MonkeyPatch, error: PandaError, times: int = 99) -> None:
    send, left = PandaClient.send, [error] * times

    def failing(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path == "task/retry" and left:
            raise left.pop()
        return send(client, endpoint, arguments)

    monkeypatch.setattr(PandaClient, "send", failing)


def test_the_retries_of_a_named_task_are_counted_for_each_try(panda: Panda, memory: Memory, retries: list[Any]) -> None:
    task_id = panda.client.task.submit(task("exit 7")).task_id
    panda.wait(task_id)
    for made in (2, 4):
        again = PandaRetryTaskOperator(
            task_id="again", jedi_task_id=task_id, task_retry=TWICE, poll_interval=0.1, retries=2
        )
        with pytest.raises(TaskFailed):
            again.execute(memory())
        assert len(retries) == made


def test_a_retry_of_its_own_parameters_comes_before_those_of_the_policy(
    panda: Panda, memory: Memory, retries: list[Any]
) -> None:
    task_id = panda.client.task.submit(task("exit 7")).task_id
    panda.wait(task_id)
    policy = TaskRetryPolicy(attempts=1, delay=0.1, new_parameters=[{"ramCount": 3000}])
    again = PandaRetryTaskOperator(
        task_id="again",
        jedi_task_id=task_id,
        new_parameters={"ramCount": 1000},
        task_retry=policy,
        poll_interval=0.1,
        retries=2,
    )
    with pytest.raises(TaskFailed):
        again.execute(memory())
    assert retries == [{"ramCount": 1000}, {"ramCount": 3000}]
    wait_until(lambda: panda.task(task_id).status == "failed")
