"""A status that nobody knows is refused where it is given, and one text is one status everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from panda_airflow.client import UsageError
from panda_airflow.client.status import ACTIVE_STATUSES, FINAL_STATUSES, STATUSES, check_statuses
from panda_airflow.waiting.end_watcher import TaskFilter
from panda_airflow.waiting.poll_checks import jobs_plan, request_plan
from panda_airflow.waiting.task import WaitPlan
from panda_airflow.waiting.task_retry import TaskRetryPolicy


@pytest.mark.parametrize("kind", STATUSES)
def test_every_known_word_is_accepted(kind: str) -> None:
    for word in STATUSES[kind]:
        assert check_statuses([word], "x", kind)[0] == word


def test_whoever_accepts_partly_done_accepts_done() -> None:
    assert check_statuses("finished", "x") == ("finished", "done")
    assert check_statuses(("done", "finished"), "x") == ("done", "finished")
    assert check_statuses("finished", "x", "job") == ("finished",)
    assert check_statuses("failed", "x") == ("failed",)


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ("finnished", "task", "statuses of fit: 'finnished' is no status of a task; the nearest is 'finished'"),
        (("done", "Done"), "task", "'Done' is no status of a task; the nearest is 'done'"),
        (["cancelled"], "task", "'cancelled' is no status of a task; .* It is a status of a job"),
        (["done"], "job", "'done' is no status of a job; .* It is a status of a task"),
        (["finished"], "request", "'finished' is no status of a request; the nearest is 'Finished'"),
        (["{{ params.status }}"], "task", "statuses cannot be templates, such as '{{ params.status }}'"),
        ("{% if x %}done{% endif %}", "task", "cannot be templates"),
        ([None], "task", "None is no status of a task"),
        (7, "task", "statuses are a list of words, not 7"),
        (object(), "task", "statuses are a list of words, not <object"),
    ],
)
def test_what_is_no_status_is_refused_with_what_was_given_and_what_was_meant(given: Any, kind: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_statuses(given, "statuses of fit", kind)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WaitPlan(1, 0.0, statuses=("dome",)),
        lambda: TaskRetryPolicy(attempts=1, statuses=("faild",)),
        lambda: TaskFilter(statuses=["dome"]),
        lambda: jobs_plan([1], ("dome",), 0.0, 1.0),
        lambda: request_plan(1, ("dome",), 0.0, 1.0),
    ],
)
def test_a_client_is_told_of_a_word_that_is_none(make: Any) -> None:
    with pytest.raises(UsageError, match="the nearest is"):
        make()


def test_one_text_is_one_status() -> None:
    assert WaitPlan(1, 0.0, statuses="done").statuses == ("done",)  # type: ignore[arg-type]
    assert TaskRetryPolicy(attempts=1, statuses="failed").statuses == ("failed",)  # type: ignore[arg-type]
    assert TaskFilter(statuses="failed").statuses == ("failed",)
    assert jobs_plan([1], "finished", 0.0, 1.0).arguments["statuses"] == ["finished"]


def test_a_retry_is_only_for_statuses_that_can_be_retried() -> None:
    with pytest.raises(UsageError, match="'done' is not retryable; the nearest is"):
        TaskRetryPolicy(attempts=1, statuses=("done",))
    assert TaskRetryPolicy(attempts=1, statuses=("finished",)).statuses == ("finished",)


def test_a_wait_under_way_that_another_version_planned_goes_on() -> None:
    plan = WaitPlan(1, 0.0).to_json() | {"statuses": ["done", "a word of tomorrow"], "field_of_tomorrow": 1}
    assert WaitPlan.from_json(plan).statuses == ("done",)


def test_the_words_of_a_task_are_those_that_a_wait_knows() -> None:
    assert STATUSES["task"] == FINAL_STATUSES | ACTIVE_STATUSES
