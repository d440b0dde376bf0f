"""A try that begins badly: an odd refusal, a definition edited badly, an earlier version's memory, a name that is held.

None of it kills a healthy task, takes that of somebody else, forgets one or a clear, or asks for ever.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time.comms import ErrorResponse

from panda_airflow.client import (
    ClientConfig,
    DuplicateTask,
    NotCarriedOut,
    NotDelivered,
    NotFound,
    PandaClient,
    PandaError,
    PermissionDenied,
    TaskFailed,
    UsageError,
    WaitTimeout,
)
from panda_airflow.client.api.task import TaskApi
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.http.envelope import http_error
from panda_airflow.client.http.transport import Transport
from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Pace
from panda_airflow.operators import base
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.steps import lookup
from panda_airflow.steps.kill import reaper
from panda_airflow.steps.kill.reaper import Target, reap
from panda_airflow.steps.submission import Submission
from panda_airflow.waiting import ownership
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import Memory, Panda, WorkerDied, serve, task, unnamed
from tests.airflow.test_whose import EARLIER, LONG, NAMED, commanded, refuse_once, running, step_of
from tests.support.submitting import DEATHS, recorded, submit
from tests.support.triggers import event_of, still_runs

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PAUSES", (0.05, 0.05))
    monkeypatch.setattr(reaper, "SURE", 0.2)


def forbid(monkeypatch: pytest.MonkeyPatch, path: str, times: int) -> None:
    """Let the server say of a method that it has none of this name, as one process of it may."""
    send, left = PandaClient.send, [None] * times

    def odd(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path == path and left:
            left.pop()
            raise http_error(path, 403, f"ERROR : method {path.split('/')[1]} is forbidden", {})
        return send(client, endpoint, arguments)

    monkeypatch.setattr(PandaClient, "send", odd)


def healthy(panda: Panda, memory: Memory, *, last: bool = False) -> int:
    """Let an earlier try leave a running task; the next is the last one, or not."""
    memory.max_tries = 1 if last else 5
    task_id = int(submit(memory, LONG)["jedi_task_id"])
    panda.wait(task_id, ("running",))
    return task_id


# Odd refusals


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("path", ["task/get_detailed_info", "task/get_task_parameters"])
def test_an_odd_refusal_at_the_start_of_a_try_is_asked_again(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch, path: str, last: bool
) -> None:
    mine = healthy(panda, memory, last=last)
    forbid(monkeypatch, path, 1)
    assert submit(memory, LONG)["jedi_task_id"] == mine
    assert still_runs(panda, mine)


@pytest.mark.parametrize("path", ["task/get_detailed_info", "task/get_task_parameters"])
def test_odd_refusals_that_go_on_kill_nothing_and_are_not_hopeless(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    mine = healthy(panda, memory, last=True)
    forbid(monkeypatch, path, 1000)
    with pytest.raises(PandaError) as failed:
        submit(memory, LONG, wait=path == "task/get_detailed_info", outage=0.3)
    assert PandaRetryPolicy().evaluate(failed.value, 2, 5).action is not RetryAction.FAIL
    monkeypatch.undo()
    assert panda.client.task.get_detailed_info(mine).status == "running"


def test_one_odd_refusal_of_the_kill_of_an_old_task_is_asked_again(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = healthy(panda, memory)
    age(memory)
    refuse_once(monkeypatch, "task/kill")
    memory.clear()
    assert submit(memory, LONG)["jedi_task_id"] != old
    assert panda.wait(old).status == "aborted"


def test_a_refusal_is_believed_after_some_seconds_and_some_questions(panda: Panda) -> None:
    other = running(panda, NAMED)
    eve = PandaClient(replace(panda.client.config, token=panda.server.token("Eve Other")))
    pauses = list[float]()
    began = time.time()
    with pytest.raises(PermissionDenied):
        reap(eve, Target((other,)), sleep=pauses.append, clock=lambda: began + sum(pauses))
    assert len(pauses) >= 2
    assert sum(pauses) >= reaper.SURE


def test_a_clear_while_the_database_is_down_forgets_no_task(panda: Panda, memory: Memory) -> None:
    old = healthy(panda, memory)
    age(memory)
    memory.clear()
    panda.server.faults.inject("database_down")
    with pytest.raises(NotCarriedOut):
        submit(memory, LONG)
    panda.server.faults.clear()
    assert submit(memory, LONG)["jedi_task_id"] != old
    assert panda.wait(old).status == "aborted"


def age(memory: Memory) -> None:
    """Make what was submitted two hours old."""
    stored = recorded(memory)
    memory.store.values["panda_submission"] = json.dumps(stored | {"since": stored["since"] - 7200})


def away(*_: Any, **__: Any) -> Any:
    """Answer as Airflow's own server does while it is deployed anew."""
    raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 503}))


