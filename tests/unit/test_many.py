from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panda_airflow.client import errors
from panda_airflow.client.models import TaskInfo
from panda_airflow.waiting.driver import Request, adrive, drive
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.many import DETAILED, ManyEvent, ManyPlan, ManyWatch, read_many
from panda_airflow.waiting.task import WaitPlan, Watch

SINCE = 1_000_000.0
IDS = (7, 3, 5)

Seen = TaskInfo | errors.PandaError


class StillWaiting(BaseException):
    """The history is over and the wait is not."""


@dataclass
class Ears:
    """Hears what a wait reports."""

    said: list[tuple[str, str]] = field(default_factory=list)

    def info(self, event: str, *args: Any) -> None:
        self.said.append(("info", event % args))

    def warning(self, event: str, *args: Any) -> None:
        self.said.append(("warning", event % args))

    @property
    def lines(self) -> list[str]:
        return [line for _, text in self.said for line in text.splitlines()]


@dataclass
class World:
    """Plays looks at all tasks, one after another, on a clock that only sleeping moves."""

    history: list[Mapping[int, Seen] | errors.PandaError]
    kill_fails: bool = False
    now: float = SINCE
    kills: list[tuple[int, ...]] = field(default_factory=list)
    looks: list[tuple[tuple[int, ...], float]] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def perform(self, request: Request) -> object:
        if request.act == "kill":
            self.kills.append(request.task_ids)
            return dict.fromkeys(request.task_ids, errors.PermissionDenied("no") if self.kill_fails else None)
        return self.see(request.task_ids) if request.task_ids else {}

    def see(self, task_ids: tuple[int, ...]) -> object:
        if len(self.looks) == len(self.history):
            raise StillWaiting
        self.looks.append((task_ids, self.now))
        seen = self.history[len(self.looks) - 1]
        return seen if isinstance(seen, errors.PandaError) else {task_id: seen[task_id] for task_id in task_ids}


def run_drive(plan: ManyPlan, world: World, ears: Ears | None = None) -> ManyEvent | None:
    try:
        return drive(plan, world.perform, sleep=world.sleep, clock=lambda: world.now, log=ears or Ears())
    except StillWaiting:
        return None


def run_adrive(plan: ManyPlan, world: World) -> ManyEvent | None:
    async def sleep(seconds: float) -> None:
        world.sleep(seconds)

    async def perform(request: Request) -> object:
        return world.perform(request)

    try:
        return asyncio.run(adrive(plan, perform, sleep=sleep, clock=lambda: world.now, log=Ears()))
    except StillWaiting:
        return None


def run_pokes(plan: ManyPlan, world: World) -> ManyEvent | None:
    """Judge each look by a new watch, as a rescheduled sensor does, the memory written as JSON in between."""
    memory = "{}"
    while True:
        watch = ManyWatch(plan, **json.loads(memory))
        try:
            event = watch.judge(world.see(watch.waiting), world.now)
        except StillWaiting:
            return None
        if event:
            return event
        memory = json.dumps(watch.memory())
        world.sleep(watch.delay(world.now))


states = st.builds(
    TaskInfo,
    task_id=st.just(0),
    name=st.just("user.bob.fit"),
    status=st.sampled_from(["running", "running", "pending", "done", "finished", "failed", "aborted", "sublimating"]),
    n_files=st.just(10),
    n_files_finished=st.integers(0, 10),
    error_dialog=st.sampled_from(["", "JEDI says"]),
)
troubles: st.SearchStrategy[errors.PandaError] = st.sampled_from(
    [errors.NotFound("no"), errors.NotDelivered("away"), errors.ServerError("broken"), errors.InvalidArgument("wrong")]
)
looks = st.dictionaries(st.sampled_from(IDS), states | troubles).map(
    lambda some: {task_id: some.get(task_id, TaskInfo(0, status="running")) for task_id in IDS}
)
histories: st.SearchStrategy[list[Any]] = st.lists(looks | looks | looks | troubles, max_size=8)
plans = st.builds(
    ManyPlan,
    st.just(IDS),
    st.builds(
        WaitPlan,
        st.just(0),
        st.just(SINCE),
        poll_interval=st.just(60.0),
        deadline=st.none() | st.integers(int(SINCE), int(SINCE) + 500),
        statuses=st.sampled_from([("done",), ("done", "finished"), ("finished", "failed", "aborted")]),
        patience=st.integers(0, 300),
        outage=st.integers(0, 300),
        cancel_on_timeout=st.booleans(),
        min_finished=st.none() | st.sampled_from([0.5, 0.95]),
    ),
    st.booleans(),
)


