"""A clear is told from a retry, also where ``retries`` was lowered; a lost request is looked up where it can be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from panda_airflow.client import NotDelivered, OutcomeUnknown, ServerAway, ServerError, UsageError
from panda_airflow.client.idds import Idds
from panda_airflow.operators.command import PandaReloadInputOperator
from panda_airflow.operators.idds import PandaIddsCommandOperator
from panda_airflow.operators.workflow import PandaSubmitWorkflowOperator
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.steps import once
from panda_airflow.steps.state_store import clears, end_noted, gives_up, note_end
from tests.airflow.conftest import Memory, Panda, task, unnamed
from tests.support import submitting
from tests.support.commanding import commands


class Life:
    """A task instance as Airflow keeps it: tries, and what a clear makes of ``max_tries``."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.memory = Memory(max_tries=retries)

    def attempt(self) -> int:
        return clears(self.memory(), self.retries)

    def end(self) -> None:
        self.memory.tries -= 1
        note_end(self.memory(), self.retries)

    def clear(self, retries: int | None = None) -> None:
        """As ``airflow.models.taskinstance.clear_task_instances`` does."""
        self.retries = self.retries if retries is None else retries
        self.memory.max_tries = self.memory.tries + self.retries


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("lowered", [0, 1, 2, 3])
def test_a_clear_is_noticed_whatever_became_of_the_retries(retries: int, lowered: int) -> None:
    life = Life(retries)
    first = life.attempt()
    life.end()
    life.clear(min(retries, lowered))
    second = life.attempt()
    assert second > first
    assert life.attempt() == second, "a retry after it is none"
    life.end()
    life.clear(0)
    assert life.attempt() > second


def test_a_retry_is_no_clear_though_its_worker_died_just_after_the_end() -> None:
    life = Life(3)
    first = life.attempt()
    life.end()
    assert [life.attempt(), life.attempt()] == [first, first]


def test_a_step_that_a_person_ended_while_it_was_deferred_is_cleared_though_the_retries_were_lowered(
    panda: Panda, memory: Memory
) -> None:
    memory.max_tries = 3
    deferred = {"deferrable": True, "cancel_on_kill": False, "retries": 3}
    with pytest.raises(TaskDeferred):
        submitting.submit(memory, unnamed(task()), wait=True, **deferred)
    panda.wait(1)
    memory.max_tries = memory.tries + 2  # by the clear, whose DAG says two retries
    for _ in "clear", "retry":
        assert submitting.submit(memory, unnamed(task()), wait=True, retries=2)["jedi_task_id"] == 2


def test_a_retry_is_no_clear_though_the_retries_were_lowered_by_as_many_as_there_were_tries(
    panda: Panda, memory: Memory
) -> None:
    memory.max_tries = 3
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=99)
    with pytest.raises(ServerAway):
        submitting.submit(memory, unnamed(task("sleep 60")), wait=True, retries=3, outage=0)
    panda.server.faults.clear()
    assert submitting.submit(memory, unnamed(task("sleep 60")), retries=2)["jedi_task_id"] == 1
    assert panda.server.backend.store.rows("SELECT * FROM commands") == []


class Broken(PandaRetryPolicy):
    """A policy of an author who made a mistake."""

    def evaluate(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("tries", "error", "policy", "over"),
    [
        (1, ServerError("HTTP 500"), None, False),
        (2, ServerError("HTTP 500"), None, False),
        (3, ServerError("HTTP 500"), None, True),
        (1, UsageError("no such status"), None, True),
        (1, AirflowFailException("a person has to look"), Broken(), True),
        (1, UsageError("no such status"), Broken(), False),
        (3, UsageError("no such status"), Broken(), True),
    ],
)
def test_a_step_gives_up_as_airflow_does(tries: int, error: Exception, policy: Any, over: bool) -> None:
    memory, told = Memory(max_tries=2, tries=tries - 1), list[int]()
    context = memory()
    step: Any = SimpleNamespace(retry_policy=policy, retries=2, on_kill=lambda: told.append(1))
    assert gives_up(step, context, error) is over
    with pytest.raises(type(error)), end_noted(step, context):
        raise error
    noted = memory.store.get("panda_clears")
    assert (noted and noted["again"]) == (None if isinstance(error, UsageError) else 0 if over else tries)
    assert told == []


