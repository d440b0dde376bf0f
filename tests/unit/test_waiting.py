from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panda_airflow.client import errors
from panda_airflow.client.models import Mark, TaskInfo, TaskRow
from panda_airflow.client.status import ACTIVE_STATUSES, FINAL_STATUSES, RETRYABLE_STATUSES
from panda_airflow.client.stored import Account
from panda_airflow.waiting.driver import Request, adrive, drive
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.task import SETTLED, WaitPlan, Watch, wait_result
from panda_airflow.waiting.task_retry import TaskRetryPolicy

TASK_ID = 42
SINCE = 1_000_000
LOG = logging.getLogger(__name__)

PERMANENT = (errors.UsageError, errors.ConfigError, errors.CredentialMissing, errors.InvalidArgument)
PASSING = (
    errors.NotDelivered,
    errors.OutcomeUnknown,
    errors.ServerError,
    errors.CredentialExpired,
    errors.PermissionDenied,
    errors.NotFound,
)

Seen = TaskInfo | errors.PandaError


class StillWaiting(BaseException):
    """The history is over and the wait is not."""


@dataclass
class World:
    """Plays a history of looks, each with the seconds it takes, on a clock that only sleeping and looking move."""

    history: list[tuple[Seen, int]]
    now: float = SINCE
    cancels: int = 0
    last_look_began: float = 0.0
    kill_fails: bool = False
    proofs: list[errors.PandaError | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = iter(self.history)
        self._proofs = iter(self.proofs)
        self.steps: list[tuple[Request, float]] = []
        self.looks: list[tuple[Seen, float]] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def see(self) -> Seen:
        try:
            seen, takes = next(self._left)
        except StopIteration:
            raise StillWaiting from None
        self.last_look_began = self.now
        self.now += takes
        self.looks.append((seen, self.now))
        return seen

    def look(self) -> TaskInfo:
        seen = self.see()
        if isinstance(seen, errors.PandaError):
            raise seen
        return seen

    def perform(self, request: Request) -> object:
        self.steps.append((request, self.now))
        return {"look": self.look, "kill": self.kill, "prove": self.prove}[request.act]()

    def prove(self) -> None:
        """Fail as the script says; once it is over, the task carries the key."""
        if error := next(self._proofs, None):
            raise error

    def kill(self) -> str:
        self.cancels += 1
        if self.kill_fails:
            raise errors.PermissionDenied("no")
        return "registered"


def run_drive(plan: WaitPlan, world: World) -> WaitEvent | None:
    try:
        return drive(plan, world.perform, sleep=world.sleep, clock=world.clock, log=LOG)
    except StillWaiting:
        return None


def run_adrive(plan: WaitPlan, world: World) -> WaitEvent | None:
    async def sleep(seconds: float) -> None:
        world.sleep(seconds)

    async def perform(request: Request) -> object:
        return world.perform(request)

    try:
        return asyncio.run(adrive(plan, perform, sleep=sleep, clock=world.clock, log=LOG))
    except StillWaiting:
        return None


def run_pokes(plan: WaitPlan, world: World) -> WaitEvent | None:
    """Judge each look by a new Watch, as a rescheduled sensor does, the memory written as JSON in between."""
    memory = "{}"
    pause = 0.0
    while True:
        world.sleep(pause)
        watch = Watch(plan, **json.loads(memory))
        try:
            event = watch.judge(world.see(), world.now)
        except StillWaiting:
            return None
        if event:
            return event
        memory = json.dumps(watch.memory())
        pause = watch.delay(world.now)


Looks = list[tuple[Seen, int]]


def infos(statuses: Iterable[str]) -> st.SearchStrategy[TaskInfo]:
    return st.builds(
        TaskInfo,
        task_id=st.just(TASK_ID),
        status=st.sampled_from(sorted(statuses)),
        attempt_nr=st.integers(0, 1),
        state_change_time=moments,
        n_files=st.sampled_from([0, 10]),
        n_files_finished=st.integers(0, 10),
    )


def histories(**weights: int) -> st.SearchStrategy[Looks]:
    """Looks at a task in a row, each kind as often as its weight says, with the seconds that each takes."""
    kinds = [kind for kind, weight in weights.items() for _ in range(weight)]
    looks = st.sampled_from(kinds).flatmap(lambda kind: LOOKS[kind])
    return st.lists(st.tuples(looks, st.integers(0, 200)), min_size=8, max_size=20)


STRANGE_PAGE = errors.ConfigError("HTTP 404", endpoint="task/get_detailed_info")
moments = st.integers(0, 1).map(lambda hours: datetime(2026, 1, 1) + timedelta(hours=hours))  # noqa: DTZ001 - naive UTC
LOOKS: dict[str, st.SearchStrategy[Seen]] = {
    "active": infos(["running", "ready", "aborting", "registered", "sublimating"]),
    "final": infos(FINAL_STATUSES),
    "passing": st.sampled_from([kind("no") for kind in PASSING]),
    "strange": st.just(STRANGE_PAGE),
    "permanent": st.sampled_from([kind("no") for kind in PERMANENT]),
}
any_history = (
    histories(active=6, final=1, passing=6, strange=1, permanent=1)
    | histories(active=1, passing=9)
    | histories(active=9, strange=2, passing=1)
    | histories(final=3, active=1, passing=1)
)
marks = st.builds(Mark, st.integers(0, 1), moments.map(datetime.isoformat))
plans = st.builds(
    WaitPlan,
    task_id=st.just(TASK_ID),
    since=st.just(SINCE),
    poll_interval=st.integers(1, 60),
    max_poll_interval=st.integers(1, 300),
    deadline=st.none() | st.integers(SINCE - 10, SINCE + 1500),
    statuses=st.lists(st.sampled_from(["done", "finished", "running"]), min_size=1, unique=True).map(tuple),
    patience=st.integers(0, 2000),
    outage=st.integers(0, 1000),
    cancel_on_timeout=st.booleans(),
    mark=st.none() | marks,
    min_finished=st.none() | st.floats(0, 1, exclude_min=True),
)
policies = st.builds(
    TaskRetryPolicy,
    attempts=st.integers(0, 3),
    statuses=st.lists(st.sampled_from(sorted(RETRYABLE_STATUSES)), unique=True).map(tuple),
    delay=st.integers(0, 400),
    factor=st.integers(0, 3),
    new_parameters=st.lists(st.just({"ramCount": 4000}) | st.just({}), max_size=2),
)
retrying_plans = st.builds(replace, plans, retry=policies, made=st.integers(0, 3))
ups_and_downs = histories(final=3, active=2, passing=1) | any_history


def is_stale(plan: WaitPlan, info: TaskInfo) -> bool:
    return plan.mark is not None and plan.mark.holds(info)


def is_accepted(plan: WaitPlan, info: TaskInfo) -> bool:
    fraction = info.n_files_finished / info.n_files if info.n_files else 0.0
    return info.status in plan.statuses or (plan.min_finished is not None and fraction >= plan.min_finished)


def is_unregistered(plan: WaitPlan, looks: list[tuple[Seen, float]], place: int) -> bool:
    """Whether a look gave the "not found" of a task that nobody has seen yet."""
    seen, now = looks[place]
    return isinstance(seen, errors.NotFound) and not was_seen(looks[:place]) and now < plan.since + plan.patience


def was_seen(looks: list[tuple[Seen, float]]) -> bool:
    return any(isinstance(seen, TaskInfo) and seen.status for seen, _ in looks)


def failures_in_a_row(plan: WaitPlan, looks: list[tuple[Seen, float]]) -> list[float]:
    """When the looks failed since the last that succeeded."""
    row: list[float] = []
    for place, (seen, now) in enumerate(looks):
        if isinstance(seen, TaskInfo):
            row = []
        elif not is_unregistered(plan, looks, place):
            row.append(now)
    return row


def verdict(plan: WaitPlan, looks: list[tuple[Seen, float]]) -> str | None:
    """What the promises say about a wait after these looks."""
    seen, now = looks[-1]
    if isinstance(seen, TaskInfo) and (is_accepted(plan, seen) or seen.status in FINAL_STATUSES):
        if not is_stale(plan, seen):
            return "ended" if is_accepted(plan, seen) else "failed"
        if now >= plan.since + plan.patience:
            return "stuck"
    has_answered = was_seen(looks) or now > plan.since + SETTLED
    may_pass = seen is STRANGE_PAGE or isinstance(seen, errors.CredentialMissing)
    is_odd = isinstance(seen, errors.InvalidArgument) and was_seen(looks)
    if isinstance(seen, PERMANENT) and not (may_pass and has_answered) and not is_odd:
        return "error"
    if isinstance(seen, errors.PandaError) and not is_unregistered(plan, looks, len(looks) - 1):
        row = failures_in_a_row(plan, looks)
        if len(row) >= 3 and now >= row[0] + plan.outage:
            return "outage"
    return "timeout" if plan.deadline is not None and now >= plan.deadline else None


@settings(max_examples=300)
@given(plans, any_history)
def test_a_wait_ends_at_the_first_look_that_decides_and_never_before(plan: WaitPlan, history: Looks) -> None:
    world = World(history)
    event = run_drive(plan, world)
    verdicts = [verdict(plan, world.looks[: n + 1]) for n in range(len(world.looks))]
    assert verdicts[:-1] == [None] * len(verdicts[:-1])
    assert (event["kind"] if event else None) == (verdicts[-1] if verdicts else None)
    if event is None:
        assert len(world.looks) == len(history)


@settings(max_examples=300)
@given(plans, any_history, st.booleans())
def test_a_wait_kills_at_most_once_and_only_when_the_deadline_passed(
    plan: WaitPlan, history: Looks, kill_fails: bool
) -> None:
    world = World(history, kill_fails=kill_fails)
    event = run_drive(plan, world)
    timed_out = event is not None and event["kind"] == "timeout"
    assert world.cancels == (1 if timed_out and plan.cancel_on_timeout else 0)
    if event and timed_out:
        fate = "left running" if not plan.cancel_on_timeout else "failed" if kill_fails else "told to stop"
        assert fate in event["note"]


@settings(max_examples=300)
@given(plans, any_history)
def test_no_look_begins_after_the_deadline(plan: WaitPlan, history: Looks) -> None:
    world = World(history)
    run_drive(plan, world)
    if plan.deadline is not None:
        assert world.last_look_began <= max(plan.deadline, SINCE)


@settings(max_examples=300)
@given(plans, any_history)
def test_worker_triggerer_and_sensor_come_to_the_same_end(plan: WaitPlan, history: Looks) -> None:
    in_worker = run_drive(plan, World(history))
    assert run_adrive(plan, World(history)) == in_worker
    poked = run_pokes(plan, World(history))
    if in_worker and in_worker["kind"] == "timeout" and poked:
        in_worker = {**in_worker, "note": poked["note"]}
        in_worker.pop("fate", None)
    if in_worker:
        in_worker.pop("mark", None)  # a sensor gives no command
    assert poked == in_worker


@given(plans, st.integers(SINCE - 100, SINCE + 100_000))
def test_looks_are_as_far_apart_as_the_plan_says(plan: WaitPlan, now: int) -> None:
    pause = Watch(replace(plan, deadline=None)).delay(now)
    assert plan.poll_interval <= pause <= 1.1 * max(plan.poll_interval, plan.max_poll_interval)


@given(plans, st.integers(SINCE, SINCE + 100_000))
def test_waits_that_began_together_do_not_look_together(plan: WaitPlan, now: int) -> None:
    pauses = {Watch(replace(plan, task_id=TASK_ID + n, deadline=None)).delay(now) for n in range(100)}
    assert len(pauses) == 100


def test_a_long_wait_looks_less_often() -> None:
    watch = Watch(WaitPlan(TASK_ID, SINCE, poll_interval=10, max_poll_interval=300))
    assert watch.delay(SINCE + 10) < watch.delay(SINCE + 1000) < watch.delay(SINCE + 100_000)


@given(plans | retrying_plans)
def test_a_plan_survives_the_database(plan: WaitPlan) -> None:
    again = WaitPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.retry is None or again.retry.new_parameters == (plan.retry or again.retry).new_parameters


def test_a_plan_of_an_earlier_version_is_understood() -> None:
    earlier = WaitPlan(TASK_ID, SINCE).to_json()
    for name in ("retry", "made", "min_finished", "key", "account"):
        del earlier[name]
    assert WaitPlan.from_json(earlier | {"first_attempt": 1}) == WaitPlan(TASK_ID, SINCE)


def test_a_plan_of_a_later_version_is_understood() -> None:
    """Downgrade: whatever is new in any of its parts is left out."""
    plan = replace(keyed(), mark=Mark(1, "then", "failed"), account=Account("https://panda", "Bob"))
    later = replace(plan, retry=TaskRetryPolicy(attempts=1)).to_json()
    for part in (later, later["mark"], later["retry"], later["account"]):
        part["new in version 9"] = {"a": [1]}
    assert WaitPlan.from_json(later) == replace(plan, retry=TaskRetryPolicy(attempts=1))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(errors.UsageError, match="min_finished must be above 0"):
        WaitPlan(TASK_ID, SINCE, min_finished=fraction)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_looks_without_a_pause_are_refused(seconds: float) -> None:
    with pytest.raises(errors.UsageError, match="poll_interval must be above 0 seconds"):
        WaitPlan(TASK_ID, SINCE, poll_interval=seconds)


@settings(max_examples=300)
@given(retrying_plans, ups_and_downs)
def test_a_wait_asks_for_a_retry_only_of_a_task_that_stands_where_it_failed(plan: WaitPlan, history: Looks) -> None:
    world = World(history)
    event = run_drive(plan, world)
    assert plan.retry
    if event and event.get("retry"):
        (before, _), (seen, now) = world.looks[-2:]
        assert isinstance(seen, TaskInfo)
        assert isinstance(before, TaskInfo) or plan.made < plan.retry.attempts
        assert seen.status in plan.retry.statuses
        assert not is_accepted(plan, seen)
        assert plan.made < plan.retry.attempts
        assert plan.deadline is None or now < plan.deadline
    assert world.cancels == (event is not None and event["kind"] == "timeout" and plan.cancel_on_timeout)


@settings(max_examples=100)
@given(retrying_plans, ups_and_downs)
def test_worker_and_triggerer_ask_for_the_same_retries(plan: WaitPlan, history: Looks) -> None:
    in_worker, in_triggerer = World(history), World(history)
    assert run_drive(plan, in_worker) == run_adrive(plan, in_triggerer)
    assert in_worker.steps == in_triggerer.steps


def at(status: str, attempt: int = 0, **more: Any) -> tuple[Seen, int]:
    """A look at a task in one of its attempts."""
    changed = datetime(2026, 1, 1) + timedelta(hours=attempt)  # noqa: DTZ001 - naive UTC
    return TaskInfo(TASK_ID, status=status, attempt_nr=attempt, state_change_time=changed, **more), 0


FAILED = at("failed")


def retrying(attempts: int = 2, **more: Any) -> WaitPlan:
    policy = {"attempts": attempts, "delay": 300, **more.pop("policy", {})}
    return WaitPlan(TASK_ID, SINCE, retry=TaskRetryPolicy(**policy), **more)


def story(plan: WaitPlan, *looks: tuple[Seen, int], **world: Any) -> tuple[WaitEvent | None, World]:
    played = World(list(looks), **world)
    return run_drive(plan, played), played


def test_the_retry_of_a_task_that_failed_is_due_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    event, world = story(retrying(made=1), FAILED, FAILED)
    assert event
    assert (event["kind"], event["status"], event.get("retry"), world.now) == ("failed", "failed", True, SINCE + 600)
    assert "ended as failed: it is retried in 600 s (retry 2 of 2)" in caplog.text


def test_a_task_that_goes_on_failing_is_retried_as_often_as_the_policy_says() -> None:
    event, _ = story(retrying(made=2), FAILED)
    assert event
    assert (event["kind"], event.get("retry")) == ("failed", None)


def test_a_retry_without_a_delay_goes_to_and_fro_no_faster_than_looks() -> None:
    plan = retrying(policy={"delay": 0}, poll_interval=5)
    assert story(plan, FAILED, FAILED)[1].now == SINCE + 5


def test_a_task_that_somebody_else_retried_meanwhile_is_left_alone() -> None:
    event, _ = story(retrying(), FAILED, at("running", 1), at("done", 1))
    assert event
    assert (event["kind"], event.get("retry")) == ("ended", None)


def keyed(**more: Any) -> WaitPlan:
    return WaitPlan(TASK_ID, SINCE, poll_interval=100, key="a key", **more)


DOWN = errors.ServerError("down")
FOREIGN = errors.NotOurs("it is the task of somebody else")


@pytest.mark.parametrize("status", ["done", "failed"])
def test_an_end_is_believed_only_of_a_task_that_carries_the_key(status: str) -> None:
    event, world = story(keyed(), at(status), proofs=[FOREIGN])
    assert event
    assert (event["kind"], event.get("hopeless"), event["note"]) == ("error", True, str(FOREIGN))
    assert [(request.act, request.key) for request, _ in world.steps] == [("look", ""), ("prove", "a key")]
    proven, _ = story(keyed(), at(status))
    assert proven
    assert proven["kind"] in ("ended", "failed")


def test_an_end_that_cannot_be_proven_now_is_asked_again_as_long_as_an_outage_may_last() -> None:
    event, world = story(keyed(outage=1000), *[at("done")] * 99, proofs=[DOWN, DOWN])
    assert event
    assert event["kind"] == "ended"
    assert [request.act for request, _ in world.steps] == ["look", "prove"] * 3
    event, world = story(keyed(outage=1000), *[at("done")] * 99, proofs=[DOWN] * 99)
    assert event
    assert (event["kind"], world.now >= SINCE + 1000) == ("outage", True)
    event, _ = story(keyed(deadline=SINCE + 50), *[at("done")] * 99, proofs=[DOWN] * 99)
    assert event
    assert event["kind"] == "timeout"


@pytest.mark.parametrize("plan", [keyed(), WaitPlan(TASK_ID, SINCE)], ids=["submitted", "seen before"])
def test_one_odd_refusal_of_what_must_be_there_ends_no_wait(plan: WaitPlan) -> None:
    odd = errors.InvalidArgument("method get_detailed_info is forbidden")
    looks = [(odd, 0), at("done")] if plan.key else [at("running"), (odd, 0), at("done")]
    event, _ = story(plan, *looks)
    assert event
    assert event["kind"] == "ended"


def test_a_kill_at_the_deadline_asks_for_the_key() -> None:
    _, world = story(keyed(deadline=SINCE + 50), at("running"), at("running"))
    assert [request.key for request, _ in world.steps if request.act == "kill"] == ["a key"]


def test_a_deadline_before_the_next_retry_ends_the_wait_at_once() -> None:
    event, world = story(retrying(deadline=SINCE + 299), FAILED)
    assert event
    assert (event["kind"], world.cancels) == ("failed", 0)
    assert "is before its next retry" in event["note"]


def test_no_retry_makes_a_second_production_task() -> None:
    """With new parameters, the server takes the retry of one for a submission."""
    looks = [at("failed", raw={"taskType": "prod"})] * 2
    event, _ = story(retrying(policy={"new_parameters": [{"ramCount": 4000}]}), *looks)
    assert event
    assert (event["kind"], event.get("retry")) == ("failed", None)
    assert "would make a new task" in event["note"]
    plain, _ = story(retrying(), *looks)
    assert plain
    assert plain.get("retry") is True


def test_enough_finished_files_end_the_wait_well() -> None:
    plan = WaitPlan(TASK_ID, SINCE, min_finished=0.7)
    assert Watch(plan).judge(TaskInfo(TASK_ID, status="running", n_files=10, n_files_finished=6), SINCE) is None
    enough = Watch(plan).judge(TaskInfo(TASK_ID, status="running", n_files=10, n_files_finished=7), SINCE)
    assert enough
    assert (enough["kind"], enough["status"]) == ("ended", "running")
    assert Watch(plan).judge(TaskInfo(TASK_ID, status="defined"), SINCE) is None


@pytest.mark.parametrize("status", sorted(FINAL_STATUSES))
def test_the_final_status_of_before_a_command_is_not_believed_while_jedi_may_still_act(status: str) -> None:
    info = TaskInfo(TASK_ID, status=status, state_change_time=datetime(2026, 1, 1))  # noqa: DTZ001 - naive UTC
    plan = WaitPlan(TASK_ID, SINCE, statuses=("done", "finished"), patience=100, mark=Mark.of(info))
    assert Watch(plan).judge(info, SINCE + 99) is None
    assert Watch(plan).judge(replace(info, attempt_nr=1), SINCE + 99)
    late = Watch(plan).judge(info, SINCE + 100)
    assert late
    assert late["kind"] == "stuck"
    with pytest.raises(errors.WaitTimeout, match=f"status is still {status}"):
        wait_result(late)


def test_not_found_means_not_yet_only_until_the_task_was_seen() -> None:
    unseen, seen = Watch(WaitPlan(TASK_ID, SINCE, outage=0)), Watch(WaitPlan(TASK_ID, SINCE, outage=0))
    seen.judge(TaskInfo(TASK_ID, status="running"), SINCE)
    assert [unseen.judge(errors.NotFound("no"), SINCE) for _ in range(3)] == [None] * 3
    *before, last = [seen.judge(errors.NotFound("no"), SINCE) for _ in range(3)]
    assert before == [None, None]
    assert last
    assert last["kind"] == "outage"


def test_an_unknown_status_waits_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    plan = WaitPlan(TASK_ID, SINCE)
    assert run_drive(plan, World([(TaskInfo(TASK_ID, status="sublimating"), 0)])) is None
    assert [(record.levelname, "sublimating" in record.message) for record in caplog.records] == [("WARNING", True)]


def test_progress_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    info = TaskInfo(TASK_ID, status="running", n_files=10, n_files_finished=4, n_files_failed=1)
    run_drive(WaitPlan(TASK_ID, SINCE), World([(info, 0)]))
    assert "PanDA task 42 is running, 4 of 10 files finished, 1 failed." in caplog.text


def event_of(kind: str, status: str = "") -> dict[str, Any]:
    return {"kind": kind, "task_id": TASK_ID, "status": status, "note": "why", "error_dialog": "no <b>input</b>"}


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("failed", "failed", errors.TaskFailed),
        ("failed", "exhausted", errors.TaskFailed),
        ("failed", "broken", errors.TaskFailed),
        ("failed", "finished", errors.TaskPartlyDone),
        ("failed", "aborted", errors.TaskAborted),
        ("failed", "done", errors.TaskOutcome),
        ("timeout", "running", errors.WaitTimeout),
        ("outage", "", errors.ServerAway),
        ("error", "", errors.TaskOutcome),
    ],
)
def test_each_bad_end_has_its_error_which_explains_itself(
    kind: str, status: str, error: type[errors.TaskOutcome]
) -> None:
    with pytest.raises(error) as raised:
        wait_result(event_of(kind, status), ["1 job(s): bang", "", "https://monitor/task/42/"])
    assert type(raised.value) is error
    assert (raised.value.task_id, raised.value.status) == (TASK_ID, status)
    for part in (
        "PanDA task 42",
        status or "unknown",
        "why",
        "JEDI says: no input",
        "1 job(s): bang",
        "https://monitor",
    ):
        assert part in str(raised.value)
    assert "" not in str(raised.value).splitlines()