def test_an_error_of_airflows_own_server_hides_no_end_of_a_task(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = memory.store.set

    def forgetful(key: str, *given: Any, **how: Any) -> None:
        (away if key == "panda_clears" else keep)(key, *given, **how)

    monkeypatch.setattr(memory.store, "set", forgetful)
    for _ in range(3):  # the last try is one of them
        with pytest.raises(TaskFailed, match="ended as failed"):
            submit(memory, unnamed(task("exit 3")), wait=True)


@pytest.mark.parametrize("how", ["get", "set"])
def test_an_error_of_airflows_own_server_is_no_reason_to_kill(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    mine = healthy(panda, memory, last=True)
    ask = getattr(memory.store, how)

    def broken(key: str, *args: Any, **given: Any) -> Any:
        if key == "panda_submission":
            return ask(key, *args, **given)
        return away()

    monkeypatch.setattr(memory.store, how, broken)
    policy = TaskRetryPolicy(attempts=1)
    with pytest.raises(AirflowRuntimeError):
        submit(memory, LONG, wait=True, deferrable=True, task_retry=policy)
    assert still_runs(panda, mine)


def test_a_retry_in_place_of_what_cannot_be_proven_is_tried_for_as_long_as_an_outage_may_last(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters of old tasks may have been purged."""
    send = PandaClient.send

    def purged(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path == "task/get_task_parameters":
            raise NotFound("refused.", endpoint=endpoint.path, server_says="Task not found")
        return send(client, endpoint, arguments)

    monkeypatch.setattr(PandaClient, "send", purged)
    policy = TaskRetryPolicy(attempts=1, delay=0.0, statuses=("failed",))
    with pytest.raises(TaskFailed, match="could not be registered"):
        submit(memory, unnamed(task("exit 3")), wait=True, outage=0.5, task_retry=policy)
    assert commanded(panda) == []


# A definition that was edited badly

BAD: dict[str, Any] = {
    "a template is left": LONG | {"jobParameters": "{{ x }}"},
    "the name is no text": LONG | {"taskName": 5},
    "no VO": {name: value for name, value in LONG.items() if name != "vo"},
    "None": None,
    "text": "abc",
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_definition_that_cannot_be_submitted_ends_no_healthy_task(
    panda: Panda, memory: Memory, bad: Any, last: bool
) -> None:
    mine = healthy(panda, memory, last=last)
    with pytest.raises(UsageError, match=r"nothing was submitted.*PanDA task 1 was left running"):
        submit(memory, bad)
    assert still_runs(panda, mine)
    memory.clear()
    with pytest.raises(UsageError):
        submit(memory, bad)
    assert still_runs(panda, mine)
    assert submit(memory, LONG)["jedi_task_id"] == 2
    assert panda.wait(mine).status == "aborted"


def test_a_name_that_is_taken_ends_no_healthy_task(panda: Panda, memory: Memory) -> None:
    running(panda, NAMED | {"taskName": "user.bob.daily.g1"})
    mine = healthy(panda, memory)
    with pytest.raises(DuplicateTask, match="was left running"):
        submit(memory, NAMED)
    assert still_runs(panda, mine)
    assert submit(memory, LONG)["jedi_task_id"] == mine


@pytest.mark.parametrize("on_change", ["resubmit", "continue"])
def test_a_bad_definition_ends_no_task_of_which_only_the_key_is_known(
    panda: Panda, memory: Memory, on_change: str
) -> None:
    memory.store.dies_at = DEATHS["before recording"]
    with pytest.raises(WorkerDied):
        submit(memory, LONG)
    memory.store.dies_at = None
    panda.wait(1, ("running",))
    with pytest.raises(UsageError, match="was left running, if it was submitted"):
        submit(memory, None, on_change=on_change)  # type: ignore[arg-type]
    assert still_runs(panda, 1)
    assert submit(memory, LONG)["jedi_task_id"] == 1


# Clears


@pytest.mark.parametrize("command", ["true", "sleep 60"])
def test_a_clear_of_what_was_never_recorded_is_not_forgotten(panda: Panda, memory: Memory, command: str) -> None:
    memory.store.dies_at = DEATHS["before recording"]
    with pytest.raises(WorkerDied):
        submit(memory, unnamed(task(command)))
    memory.store.dies_at = None
    panda.wait(1, ("done",) if command == "true" else ("running",))
    memory.clear()
    assert submit(memory, unnamed(task(command)))["jedi_task_id"] == 2
    assert panda.wait(1).status == ("done" if command == "true" else "aborted")
    assert submit(memory, unnamed(task(command)))["jedi_task_id"] == 2


def test_a_clear_is_not_forgotten_for_a_twin(panda: Panda, memory: Memory) -> None:
    mine = submit(memory, unnamed(task()))["jedi_task_id"]
    panda.wait(mine)
    sent = panda.client.task.get_task_parameters(mine)
    twin = panda.client.task.submit({name: sent[name] for name in sent if name != "uniqueTaskName"}).task_id
    panda.wait(twin)
    store = panda.server.backend.store
    words = f"toabort since there is duplicated task -> jediTaskID={twin}"
    with store.transaction():
        store.run("UPDATE tasks SET status = 'aborted', errorDialog = ? WHERE jediTaskID = ?", words, mine)
    memory.clear()
    assert submit(memory, unnamed(task()))["jedi_task_id"] not in (mine, twin)


# What the version without keys has left


def test_what_is_submitted_for_an_intent_of_the_version_without_keys_is_this_steps(
    panda: Panda, memory: Memory
) -> None:
    memory.store.values["panda_submission"] = json.dumps(EARLIER | {"task_id": None, "since": time.time()})
    mine = submit(memory, LONG)["jedi_task_id"]
    stored = recorded(memory)
    assert panda.client.task.get_task_parameters(mine)["airflow"]["key"] == stored["key"] != ""
    assert stored["owned"]
    panda.wait(mine, ("running",))
    memory.clear()
    submit(memory, LONG)
    assert panda.wait(mine).status == "aborted"


def test_an_intent_without_a_key_takes_nobodys_task_that_has_no_name_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=0.1, cycle=3, command=0.2)) as panda:
        memory.store.values["panda_submission"] = json.dumps(EARLIER | {"task_id": None, "since": time.time()})
        alice = PandaClient(
            ClientConfig(url=panda.server.url, auth="oidc", vo="wlcg", token=panda.server.token("Alice Tester"))
        )
        other = alice.task.submit(NAMED | {"uniqueTaskName": True}).task_id
        panda.wait(other, ("registered",))
        assert lookup._nameless(panda.client, time.time())
        assert submit(memory, LONG)["jedi_task_id"] != other


def test_an_intent_without_a_key_under_a_given_name_is_judged_as_any_holder(panda: Panda, memory: Memory) -> None:
    other = running(panda, NAMED)
    stored = EARLIER | {"task_id": None, "name": NAMED["taskName"], "since": time.time()}
    memory.store.values["panda_submission"] = json.dumps(stored)
    with pytest.raises(DuplicateTask, match=f"belongs to PanDA task {other}"):
        submit(memory, NAMED)
    assert submit(memory, NAMED, on_existing="adopt")["jedi_task_id"] == other


def test_the_version_without_keys_told_definitions_apart_in_another_way(panda: Panda, memory: Memory) -> None:
    old = running(panda)
    memory.store.values["panda_submission"] = json.dumps(EARLIER | {"task_id": old, "definition": "another way"})
    assert submit(memory, LONG)["jedi_task_id"] == old
    assert panda.submitted() == [old]


# A name that is held


def test_nobody_owns_what_two_steps_have_run_again(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = task("exit 1", name="user.bob.daily")
    panda.wait(panda.client.task.submit(parameters | {"uniqueTaskName": True}).task_id)
    once, both = Submission._submit_once, threading.Barrier(2, timeout=20)

    def at_once(step: Submission, *args: Any, **how: Any) -> Any:
        both.wait()
        return once(step, *args, **how)

    monkeypatch.setattr(Submission, "_submit_once", at_once)
    memories = [Memory(), Memory()]

    def rerun(memory: Memory) -> None:
        try:
            submit(memory, parameters, wait=True, on_existing="rerun")
        except PandaError:
            return

    threads = [threading.Thread(target=rerun, args=(memory,)) for memory in memories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(recorded(memory)["owned"] and recorded(memory)["task_id"] for memory in memories)


def test_a_step_that_was_told_to_stop_before_its_request_left_kills_nobodys_run(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a task that is to run again is that of whoever submitted it first."""
    parameters = task("exit 3", name="user.bob.daily")
    with pytest.raises(TaskFailed):
        submit(Memory(), parameters, wait=True)
    step = step_of(parameters, on_existing="rerun")
    sent = list[Target]()
    monkeypatch.setattr(base, "send_reaper", lambda _config, target, _patience: sent.append(target))
    once = Submission._submit_once

    def told_to_stop(*args: Any, **how: Any) -> Any:
        step.on_kill()
        return once(*args, **how)

    monkeypatch.setattr(Submission, "_submit_once", told_to_stop)
    with pytest.raises(PandaError):
        step.execute(memory())
    assert sent == []


def test_what_is_run_again_is_waited_for_by_the_step_itself() -> None:
    """Any later step would believe the end of before."""
    with pytest.raises(UsageError, match="on_existing='rerun' needs wait_for_completion=True"):
        step_of(NAMED, on_existing="rerun", wait_for_completion=False)


def test_a_submission_that_a_proxy_repeats_is_this_steps_though_it_cannot_be_asked_at_once(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, asked = Transport.send, list[str]()

    def proxy(transport: Transport, endpoint: Endpoint, *args: Any) -> Any:
        is_first = endpoint.path not in asked
        asked.append(endpoint.path)
        if is_first and endpoint.path == "task/get_task_parameters":
            raise NotDelivered("connection refused.", endpoint=endpoint.path)
        if is_first and endpoint.path == "task/submit":
            send(transport, endpoint, *args)
        return send(transport, endpoint, *args)

    monkeypatch.setattr(Transport, "send", proxy)
    with pytest.raises(NotDelivered):
        submit(memory, LONG)
    assert [submit(memory, LONG)["jedi_task_id"]] == panda.submitted()


def test_a_submission_that_a_proxy_repeats_after_its_task_has_ended_is_this_steps(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers the second one "reactivation accepted"."""
    send = PandaClient.send

    def repeating(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        answer = send(client, endpoint, arguments)
        if endpoint.path != "task/submit":
            return answer
        panda.wait(answer.data)
        return send(client, endpoint, arguments)

    with monkeypatch.context() as proxy:
        proxy.setattr(PandaClient, "send", repeating)
        assert submit(memory, unnamed(task()))["jedi_task_id"] == 1
    assert (panda.submitted(), recorded(memory)["owned"], recorded(memory)["sent"]) == ([1], True, True)


def test_a_submission_that_the_server_could_not_store_is_made_by_the_next_try(panda: Panda, memory: Memory) -> None:
    def refuse(*_: Any) -> None:
        raise NotCarriedOut("the database is away.", endpoint="task/submit")

    with pytest.MonkeyPatch.context() as outage:
        outage.setattr(TaskApi, "submit", refuse)
        with pytest.raises(NotCarriedOut):
            submit(memory, task())
    assert recorded(memory)["sent"] is False
    stranger = running(panda, NAMED | {"taskName": task()["taskName"]})
    with pytest.raises(DuplicateTask, match="without a key"):
        submit(memory, task())
    assert panda.submitted() == [stranger]


def test_what_runs_by_then_was_not_run_again_by_this_step(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = task("sleep 60", name="user.bob.daily")
    first = submit(Memory(), parameters)["jedi_task_id"]
    panda.wait(first, ("running",))
    ended = replace(panda.task(first), status="failed")
    monkeypatch.setattr(lookup, "holder", lambda *_: ended)
    with pytest.raises(DuplicateTask, match="which is running"):
        submit(memory, parameters, wait=True, on_existing="rerun")


@pytest.mark.parametrize("keyed", [False, True])
def test_a_broken_task_is_not_run_again(panda: Panda, keyed: bool) -> None:
    parameters = task(name="user.bob.daily")
    if keyed:
        with pytest.raises(TaskFailed):
            submit(Memory(), parameters, wait=True, parent_tid=99999)
    else:
        panda.wait(panda.client.task.submit(parameters | {"uniqueTaskName": True}, parent_tid=99999).task_id)
    memory = Memory()
    for _ in range(2):
        with pytest.raises(DuplicateTask):
            submit(memory, parameters, wait=True, on_existing="rerun")
    assert panda.submitted() == [1]


def test_a_server_that_does_not_run_a_task_again_is_not_asked_for_ever(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = task("exit 3", name="user.bob.daily")
    panda.wait(panda.client.task.submit(parameters | {"uniqueTaskName": True}).task_id)
    asked = list[str]()
    send = PandaClient.send

    def refusing(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path != "task/submit":
            return send(client, endpoint, arguments)
        asked.append(endpoint.path)
        raise DuplicateTask("the name is taken.", task_id=1, server_says="jediTaskID=1 is already queued")

    monkeypatch.setattr(PandaClient, "send", refusing)
    for _ in range(2):
        with pytest.raises(DuplicateTask, match="was to run again and was refused") as refused:
            submit(memory, parameters, wait=True, on_existing="rerun")
        assert not refused.value.hopeless
    assert len(asked) == 2


def test_twins_that_name_each_other_are_not_followed_for_ever(panda: Panda, memory: Memory) -> None:
    mine = submit(memory, unnamed(task()))["jedi_task_id"]
    panda.wait(mine)
    sent = panda.client.task.get_task_parameters(mine)
    twin = panda.client.task.submit({name: sent[name] for name in sent if name != "uniqueTaskName"}).task_id
    panda.wait(twin)
    store = panda.server.backend.store
    with store.transaction():
        for one, other in ((mine, twin), (twin, mine)):
            words = f"toabort since there is duplicated task -> jediTaskID={other}"
            store.run("UPDATE tasks SET status = 'aborted', errorDialog = ? WHERE jediTaskID = ?", words, one)
    with pytest.raises(PandaError, match="one thing and then another"):
        submit(memory, unnamed(task()))


def test_a_reactivation_that_nobody_wanted_is_told(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = task(name="user.bob.daily")
    panda.wait(panda.client.task.submit(parameters | {"uniqueTaskName": True}).task_id)
    monkeypatch.setattr(lookup, "holder", lambda *_: None)
    with pytest.raises(DuplicateTask, match="the server took the submission for a wish to run it again") as refused:
        submit(memory, parameters)
    assert "nothing was submitted" not in str(refused.value)


# Events and messages


def test_the_event_of_another_task_is_no_end_of_this_one(panda: Panda, memory: Memory) -> None:
    """Where Airflow gives the ID of a deleted trigger to another one, the first one's event comes to the second."""
    others = step_of(unnamed(task()), deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        others.execute(Memory()())
    assert deferred.value.trigger
    event = event_of(deferred.value.trigger)
    assert event["kind"] == "ended"
    context = memory()
    with pytest.raises(TaskDeferred) as mine:
        step_of(deferrable=True).execute(context)
    step = step_of(deferrable=True)
    with pytest.raises(TaskDeferred) as again:
        step.resume_execution("execute_complete", {"event": event}, context)
    first, second = mine.value.trigger, again.value.trigger
    assert first
    assert second
    assert first.serialize()[1]["plan"] == second.serialize()[1]["plan"]


def test_a_failure_of_what_the_step_did_not_submit_promises_no_retry_in_place(panda: Panda, memory: Memory) -> None:
    memory.max_tries = 5
    old = panda.client.task.submit(task("exit 3") | {"uniqueTaskName": True}).task_id
    panda.wait(old)
    memory.store.values["panda_submission"] = json.dumps(EARLIER | {"task_id": old, "clears": 5})
    with pytest.raises(TaskFailed, match="did not submit the task and does not retry it") as failed:
        submit(memory, unnamed(task("exit 3")), wait=True)
    assert "in place" not in str(failed.value)
    assert commanded(panda) == []


def test_a_step_that_times_out_without_a_kill_says_that_its_time_counts_on(panda: Panda, memory: Memory) -> None:
    with pytest.raises(WaitTimeout, match="counts from the submission"):
        submit(memory, LONG, wait=True, timeout=0.5, cancel_on_timeout=False)