def alone(plan: ManyPlan, task_id: int, world: World) -> tuple[int, WaitEvent | None]:
    """How the wait for one task ends by itself, and at which look, where it sees what the list saw of it."""
    watch = Watch(WaitPlan(**(vars(plan.each) | {"task_id": task_id})))
    for place, (_, now) in enumerate(world.looks):
        seen = world.history[place]
        if event := watch.judge(seen if isinstance(seen, errors.PandaError) else seen[task_id], now):
            return place, event
    return len(world.looks), None


def core(event: WaitEvent) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("note", "error_dialog")}


@settings(max_examples=300)
@given(plans, histories)
def test_a_list_ends_when_its_last_or_its_first_bad_task_would_end_alone(plan: ManyPlan, history: list[Any]) -> None:
    world = World(history)
    event = run_drive(plan, world)
    ends = {task_id: alone(plan, task_id, world) for task_id in IDS}
    bad = [place for place, end in ends.values() if end and end["kind"] != "ended"]
    if event is None:
        assert any(end is None for _, end in ends.values())
        assert not (plan.fail_fast and bad)
        return
    last = max(place for place, _ in ends.values())
    assert len(world.looks) - 1 == (min(bad) if plan.fail_fast and bad else last)
    over = {task_id: core(end) for task_id, (_, end) in ends.items() if end}
    assert [core(task) for task in event["tasks"]] == [over[task_id] for task_id in IDS if task_id in over]
    assert event["total"] == len(IDS)
    first = min((place, IDS.index(task_id)) for task_id, (place, _) in ends.items() if place in bad) if bad else None
    assert (event["first_bad"] == 0) == (first is None)


@settings(max_examples=300)
@given(plans, histories)
def test_the_first_bad_task_is_explained_and_only_that(plan: ManyPlan, history: list[Any]) -> None:
    world = World(history)
    event = run_drive(plan, world)
    for task in event["tasks"] if event else []:
        _, end = alone(plan, task["task_id"], world)
        assert end
        if event and task["task_id"] == event["first_bad"]:
            assert task == end
        else:
            assert "error_dialog" not in task


@settings(max_examples=300)
@given(plans, histories)
def test_worker_triggerer_and_sensor_come_to_the_same_end(plan: ManyPlan, history: list[Any]) -> None:
    in_worker = run_drive(plan, World(history))
    assert run_adrive(plan, World(history)) == in_worker
    poked = run_pokes(plan, World(history))
    assert (poked and {**poked, "fate": ""}) == (in_worker and {**in_worker, "fate": ""})


@settings(max_examples=300)
@given(plans, histories)
def test_a_task_that_has_ended_is_told_once_and_never_looked_at_again(plan: ManyPlan, history: list[Any]) -> None:
    world, ears = World(history), Ears()
    event = run_drive(plan, world, ears)
    for task_id in IDS:
        place, end = alone(plan, task_id, world)
        told = [
            line for line in ears.lines if line.startswith((f"PanDA task {task_id} is", f"PanDA task {task_id} en"))
        ]
        assert len(told) == (end is not None and end["kind"] in ("ended", "failed"))
        assert [task_id in asked for asked, _ in world.looks] == [n <= place for n in range(len(world.looks))]
    progress = [line for line in ears.lines if "PanDA tasks have ended" in line]
    assert len(progress) == len(world.looks)
    assert event is None or f"{len(event['tasks'])} of {len(IDS)} PanDA tasks have ended" in progress[-1]


@settings(max_examples=300)
@given(plans, histories, st.booleans())
def test_only_what_is_late_is_killed_once_and_its_fate_is_told(
    plan: ManyPlan, history: list[Any], kill_fails: bool
) -> None:
    world = World(history, kill_fails=kill_fails)
    event = run_drive(plan, world)
    late = tuple(task["task_id"] for task in event["tasks"] if task["kind"] == "timeout") if event else ()
    assert world.kills == ([late] if late and plan.each.cancel_on_timeout else [])
    fate = "left running" if not plan.each.cancel_on_timeout else "failed" if kill_fails else "told to stop"
    assert event is None or (fate in event["fate"] if late else event["fate"] == "")


