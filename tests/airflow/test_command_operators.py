"""Steps that command a task: given once, believed only when the task has moved, harmless when repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from panda_airflow.client import (
    NotFound,
    PermissionDenied,
    Refused,
    TaskAborted,
    TaskOutcome,
    UsageError,
    WaitTimeout,
    WrongState,
)
from panda_airflow.devserver.handlers import task as handlers
from panda_airflow.devserver.jedi import lifecycle
from panda_airflow.devserver.storage import tasks
from panda_airflow.operators.command import (
    PandaFinishTaskOperator,
    PandaIncreaseAttemptsOperator,
    PandaKillTaskOperator,
    PandaPauseTaskOperator,
    PandaReactivateTaskOperator,
    PandaReloadInputOperator,
    PandaResumeTaskOperator,
)
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from tests.airflow.conftest import Memory, Panda, Run, WorkerDied, connection, fails_once, wait_until
from tests.support.commanding import commands, has_failed, partly_failed, submit
from tests.support.triggers import event_of

Play = Callable[[DAG], Run]
both_ways = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


@pytest.fixture
def manager(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> Panda:
    """The same server, which Airflow knows with the production role."""
    token = panda.server.token("Ada Manager", production=True)
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", connection(panda.server, token, vo="wlcg.production"))
    return panda


def running(panda: Panda) -> int:
    task_id = submit(panda)
    panda.wait(task_id, ("running",))
    return task_id


@both_ways
def test_a_kill_waits_until_the_task_has_ended(panda: Panda, play: Play, deferrable: bool) -> None:
    task_id = running(panda)
    with DAG(f"kill_{deferrable}") as dag:
        PandaKillTaskOperator(task_id="kill", jedi_task_id=task_id, poll_interval=0.1, deferrable=deferrable)
    run = play(dag)
    assert run.states == {"kill": "success"}
    assert (run.results["kill"]["jedi_task_id"], run.results["kill"]["status"]) == (task_id, "aborted")
    assert run.links["kill"] == f"{panda.server.url}/task/{task_id}/"
    assert panda.task(task_id).status == "aborted"


def test_a_kill_without_a_wait_only_gives_the_command(panda: Panda, memory: Memory) -> None:
    task_id = running(panda)
    step = PandaKillTaskOperator(task_id="kill", jedi_task_id=task_id, wait_for_completion=False)
    assert step.execute(memory())["status"] == ""
    assert panda.wait(task_id).status == "aborted"


def test_a_task_that_has_ended_need_not_be_killed(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = submit(panda, "true")
    panda.wait(task_id, ("done",))
    given = commands(panda, monkeypatch, "kill")
    step = PandaKillTaskOperator(task_id="kill", jedi_task_id=task_id, poll_interval=0.1)
    assert step.execute(memory())["status"] == "done"
    assert given == []


def test_a_task_submitted_a_moment_ago_is_killed_once_it_is_registered(panda: Panda, memory: Memory) -> None:
    task_id = submit(panda)
    step = PandaKillTaskOperator(task_id="kill", jedi_task_id=task_id, poll_interval=0.1)
    assert step.execute(memory())["status"] == "aborted"


def test_a_task_that_does_not_exist_is_not_waited_for(panda: Panda, memory: Memory) -> None:
    with pytest.raises(NotFound):
        PandaKillTaskOperator(task_id="kill", jedi_task_id=404, poll_interval=0.1).execute(memory())


def test_a_kill_is_given_again_after_the_loss_of_the_worker(panda: Panda, memory: Memory) -> None:
    task_id = running(panda)
    memory.store.dies_at = (1, "after")
    step = PandaKillTaskOperator(task_id="kill", jedi_task_id=task_id, poll_interval=0.1)
    with pytest.raises(WorkerDied):
        step.execute(memory())
    assert panda.task(task_id).status == "running"
    assert step.execute(memory())["status"] == "aborted"


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_finish_ends_a_task_with_what_it_has(panda: Panda, memory: Memory, tmp_path: Path, soft: bool) -> None:
    done, others = tmp_path / "done", tmp_path / "others"
    command = f"if mkdir {done} 2>/dev/null; then true; else touch {others}; sleep {1 if soft else 60}; fi"
    task_id = submit(panda, command, jobs=2)
    panda.wait(task_id, ("running",))
    wait_until(lambda: others.exists() and "finished" in job_statuses(panda, task_id))
    step = PandaFinishTaskOperator(task_id="end", jedi_task_id=task_id, soft=soft, poll_interval=0.1)
    assert step.execute(memory())["status"] == ("done" if soft else "finished")


def job_statuses(panda: Panda, task_id: int) -> set[str]:
    return {job.status for job in panda.client.task.get_job_descriptions(task_id)}


def test_finish_fails_with_a_task_that_was_killed(panda: Panda, memory: Memory) -> None:
    task_id = running(panda)
    panda.client.task.kill(task_id)
    panda.wait(task_id, ("aborted",))
    with pytest.raises(TaskAborted, match=f"PanDA task {task_id} ended as aborted"):
        PandaFinishTaskOperator(task_id="end", jedi_task_id=task_id, poll_interval=0.1).execute(memory())


@both_ways
def test_a_task_is_paused_and_resumed(manager: Panda, play: Play, deferrable: bool) -> None:
    task_id = running(manager)
    options: dict[str, Any] = {"jedi_task_id": task_id, "poll_interval": 0.1, "deferrable": deferrable}
    with DAG(f"pause_{deferrable}") as dag:
        pause = PandaPauseTaskOperator(task_id="pause", **options)
        again = PandaPauseTaskOperator(task_id="again", **options)
        resume = PandaResumeTaskOperator(task_id="resume", **options)
        pause >> again >> resume >> PandaResumeTaskOperator(task_id="resumed", **options)
    run = play(dag)
    assert set(run.states.values()) == {"success"}
    assert {run.results["pause"]["status"], run.results["again"]["status"]} == {"paused"}
    assert run.results["resume"]["status"] in ("ready", "running", "scouting")
    assert manager.task(task_id).status == "running"


def test_a_task_that_is_ending_is_not_paused_for_ever(
    manager: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lifecycle.STEPS, "toabort", lambda *_: None)
    task_id = running(manager)
    manager.server.backend.store.update("tasks", "jediTaskID", task_id, status="toabort")
    given = commands(manager, monkeypatch, "pause")
    with pytest.raises(WrongState, match="it ends, and is not paused"):
        PandaPauseTaskOperator(task_id="pause", jedi_task_id=task_id, poll_interval=0.1, timeout=5).execute(memory())
    assert given == []


def test_a_command_that_jedi_drops_ends_in_a_timeout_and_is_given_again(
    manager: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = running(manager)
    step = PandaPauseTaskOperator(task_id="pause", jedi_task_id=task_id, poll_interval=0.1, timeout=0.5)
    with monkeypatch.context() as dropping:
        dropping.setattr(handlers, "put_command", lambda *_: None)
        with pytest.raises(WaitTimeout, match="may have dropped the command"):
            step.execute(memory())
    assert manager.task(task_id).status == "running"
    step.timeout = 10
    assert step.execute(memory())["status"] == "paused"


@both_ways
def test_a_command_that_no_retry_gives_again_is_not_said_to_be_dropped(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    monkeypatch.setitem(lifecycle.STEPS, "aborting", lambda *_: None)
    task_id = running(panda)
    options: dict[str, Any] = {"jedi_task_id": task_id, "poll_interval": 0.1, "timeout": 0.5}
    for number in range(2):
        with pytest.raises(WaitTimeout, match="A retry of this step looks at the task again") as late:
            come_to_the_end(PandaKillTaskOperator(task_id="kill", deferrable=deferrable, **options), memory)
        assert "dropped" not in str(late.value)
        assert panda.task(task_id).status == "aborting", number


def come_to_the_end(step: Any, memory: Memory) -> Any:
    """Run a step, and resume it if it defers."""
    try:
        return step.execute(memory())
    except TaskDeferred as stopped:
        return step.execute_complete(memory(), event_of(stopped.trigger))


def test_an_increase_that_is_given_at_most_once_is_not_said_to_be_given_again(manager: Panda, memory: Memory) -> None:
    step = PandaIncreaseAttemptsOperator(
        task_id="more",
        jedi_task_id=partly_failed(manager),
        increase=2,
        wait_for_completion=True,
        poll_interval=0.1,
        timeout=0.3,
    )
    with pytest.raises(WaitTimeout, match="A retry of this step looks at the task again") as late:
        step.execute(memory())
    assert "gives it again" not in str(late.value)


def test_without_the_production_role_a_pause_fails_at_once(panda: Panda, play: Play) -> None:
    task_id = running(panda)
    with DAG("refused") as dag:
        PandaPauseTaskOperator(
            task_id="pause", jedi_task_id=task_id, poll_interval=0.1, retries=3, retry_delay=timedelta(0)
        )
    run = play(dag)
    assert run.states == {"pause": "failed"}
    assert isinstance(run.errors["pause"], PermissionDenied)
    assert run.tries == {"pause": 1}


def test_a_mistake_of_the_author_is_not_retried(panda: Panda, play: Play) -> None:
    with DAG("mistake") as dag:
        PandaSubmitTaskOperator(task_id="fit", task_parameters={"vo": "wlcg"}, retries=3, retry_delay=timedelta(0))
    run = play(dag)
    assert isinstance(run.errors["fit"], UsageError)
    assert (run.states, run.tries) == ({"fit": "failed"}, {"fit": 1})
    assert panda.submitted() == []


def test_every_step_has_the_policy_unless_the_author_gives_another() -> None:
    class Stubborn(PandaRetryPolicy):
        """Another policy."""

    with DAG("policies", default_args={"retry_policy": Stubborn()}):
        assert isinstance(PandaKillTaskOperator(task_id="kill", jedi_task_id=1).retry_policy, Stubborn)
    steps = (
        PandaSubmitTaskOperator(task_id="submit", task_parameters={}),
        PandaRetryTaskOperator(task_id="retry", jedi_task_id=1),
        PandaKillTaskOperator(task_id="kill", jedi_task_id=1),
        PandaWaitTaskStatusSensor(task_id="wait", jedi_task_id=1),
    )
    assert {type(step.retry_policy) for step in steps} == {PandaRetryPolicy}
    assert isinstance(
        PandaKillTaskOperator(task_id="k", jedi_task_id=1, retry_policy=Stubborn()).retry_policy, Stubborn
    )


@both_ways
def test_reload_input_does_not_believe_the_old_status(panda: Panda, play: Play, deferrable: bool) -> None:
    task_id = submit(panda, "true")
    before = panda.wait(task_id, ("done",))
    with DAG(f"reload_{deferrable}") as dag:
        PandaReloadInputOperator(task_id="reload", jedi_task_id=task_id, poll_interval=0.1, deferrable=deferrable)
    run = play(dag)
    after = panda.task(task_id)
    assert run.results["reload"]["status"] == after.status == "done"
    assert before.end_time
    assert after.end_time
    assert after.end_time > before.end_time
    assert after.attempt_nr == 0


def test_reload_input_is_given_once_for_each_time_that_the_task_ended(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = submit(panda, "true")
    before = panda.wait(task_id, ("done",))
    step = PandaReloadInputOperator(task_id="reload", jedi_task_id=task_id, wait_for_completion=False)
    given = commands(panda, monkeypatch, "incexec")
    step.execute(memory())
    step.execute(memory())
    assert given == [task_id, task_id], "the task had not moved yet: the server replaces the command by itself"
    wait_until(lambda: panda.task(task_id).end_time != before.end_time)
    step.execute(memory())
    assert len(given) == 2
    memory.clear()
    step.execute(memory())
    assert len(given) == 3


def test_reactivate_runs_a_task_again_exactly_once(manager: Panda, memory: Memory, tmp_path: Path) -> None:
    task_id = submit(manager, fails_once(tmp_path))
    manager.wait(task_id, ("finished",))
    step = PandaReactivateTaskOperator(task_id="again", jedi_task_id=task_id, poll_interval=0.1)
    assert step.execute(memory())["status"] == "done"
    number = len(manager.client.task.get_job_ids(task_id))
    assert step.execute(memory())["status"] == "done"
    assert len(manager.client.task.get_job_ids(task_id)) == number


def test_a_reactivation_after_which_no_job_ran_is_no_success(
    manager: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = submit(manager, "true")
    manager.wait(task_id, ("done",))
    monkeypatch.setattr(PandaReactivateTaskOperator, "_newest_job", lambda *_: 10**9)
    with pytest.raises(TaskOutcome, match="It was to run again, and no new job ran: nothing was done"):
        PandaReactivateTaskOperator(task_id="again", jedi_task_id=task_id, poll_interval=0.1).execute(memory())


@pytest.fixture
def increases(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The increases that reach the server."""
    seen: list[int] = []
    original = tasks.increase_attempts

    def increase_attempts(backend: Any, task_id: int, more: int) -> tuple[int, int]:
        seen.append(more)
        return original(backend, task_id, more)

    monkeypatch.setattr(tasks, "increase_attempts", increase_attempts)
    return seen


