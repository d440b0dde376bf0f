"""Waits for what is no task: one event, whatever the looks find, and what each look makes of the server's words."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import errors
from panda_airflow.client.stored import Account
from panda_airflow.waiting.driver import Request, adrive, drive
from panda_airflow.waiting.poll_checks import POLL_CHECKS, judge_recovery, panda_ids
from panda_airflow.waiting.polling import FOREVER, Finding, Poll, PollEnd, PollEvent, PollPlan, poll_result

LOG = logging.getLogger(__name__)
SINCE = 1_000_000.0
PLAN = PollPlan("jobs", {"job_ids": [1]}, "PanDA job 1", SINCE, poll_interval=10, outage=100)

GOES_ON = Finding("", "it runs")
ENDED = Finding("ended", "", {"a": 1})
FAILED = Finding("failed", "it broke")
LOOKED: st.SearchStrategy[object] = st.sampled_from(
    [GOES_ON, ENDED, FAILED, errors.NotDelivered("no"), errors.ServerError("no"), errors.UsageError("no")]
)


class World:
    """Answers looks by a script, of which the last entry repeats; its clock moves only by sleeping."""

    def __init__(self, script: Sequence[object]) -> None:
        self.script, self.looks, self.now = list(script), 0, SINCE

    def look(self) -> object:
        self.looks += 1
        seen = self.script[min(self.looks, len(self.script)) - 1]
        if isinstance(seen, Exception):
            raise seen
        return seen

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, plan: PollPlan) -> PollEvent:
        return drive(plan, lambda _: self.look(), sleep=self.sleep, clock=lambda: self.now, log=LOG)

    def run_in_loop(self, plan: PollPlan) -> PollEvent:
        async def look(_: Request) -> object:
            return self.look()

        async def sleep(seconds: float) -> None:
            self.sleep(seconds)

        return asyncio.run(adrive(plan, look, sleep=sleep, clock=lambda: self.now, log=LOG))


def by_poking(script: Sequence[object], plan: PollPlan) -> PollEvent:
    """Wait as a sensor does that is made anew for each look."""
    world, memory = World(script), "{}"
    while True:
        poll = Poll(plan, **json.loads(memory))
        try:
            seen = world.look()
        except errors.PandaError as error:
            seen = error
        if event := poll.judge(seen, world.now):
            return event
        world.sleep(poll.delay(world.now))
        memory = json.dumps(poll.memory())


@given(st.lists(LOOKED, min_size=1, max_size=12))
def test_every_wait_ends_with_the_same_event_on_every_path(script: list[object]) -> None:
    plan = replace(PLAN, deadline=SINCE + 500)
    event = World(script).run(plan)
    assert event["kind"] in get_args(PollEnd)
    assert event == World(script).run_in_loop(plan) == by_poking(script, plan)
    assert event == json.loads(json.dumps(event))


def test_what_was_found_is_the_result() -> None:
    assert poll_result(World([GOES_ON, ENDED]).run(PLAN)) == {"a": 1}


@pytest.mark.parametrize(
    ("script", "plan", "error", "words"),
    [
        ([GOES_ON, FAILED], PLAN, errors.TaskFailed, "PanDA job 1 failed. it broke"),
        ([GOES_ON], replace(PLAN, deadline=SINCE + 50), errors.WaitTimeout, r"did not end in time\. .*it runs"),
        ([GOES_ON, errors.ServerError("500")], PLAN, errors.ServerAway, "could not be looked at for too long.*500"),
        ([errors.UsageError("bad")], PLAN, errors.TaskOutcome, "cannot be looked at. bad"),
    ],
    ids=["failed", "timeout", "outage", "error"],
)
def test_any_other_end_is_an_error_that_says_why(
    script: list[object], plan: PollPlan, error: type[errors.PandaError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        poll_result(World(script).run(plan))
    assert type(caught.value) is error


def test_a_short_outage_is_borne() -> None:
    outage: list[object] = [errors.NotDelivered("no")] * 5
    assert World([*outage, GOES_ON, *outage, ENDED]).run(PLAN)["kind"] == "ended"


def test_a_strange_page_is_maintenance_to_whoever_waits_for_the_server() -> None:
    page = errors.ConfigError("a page", endpoint="system/is_alive")
    assert World([page, ENDED]).run(PLAN)["kind"] == "error"
    assert World([GOES_ON, page, ENDED]).run(PLAN)["kind"] == "ended"
    assert World([page] * 50 + [ENDED]).run(replace(PLAN, outage=FOREVER))["kind"] == "ended"


@pytest.mark.parametrize(
    "event", [None, {}, "ended", {"kind": "ended"}, {"kind": "fine", "what": "", "value": 1}, {"status": "success"}]
)
def test_nothing_strange_is_taken_for_success(event: object) -> None:
    with pytest.raises(errors.UsageError):
        poll_result(event)


def test_a_plan_survives_the_database() -> None:
    plan = replace(PLAN, account=Account("https://panda.example:25443", "Bob Tester"))
    assert PollPlan.from_json(json.loads(json.dumps(plan.to_json())) | {"of another version": 1}) == plan
    assert PollPlan.from_json({name: item for name, item in PLAN.to_json().items() if name != "account"}) == PLAN
    assert PLAN.look in POLL_CHECKS


@pytest.mark.parametrize("given", [7, "7", [7], ["7"], (7,), "[7]"])
def test_job_ids_are_read_as_authors_and_templates_give_them(given: object) -> None:
    assert panda_ids(given) == [7]


@pytest.mark.parametrize("given", ["", "[]", [], None, "seven", {"a": 1}])
def test_what_is_no_job_id_is_a_mistake(given: object) -> None:
    with pytest.raises(errors.UsageError):
        panda_ids(given)


def log(*lines: str) -> str:
    return "".join(f"2026-01-01 00:00:00 : {line}\n" for line in lines)


REPLY = json.dumps({"success": True, "message": "command=retry is registered for task ID 7.", "data": 0})
REFUSED = json.dumps({"success": True, "message": "Command rejected: not accepted in done status", "data": 4})


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", ""),
        (log("User='x'"), ""),
        (log("User='x'", "No lost files. Use --force to ignore this check") + "done\n", "ended"),
        (log("Done in the dry-run mode with True") + "done\n", "ended"),
        (log("Done in the dry-run mode with False") + "done\n", "failed"),
        (log(f"Retried task 7: done with {(0, REPLY)}") + "done\n", "ended"),
        (log(f"Retried task 7: done with {(0, REFUSED)}") + "done\n", "failed"),
        (log("Retried task 7: done with (255, 'no route to host')") + "done\n", "failed"),
        (log("Error: Failed") + "done\n", "failed"),
        (log("Error: unknown dataset") + "done\n", "failed"),
        ("done\n", "failed"),
        (log("something new") + "done\n", "failed"),
    ],
)
def test_a_recovery_is_judged_by_the_end_of_its_log(text: str, verdict: str) -> None:
    found: Any = judge_recovery(text)
    assert found.verdict == verdict
