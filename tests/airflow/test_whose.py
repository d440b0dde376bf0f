"""Whose a task is: no step believes, retries or kills one that it did not submit; no green step has done nothing."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferred

from panda_airflow.client import (
    DuplicateTask,
    NotOurs,
    PandaClient,
    PermissionDenied,
    TaskFailed,
    TaskOutcome,
    TaskPartlyDone,
    UsageError,
)
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope, Mark
from panda_airflow.devserver.backend import Pace
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.operators import base
from panda_airflow.operators.command import PandaKillTaskOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps import lookup
from panda_airflow.steps.kill import last_words
from panda_airflow.steps.kill.reaper import Target, reap, send_reaper
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.feed.joining import feeds
from panda_airflow.waiting.task import WaitPlan
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import (
    Memory,
    Panda,
    WorkerDied,
    connection,
    fails_once,
    serve,
    task,
    unnamed,
    wait_until,
)
from tests.support.submitting import DEATHS, as_production, recorded, submit
from tests.support.triggers import airflow_says, airflow_task, event_of

pytestmark = pytest.mark.usefixtures("impatient")

LONG = unnamed(task("sleep 60"))
NAMED = task("sleep 60", name="user.bob.daily")


def step_of(parameters: dict[str, Any] = LONG, **more: Any) -> PandaSubmitTaskOperator:
    return PandaSubmitTaskOperator(
        task_id="fit", task_parameters=parameters, **({"poll_interval": 0.1, "retries": 2} | more)
    )


def commanded(panda: Panda) -> list[Any]:
    return panda.server.backend.store.rows("SELECT * FROM commands")


def running(panda: Panda, parameters: dict[str, Any] = LONG, **more: Any) -> int:
    """Let a person, who is no step, run a task."""
    task_id = panda.client.task.submit(task(name="user.bob.own") | parameters | {"uniqueTaskName": True} | more).task_id
    panda.wait(task_id, ("running",))
    return task_id


# A connection that has come to mean another server or user


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Panda, Panda]]:
    """Two servers; the connection means the first. Both have a task 1, the second that of somebody else."""
    with serve(tmp_path / "a", monkeypatch) as here, serve(tmp_path / "b", monkeypatch) as there:
        running(there)
        mean(here, monkeypatch)
        yield here, there


def mean(panda: Panda, monkeypatch: pytest.MonkeyPatch, name: str = "Bob Tester") -> None:
    """Edit the connection."""
    described = connection(panda.server, panda.server.token(name))
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", described)


@pytest.mark.parametrize("change", [{}, {"ramCount": 4000}], ids=["retry", "changed parameters"])
def test_a_step_whose_connection_means_another_server_touches_nothing_there(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    here, there = servers
    submit(memory, LONG)
    mean(there, monkeypatch)
    step = step_of(LONG | change)
    with pytest.raises(
        NotOurs, match=r"task 1 belongs to Bob Tester at https.*now means .*Restore the connection"
    ) as e:
        step.execute(memory())
    step.on_kill()
    assert e.value.hopeless
    assert (there.submitted(), commanded(there), commanded(here)) == ([1], [], [])
    mean(here, monkeypatch)
    assert submit(memory, LONG, retries=2)["jedi_task_id"] == 1


def test_a_number_that_the_other_server_does_not_know_is_not_waited_for_there(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = servers
    running(here)
    assert submit(memory, LONG)["jedi_task_id"] == 2
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match="task 2 belongs to Bob Tester at"):
        submit(memory, LONG)


def test_a_clear_submits_where_the_connection_means_now_and_leaves_the_old_task_alone(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = servers
    submit(memory, LONG)
    mean(there, monkeypatch)
    memory.clear()
    with pytest.raises(NotOurs):
        submit(memory, LONG, on_clear="continue")
    assert submit(memory, LONG)["jedi_task_id"] == 2
    assert (there.submitted(), commanded(there), commanded(here)) == ([1, 2], [], [])


def test_another_user_of_the_same_server_is_told_so_and_a_renewed_token_is_no_other_user(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = submit(memory, LONG)["jedi_task_id"]
    mean(panda, monkeypatch, "Eve Other")
    with pytest.raises(NotOurs, match=r"belongs to Bob Tester at .* now means Eve Other at"):
        submit(memory, LONG)
    mean(panda, monkeypatch)
    assert submit(memory, LONG)["jedi_task_id"] == task_id


def test_a_wait_that_ended_elsewhere_is_no_success_here(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = servers
    context = memory()
    with pytest.raises(TaskDeferred) as deferred:
        step_of(unnamed(task()), deferrable=True).execute(context)
    assert deferred.value.trigger
    event = event_of(deferred.value.trigger)
    assert event["kind"] == "ended"
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match="now means"):
        step_of(deferrable=True).resume_execution("execute_complete", {"event": event}, context)
    assert commanded(there) == []


def test_a_trigger_neither_reports_nor_kills_what_is_elsewhere(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = servers
    with pytest.raises(TaskDeferred) as deferred:
        step_of(deferrable=True).execute(memory())
    trigger: Any = deferred.value.trigger
    mean(there, monkeypatch)
    event = event_of(PandaTaskTrigger("panda_default", trigger.plan.to_json()))
    assert (event["kind"], event["hopeless"]) == ("error", True)
    assert "now means" in event["note"]
    airflow_says(monkeypatch, "failed")
    trigger.task_instance = airflow_task()
    assert "It was left running" in trigger._end()
    assert commanded(there) == []


def test_a_reaper_kills_nothing_elsewhere(servers: tuple[Panda, Panda], monkeypatch: pytest.MonkeyPatch) -> None:
    _, there = servers
    target = Target((1,), account=step_of().account)
    mean(there, monkeypatch)
    assert "was left running: it belongs to Bob Tester at" in send_reaper(PandaHook().config, target, 30)
    assert commanded(there) == []


@pytest.mark.parametrize("kind", [PandaKillTaskOperator, PandaRetryTaskOperator])
def test_a_command_is_not_repeated_elsewhere(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch, kind: type[Any]
) -> None:
    here, there = servers
    here.wait(here.client.task.submit(task("exit 3" if kind is PandaRetryTaskOperator else "sleep 60")).task_id, (
        "failed" if kind is PandaRetryTaskOperator else "running",
    ))  # fmt: skip
    given: dict[str, Any] = {"task_id": "command", "jedi_task_id": 1, "wait_for_completion": False, "retries": 2}
    kind(**given).execute(memory())
    mean(there, monkeypatch)
    with pytest.raises(NotOurs, match="now means"):
        kind(**given).execute(memory())
    assert commanded(there) == []


def test_a_rebuilt_server_where_the_number_is_that_of_another_task(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address and its users are the same, its numbers begin anew."""
    _, there = servers
    submit(memory, LONG)
    mean(there, monkeypatch)
    stored = recorded(memory)
    stored["account"] = asdict(step_of().account)
    memory.store.values["panda_submission"] = json.dumps(stored)
    with pytest.raises(NotOurs, match="is not the one that this step submitted: it was submitted without a key"):
        submit(memory, LONG)
    memory.clear()
    assert submit(memory, LONG)["jedi_task_id"] == 2
    assert commanded(there) == []