@given(plans)
def test_a_plan_survives_the_database(plan: ManyPlan) -> None:
    assert ManyPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@settings(max_examples=300)
@given(plans, histories)
def test_an_event_survives_the_database(plan: ManyPlan, history: list[Any]) -> None:
    event = run_drive(plan, World(history))
    assert event is None or read_many(json.loads(json.dumps(event))) == event


def test_ten_thousand_tasks_take_little_room_in_the_database() -> None:
    ids = range(30_000_000, 30_010_000)
    plan = ManyPlan(tuple(ids), WaitPlan(0, SINCE), fail_fast=False)
    watch = ManyWatch(plan)

    def look(status: str) -> dict[int, TaskInfo]:
        return {n: TaskInfo(n, name="x" * 200, status=status, n_files=n % 99, error_dialog="e" * 500) for n in ids}

    assert watch.judge(look("running") | {ids[0]: TaskInfo(ids[0], status="done")}, SINCE) is None
    assert len(json.dumps(watch.memory())) < 200_000
    assert len(watch.note) < 200
    event = watch.judge(look("failed"), SINCE + 60)
    assert len(json.dumps(watch.memory())) < 200_000
    assert len(json.dumps(event)) < 2_000_000


def test_a_short_list_keeps_names_and_a_long_one_does_not() -> None:
    for length, kept in ((DETAILED, True), (DETAILED + 1, False)):
        ids = tuple(range(1, length + 1))
        event = ManyWatch(ManyPlan(ids, WaitPlan(0, SINCE))).judge(
            {n: TaskInfo(n, name="fit", status="done") for n in ids}, SINCE
        )
        assert event
        assert [task.get("name") == "fit" for task in event["tasks"]] == [kept] * length


def test_a_list_of_one_says_what_a_wait_for_one_says() -> None:
    info = TaskInfo(7, status="running", n_files=10, n_files_finished=4)
    watch = ManyWatch(ManyPlan((7,), WaitPlan(7, SINCE)))
    assert watch.judge({7: info}, SINCE) is None
    assert watch.note == "PanDA task 7 is running, 4 of 10 files finished."
    assert watch.judge({7: TaskInfo(7, status="done", n_files=10, n_files_finished=10)}, SINCE)
    assert watch.note == "PanDA task 7 is done, 10 of 10 files finished."


def test_trouble_with_many_tasks_is_told_in_one_line() -> None:
    watch = ManyWatch(ManyPlan(IDS, WaitPlan(0, SINCE)))
    assert watch.judge(errors.NotDelivered("away"), SINCE) is None
    assert watch.warn
    assert len(watch.note.splitlines()) == 1
    assert "Trouble with 3 of them, such as: Look 1 at PanDA task 7 failed in a row: away" in watch.note


def task_event(kind: str = "ended") -> dict[str, Any]:
    return {"kind": kind, "task_id": 7, "status": "done"}


@pytest.mark.parametrize(
    "event",
    [
        None,
        "done",
        {},
        {"tasks": []},
        {"tasks": [None], "total": 1, "first_bad": 0},
        {"tasks": [task_event()], "total": 2, "first_bad": 0},
        {"tasks": [task_event()], "total": 1, "first_bad": 7},
        {"tasks": [task_event("failed")], "total": 1, "first_bad": 0},
        {"tasks": [task_event("sleeping")], "total": 1, "first_bad": 7},
    ],
)
def test_what_is_no_event_is_never_taken_for_success(event: Any) -> None:
    with pytest.raises(errors.UsageError, match="not an event"):
        read_many(event)


@pytest.mark.parametrize("kind", ["ended", "failed"])
def test_the_event_of_a_wait_for_one_task_is_understood(kind: str) -> None:
    known = read_many(task_event(kind))
    assert [task["kind"] for task in known["tasks"]] == [kind]
    assert known["first_bad"] == (0 if kind == "ended" else 7)


def test_a_look_that_gave_something_strange_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="neither tasks nor an error"):
        ManyWatch(ManyPlan(IDS, WaitPlan(0, SINCE))).judge("done", SINCE)
