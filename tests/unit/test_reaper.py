"""How long a kill is asked for, of which task, and which refusal is believed; the server is a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from panda_airflow.client import (
    NotCarriedOut,
    NotDelivered,
    NotFound,
    NotOurs,
    PandaClient,
    PandaError,
    PermissionDenied,
    WrongState,
)
from panda_airflow.client.models import JobState, Mark, TaskInfo
from panda_airflow.client.stored import Account
from panda_airflow.client.task_parameters import STAMP
from panda_airflow.steps import lookup
from panda_airflow.steps.kill import reaper
from panda_airflow.steps.kill.reaper import SURE, Target, reap

BEGAN = 1_000_000.0
AWAY = NotDelivered("the connection was refused.")
DENIED = PermissionDenied("not the task owner or no production role")


@dataclass
class Server:
    """Answers each kill of a task with the next of its answers, the last one for ever."""

    answers: dict[int, list[PandaError | None]]
    keys: dict[int, str] = field(default_factory=dict)
    info: TaskInfo = field(default_factory=lambda: TaskInfo(1))
    jobs: list[tuple[bool, JobState]] = field(default_factory=list)
    now: float = BEGAN
    kills: list[Any] = field(default_factory=list)

    @property
    def client(self) -> PandaClient:
        task = SimpleNamespace(
            kill=self.kill,
            get_task_parameters=lambda task_id: {STAMP: {"key": self.keys.get(task_id, "")}},
            get_detailed_info=lambda _: self.info,
        )
        job = SimpleNamespace(kill=self.kill_jobs, get_status=lambda _: [job for taken, job in self.jobs if not taken])
        return cast("PandaClient", SimpleNamespace(task=task, job=job))

    def kill(self, task_id: int) -> None:
        self.kills.append(task_id)
        answers = self.answers[task_id]
        if answer := answers.pop(0) if len(answers) > 1 else answers[0]:
            raise answer

    def kill_jobs(self, job_ids: list[int]) -> list[bool]:
        self.kills.append(job_ids)
        return [taken for taken, _ in self.jobs]

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def reap(self, target: Target) -> float:
        """Kill; return how many seconds it took."""
        reap(self.client, target, self.sleep, lambda: self.now)
        return self.now - BEGAN


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say whether the server reaches its database; it does."""

    def reached(yes: bool) -> None:
        monkeypatch.setattr(reaper, "has_database", lambda _: yes)

    reached(True)
    return reached


def test_a_task_that_can_be_killed_is_killed_once() -> None:
    server = Server({1: [None]}, {1: "mine"})
    assert server.reap(Target((1,), key="mine")) == 0
    assert server.kills == [1]


def test_a_refusal_before_the_task_has_to_be_registered_is_no_answer() -> None:
    server = Server({1: [NotFound("Task not found")] * 9 + [None]})
    assert server.reap(Target((1,), until=BEGAN + 3600)) > SURE


@pytest.mark.parametrize("until", [0.0, BEGAN + 60])
def test_a_refusal_after_that_is_believed_the_third_time_and_not_within_seconds(until: float) -> None:
    server = Server({1: [DENIED]})
    with pytest.raises(PermissionDenied):
        server.reap(Target((1,), until=until))
    assert len(server.kills) >= 3
    assert max(SURE, until - BEGAN) <= server.now - BEGAN < max(SURE, until - BEGAN) + 30


def test_a_server_that_is_away_is_waited_for_as_long_as_an_outage_may_last() -> None:
    server = Server({1: [AWAY]})
    with pytest.raises(NotDelivered):
        server.reap(Target((1,), outage=600))
    assert 600 <= server.now - BEGAN < 630
    assert Server({1: [AWAY] * 9 + [None]}).reap(Target((1,), outage=600)) < 600
    server = Server({1: [AWAY]})
    with pytest.raises(NotDelivered):
        server.reap(Target((1,), until=BEGAN + 900, outage=600))
    assert server.now - BEGAN >= 900