# A name that another task holds


@pytest.mark.parametrize("change", [{}, {"ramCount": 2000}], ids=["same", "changed"])
def test_a_task_that_took_the_name_while_the_step_was_dead_is_left_alone(
    panda: Panda, memory: Memory, change: dict[str, Any]
) -> None:
    memory.store.dies_at = DEATHS["after the intent"]
    with pytest.raises(WorkerDied):
        submit(memory, NAMED)
    memory.store.dies_at = None
    other = submit(Memory(), NAMED | {"ramCount": 4000})["jedi_task_id"]
    panda.wait(other, ("running",))
    step = step_of(NAMED | change)
    with pytest.raises(DuplicateTask, match=f"belongs to PanDA task {other}, which is running"):
        step.execute(memory())
    step.on_kill()
    memory.clear()
    with pytest.raises(DuplicateTask):
        submit(memory, NAMED)
    assert (panda.submitted(), commanded(panda)) == ([other], [])


def test_a_reaper_leaves_whoever_takes_the_name_alone(panda: Panda) -> None:
    other = running(panda, NAMED)
    target = Target((), NAMED["taskName"], until=time.time() + 1, outage=0, key="the key of a request that never left")
    with pytest.raises(Exception, match="with the key of this step"):
        reap(panda.client, target, sleep=lambda _: time.sleep(0.1))
    with pytest.raises(NotOurs):
        reap(panda.client, replace(target, key=""))
    with pytest.raises(NotOurs):
        reap(panda.client, replace(target, task_ids=(other,)))
    assert commanded(panda) == []


