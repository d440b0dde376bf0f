"""Wherever a submitting step dies, or loses an answer, its next try finds what it left: one task, not two, not none.

Every act of the step on the world, each request and each record, is a point of death: just before it and just after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, product
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from panda_airflow.client import DuplicateTask, OutcomeUnknown, PandaError
from panda_airflow.client.http.transport import Transport
from panda_airflow.client.status import ABOUT_TO_ABORT, ACTIVE_STATUSES
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.steps import submission as submitting
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.task import WaitPlan
from tests.airflow.conftest import Memory, Panda, Store, WorkerDied, task, unnamed
from tests.support.submitting import as_production, submit
from tests.support.triggers import event_of

pytestmark = pytest.mark.usefixtures("impatient")

LOOK = "task/get_detailed_info"


class Fate:
    """Lets something happen just before or just after an act."""

    def __init__(self) -> None:
        self.spare()

    def spare(self) -> None:
        """Let the acts that follow pass."""
        self.meet(0, "", WorkerDied())

    def meet(self, act: int, when: str, mishap: BaseException) -> None:
        """Have this happen at the act of this number from here on, the first being 1."""
        self.acts: list[str] = []
        self._act, self._when, self._mishap = act, when, mishap

    def at(self, name: str, do: Callable[[], Any]) -> Any:
        self.acts.append(name)
        number = len(self.acts)
        self._strike(number, "before")
        try:
            return do()
        finally:
            self._strike(number, "after")

    def _strike(self, act: int, when: str) -> None:
        if (act, when) == (self._act, self._when):
            raise self._mishap


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    """A fate that every request and every record of this process passes."""
    fate = Fate()
    send, remember = Transport.send, Store.set
    monkeypatch.setattr(
        Transport, "send", lambda self, endpoint, *given: fate.at(endpoint.path, lambda: send(self, endpoint, *given))
    )
    monkeypatch.setattr(
        Store, "set", lambda self, key, value, **kept: fate.at(key, lambda: remember(self, key, value, **kept))
    )
    return fate


class Life:
    """A step of a run of its own, from try to try."""

    def __init__(self, number: int, **options: Any) -> None:
        self.memory = Memory()
        self.run_id = f"run {number}"
        self.options = {"poll_interval": 0.05} | options

    def attempt(self, parameters: dict[str, Any], **more: Any) -> int:
        """Run a try until it defers or ends; tell which task it follows."""
        step = PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, **(self.options | more))
        try:
            return int(step.execute(self.context())["jedi_task_id"])
        except TaskDeferred as stopped:
            trigger: Any = stopped.trigger
            return int(trigger.plan.task_id)

    def context(self) -> dict[str, Any]:
        context = self.memory()
        context["ti"].run_id = self.run_id
        return context


def points() -> Iterator[tuple[int, str]]:
    return ((act, when) for act in count(1) for when in ("before", "after"))


MISHAPS: dict[str, Callable[[], BaseException]] = {
    "killed": WorkerDied,
    "answer lost": lambda: OutcomeUnknown("the connection broke."),
}
KINDS: dict[str, dict[str, Any]] = {"user": {}, "production": {"taskType": "prod"}}
WAYS: dict[str, dict[str, Any]] = {"worker": {"wait_for_completion": False}, "triggerer": {"deferrable": True}}
THEN: dict[str, dict[str, Any]] = {"retry": {}, "clear": {}, "change": {"ramCount": 4000}}
"""What comes next, and how the parameters have changed by then."""


def lives(fate: Fate, parameters: dict[str, Any], way: dict[str, Any], mishap: str) -> Iterator[Life]:
    """Let one step after the other meet the mishap at its next point, until a first try has no further act.

    A worker that waits until it is killed has no last act: its second look is as good as any further one.
    """
    for number, (act, when) in enumerate(points()):
        life = Life(number, **way)
        fate.meet(act, when, MISHAPS[mishap]())
        with suppress(WorkerDied, PandaError):
            life.attempt(parameters, **({"wait_for_completion": True} if mishap == "killed" else {}))
        acts = fate.acts
        fate.spare()
        yield life
        if len(acts) < act or acts.count(LOOK) > 1:
            assert {"task/submit", "panda_submission"} <= set(acts)
            return


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mishap", "then"), [("answer lost", "retry"), *product(["killed"], THEN)])
def test_a_mishap_at_any_point_leaves_one_task(
    panda: Panda, monkeypatch: pytest.MonkeyPatch, fate: Fate, then: str, kind: str, way: str, mishap: str
) -> None:
    if kind == "production":
        as_production(panda, monkeypatch)
        monkeypatch.setattr(submitting, "JEDI_PATIENCE", 2.5)
    parameters = unnamed(task("sleep 60", jobs=1, **KINDS[kind]))
    wanted = parameters | THEN[then]
    followed: set[int] = set()
    replaced: set[int] = set()
    for life in lives(fate, parameters, WAYS[way], mishap):
        if then == "clear":
            life.memory.clear()
        task_id = life.attempt(wanted)
        mine = set(panda.submitted()) - followed - replaced
        assert task_id == max(mine)
        assert len(mine) == 1 or then != "retry"
        followed.add(task_id)
        replaced |= mine - {task_id}
    assert {panda.wait(task_id).status for task_id in replaced} <= {"aborted"}
    alive = tuple(ACTIVE_STATUSES - ABOUT_TO_ABORT)
    assert {panda.wait(task_id, alive).attempt_nr for task_id in followed} == {0}
    given = [panda.client.task.get_task_parameters(task_id) for task_id in followed]
    assert {found.get("ramCount") for found in given} == {wanted.get("ramCount")}


def test_a_worker_that_dies_in_going_on_leaves_the_done_task_to_the_next_try(panda: Panda, fate: Fate) -> None:
    parameters = unnamed(task("true"))
    life = Life(0, deferrable=True)
    task_id = life.attempt(parameters)
    event = event_of(PandaTaskTrigger("panda_default", WaitPlan(task_id, time.time(), poll_interval=0.1).to_json()))
    for act, when in points():
        step = PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, deferrable=True)
        fate.meet(act, when, WorkerDied())
        with suppress(WorkerDied):
            assert step.resume_execution("execute_complete", {"event": event}, life.context())["status"] == "done"
            break
        fate.spare()
        assert life.attempt(parameters) == task_id
    assert "task/get_details" in fate.acts
    fate.spare()
    assert (panda.submitted(), panda.task(task_id).attempt_nr) == ([task_id], 0)


def test_a_task_of_other_parameters_that_holds_the_name_is_refused_before_anything_is_recorded(
    panda: Panda, memory: Memory
) -> None:
    named = task("true", name="user.bob.shared")
    holder = panda.client.task.submit(task("sleep 1", name="user.bob.shared")).task_id
    for status in ("running", "done"):
        panda.wait(holder, (status,))
        with pytest.raises(DuplicateTask, match="is another task: jobParameters differ"):
            submit(memory, named, wait=True, on_existing="adopt")
        assert "panda_submission" not in memory.store.values
    assert panda.submitted() == [holder]