def test_attempts_are_increased_once_however_often_the_step_is_tried(
    manager: Panda, memory: Memory, increases: list[int]
) -> None:
    task_id = partly_failed(manager)
    step = PandaIncreaseAttemptsOperator(task_id="more", jedi_task_id=task_id, increase="2")
    assert [step.execute(memory())["jedi_task_id"], step.execute(memory())["jedi_task_id"]] == [task_id, task_id]
    assert increases == [2]
    memory.clear()
    wait_until(lambda: has_failed(manager, task_id))
    step.execute(memory())
    assert increases == [2, 2]


@pytest.mark.parametrize("given", ["None", "", "2.5", "-1", True])
def test_an_increase_that_is_no_number_is_a_mistake_of_the_author(
    manager: Panda, memory: Memory, increases: list[int], given: Any
) -> None:
    step = PandaIncreaseAttemptsOperator(task_id="more", jedi_task_id=running(manager), increase=given)
    with pytest.raises(UsageError, match=f"increase must be a number of attempts, not {given!r}"):
        step.execute(memory())
    assert increases == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_increase_of_which_nobody_knows_is_left_to_a_person(
    manager: Panda, memory: Memory, increases: list[int], when: str
) -> None:
    task_id = running(manager)
    step = PandaIncreaseAttemptsOperator(task_id="more", jedi_task_id=task_id, increase=2)
    if when == "after":
        manager.server.faults.inject("drop_after", "task/increase_attempts")
        with pytest.raises(AirflowFailException, match="Whether the increase of attempts took place is unknown"):
            step.execute(memory())
    else:
        memory.store.dies_at = (1, "after")
        with pytest.raises(WorkerDied):
            step.execute(memory())
    with pytest.raises(AirflowFailException, match="clear this step"):
        step.execute(memory())
    assert len(increases) == (when == "after")