@pytest.mark.parametrize("hopeless", [True, False])
def test_an_end_says_whether_a_retry_is_of_use(hopeless: bool) -> None:
    with pytest.raises(errors.TaskOutcome) as raised:
        wait_result(event_of("error") | {"hopeless": hopeless})
    assert raised.value.hopeless is hopeless


KINDS = get_args(get_type_hints(WaitEvent)["kind"])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
kinds, ids, words = st.sampled_from(KINDS), st.integers(), st.text()
odd_events = st.one_of(
    st.fixed_dictionaries({"kind": kinds, "task_id": ids, "status": words}),
    st.fixed_dictionaries({"kind": json_values, "task_id": ids, "status": words}),
    st.fixed_dictionaries({"kind": kinds, "task_id": json_values, "status": words}),
    st.fixed_dictionaries({"kind": kinds, "task_id": ids, "status": json_values}),
    st.fixed_dictionaries({}, optional={"kind": kinds, "task_id": ids, "status": words}),
)


@given(json_values | odd_events)
def test_what_is_no_event_of_a_wait_is_refused_and_never_taken_for_success(event: Any) -> None:
    is_event = (
        isinstance(event, dict)
        and event.get("kind") in KINDS
        and type(event.get("task_id")) is int
        and isinstance(event.get("status"), str)
    )
    try:
        ended = wait_result(event)["kind"] == "ended"
    except errors.UsageError:
        assert not is_event
    except errors.TaskOutcome:
        assert is_event
        assert event["kind"] != "ended"
    else:
        assert is_event
        assert ended


