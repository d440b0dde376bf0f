from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import UsageError
from panda_airflow.client.task_retry import TaskRetryPolicy

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