def test_an_increase_that_was_refused_may_be_tried_again(manager: Panda, memory: Memory, increases: list[int]) -> None:
    task_id = submit(manager, "true")
    manager.wait(task_id, ("done",))
    step = PandaIncreaseAttemptsOperator(task_id="more", jedi_task_id=task_id, increase=2)
    for _ in range(2):
        with pytest.raises(Refused, match="command rejected"):
            step.execute(memory())
    assert increases == []


def test_an_increase_that_changed_nothing_is_no_success(manager: Panda, memory: Memory) -> None:
    step = PandaIncreaseAttemptsOperator(task_id="more", jedi_task_id=running(manager), increase=2)
    with pytest.raises(WrongState, match=r"no attempt was added: no input .* increased attemptNr for 0 inputs"):
        step.execute(memory())


def test_a_command_says_what_it_did(manager: Panda, memory: Memory, tmp_path: Path) -> None:
    task_id = submit(manager, fails_once(tmp_path))
    manager.wait(task_id, ("finished",))
    again = PandaReactivateTaskOperator(task_id="again", jedi_task_id=task_id, poll_interval=0.1).execute(memory())
    assert re.fullmatch(
        rf"Reactivation of PanDA task {task_id}, which was finished: "
        r"it is done, 2 of 2 inputs finished; \d new jobs ran.",
        again["message"],
    )
    ended = PandaReloadInputOperator(task_id="reload", jedi_task_id=task_id, poll_interval=0.1).execute(Memory()())
    assert ended["message"].startswith(f"Reload of the input of PanDA task {task_id}, which was done: it is done")


