"""What holds for every decision about a submission, whatever the step remembers and whatever the server shows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from panda_airflow.client.models import TaskInfo
from panda_airflow.client.status import classify
from panda_airflow.client.task_parameters import definition_digest
from panda_airflow.steps.decision import Action, Situation, decide
from panda_airflow.steps.record import REWRITTEN, SubmissionRecord, differences

TIMES = [datetime(2026, 1, 1) + timedelta(days=day) for day in range(2)]  # noqa: DTZ001 - naive UTC, as the server's

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
definitions = st.dictionaries(st.sampled_from(["vo", "ramCount", "log", "taskName", "userName"]), values)


@given(definitions, definitions)
def test_definitions_are_told_apart_by_their_values_whatever_their_order(one: dict[str, Any], other: Any) -> None:
    shuffled = dict(reversed(list(one.items())))
    assert definition_digest(one) == definition_digest(shuffled) == definition_digest(json.loads(json.dumps(one)))
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (definition_digest(one) == definition_digest(other)) is same


@given(definitions, definitions)
def test_only_what_the_author_has_set_and_the_server_leaves_alone_makes_another_task(
    wanted: dict[str, Any], more: dict[str, Any]
) -> None:
    stored = json.loads(json.dumps(more | wanted))
    assert differences(wanted, stored) == []
    changed = stored | dict.fromkeys(wanted, "something else")
    assert set(differences(wanted, changed)) == wanted.keys() - REWRITTEN


@dataclass
class Task:
    """A task on an ideal server."""

    task_id: int
    key: str
    status: str = "registered"
    visible: bool = False
    attempt: int = 0

    @property
    def info(self) -> TaskInfo:
        return TaskInfo(self.task_id, status=self.status, attempt_nr=self.attempt, state_change_time=TIMES[0])


class Died(Exception):
    """The worker is gone."""


class Tries(RuleBasedStateMachine):
    """A step whose worker may die between any two of its acts, on a server that keeps names, made of keys, unique.

    The acts are those of the operator: record the intent, submit, record the task.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[int, Task] = {}
        self.stored: dict[str, Any] | None = None
        self.life = 99
        self.keys = 0
        self.done: set[int] = set()

    @property
    def record(self) -> SubmissionRecord | None:
        return SubmissionRecord.from_json(self.stored) if self.stored else None

    def active(self) -> list[Task]:
        return [task for task in self.tasks.values() if not classify(task.status).is_final]

    def act(self) -> None:
        """Die where there is no life left."""
        self.life -= 1
        if self.life < 0:
            raise Died

    def remember(self, record: SubmissionRecord) -> SubmissionRecord:
        self.act()
        self.stored = json.loads(json.dumps(asdict(record)))
        self.act()
        return record

    def submit(self, key: str) -> Task:
        """Take what holds the name, which is made of the key, running it again if it has ended, or make it."""
        self.act()
        task = next((task for task in self.tasks.values() if task.key == key), None)
        if task is None:
            task = Task(1 + len(self.tasks), key)
            self.tasks[task.task_id] = task
        elif classify(task.status).is_final:
            task.status, task.attempt = "rerefine", task.attempt + 1
        self.act()
        return task

    def find(self, key: str) -> Task | None:
        return next((task for task in self.tasks.values() if task.key == key and task.visible), None)

    @rule(life=st.integers(0, 6) | st.just(99))
    def begin_a_try(self, life: int) -> None:
        self.life = life
        try:
            self.decide()
        except Died:
            return
        record = self.record
        assert record
        assert record.task_id in self.tasks
        assert [task.task_id for task in self.active()] in ([], [record.task_id])

    def decide(self) -> None:
        record = self.record
        task = self.tasks.get(record.task_id) if record and record.task_id else None
        action = decide(Situation(record, task.info if task and task.visible else None)).action
        if action is Action.RETRY and task:
            self.act()
            task.status, task.attempt = "toretry", task.attempt + 1
        elif action in (Action.SUBMIT, Action.REPLACE):
            self.keys += 1
            intent = self.remember(SubmissionRecord(key=str(self.keys)))
            self.remember(replace(intent, task_id=self.submit(intent.key).task_id))
        elif action is Action.FIND and record:
            found = self.find(record.key) or self.submit(record.key)
            self.remember(replace(record, task_id=found.task_id))

    @precondition(lambda self: self.tasks)
    @rule(status=st.sampled_from(["running", "done", "finished", "failed", "exhausted", "broken", "aborted"]))
    def let_the_server_go_on(self, status: str) -> None:
        for task in self.active():
            task.visible, task.status = True, status
            self.done |= {task.task_id} if status == "done" else set()

    @invariant()
    def there_is_one_active_task_at_most(self) -> None:
        assert len(self.active()) <= 1

    @invariant()
    def no_task_is_beyond_finding(self) -> None:
        record = self.record
        for task in self.active():
            assert record
            assert task.task_id == record.task_id or (record.task_id is None and task.key == record.key)

    @invariant()
    def what_is_done_is_neither_run_again_nor_replaced(self) -> None:
        assert not self.done or {task_id for task_id in self.tasks if task_id >= min(self.done)} == self.done
        assert all(self.tasks[task_id].status == "done" for task_id in self.done)


TestTries = Tries.TestCase
