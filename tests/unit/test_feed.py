"""The status feed against tasks and answers of the embedded server, in simulated time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from panda_airflow.client import errors
from panda_airflow.client.models import Mark, TaskInfo, TaskRow
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import FINAL_STATUSES, classify
from panda_airflow.waiting.feed.backoff import LONGEST_TROUBLE, Backoff
from panda_airflow.waiting.feed.planner import AUDIT, LONGEST_BACKOFF, BulkPoll, Planner, Waiting
from panda_airflow.waiting.task_polls import AT_A_TIME, look_at_many
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.support.simulated import BOB, EPOCH, INTERVAL, Site, Wait, simulated

QUESTION, LOOK = "get_tasks_modified_since", "get_detailed_info"
SLOW = 45.0
BOUND = 2 * AUDIT + 900
"""Seconds within which any end must be noticed once all is well: two audits, and the longest pauses."""


def answered(ledger: Planner, question: BulkPoll, rows: Sequence[TaskRow], latest: datetime | None, now: float) -> None:
    """Take an answer in portions."""
    for row in rows:
        ledger.read(question, [row])
    ledger.finish(question, latest, now)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with simulated(tmp_path) as found:
        yield found


def running(site: Site, numbers: range, outage: float = 1e12, **details: Any) -> list[Wait]:
    """Submit tasks that run, and wait for each of them until the feed knows it."""
    for number in numbers:
        site.panda.submit(number, **details)
        site.panda.move(number, "running")
    waits = [site.wait(number, outage=outage) for number in numbers]
    site.advance(2 * INTERVAL)
    return waits


def ended(waits: list[Wait]) -> list[int]:
    return [wait.plan.task_id for wait in waits if wait.event]


def test_a_day_of_waiting_costs_one_question_for_each_interval_and_no_look(site: Site) -> None:
    waits = running(site, range(1, 201))
    for number in range(1, 201):
        site.advance(86400 / 200)
        site.panda.move(number, "done")
    site.advance(INTERVAL + 1)
    assert [wait.event["status"] for wait in waits if wait.event] == ["done"] * 200
    assert site.looks == 0
    assert site.questions <= 86400 / INTERVAL + 5


def test_an_end_is_noticed_after_one_interval_however_many_tasks_wait(site: Site) -> None:
    waits = running(site, range(1, 301))
    site.advance(3 * 3600)
    site.panda.move(77, "failed")
    site.panda.move(99, "aborted")
    site.advance(INTERVAL + 1)
    assert ended(waits) == [77, 99]
    assert site.looks == 1, "why a task was aborted only a look tells"


def test_an_end_that_the_server_back_dated_is_found_by_the_audit(site: Site) -> None:
    waits = running(site, range(1, 4))
    site.advance(3600)
    for task_id, hours in ((1, 6), (2, 48)):
        site.panda.move(task_id, "done")
        site.panda.store.update(
            "tasks", "jediTaskID", task_id, modificationTime=site.panda.utc - timedelta(hours=hours)
        )
    site.advance(AUDIT + INTERVAL)
    assert ended(waits) == [1, 2]


def test_active_tasks_whose_times_jedi_turns_back_cost_no_look(site: Site) -> None:
    running(site, range(1, 11))
    site.advance(AUDIT / 2)
    for number in range(1, 11):
        site.panda.store.update("tasks", "jediTaskID", number, modificationTime=site.panda.utc - timedelta(hours=6))
    site.advance(2 * AUDIT)
    assert site.looks == 0


def test_a_list_is_told_what_happened_and_asks_no_more_for_what_is_over(site: Site) -> None:
    for number in range(1, 51):
        site.panda.submit(number)
    wait = site.wait_for_all(range(1, 51))
    site.advance(2 * INTERVAL)
    site.panda.move(50, "aborted")
    site.advance(2 * INTERVAL)
    assert site.looks == 1
    site.panda.refuse |= {QUESTION, LOOK}
    site.advance(1200)
    site.panda.refuse.remove(QUESTION)
    site.advance(LONGEST_BACKOFF)
    looks = site.looks
    site.advance(2 * AUDIT)
    assert site.looks == looks
    for number in range(1, 50):
        site.panda.move(number, "done")
    site.advance(INTERVAL + 1)
    assert [event["status"] for event in wait.events] == ["done"] * 49 + ["aborted"]


def test_tasks_of_a_quiet_request_cost_nothing_and_an_end_is_found_behind_its_sibling(site: Site) -> None:
    waits = running(site, range(1, 11), request_id=7)
    site.advance(AUDIT + 300)
    looks = site.looks
    site.advance(AUDIT - 1200)
    assert site.looks == looks
    site.panda.move(3, "done")
    site.panda.move(10, "pending")
    site.advance(400)
    assert ended(waits) == [3]


def test_those_who_join_later_are_proven_together_soon(site: Site) -> None:
    running(site, range(1, 3))
    site.advance(INTERVAL / 3)
    questions = site.questions
    for number in range(3, 103):
        site.panda.submit(number)
        site.panda.move(number, "exhausted" if number == 50 else "running")
    waits = [site.wait(number) for number in range(3, 103)]
    site.advance(INTERVAL / 6)
    assert ended(waits) == [50]
    assert site.looks == 0
    assert site.questions <= questions + 2


def test_a_task_that_is_not_registered_yet_needs_no_look_that_finds_it(site: Site) -> None:
    running(site, range(1, 3))
    wait = site.wait(3)
    site.advance(90)
    looks = site.looks
    assert wait.said[-1].startswith("PanDA task 3 is not registered yet.")
    site.panda.submit(3)
    site.panda.move(3, "running")
    site.advance(INTERVAL)
    assert site.looks <= looks + 1
    site.panda.move(3, "done")
    site.advance(INTERVAL + 1)
    assert ended([wait]) == [3]
    assert site.looks <= looks + 1


@pytest.mark.parametrize(("user", "seconds"), [(BOB.name, SLOW), ("Alice Tester", 3 * INTERVAL)])
def test_an_end_from_before_a_wait_began_does_not_end_it(site: Site, user: str, seconds: float) -> None:
    waits = running(site, range(1, 3), user=user)
    site.panda.move(1, "finished")
    site.delays = {QUESTION: seconds}
    questions = site.questions
    while site.questions == questions:
        site.advance(1)
    site.panda.move(1, "running", attemptNr=1)
    later = site.wait(1)
    site.advance(3600)
    assert ended(waits) == [1]
    assert ended([later]) == []


def test_tasks_of_another_user_and_label_are_asked_for_under_theirs(site: Site) -> None:
    waits = running(site, range(1, 3)) + running(site, range(3, 5), user="Alice Tester", label="managed")
    looks = site.looks
    site.advance(3600)
    assert site.looks == looks
    site.panda.move(4, "done")
    site.advance(INTERVAL + 1)
    assert ended(waits) == [4]


def test_while_questions_fail_each_task_is_looked_at_by_itself(site: Site) -> None:
    waits = running(site, range(1, 4))
    site.panda.refuse.add(QUESTION)
    site.advance(900)
    site.panda.move(2, "done")
    site.advance(400)
    assert ended(waits) == [2]


def test_one_empty_answer_to_the_audit_costs_no_look(site: Site) -> None:
    waits = running(site, range(1, 101))
    site.advance(AUDIT - 3 * INTERVAL)
    site.panda.lie = True
    site.advance(4 * INTERVAL)
    site.panda.lie = False
    site.advance(3600)
    assert (site.looks, ended(waits)) == (0, [])


def test_who_was_in_a_hurry_leaves_nobody_else_so(site: Site) -> None:
    running(site, range(1, 3))
    hasty = site.wait(1, poll_interval=2.0)
    site.advance(100)
    site.cancel(hasty)
    questions = site.questions
    site.advance(600)
    assert site.questions <= questions + 11


@pytest.mark.parametrize("seconds", [400, 700, 1000, 1300])
def test_outages_that_are_days_apart_are_not_one(site: Site, seconds: float) -> None:
    waits = running(site, range(1, 6), outage=6 * 3600.0)
    for _ in range(5):
        site.panda.refuse = {QUESTION, LOOK}
        site.advance(seconds)
        site.panda.refuse.clear()
        site.advance(86400)
    assert ended(waits) == []


def test_where_the_answers_stay_empty_each_task_is_looked_at_by_itself(site: Site) -> None:
    site.panda.lie = True
    waits = running(site, range(1, 4))
    site.advance(300)
    site.panda.move(2, "done")
    site.advance(100)
    assert ended(waits) == [2]


def test_what_changed_while_answers_were_empty_is_told_once_they_are_not(site: Site) -> None:
    waits = running(site, range(1, 4))
    site.panda.submit(9)
    site.advance(INTERVAL + 1)
    site.panda.move(2, "done")
    site.panda.lie = True
    site.advance(900)
    assert ended(waits) == []
    site.panda.lie = False
    site.advance(INTERVAL + 1)
    assert ended(waits) == [2]


@pytest.mark.parametrize("size", [0, 1, 200], ids=["no lists", "lists of one", "one list"])
@pytest.mark.parametrize("database", [False, True])
def test_an_outage_costs_a_look_a_minute_not_one_for_each_task(site: Site, size: int, database: bool) -> None:
    for number in range(1, 201):
        site.panda.move(site.panda.submit(number), "running")
    if size:
        waits = [site.wait_for_all(range(first, first + size)) for first in range(1, 201, size)]
    else:
        waits = [site.wait(number) for number in range(1, 201)]
    site.advance(2 * INTERVAL)
    site.panda.store.down = database
    site.panda.refuse |= set() if database else {QUESTION, LOOK}
    looks = site.looks
    site.advance(3 * 3600)
    assert all(sum("failed in a row" in words for words in wait.said) >= 3 for wait in waits), "to give up in the end"
    assert site.looks - looks <= 400
    site.panda.refuse.clear()
    site.panda.store.down = False
    for number in range(1, 201):
        site.panda.move(number, "done")
    site.advance(400)
    assert all(wait.event for wait in waits)


@pytest.mark.parametrize("bad", [1, 10, 60])
def test_tasks_that_cannot_be_looked_at_delay_no_other(site: Site, bad: int) -> None:
    waits = running(site, range(1, bad + 2))
    site.panda.broken |= set(range(1, bad + 1))
    for number in range(1, bad + 1):
        site.panda.move(number, "aborted")
    site.advance(3600)
    site.panda.move(bad + 1, "aborted")
    site.advance(INTERVAL + 1)
    assert ended(waits) == [bad + 1]


@pytest.mark.parametrize("seconds", [300, 700, 1200])
@pytest.mark.parametrize("together", [False, True])
def test_an_end_whose_look_failed_is_told_again(site: Site, seconds: float, together: bool) -> None:
    waits = running(site, range(1, 3))
    waits = [site.wait_for_all([1])] if together else waits
    site.advance(3600)
    site.panda.refuse.add(LOOK)
    site.panda.move(1, "aborted")
    site.advance(seconds)
    site.panda.refuse.clear()
    site.advance(INTERVAL + 1)
    assert waits[0].event


@pytest.mark.parametrize("together", [False, True])
def test_looks_that_hang_delay_no_deadline(site: Site, together: bool) -> None:
    running(site, range(1, 101))
    how: dict[str, Any] = {"deadline": site.panda.now + 1800, "cancel_on_timeout": False}
    waits = [site.wait_for_all([n], **how) if together else site.wait(n, **how) for n in range(1, 101)]
    site.advance(INTERVAL)
    site.panda.refuse |= {QUESTION, LOOK}
    site.delays = {QUESTION: 120.0, LOOK: 120.0}
    site.advance(2100)
    assert {wait.event["kind"] for wait in waits if wait.event} == {"timeout"}
    assert all(wait.event for wait in waits)


def test_a_first_question_that_fails_or_is_slow_costs_no_look(site: Site) -> None:
    for number in range(1, 101):
        site.panda.move(site.panda.submit(number), "running")
    site.panda.refuse.add(QUESTION)
    waits = [site.wait(number) for number in range(1, 101)]
    site.advance(2)
    site.panda.refuse.clear()
    site.delays = {QUESTION: 70.0}
    site.advance(600)
    assert (site.looks, ended(waits)) == (0, [])


def test_tasks_that_are_registered_late_are_hardly_looked_at(site: Site) -> None:
    waits = [site.wait(number) for number in range(1, 101)]
    site.advance(1800)
    assert site.looks <= 600
    for number in range(1, 101):
        site.panda.move(site.panda.submit(number), "running")
    site.advance(INTERVAL + 1)
    looks = site.looks
    for number in range(1, 101):
        site.panda.move(number, "done")
    site.advance(INTERVAL + 1)
    assert (site.looks, len(ended(waits))) == (looks, 100)


def test_a_list_that_nobody_waits_for_any_more_asks_no_more() -> None:
    gone, asked = Event(), list[int]()

    def look(task_id: int) -> TaskInfo:
        asked.append(task_id)
        if len(asked) == 20:
            gone.set()
        return info_of(task_id)

    client = cast("PandaClient", SimpleNamespace(task=SimpleNamespace(get_detailed_info=look)))
    look_at_many(client, range(1, 1001), gone)
    assert len(asked) < 20 + AT_A_TIME


def test_a_task_that_rested_longer_than_the_server_looks_back_costs_one_look_an_audit(site: Site) -> None:
    waits = running(site, range(1, 4))
    site.panda.store.update("tasks", "jediTaskID", 1, modificationTime=site.panda.utc - timedelta(days=40))
    looks = site.looks
    site.advance(10 * AUDIT)
    assert looks < site.looks <= looks + 11
    site.panda.move(1, "done")
    site.advance(INTERVAL + 1)
    assert ended(waits) == [1]


def test_a_time_in_the_future_does_not_make_the_feed_blind(site: Site) -> None:
    waits = running(site, range(1, 3))
    site.panda.store.update("tasks", "jediTaskID", 1, modificationTime=site.panda.utc + timedelta(days=2))
    site.advance(600)
    site.panda.move(2, "done")
    site.advance(INTERVAL + 1)
    assert waits[1].event


def test_a_final_status_from_before_a_command_ends_no_wait(site: Site) -> None:
    site.panda.submit(1)
    site.panda.move(1, "finished")
    wait = site.wait(1, Mark.of(site.panda.task.get_detailed_info(1)))
    site.advance(600)
    assert ended([wait]) == []
    site.panda.move(1, "running", attemptNr=1)
    site.advance(600)
    site.panda.move(1, "finished")
    site.advance(INTERVAL + 1)
    assert wait.event
    assert wait.event["status"] == "finished"


def test_a_command_that_jedi_dropped_is_noticed(site: Site) -> None:
    running(site, range(1, 2))
    site.panda.submit(7)
    site.panda.move(7, "finished")
    wait = site.wait(7, Mark.of(site.panda.task.get_detailed_info(7)))
    site.advance(wait.plan.patience + wait.plan.max_poll_interval * 1.1)
    assert wait.event
    assert wait.event["kind"] == "stuck"


def test_a_server_that_answers_slowly_is_asked_less_often() -> None:
    ledger, waiting = Planner(), Waiting(1, INTERVAL)
    ledger.saw(waiting, info_of(1), 0.0)
    question = ledger.question(0.0, EPOCH)
    answered(ledger, question, [TaskRow(1, 1, status="running", modification_time=EPOCH)], EPOCH, 100.0)
    assert ledger.next_time() == 200.0


def test_a_server_that_asks_for_patience_is_given_it() -> None:
    ledger, waiting = Planner(), Waiting(1, INTERVAL)
    ledger.saw(waiting, info_of(1), 0.0)
    question = ledger.question(0.0, EPOCH)
    ledger.failed(question, errors.ServerError("HTTP 429.", retry_after=500.0), 1.0)
    assert ledger.next_time() == 500.0


def info_of(task_id: int) -> TaskInfo:
    raw = {"reqID": task_id, "prodSourceLabel": "user"}
    return TaskInfo(task_id, status="running", user_name=BOB.name, modification_time=EPOCH, raw=raw)


def test_endless_failures_keep_their_longest_pause() -> None:
    ledger, trouble, waiting = Planner(), Backoff(), Waiting(1, INTERVAL, known=True)
    ledger.saw(waiting, info_of(1), 0.0)
    for number in range(2000):
        ledger.failed(ledger.question(number, EPOCH), errors.ServerError("HTTP 500."), number)
        trouble.failed(waiting, errors.ServerError("HTTP 500."), number)
    assert ledger.next_time() == 1999 + LONGEST_BACKOFF
    with pytest.raises(errors.NotCarriedOut, match="PanDA task 1 was not looked at"):
        trouble.check(waiting, 1999 + LONGEST_TROUBLE - 1)
    trouble.check(waiting, 1999 + LONGEST_TROUBLE)


class Life(RuleBasedStateMachine):
    """Whatever tasks, users and servers do, in any order: no end is missed and no wait believes an old one."""

    everything = Bundle("everything")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.site = self.stack.enter_context(simulated(Path(self.stack.enter_context(TemporaryDirectory()))))
        self.panda = self.site.panda
        self.number = 0
        self.calm = self.panda.now

    def teardown(self) -> None:
        with self.stack:
            self._heal()
            self.site.advance(BOUND + 1)
            self.no_end_is_missed()

    @initialize(hours=st.integers(-3, 3))
    def set_clocks(self, hours: int) -> None:
        self.panda.skew = timedelta(hours=hours)

    @rule(
        target=everything,
        request=st.sampled_from([0, 0, 1, 900]),
        user=st.sampled_from([BOB.name, BOB.name, "Alice Tester"]),
        label=st.sampled_from(["user", "user", "managed"]),
        hidden=st.booleans(),
    )
    def submit(self, request: int, user: str, label: str, hidden: bool) -> int:
        self.number += 1
        self.site.wait(self.number)
        if hidden:
            self.site.advance(130)
        if self.panda.store.down:
            self._heal()
        return self.panda.submit(self.number, request_id=request, user=user, label=label)

    @rule(
        task=everything,
        own_pace=st.booleans(),
        label=st.sampled_from(["user", "managed"]),
        retry=st.sampled_from([None, TaskRetryPolicy(attempts=1, delay=600)]),
    )
    def wait(self, task: int, own_pace: bool, label: str, retry: TaskRetryPolicy | None) -> None:
        self.site.wait(task, own_pace=own_pace, label=label, retry=retry)

    @rule()
    def wait_for_all(self) -> None:
        if self.number:
            self.site.wait_for_all(range(1, self.number + 1))

    @rule(task=everything, status=st.sampled_from(["ready", "running", "pending", "aborting", "prepared"]))
    def go_on(self, task: int, status: str) -> None:
        if not self.panda.store.down and not self.panda.final_since(task):
            self.panda.move(task, status)

    @rule(task=everything, status=st.sampled_from(sorted(FINAL_STATUSES)), back=st.sampled_from([0, 0, 1, 6, 48]))
    def end(self, task: int, status: str, back: int) -> None:
        if not self.panda.store.down:
            self.panda.move(task, status)
            time = self.panda.backend.clock() - timedelta(hours=back)
            self.panda.store.update("tasks", "jediTaskID", task, modificationTime=time)

    @rule(task=everything, days=st.sampled_from([-2, 1]))
    def change_time(self, task: int, days: int) -> None:
        if not self.panda.store.down and not self.panda.final_since(task):
            time = self.panda.backend.clock() + timedelta(days=days)
            self.panda.store.update("tasks", "jediTaskID", task, modificationTime=time)

    @rule(task=everything, pause=st.sampled_from([0.0, 200.0]))
    def retry(self, task: int, pause: float) -> None:
        """Command a retry, and wait for what comes of it; JEDI takes its time.

        For a broken task the server fails at the command, too: nothing happens, and nobody waits for it.
        """
        if self.panda.final_since(task) and not self.panda.store.down and task not in self.panda.broken:
            can_look = LOOK not in self.panda.refuse
            self.site.wait(task, Mark.of(self.panda.task.get_detailed_info(task)) if can_look else None)
            self.site.advance(pause)
            self.panda.retry(task)

    @rule(task=consumes(everything))
    def forget(self, task: int) -> None:
        """Nobody touches this task any more."""

    @rule(trouble=st.sampled_from(["database", QUESTION, LOOK, "lie", "slow", "slow looks"]))
    def break_something(self, trouble: str) -> None:
        self.panda.store.down |= trouble == "database"
        self.panda.lie |= trouble == "lie"
        if trouble.startswith("slow"):
            self.site.delays[QUESTION if trouble == "slow" else LOOK] = SLOW
        if trouble in (QUESTION, LOOK):
            self.panda.refuse.add(trouble)

    @rule()
    def heal(self) -> None:
        self._heal()

    @rule(task=everything)
    def break_task(self, task: int) -> None:
        self.panda.broken.add(task)

    def _heal(self) -> None:
        self.panda.store.down = self.panda.lie = False
        self.panda.refuse.clear()
        self.panda.broken.clear()
        self.site.delays = {}
        self.calm = self.panda.now

    @rule(seconds=st.sampled_from([1, 10, 50, 300, 1000, 4000, 20000]))
    def pass_time(self, seconds: int) -> None:
        self.site.advance(seconds)

    @property
    def is_well(self) -> bool:
        return not (self.panda.store.down or self.panda.refuse or self.panda.broken or self.panda.lie)

    @invariant()
    def no_end_is_missed(self) -> None:
        for wait in self.site.waits:
            ends = [since for task_id in wait.task_ids if (since := self.panda.final_since(task_id))]
            latest = max([self.calm, wait.plan.since, *ends])
            if len(ends) < len(wait.task_ids) or wait.events or not self.is_well or self.panda.now <= BOUND + latest:
                continue
            info = self.panda.task.get_detailed_info(wait.task_ids[0])
            assert Mark.of(info) == wait.plan.mark, f"{wait.task_ids} have ended, and their wait does not know"

    @invariant()
    def no_wait_believes_an_old_end(self) -> None:
        for wait in self.site.waits:
            for event in wait.events:
                assert event["kind"] in ("ended", "failed", "stuck")
                assert classify(event["status"]).is_final
                if event["kind"] == "stuck":
                    continue
                until = self.panda.held_until(event["task_id"], event["status"], wait.plan.mark)
                assert until >= wait.plan.since, "an end that was over before the wait began"
                if len(wait.task_ids) == 1:
                    assert until >= wait.over - SLOW, "an end that was over before the server was asked"


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
