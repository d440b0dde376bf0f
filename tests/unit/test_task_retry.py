from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import TaskInfo
from panda_airflow.waiting.task_retry import RetryHistory, TaskRetryPolicy

numbers = st.floats(0, 1e9)
policies = st.builds(
    TaskRetryPolicy,
    attempts=st.integers(0, 10**6),
    statuses=st.lists(st.sampled_from(["finished", "failed", "exhausted"]), unique=True).map(tuple),
    delay=numbers | st.timedeltas(timedelta(0), timedelta(days=9)),
    factor=st.floats(0, 1e300),
    max_delay=numbers,
    new_parameters=st.lists(st.dictionaries(st.text(), st.integers() | st.text(), max_size=2), max_size=3),
)


@given(policies)
def test_a_policy_survives_the_database(policy: TaskRetryPolicy) -> None:
    again = TaskRetryPolicy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    assert hash(again) == hash(policy)


@given(policies, st.integers(1, 2000))
def test_no_delay_is_longer_than_the_longest(policy: TaskRetryPolicy, number: int) -> None:
    assert 0 <= policy.delay_of(number) <= policy.to_json()["max_delay"]


def test_delays_grow_from_the_first() -> None:
    policy = TaskRetryPolicy(attempts=9, delay=timedelta(minutes=1), factor=3, max_delay=600)
    assert [policy.delay_of(number) for number in (1, 2, 3, 4)] == [60, 180, 540, 600]


def test_the_last_parameters_serve_for_all_later_retries() -> None:
    policy = TaskRetryPolicy(attempts=9, new_parameters=[{"ramCount": 2000}, {"ramCount": 4000}])
    assert [policy.parameters_of(number) for number in (1, 2, 3)] == [
        {"ramCount": 2000},
        {"ramCount": 4000},
        {"ramCount": 4000},
    ]
    assert TaskRetryPolicy(attempts=9).parameters_of(1) == {}


def test_a_policy_does_not_change_with_what_it_was_made_of() -> None:
    given_parameters: dict[str, Any] = {"excludedSite": ["BNL"]}
    policy = TaskRetryPolicy(attempts=1, new_parameters=[given_parameters])
    given_parameters["excludedSite"].append("CERN")
    assert policy.parameters_of(1) == {"excludedSite": ["BNL"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": -1},
        {"attempts": True},
        {"attempts": "3"},
        {"statuses": ("done",)},
        {"statuses": ("aborted", "failed")},
        {"statuses": "fialed"},
        {"delay": -1},
        {"delay": "300"},
        {"delay": float("nan")},
        {"delay": timedelta(-1)},
        {"factor": float("inf")},
        {"max_delay": None},
        {"new_parameters": {"ramCount": 4000}},
        {"new_parameters": ["ramCount"]},
        {"new_parameters": [{"ramCount": {4000}}]},
    ],
    ids=repr,
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TaskRetryPolicy(**({"attempts": 1} | wrong))


def failed(at: int, attempt_nr: int = 0) -> TaskInfo:
    """A task as it stands after so many days; JEDI may count from 0 again."""
    changed = datetime(2026, 1, 1) + timedelta(days=at)  # noqa: DTZ001 - naive UTC
    return TaskInfo(42, status="failed", attempt_nr=attempt_nr, state_change_time=changed)


def told_again(history: RetryHistory) -> RetryHistory:
    return RetryHistory.of(history.task_id, history.key, json.loads(json.dumps(history.to_json())))


@given(st.lists(st.integers(0, 2), max_size=12))
def test_each_end_is_retried_once_whoever_dies_in_between_and_whatever_jedi_counts(days: list[int]) -> None:
    """A retry is recorded, sent or not, and recorded again by the next process as long as the task has not moved."""
    history, day, ends = RetryHistory(42, "a key"), 0, set[int]()
    for passed in days:
        day += passed
        ends.add(day)
        number = history.number(failed(day))
        history = told_again(history.noted(failed(day), 0.0))
        assert len(history.sent) == history.here == number == len(ends)


def test_the_parameters_of_a_retry_are_never_used_for_the_next() -> None:
    policy = TaskRetryPolicy(attempts=9, new_parameters=[{"ramCount": 2000}, {"ramCount": 4000}, {"ramCount": 8000}])
    history, used = RetryHistory(42, "a key"), []
    for day in range(3):
        used.append(policy.parameters_of(history.number(failed(day)))["ramCount"])
        history = history.noted(failed(day), 0.0).anew()
    assert used == [2000, 4000, 8000]


def test_a_retry_with_parameters_of_its_own_uses_up_none_of_the_policy() -> None:
    history = RetryHistory(42).noted(failed(0), 0.0, by_policy=False)
    assert (history.number(failed(0)), history.number(failed(1))) == (1, 1)


def test_the_history_of_another_task_is_none() -> None:
    stored = RetryHistory(42, "a key").noted(failed(0), 0.0).to_json()
    assert RetryHistory.of(42, "a key", stored).here == 1
    assert RetryHistory.of(42, "another key", stored).here == RetryHistory.of(43, "a key", stored).here == 0
    assert RetryHistory.of(42, "a key", None).here == 0


def test_a_history_of_another_version_is_understood() -> None:
    later = RetryHistory(42, "a key").noted(failed(0), 0.0).to_json() | {"new": 1}
    later["sent"][0]["new"] = later["sent"][0]["mark"]["new"] = 1
    assert RetryHistory.of(42, "a key", later).is_pending(failed(0))
    assert RetryHistory.of(42, "a key", {"task_id": 42, "key": "a key", "sent": [{}]}).here == 1
