"""The decisions of the status feed, against tasks and answers of the embedded server and a clock of the test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from panda_airflow.client import errors
from panda_airflow.client.api.task import TaskApi
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.feed_ledger import AUDIT, LONGEST_BACKOFF, LONGEST_TROUBLE, Ledger, Question, Trouble, Waiting
from panda_airflow.client.feed_link import ask
from panda_airflow.client.models import Envelope, Mark, TaskInfo, TaskRow
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import FINAL_STATUSES, classify
from panda_airflow.client.task_retry import TaskRetryPolicy
from panda_airflow.client.waiting import WaitEvent, WaitPlan, Watch
from panda_airflow.devserver import tasks
from panda_airflow.devserver.backend import Backend, Identity, Pace
from panda_airflow.devserver.faults import Faults
from panda_airflow.devserver.handlers import task as handlers
from panda_airflow.devserver.store import Store

BOB = Identity("Bob Tester/CN=nickname:bob", "Bob Tester")
EPOCH = datetime(2026, 11, 22)  # noqa: DTZ001 - the server's times are naive UTC
INTERVAL = 60.0
SLOW = 45.0
BOUND = 2 * AUDIT + 900
"""Seconds within which any end must be noticed once all is well: two audits, and the longest pauses."""


class Panda:
    """A server of which a test moves the tasks and the clock, and a client of it, without HTTP."""

    def __init__(self, root: Path) -> None:
        self.now, self.skew = 0.0, timedelta()
        self.store = Store(root / "panda.sqlite")
        self.backend = Backend(root, self.store, Faults(self.store, lambda: None), Pace(), lambda: self.utc + self.skew)
        self.task = TaskApi(self)
        self.refuse: dict[str, bool] = {}
        self.held: dict[int, list[tuple[float, dict[str, Any]]]] = {}

    @property
    def utc(self) -> datetime:
        """The time as the client's machine has it."""
        return EPOCH + timedelta(seconds=self.now)

    def send(self, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        method = endpoint.path.split("/")[1]
        if self.refuse.get(method):
            raise errors.ServerError("HTTP 503.", endpoint=endpoint.path)
        envelope = cast("Envelope", getattr(handlers, method)(self.backend, BOB, **arguments))
        if not envelope.success:
            raise errors.NotFound("there is no such task.", endpoint=endpoint.path, server_says=envelope.message)
        return envelope

    def submit(self, task_id: int, *, request_id: int = 0, user: str = BOB.name, label: str = "user") -> int:
        self.store.insert(
            "tasks", jediTaskID=task_id, taskName=f"user.bob.{task_id}", userName=user, prodSourceLabel=label,
            reqID=request_id or task_id, creationDate=self.backend.clock(), parent_tid=task_id,
        )  # fmt: skip
        self.move(task_id, "defined")
        return task_id

    def move(self, task_id: int, status: str, **columns: Any) -> None:
        tasks.set_status(self.backend, task_id, status, **columns)
        self.held.setdefault(task_id, []).append((self.now, self.row(task_id)))

    def held_until(self, task_id: int, status: str, mark: Mark | None) -> float:
        """When a task last was in a status, other than where it stood before a command."""
        ends = [moment for moment, _ in self.held[task_id][1:]] + [inf]
        return max(
            end for end, (_, row) in zip(ends, self.held[task_id], strict=True)
            if row["status"] == status and mark != Mark(row["attemptNr"], row["stateChangeTime"].isoformat())
        )  # fmt: skip

    def row(self, task_id: int) -> dict[str, Any]:
        return self.store.row("SELECT * FROM tasks WHERE jediTaskID = ?", task_id) or {}


class Wait:
    def __init__(self, task_id: int, now: float, mark: Mark | None, *, alone: bool, retried: tuple[str, ...]) -> None:
        retry = TaskRetryPolicy(attempts=1, statuses=retried) if retried else None
        self.plan = WaitPlan(task_id, now, poll_interval=INTERVAL, outage=1e12, mark=mark, retry=retry)
        self.watch = Watch(self.plan)
        self.waiting = Waiting(task_id, INTERVAL, alone, frozenset() if alone else self.plan.sure)
        self.event: WaitEvent | None = None
        self.over = inf


class Site:
    """The feed and its waits in simulated time, one thing after the other."""

    def __init__(self, root: Path) -> None:
        self.panda = Panda(root)
        self.ledger, self.trouble = Ledger(), Trouble()
        self.waits: list[Wait] = []
        self.questions = self.looks = 0
        self.delay = 0.0
        self.lie = False
        self.answer: tuple[float, Callable[[], object]] | None = None

    def wait(
        self,
        task_id: int,
        mark: Mark | None = None,
        *,
        alone: bool = False,
        label: str = "user",
        retried: tuple[str, ...] = (),
    ) -> Wait:
        wait = Wait(task_id, self.panda.now, mark, alone=alone, retried=retried)
        self.ledger.join(wait.waiting, label, self.panda.now)
        self.waits.append(wait)
        return wait

    def advance(self, seconds: float) -> None:
        """Let time pass and do all that is due."""
        end = self.panda.now + seconds
        while (moment := self._next()) <= end:
            self.panda.now = max(self.panda.now, moment)
            self._look_where_due()
            self._poll()
        self.panda.now = end

    def _next(self) -> float:
        waits = (self.ledger.left(wait.waiting, self.panda.now) for wait in self.waits if not wait.event)
        poll = self.answer[0] if self.answer else self.ledger.next_time()
        return min(self.panda.now + min(waits, default=1e9), poll)

    def _look_where_due(self) -> None:
        for wait in self.waits:
            if not wait.event and self.ledger.left(wait.waiting, self.panda.now) <= 0:
                wait.event = wait.watch.judge(self._look(wait.waiting), self.panda.now)
                wait.waiting.due = self.panda.now + max(1.0, wait.watch.delay(self.panda.now))
                if wait.event:
                    wait.over = self.panda.now
                    self.ledger.forget(wait.waiting)

    def _look(self, waiting: Waiting) -> TaskInfo | TaskRow | errors.PandaError:
        if row := waiting.take_row():
            return row
        waiting.news = False
        try:
            self.trouble.check(waiting, self.panda.now)
            self.looks += 1
            info = self.panda.task.get_detailed_info(waiting.task_id)
        except errors.NotCarriedOut as error:
            self.ledger.missed(waiting)
            return error
        except errors.PandaError as error:
            self.trouble.failed(waiting, error, self.panda.now)
            self.ledger.missed(waiting)
            return error
        self.trouble.succeeded()
        self.ledger.saw(waiting, info, self.panda.now)
        return info

    def _poll(self) -> None:
        now = self.panda.now
        if self.answer and now >= self.answer[0]:
            deliver, self.answer = self.answer[1], None
            deliver()
        elif not self.answer and now >= self.ledger.next_time():
            self.questions += 1
            question = self.ledger.question(now, self.panda.utc)
            self.answer = now + self.delay, self._ask(question)

    def _ask(self, question: Question) -> Callable[[], object]:
        try:
            rows, latest = ([], None) if self.lie else ask(cast("PandaClient", self.panda), question)
        except errors.PandaError as failed:
            error = failed
            return lambda: self.ledger.failed(question, error, self.panda.now)
        return lambda: answered(self.ledger, question, rows, latest, self.panda.now)


def answered(ledger: Ledger, question: Question, rows: Sequence[TaskRow], latest: datetime | None, now: float) -> None:
    """Take an answer in portions."""
    for row in rows:
        ledger.read(question, [row])
    ledger.conclude(question, latest, now)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.panda.store.close()


def running(site: Site, numbers: range, **details: Any) -> list[Wait]:
    """Submit tasks that run, and wait for each of them until the feed knows it."""
    for number in numbers:
        site.panda.submit(number, **details)
        site.panda.move(number, "running")
    waits = [site.wait(number) for number in numbers]
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
    assert wait.watch.note == "PanDA task 3 is not registered yet."
    site.panda.submit(3)
    site.panda.move(3, "running")
    site.advance(INTERVAL)
    assert site.looks <= looks + 1
    site.panda.move(3, "done")
    site.advance(INTERVAL + 1)
    assert ended([wait]) == [3]
    assert site.looks <= looks + 1


def test_an_end_from_before_a_wait_began_does_not_end_it(site: Site) -> None:
    waits = running(site, range(1, 3))
    site.panda.move(1, "finished")
    site.delay = SLOW
    while not site.answer:
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
    site.panda.refuse["get_tasks_modified_since"] = True
    site.advance(900)
    site.panda.move(2, "done")
    site.advance(400)
    assert ended(waits) == [2]


def test_one_empty_answer_to_the_audit_costs_no_look(site: Site) -> None:
    waits = running(site, range(1, 101))
    site.advance(AUDIT - 3 * INTERVAL)
    site.lie = True
    site.advance(4 * INTERVAL)
    site.lie = False
    site.advance(3600)
    assert (site.looks, ended(waits)) == (0, [])


def test_who_was_in_a_hurry_leaves_nobody_else_so(site: Site) -> None:
    running(site, range(1, 3))
    hasty = Waiting(1, 2.0, sure=frozenset({"done"}))
    site.ledger.join(hasty, "user", site.panda.now)
    site.advance(100)
    site.ledger.forget(hasty)
    questions = site.questions
    site.advance(600)
    assert site.questions <= questions + 11


@pytest.mark.parametrize("seconds", [400, 700, 1000, 1300])
def test_outages_that_are_days_apart_are_not_one(site: Site, seconds: float) -> None:
    waits = running(site, range(1, 6))
    for wait in waits:
        wait.watch.plan = replace(wait.plan, outage=6 * 3600.0)
    for _ in range(5):
        site.panda.refuse = {"get_tasks_modified_since": True, "get_detailed_info": True}
        site.advance(seconds)
        site.panda.refuse = {}
        site.advance(86400)
    assert ended(waits) == []


def test_where_the_answers_stay_empty_each_task_is_looked_at_by_itself(site: Site) -> None:
    site.lie = True
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
    site.lie = True
    site.advance(900)
    assert ended(waits) == []
    site.lie = False
    site.advance(INTERVAL + 1)
    assert ended(waits) == [2]


def test_an_outage_costs_a_look_a_minute_not_one_for_each_task(site: Site) -> None:
    waits = running(site, range(1, 201))
    site.panda.refuse |= {"get_tasks_modified_since": True, "get_detailed_info": True}
    looks = site.looks
    site.advance(3600)
    assert all(wait.watch.failures.number >= 3 for wait in waits), "each wait must know, to give up in the end"
    assert site.looks - looks <= 100
    site.panda.refuse.clear()
    for number in range(1, 201):
        site.panda.move(number, "done")
    site.advance(400)
    assert all(wait.event for wait in waits)


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
    ledger, waiting = Ledger(), Waiting(1, INTERVAL)
    ledger.saw(waiting, info_of(1), 0.0)
    question = ledger.question(0.0, EPOCH)
    answered(ledger, question, [TaskRow(1, 1, status="running", modification_time=EPOCH)], EPOCH, 100.0)
    assert ledger.next_time() == 200.0


def test_a_server_that_asks_for_patience_is_given_it() -> None:
    ledger, waiting = Ledger(), Waiting(1, INTERVAL)
    ledger.saw(waiting, info_of(1), 0.0)
    question = ledger.question(0.0, EPOCH)
    ledger.failed(question, errors.ServerError("HTTP 429.", retry_after=500.0), 1.0)
    assert ledger.next_time() == 500.0


def info_of(task_id: int) -> TaskInfo:
    raw = {"reqID": task_id, "prodSourceLabel": "user"}
    return TaskInfo(task_id, status="running", user_name=BOB.name, modification_time=EPOCH, raw=raw)


def test_endless_failures_keep_their_longest_pause() -> None:
    ledger, trouble, waiting = Ledger(), Trouble(), Waiting(1, INTERVAL, known=True)
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
        self.root = tempfile.TemporaryDirectory()
        self.site = Site(Path(self.root.name))
        self.panda = self.site.panda
        self.number = 0
        self.calm = 0.0
        self.final_since: dict[int, float] = {}

    def teardown(self) -> None:
        self._heal()
        self.site.advance(BOUND + 1)
        self.no_end_is_missed()
        self.panda.store.close()
        self.root.cleanup()

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
        alone=st.booleans(),
        label=st.sampled_from(["user", "managed"]),
        retried=st.sampled_from([(), ("finished", "failed")]),
    )
    def wait(self, task: int, alone: bool, label: str, retried: tuple[str, ...]) -> None:
        self.site.wait(task, alone=alone, label=label, retried=retried)

    @rule(task=everything, status=st.sampled_from(["ready", "running", "pending", "aborting", "prepared"]))
    def go_on(self, task: int, status: str) -> None:
        if not self.panda.store.down and task not in self.final_since:
            self.panda.move(task, status)

    @rule(task=everything, status=st.sampled_from(sorted(FINAL_STATUSES)), back=st.sampled_from([0, 0, 1, 6, 48]))
    def end(self, task: int, status: str, back: int) -> None:
        if not self.panda.store.down:
            self.panda.move(task, status)
            time = self.panda.backend.clock() - timedelta(hours=back)
            self.panda.store.update("tasks", "jediTaskID", task, modificationTime=time)
            self.final_since[task] = self.panda.now

    @rule(task=everything, days=st.sampled_from([-2, 1]))
    def change_time(self, task: int, days: int) -> None:
        if not self.panda.store.down and task not in self.final_since:
            time = self.panda.backend.clock() + timedelta(days=days)
            self.panda.store.update("tasks", "jediTaskID", task, modificationTime=time)

    @rule(task=everything, pause=st.sampled_from([0.0, 200.0]))
    def retry(self, task: int, pause: float) -> None:
        """Command a retry, and wait for what comes of it; JEDI takes its time."""
        if task in self.final_since and not self.panda.store.down:
            self.site.wait(task, Mark.of(self.panda.task.get_detailed_info(task)) if not self.panda.refuse else None)
            self.site.advance(pause)
            del self.final_since[task]
            self.panda.move(task, "ready", attemptNr=self.panda.row(task)["attemptNr"] + 1)

    @rule(task=consumes(everything))
    def forget(self, task: int) -> None:
        """Nobody touches this task any more."""

    @rule(trouble=st.sampled_from(["database", "get_tasks_modified_since", "get_detailed_info", "lie", "slow"]))
    def break_something(self, trouble: str) -> None:
        self.panda.store.down |= trouble == "database"
        self.site.lie |= trouble == "lie"
        self.site.delay = SLOW if trouble == "slow" else self.site.delay
        if trouble.startswith("get"):
            self.panda.refuse[trouble] = True

    @rule()
    def heal(self) -> None:
        self._heal()

    def _heal(self) -> None:
        self.panda.store.down = self.site.lie = False
        self.panda.refuse.clear()
        self.site.delay = 0.0
        self.calm = self.panda.now

    @rule(seconds=st.sampled_from([1, 10, 50, 300, 1000, 4000, 20000]))
    def pass_time(self, seconds: int) -> None:
        self.site.advance(seconds)

    @property
    def is_well(self) -> bool:
        return not (self.panda.store.down or self.panda.refuse or self.site.lie)

    @invariant()
    def no_end_is_missed(self) -> None:
        for wait in self.site.waits:
            since = self.final_since.get(wait.plan.task_id)
            if (
                since is None
                or wait.event
                or not self.is_well
                or self.panda.now <= BOUND + max(since, self.calm, wait.plan.since)
            ):
                continue
            info = self.panda.task.get_detailed_info(wait.plan.task_id)
            assert Mark.of(info) == wait.plan.mark, f"task {info.task_id} is {info.status} and its wait does not know"

    @invariant()
    def no_wait_believes_an_old_end(self) -> None:
        for wait in self.site.waits:
            if wait.event and wait.event["kind"] in ("ended", "failed"):
                assert classify(wait.event["status"]).is_final
                until = self.panda.held_until(wait.plan.task_id, wait.event["status"], wait.plan.mark)
                assert until >= wait.plan.since, "an end that was over before the wait began"
                assert until >= wait.over - SLOW, "an end that was over before the server was asked"
            assert not wait.event or wait.event["kind"] in ("ended", "failed", "stuck")


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