def test_a_reaper_finds_its_task_by_the_key_before_jedi_has_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a task has neither name nor owner, and never gets them if JEDI breaks it."""
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=0.1, cycle=3, command=0.2)) as panda:
        began = time.time()
        submit(Memory(), LONG)
        panda.wait(1, ("registered",))
        stored = panda.client.task.get_task_parameters(1)
        found = lookup.ours(panda.client, stored["taskName"], stored["airflow"]["key"], began)
        assert found
        assert (found.task_id, found.name == stored["taskName"]) == (1, False)
        assert lookup.ours(panda.client, stored["taskName"], "another key", began) is None


def test_the_same_run_of_two_airflows_has_two_tasks(panda: Panda) -> None:
    """Production's failed task is neither retried nor owned by staging, and a clear there kills nothing here."""
    production, staging = Memory(), Memory()
    with pytest.raises(TaskFailed):
        submit(production, unnamed(task("exit 3")), wait=True)
    mine = submit(staging, unnamed(task("exit 3")))["jedi_task_id"]
    panda.wait(mine)
    staging.clear()
    submit(staging, LONG)
    assert panda.submitted() == [1, 2, 3]
    assert panda.task(1).attempt_nr == 0
    assert commanded(panda) == []


def test_a_fixed_name_in_a_daily_run_is_an_error_that_says_all(panda: Panda) -> None:
    done = submit(Memory(), task(name="user.bob.daily"), wait=True)["jedi_task_id"]
    tomorrow = Memory()
    words = (
        rf"the task name user.bob.daily belongs to PanDA task {done}, which ended as done and was submitted by "
        r"DAG higgs, run manual__2026, step fit.*Leave taskName out.*on_existing='adopt'.*'rerun'"
    )
    with pytest.raises(DuplicateTask, match=words) as raised:
        submit(tomorrow, task(name="user.bob.daily"), wait=True)
    assert raised.value.hopeless
    assert panda.submitted() == [done]
    assert "panda_submission" not in tomorrow.store.values