def test_statuses_of_a_plan_are_those_of_tasks_and_done_is_as_good_as_finished() -> None:
    assert set(WaitPlan(TASK_ID, SINCE, statuses=("finished",)).statuses) == {"finished", "done"}
    with pytest.raises(errors.UsageError, match=r"WaitPlan\.statuses: 'dome' is no status of a task"):
        WaitPlan(TASK_ID, SINCE, statuses=("dome",))


@pytest.mark.parametrize(
    ("status", "statuses", "kind"),
    [
        ("done", ("done",), "ended"),
        ("failed", ("done",), "failed"),
        ("running", ("running",), "ended"),
        ("running", ("done",), None),
    ],
)
def test_a_row_of_the_servers_list_tells_an_end(status: str, statuses: tuple[str, ...], kind: str | None) -> None:
    watch = Watch(WaitPlan(TASK_ID, SINCE, statuses=statuses))
    event = watch.judge(TaskRow(TASK_ID, name="user.bob.fit", status=status), SINCE)
    assert watch.status == status
    assert (event and (event["kind"], event["status"], event["name"])) == (kind and (kind, status, "user.bob.fit"))


def test_a_row_says_all_only_of_an_end_that_no_retry_and_no_dialog_explains() -> None:
    plan = WaitPlan(TASK_ID, SINCE)
    assert plan.conclusive == FINAL_STATUSES - {"aborted", "broken"}
    assert replace(plan, retry=TaskRetryPolicy(attempts=1, statuses=("failed",))).conclusive == plan.conclusive - {
        "failed"
    }
    for more in ({"mark": Mark()}, {"statuses": ("running",)}, {"min_finished": 0.5}):
        assert replace(plan, **more).conclusive == frozenset()


def test_what_a_task_has_made_is_asked_only_after_a_good_end() -> None:
    plan = WaitPlan(TASK_ID, SINCE, details=True)
    event, world = story(plan, at("failed"))
    assert event
    assert (event["kind"], [step.act for step, _ in world.steps]) == ("failed", ["look"])


def test_every_status_word_is_either_active_or_final() -> None:
    assert not ACTIVE_STATUSES & FINAL_STATUSES