def test_a_soft_finish_says_what_it_did(panda: Panda, memory: Memory) -> None:
    task_id = submit(panda, "sleep 1")
    panda.wait(task_id, ("running",))
    step = PandaFinishTaskOperator(task_id="finish", jedi_task_id=task_id, soft=True, poll_interval=0.1)
    said = step.execute(memory())["message"]
    assert said.startswith(f"Soft finish of PanDA task {task_id}, which was running: it is ")
    assert "of 2 inputs finished." in said
    left = PandaFinishTaskOperator(task_id="finish", jedi_task_id=running(panda), wait_for_completion=False)
    assert left.execute(Memory()())["message"].endswith("it is registered, and JEDI carries it out in a few minutes.")


def test_who_lacks_the_production_role_is_told_so(panda: Panda, memory: Memory) -> None:
    with pytest.raises(PermissionDenied, match="Only the production role may do this, whoever owns the task"):
        PandaPauseTaskOperator(task_id="pause", jedi_task_id=running(panda), poll_interval=0.1).execute(memory())
    panda.server.backend.store.run("UPDATE tasks SET userName = 'Eve Stranger'")
    with pytest.raises(PermissionDenied, match="Use the identity that submitted the task or one with the production"):
        panda.client.task.kill(panda.submitted()[0])
