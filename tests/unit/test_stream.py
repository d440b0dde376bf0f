"""What a watcher tells of tasks that end, whatever the answers: they lack ends, repeat them, come in any order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import NotDelivered, ServerError, UsageError
from panda_airflow.client.models import TaskInfo
from panda_airflow.waiting.end_watcher import (
    LONGEST_BACKOFF,
    LONGEST_MEMORY,
    OVERLAP,
    EndQuery,
    EndWatcher,
    Position,
    TaskFilter,
    backoff,
    end_of,
    read_time,
)

EPOCH = datetime(2026, 11, 22)  # noqa: DTZ001 - the server's times are naive UTC

LATE = OVERLAP.total_seconds() - 1
SKEW = 3000.0
"""Seconds by which ends may be shown late, and clocks may differ."""


def after(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def ended(task_id: int, seconds: float, status: str = "done", **raw: Any) -> TaskInfo:
    return TaskInfo(
        task_id,
        name=f"user.bob.{task_id}",
        status=status,
        state_change_time=after(seconds),
        modification_time=after(seconds),
        raw=raw,
    )


@dataclass
class Shown:
    """An end, and when the server begins to show it."""

    info: TaskInfo
    since: float


@dataclass
class Life:
    """A server, and a watcher that lives on in the position that it has stored."""

    data: st.DataObject
    skew: float
    now: float = 0.0
    ends: list[Shown] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    watch: EndWatcher = field(default_factory=lambda: EndWatcher(TaskFilter()))
    stored: str = ""

    def end(self, task_id: int, late: float) -> None:
        """Let a task end, unless its last end has not been told: of that nobody could know any more."""
        self.now += 1
        if all(end_of(end.info) in self.told for end in self.ends if end.info.task_id == task_id):
            self.ends.append(Shown(ended(task_id, self.now), self.now + late))

    def touch(self, number: int) -> None:
        """Modify a task after its end."""
        for end in self.ends[number : number + 1]:
            end.info = replace(end.info, modification_time=after(self.now))

    def answer(self, since: datetime) -> list[TaskInfo]:
        """Show ends in any order, some twice, some not; but leave none out in two answers in a row."""
        shown = {end.info.task_id: end.info for end in self.ends if end.since <= self.now}
        found = [info for info in shown.values() if info.modification_time and info.modification_time >= since]
        gaps = self.data.draw(st.integers(0, 2 ** len(found) - 1))
        missing = {end_of(info) for number, info in enumerate(found) if gaps >> number & 1}
        self.left_out = missing - self.left_out
        told = [info for info in found if end_of(info) not in self.left_out]
        return self.data.draw(st.permutations(told + told[:1]))

    def ask(self, *, dies: bool = False) -> None:
        """Ask, tell and store; or die before that is stored."""
        question = EndQuery.of([self.watch], after(self.now + self.skew))
        self.told += map(end_of, self.watch.take(question, self.answer(question.since)))
        if dies:
            self.restart()
        elif self.watch.position:
            self.stored = json.dumps(self.watch.position.to_json())

    def restart(self) -> None:
        self.watch = EndWatcher(TaskFilter(), Position.from_json(json.loads(self.stored)))

    def play(self, acts: list[tuple[Any, ...]], *, dies: bool) -> None:
        self.ask()
        for act, *details in acts:
            if act == "wait":
                self.now += details[0]
            elif act == "ask":
                self.ask(dies=dies and details[0])
            else:
                getattr(self, act)(*details)
        self.now += LATE
        for _ in range(2):
            self.ask()


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.integers(1, 6), st.floats(0, LATE)),
        st.tuples(st.just("wait"), st.floats(1, 3 * LATE)),
        st.tuples(st.just("touch"), st.integers(0, 9)),
        st.tuples(st.just("ask"), st.booleans()),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)


@given(st.data(), ACTS, st.floats(-SKEW, SKEW))
def test_each_end_is_told_exactly_once(data: st.DataObject, acts: list[tuple[Any, ...]], skew: float) -> None:
    life = Life(data, skew)
    life.play(acts, dies=False)
    assert sorted(life.told) == sorted(end_of(end.info) for end in life.ends)


@given(st.data(), ACTS, st.floats(-SKEW, SKEW))
def test_no_end_is_lost_to_a_death_between_telling_and_storing(
    data: st.DataObject, acts: list[tuple[Any, ...]], skew: float
) -> None:
    life = Life(data, skew)
    life.play(acts, dies=True)
    assert set(life.told) == {end_of(end.info) for end in life.ends}


def take(watch: EndWatcher, tasks: list[TaskInfo], seconds: float = 10.0) -> list[int]:
    return [info.task_id for info in watch.take(EndQuery.of([watch], after(seconds)), tasks)]


def test_what_had_ended_before_the_first_answer_is_history() -> None:
    watch = EndWatcher(TaskFilter())
    assert take(watch, [ended(1, 0)]) == []
    assert take(watch, [ended(1, 0), ended(2, 0)]) == [2]


def test_a_watcher_may_begin_in_the_past_and_tells_the_oldest_end_first() -> None:
    watch = EndWatcher(TaskFilter(), Position.at(after(0)))
    assert take(watch, [ended(1, 5), ended(2, -1), ended(3, 0)]) == [3, 1]


def test_a_task_that_is_retried_and_ends_again_is_told_again() -> None:
    watch = EndWatcher(TaskFilter(), Position.at(after(0)))
    assert [take(watch, [ended(1, seconds)]) for seconds in (1, 1, 200)] == [[1], [], [1]]


def test_a_time_in_the_future_does_not_hide_what_ends_before_it() -> None:
    watch = EndWatcher(TaskFilter(), Position.at(after(0)))
    assert take(watch, [ended(1, 9e6)]) == [1]
    assert take(watch, [ended(2, 5)]) == [2]
    assert take(watch, [ended(3, 6)]) == [3]


def test_what_is_remembered_is_bounded() -> None:
    watch = EndWatcher(TaskFilter(), Position.at(after(0)))
    for first in range(0, 10 * LONGEST_MEMORY, LONGEST_MEMORY):
        take(watch, [ended(number, number / 1000) for number in range(first, first + LONGEST_MEMORY)], 100)
    assert watch.position
    assert len(watch.position.told) <= 3 * LONGEST_MEMORY
    assert (
        take(watch, [ended(number, number / 1000) for number in range(9 * LONGEST_MEMORY, 10 * LONGEST_MEMORY)]) == []
    )


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({}, True),
        ({"name": "user.bob.*"}, True),
        ({"name": "user.BOB.*"}, False),
        ({"name": "bob"}, False),
        ({"statuses": ["failed", "done"]}, True),
        ({"statuses": ["failed"]}, False),
        ({"working_group": "higgs"}, True),
        ({"working_group": "top"}, False),
        ({"processing_type": "sim"}, False),
    ],
    ids=str,
)
def test_a_filter_says_which_ends_count(wanted: dict[str, Any], matches: bool) -> None:
    assert TaskFilter(**wanted).matches(ended(1, 0, workingGroup="higgs", processingType="merge")) is matches


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"statuses": ["running"]}, "not final"),
        ({"statuses": "dome"}, "no status of a task; the nearest is 'done'"),
        ({"statuses": []}, "not final"),
        ({"user": "Bob (CERN)"}, "regular expression"),
        ({"prod_source_label": "managed|test"}, "regular expression"),
    ],
    ids=str,
)
def test_a_filter_that_could_never_match_is_refused(wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TaskFilter(**wanted)


def test_one_question_serves_all_watchers() -> None:
    watches = [
        EndWatcher(TaskFilter(statuses=["done"], user="Bob", prod_source_label="managed"), Position.at(after(100))),
        EndWatcher(
            TaskFilter(statuses=["failed", "done"], user="Bob", prod_source_label="managed"), Position.at(after(50))
        ),
    ]
    question = EndQuery.of(watches, after(200))
    scope = {"prodSourceLabel": "managed", "userName": "Bob"}
    assert question.since == after(50)
    assert [json.loads(text) for text in question.filters()] == [
        scope | {"status": name} for name in ("done", "failed")
    ]


def test_failures_make_the_questions_rare_and_the_server_may_ask_for_more_patience() -> None:
    lost = NotDelivered("lost")
    assert [backoff(60.0, failures, lost) for failures in (1, 2, 3, 99)] == [120.0, 240.0, 480.0, LONGEST_BACKOFF]
    assert backoff(10.0, 1, ServerError("busy", retry_after=90.0)) == 90.0
    assert backoff(3600.0, 9, lost) == 3600.0


@pytest.mark.parametrize("text", ["2026-11-22", "2026-11-22 00:00:00", "2026-11-22T01:00:00+01:00"])
def test_an_author_writes_times_in_iso_8601(text: str) -> None:
    assert read_time(text) == EPOCH


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="no time: 'yesterday'"):
        read_time("yesterday")