def test_a_refusal_by_a_server_without_its_database_proves_nothing(database: Callable[[bool], None]) -> None:
    database(False)
    server = Server({1: [DENIED]})
    with pytest.raises(NotCarriedOut, match="not the task owner"):
        server.reap(Target((1,), outage=600))
    assert server.now - BEGAN >= 600


def test_a_task_with_another_key_is_left_alone_and_spares_no_other() -> None:
    server = Server({1: [None], 2: [None]}, {1: "another", 2: "mine"})
    with pytest.raises(NotOurs, match="PanDA task 1 is not this step's"):
        server.reap(Target((1, 2), key="mine"))
    assert (server.kills, server.now) == ([2], BEGAN)


def test_a_task_without_a_number_that_cannot_be_told_by_a_key_is_left_alone() -> None:
    with pytest.raises(NotOurs, match="another version submitted it"):
        Server({}).reap(Target(name="user.bob.fit"))


def test_a_task_is_found_by_its_name_and_key_from_its_submission_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = [None, None, TaskInfo(7)], list[Any]()

    def ours(_: PandaClient, *given: Any) -> TaskInfo | None:
        asked.append(given)
        return found.pop(0)

    monkeypatch.setattr(lookup, "ours", ours)
    server = Server({7: [None]}, {7: "mine"})
    server.reap(Target(name="user.bob.fit", key="mine", until=BEGAN + 3600))
    assert (server.kills, set(asked)) == ([7], {("user.bob.fit", "mine", BEGAN)})


STOOD = TaskInfo(1, status="failed", attempt_nr=1)


@pytest.mark.parametrize(
    ("mark", "seen", "again"),
    [
        (None, TaskInfo(1, status="failed"), False),
        (Mark.of(STOOD), STOOD, True),
        (Mark.of(STOOD), TaskInfo(1, status="running", attempt_nr=2), True),
        (Mark.of(STOOD), TaskInfo(1, status="aborting", attempt_nr=2), False),
        (Mark.of(STOOD), TaskInfo(1, status="done", attempt_nr=2), False),
    ],
    ids=["no command", "not executed yet", "executed just now", "ends", "has ended"],
)
def test_the_end_of_before_a_command_is_not_the_end(mark: Mark | None, seen: TaskInfo, again: bool) -> None:
    server = Server({1: [WrongState("command rejected"), None]}, info=seen)
    server.reap(Target((1,), mark=mark, until=BEGAN + 3600))
    assert server.kills == [1, 1][: 1 + again]


def test_jobs_are_killed_by_one_request_and_only_one_that_lives_on_is_a_refusal() -> None:
    ended, ending = JobState(status="failed"), JobState(status="running", command="tobekilled")
    server = Server({}, jobs=[(True, JobState()), (False, ended), (False, ending)])
    assert server.reap(Target(job_ids=(4, 5, 6))) == 0
    server.jobs.append((False, JobState(status="running")))
    with pytest.raises(PermissionDenied, match=r"refused to kill PanDA job\(s\) 7\."):
        server.reap(Target(job_ids=(4, 5, 6, 7)))
    assert server.kills[:2] == [[4, 5, 6], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            Target((1,), "name", Mark(1, "then", "failed"), 5.0, 6.0, "mine", Account("https://a", "Bob")),
            "PanDA task 1",
        ),
        (Target((1, 2)), "each of 2 PanDA tasks"),
        (Target(name="user.bob.fit"), "PanDA task user.bob.fit"),
        (Target(job_ids=(4, 5)), "each of 2 PanDA job(s), the first 4,"),
    ],
)
def test_a_target_survives_its_journey_and_names_itself(target: Target, said: str) -> None:
    stored = json.loads(json.dumps(target.to_json()))
    assert Target.from_json(stored | {"new": 1}) == target
    assert str(target) == said
    assert Target.from_json({}) == Target()