def test_a_task_that_ends_between_the_look_and_the_submission_is_not_taken_for_this_steps(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says "reactivation accepted"."""
    panda.wait(panda.client.task.submit(task(name="user.bob.daily") | {"uniqueTaskName": True}).task_id)
    monkeypatch.setattr(lookup, "holder", lambda *_: None)
    with pytest.raises(DuplicateTask, match="was submitted without a key"):
        submit(memory, task(name="user.bob.daily"))
    assert recorded(memory)["sent"] is False


def test_an_adopted_task_is_waited_for_and_never_killed(panda: Panda, memory: Memory) -> None:
    other = submit(Memory(), NAMED)["jedi_task_id"]
    panda.wait(other, ("running",))
    step = step_of(NAMED, on_existing="adopt", wait_for_completion=False)
    assert step.execute(memory())["jedi_task_id"] == other
    step.on_kill()
    memory.clear()
    assert submit(memory, NAMED, on_existing="adopt")["jedi_task_id"] == other
    assert (panda.submitted(), commanded(panda)) == ([other], [])


def test_an_adopted_end_is_believed_if_it_is_good(panda: Panda) -> None:
    done = submit(Memory(), task(name="user.bob.daily"), wait=True)["jedi_task_id"]
    result = submit(Memory(), task(name="user.bob.daily"), wait=True, on_existing="adopt")
    assert (result["jedi_task_id"], result["status"]) == (done, "done")
    with pytest.raises(TaskFailed):
        submit(Memory(), task("exit 3", name="user.bob.bad"), wait=True)
    with pytest.raises(DuplicateTask, match="which ended as failed"):
        submit(Memory(), task("exit 3", name="user.bob.bad"), on_existing="adopt")


def test_a_task_that_is_run_again_without_any_new_job_is_no_success(panda: Panda, memory: Memory) -> None:
    submit(Memory(), task(name="user.bob.daily"), wait=True)
    with pytest.raises(TaskOutcome, match="no job ran: nothing was done") as raised:
        submit(memory, task(name="user.bob.daily"), wait=True, on_existing="rerun")
    assert raised.value.hopeless
    assert panda.submitted() == [1]


def test_only_ended_tasks_are_run_again(panda: Panda, memory: Memory) -> None:
    running(panda, NAMED)
    with pytest.raises(DuplicateTask, match="which is running"):
        submit(memory, NAMED, wait=True, on_existing="rerun")


def test_a_lost_answer_to_a_rerun_is_found(panda: Panda, memory: Memory) -> None:
    parameters = task(fails_once(panda.server.root), name="user.bob.daily")
    with pytest.raises(TaskPartlyDone):
        submit(Memory(), parameters, wait=True)
    panda.server.faults.inject("drop_after", "task/submit")
    result = submit(memory, parameters, wait=True, on_existing="rerun")
    assert (result["jedi_task_id"], result["status"], panda.submitted()) == (1, "done", [1])


@pytest.mark.parametrize("wrong", [{"on_existing": "retry"}, {"on_change": "fail"}])
def test_a_wish_that_nobody_knows_is_refused_at_parse(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be one of"):
        step_of(**wrong)


def test_braces_that_are_no_template_have_a_way_out(panda: Panda, memory: Memory) -> None:
    with pytest.raises(UsageError, match="as in C\\+\\+, need a blank between them"):
        submit(memory, unnamed(task("root -e 'int a[2][2] = {{1, 2}, {3, 4}}'")))
    assert submit(memory, unnamed(task("echo 'int a[2][2] = { {1, 2}, {3, 4} }'")))["jedi_task_id"] == 1


def test_a_template_that_a_step_returned_is_refused_before_anything_is_recorded(panda: Panda, memory: Memory) -> None:
    with pytest.raises(UsageError, match=r"\['taskName'\] still holds a template: 'user.bob.\{\{ ds \}\}'"):
        submit(memory, task(name="user.bob.{{ ds }}"))
    assert panda.submitted() == []
    assert "panda_submission" not in memory.store.values


# Twins


def twin_of(panda: Panda, task_id: int) -> int:
    """Send the submission of a production task once more, as a proxy may."""
    return panda.client.task.submit(panda.client.task.get_task_parameters(task_id)).task_id


def test_only_a_twin_with_the_same_key_is_followed(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_production(panda, monkeypatch)
    monkeypatch.setattr(panda, "client", PandaHook().client)
    parameters = task(name="user.bob.twin", taskType="prod")
    mine = submit(memory, parameters)["jedi_task_id"]
    twin = twin_of(panda, mine)
    memory.store.values["panda_submission"] = json.dumps(recorded(memory) | {"task_id": twin})
    assert panda.wait(twin).status == "aborted"
    assert submit(memory, parameters, wait=True)["jedi_task_id"] == mine
    assert panda.submitted() == [mine, twin]


def test_the_twin_of_somebody_else_is_not_followed_unless_it_may_be_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=2, cycle=0.1, command=0.2)) as panda:
        as_production(panda, monkeypatch)
        parameters = task("sleep 2", name="user.bob.twin", taskType="prod")
        other = PandaHook().client.task.submit(parameters | {"uniqueTaskName": True, "taskPriority": 1}).task_id
        with pytest.raises(DuplicateTask, match=f"belongs to PanDA task {other}"):
            submit(memory, parameters, wait=True)
        result = submit(memory, parameters, wait=True, on_existing="adopt")
        assert (result["jedi_task_id"], result["status"]) == (other, "done")
        assert len(panda.submitted()) == 2


def test_a_twin_of_other_parameters_is_refused(panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    as_production(panda, monkeypatch)
    monkeypatch.setattr(panda, "client", PandaHook().client)
    parameters = task(name="user.bob.twin", taskType="prod")
    mine = submit(memory, parameters)["jedi_task_id"]
    changed = panda.client.task.get_task_parameters(mine) | {"ramCount": 4000}
    twin = panda.client.task.submit(changed).task_id
    assert panda.wait(twin).status == "aborted"
    stored = recorded(memory) | {"task_id": twin, "definition": ""}
    memory.store.values["panda_submission"] = json.dumps(stored)
    with pytest.raises(DuplicateTask, match="ramCount differ"):
        submit(memory, parameters | {"ramCount": 4000}, wait=True)


# What the server makes of it


def test_people_see_which_dag_run_made_a_task(panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = panda.client.task.get_task_parameters(submit(memory, LONG)["jedi_task_id"])
    assert stored["framework"] == "airflow"
    assert stored["airflow"] == {
        "key": recorded(memory)["key"],
        "dag_id": "higgs",
        "run_id": "manual__2026",
        "task_id": "fit",
        "map_index": -1,
        "try_number": 1,
    }


def test_the_key_is_recorded_before_the_request_is_sent(panda: Panda, memory: Memory) -> None:
    memory.store.dies_at = DEATHS["after the intent"]
    with pytest.raises(WorkerDied):
        submit(memory, LONG)
    key = recorded(memory)["key"]
    assert (len(key), panda.submitted()) == (32, [])
    memory.store.dies_at = None
    stored = panda.client.task.get_task_parameters(submit(memory, LONG)["jedi_task_id"])
    assert stored["airflow"]["key"] == key


def test_a_task_of_the_production_role_is_given_the_priority_without_which_jedi_breaks_it(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = submit(Memory(), LONG)["jedi_task_id"]
    as_production(panda, monkeypatch)
    mine = submit(memory, LONG)["jedi_task_id"]
    own = submit(Memory(), LONG | {"taskPriority": 500})["jedi_task_id"]
    given = [panda.client.task.get_task_parameters(task_id)["taskPriority"] for task_id in (plain, mine, own)]
    assert given[1:] == [900, 500]
    assert given[0] != 900


def test_one_odd_refusal_of_a_retry_is_asked_again(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot reach its database for a moment says that the caller is not the owner."""
    parameters = unnamed(task(fails_once(panda.server.root)))
    with pytest.raises(TaskPartlyDone):
        submit(memory, parameters, wait=True)
    refuse_once(monkeypatch, "task/retry")
    assert submit(memory, parameters, wait=True)["status"] == "done"


def refuse_once(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    send, left = PandaClient.send, [1]

    def refusing(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        if endpoint.path == path and left:
            left.pop()
            raise PermissionDenied("not the task owner or no production role", endpoint=path)
        return send(client, endpoint, arguments)

    monkeypatch.setattr(PandaClient, "send", refusing)


# Names, changes, versions, last words


def test_a_name_of_the_longest_kind_is_cleared_like_any_other(panda: Panda, memory: Memory) -> None:
    name = "user.bob." + "x" * 246
    old = submit(memory, NAMED | {"taskName": name})["jedi_task_id"]
    panda.wait(old, ("running",))
    memory.clear()
    new = submit(memory, NAMED | {"taskName": name})["jedi_task_id"]
    assert panda.submitted() == [old, new]
    assert panda.wait(old).status == "aborted"
    assert len(recorded(memory)["name"]) == 256


def test_a_line_end_in_a_production_name_makes_no_second_task(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_production(panda, monkeypatch)
    panda.server.faults.inject("drop_after", "task/submit")
    submit(memory, NAMED | {"taskName": "user.bob.daily\n", "taskType": "prod"})
    assert len(panda.submitted()) == 1
    assert recorded(memory)["name"] == "user.bob.daily"


def test_another_parent_is_another_definition(panda: Panda, memory: Memory) -> None:
    parent = submit(Memory(), unnamed(task()), wait=True)["jedi_task_id"]
    old = submit(memory, LONG)["jedi_task_id"]
    panda.wait(old, ("running",))
    new = submit(memory, LONG, parent_tid=parent)["jedi_task_id"]
    assert (submit(memory, LONG, parent_tid=str(parent))["jedi_task_id"], new != old) == (new, True)
    assert panda.wait(old).status == "aborted"


def test_a_clear_is_one_though_the_retries_were_lowered(panda: Panda, memory: Memory) -> None:
    """``max_tries`` is the number of the last try and the retries then: it need not grow."""
    submit(memory, unnamed(task()), wait=True, retries=2)
    submit(memory, unnamed(task()), wait=True, retries=1)
    assert len(panda.submitted()) == 2


EARLIER = {
    "name": "airflow.higgs.fit.0123456789abcdef", "generation": 0, "since": time.time(), "clears": 2, "mark": None,
    "sent": True, "attempt": 1, "definition": "", "origin": 0, "owned": True, "first_attempt": 0,
}  # fmt: skip
"""What the version without keys recorded."""


def test_a_wait_of_the_version_without_keys_goes_on_and_its_task_is_never_touched(panda: Panda, memory: Memory) -> None:
    old = running(panda, task("sleep 2"))
    memory.store.values["panda_submission"] = json.dumps(EARLIER | {"task_id": old, "since": time.time()})
    memory.store.values["panda_wait"] = json.dumps({"target": {"task_ids": [old], "mark": None}, "owns": True})
    step = step_of(unnamed(task("sleep 2")))
    assert step.execute(memory())["status"] == "done"
    memory.clear()
    new = submit(memory, LONG)["jedi_task_id"]
    assert (panda.submitted(), commanded(panda)) == ([old, new], [])


def test_a_trigger_of_the_version_without_keys_goes_on(panda: Panda, memory: Memory) -> None:
    task_id = running(panda, task("sleep 1"))
    plan = WaitPlan(task_id, time.time(), poll_interval=0.1).to_json()
    earlier = {name: value for name, value in plan.items() if name not in ("key", "account", "made")}
    event = event_of(PandaTaskTrigger("panda_default", earlier | {"first_attempt": 0}))
    memory.store.values["panda_submission"] = json.dumps(EARLIER | {"task_id": task_id, "since": time.time()})
    context = memory()
    assert step_of().resume_execution("execute_complete", {"event": event}, context)["status"] == "done"


def test_what_a_later_version_has_stored_is_understood(panda: Panda, memory: Memory) -> None:
    """A downgrade with a wait in flight."""
    context = memory()
    with pytest.raises(TaskDeferred) as deferred:
        step_of(unnamed(task()), deferrable=True).execute(context)
    for name, value in memory.store.values.items():
        memory.store.values[name] = json.dumps(with_news(json.loads(value)))
    trigger: Any = deferred.value.trigger
    event = event_of(PandaTaskTrigger("panda_default", with_news(trigger.plan.to_json()), news=1))
    resumed = step_of(unnamed(task()), deferrable=True)
    result = resumed.resume_execution("execute_complete", {"event": with_news(event)}, context)
    assert (result["status"], panda.submitted()) == ("done", [result["jedi_task_id"]])


def with_news(value: Any) -> Any:
    """Add a field to every object."""
    if isinstance(value, dict):
        return {name: with_news(item) for name, item in value.items()} | {"news": {"a": 1}}
    return [with_news(item) for item in value] if isinstance(value, list) else value


@contextmanager
def temporary(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process and its children leave their last words here."""
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setenv("TMPDIR", str(path))
    yield


def test_the_next_try_tells_what_a_process_without_a_step_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base, "FAREWELL", 0.2)
    slow = Pace(registration=3, cycle=0.1, command=0.2)
    with temporary(tmp_path, monkeypatch), serve(tmp_path / "panda", monkeypatch, pace=slow) as panda:
        step = step_of(wait_for_completion=False)
        step.execute(memory())
        step.on_kill()
        wait_until(lambda: list(tmp_path.glob("panda-kills-*/*")))
        panda.wait(1, ("aborted",))
        submit(memory, LONG)
        said = capsys.readouterr().out
    assert "left word" in said
    assert "PanDA task 1 was told to stop." in said
    assert last_words.read(recorded(memory)["key"]) == ""


def test_the_last_try_says_what_a_clear_does(panda: Panda, memory: Memory) -> None:
    memory.max_tries = 0
    with pytest.raises(
        TaskFailed, match=r"This was the last try\. A clear of this step submits the work anew"
    ) as raised:
        submit(memory, unnamed(task("exit 3")), wait=True)
    assert "A retry of this step" not in str(raised.value)
    assert "on_clear='continue'" in str(raised.value)


def test_what_a_clear_means_may_be_chosen_before_it(panda: Panda, memory: Memory) -> None:
    assert "on_clear" in PandaSubmitTaskOperator.template_fields
    with pytest.raises(UsageError, match="on_clear must be one of resubmit, continue, not ''"):
        submit(memory, LONG, on_clear="")


def test_a_mark_tells_a_reactivation_that_changed_nothing_but_the_status(panda: Panda, memory: Memory) -> None:
    """JEDI leaves all times as they were: the command is given once, though the worker is lost just after it."""
    info = panda.wait(panda.client.task.submit(task()).task_id)
    assert not Mark.of(info).holds(replace(info, status="ready"))


@pytest.mark.parametrize("mode", ["poke", "defer"])
def test_a_sensor_whose_connection_means_another_server_tells_nothing_of_it(
    servers: tuple[Panda, Panda], memory: Memory, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    here, there = servers
    here.client.task.submit(task("sleep 60"))
    context = memory()
    given: dict[str, Any] = {"task_id": "sense", "jedi_task_id": 1, "statuses": ["running"], "poke_interval": 0.1}
    sensor = PandaWaitTaskStatusSensor(**given, mode="reschedule", deferrable=mode == "defer", cancel_on_timeout=True)
    with pytest.raises((TaskDeferred, AirflowRescheduleException)):
        sensor.execute(context)
    mean(there, monkeypatch)
    again = PandaWaitTaskStatusSensor(**given, mode="reschedule", cancel_on_timeout=True)
    late = ("__fail__", {"error": "Trigger timeout"}, context)
    go_on = partial(again.execute, context) if mode == "poke" else partial(again.resume_execution, *late)
    with pytest.raises(NotOurs, match="what this sensor waits for belongs to Bob Tester at"):
        go_on()
    assert commanded(there) == []


def test_a_connection_that_was_edited_adds_no_states_of_another_server_to_a_feed(
    servers: tuple[Panda, Panda], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed is that of the account: while another connection means it still, its states are right for all."""
    here, there = servers
    running(here)
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_EDITED", connection(there.server, there.server.token()))
    plan = WaitPlan(1, time.time(), poll_interval=0.1, account=step_of().account, outage=0)
    seen = replace(plan, statuses=("running",))

    async def play() -> list[Any]:
        alone = await PandaTaskTrigger("panda_edited", seen.to_json())._wait()
        long = asyncio.create_task(PandaTaskTrigger("panda_default", plan.to_json())._wait())
        while not any(feed.questions + feed.looks for feed in feeds()):
            await asyncio.sleep(0.02)
        shared = await PandaTaskTrigger("panda_edited", seen.to_json())._wait()
        long.cancel()
        return [alone, shared]

    alone, shared = asyncio.run(play())
    assert (alone["kind"], alone["hopeless"]) == ("error", True)
    assert (shared["kind"], shared["status"]) == ("ended", "running")


def test_the_feed_of_an_account_is_one(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    running(panda)
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_OTHER", connection(panda.server, panda.server.token()))
    plan = WaitPlan(1, time.time(), poll_interval=0.1, account=step_of().account)

    async def play() -> int:
        names = ("panda_default", "panda_other")
        waits = [asyncio.create_task(PandaTaskTrigger(name, plan.to_json())._wait()) for name in names]
        while sum(len(feed.waiters) for feed in feeds()) < len(names):
            await asyncio.sleep(0.02)
        number = len(feeds())
        for wait in waits:
            wait.cancel()
        return number

    assert asyncio.run(play()) == 1


def rebuild(panda: Panda, task_id: int) -> None:
    """Let the number become that of somebody else's task."""
    stored = panda.client.task.get_task_parameters(task_id)
    stored["airflow"]["key"] = "the key of somebody else"
    panda.server.backend.store.update("submissions", "jediTaskID", task_id, params=json.dumps(stored))


def test_the_task_of_somebody_else_is_not_retried_when_its_retry_is_due(panda: Panda, memory: Memory) -> None:
    given: dict[str, Any] = {"task_retry": TaskRetryPolicy(attempts=1, delay=0), "deferrable": True}
    context = memory()
    with pytest.raises(TaskDeferred) as deferred:
        step_of(unnamed(task("exit 3")), **given).execute(context)
    assert deferred.value.trigger
    event = event_of(deferred.value.trigger)
    assert event["retry"]
    rebuild(panda, 1)
    with pytest.raises(NotOurs, match="is not this step's"):
        step_of(unnamed(task("exit 3")), **given).resume_execution("execute_complete", {"event": event}, context)
    assert commanded(panda) == []


def test_a_trigger_neither_kills_nor_believes_the_task_of_somebody_else(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        step_of(deferrable=True).execute(memory())
    panda.wait(1, ("running",))
    rebuild(panda, 1)
    trigger: Any = deferred.value.trigger
    assert "is not this step's" in trigger._end()
    for change in ({"statuses": ("running",)}, {"deadline": time.time()}):
        plan = replace(trigger.plan, **change)
        event = event_of(PandaTaskTrigger("panda_default", plan.to_json()))
        assert event["kind"] in ("error", "timeout")
        assert "is not this step's" in event["note"]
    assert commanded(panda) == []