def test_a_first_try_writes_nothing_before_it_ends() -> None:
    life = Life(3)
    life.attempt()
    assert life.memory.store.values == {}


def workflow(**more: Any) -> PandaSubmitWorkflowOperator:
    return PandaSubmitWorkflowOperator(task_id="flow", workflow_definition={"workflow_name": "flow"}, **more)


def test_what_is_sent_once_is_sent_again_after_a_clear_with_fewer_retries(panda: Panda) -> None:
    memory = Memory(max_tries=3)
    first = workflow(retries=3).execute(memory())
    assert workflow(retries=3).execute(memory()) == first, "a retry"
    memory.max_tries = 2 + 1  # a clear after the second try, now with one retry
    assert workflow(retries=1).execute(memory()) != first
    del panda


def test_a_command_is_given_again_after_a_clear_with_fewer_retries(
    panda: Panda, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = panda.client.task.submit(task("true")).task_id
    panda.wait(task_id, ("done",))
    given = commands(panda, monkeypatch, "incexec")

    def reload(retries: int) -> PandaReloadInputOperator:
        return PandaReloadInputOperator(task_id="reload", jedi_task_id=task_id, poll_interval=0.1, retries=retries)

    memory = Memory(max_tries=2)
    assert "new job" in reload(2).execute(memory())["message"]
    assert "new job" in reload(2).execute(memory())["message"]
    assert len(given) == 1, "a retry"
    memory.max_tries = 2 + 0
    reload(0).execute(memory())
    assert len(given) == 2


class IddsServer:
    """Keeps requests by name; loses the answers to submissions as a test says."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {"other": 7}
        self.arrives = True
        self.loses: Exception | None = OutcomeUnknown("the connection broke.")

    def call(self, command: str, *args: Any, **given: Any) -> Any:
        del args
        if command == "get_request_id_by_name":
            return {name: number for name, number in self.requests.items() if name == given["name"]}
        if self.arrives:
            self.requests["mine"] = max(self.requests.values()) + 1
        if self.loses:
            raise self.loses
        return self.requests["mine"]


@pytest.fixture
def idds(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> IddsServer:
    del panda
    server = IddsServer()
    monkeypatch.setattr(Idds, "call", lambda _self, command, *args, **given: server.call(command, *args, **given))
    return server


def submit(memory: Memory, name: str = "mine") -> Any:
    step = PandaIddsCommandOperator(
        task_id="idds", command="submit", command_args=[{"a": "workflow"}], manager=True, request_name=name
    )
    return step.execute(memory())


@pytest.mark.parametrize("held_before", [False, True])
def test_an_idds_request_whose_answer_was_lost_is_found_by_its_name(
    idds: IddsServer, memory: Memory, held_before: bool
) -> None:
    if held_before:
        idds.requests["mine"] = 5
    number = submit(memory)
    assert number == idds.requests["mine"] == 8
    idds.loses, idds.arrives = AssertionError("sent twice"), False
    assert submit(memory) == number


def test_an_idds_request_that_cannot_be_found_yet_is_looked_for_by_a_retry(
    idds: IddsServer, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    idds.arrives = False
    with pytest.raises(OutcomeUnknown, match="a retry of this step looks for it"):
        submit(memory)
    with pytest.raises(OutcomeUnknown, match="a retry of this step looks for it"):
        submit(memory)
    idds.requests["mine"] = 9
    assert submit(memory) == 9


def test_an_idds_request_that_never_arrived_is_sent_again(
    idds: IddsServer, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    idds.arrives = False
    with pytest.raises(OutcomeUnknown):
        submit(memory)
    monkeypatch.setattr(once, "SURFACED", 0.0)
    idds.arrives, idds.loses = True, None
    assert submit(memory) == 8


def test_an_idds_request_without_a_name_is_left_to_a_person(idds: IddsServer, memory: Memory) -> None:
    with pytest.raises(AirflowFailException, match="the server has no method to look it up"):
        submit(memory, name="")
    idds.loses = NotDelivered("no")
    with pytest.raises(AirflowFailException, match="An earlier try of this step was lost"):
        submit(memory, name="")
