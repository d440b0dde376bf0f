"""Which errors Airflow tries again, and when."""

from __future__ import annotations

import pickle
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import errors
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.waiting import polling, task

POLICY = PandaRetryPolicy()


@pytest.mark.parametrize(
    "error",
    [
        errors.UsageError("no"),
        errors.ConfigError("no"),
        errors.CredentialMissing("no"),
        errors.PermissionDenied("no", endpoint="task/pause"),
        errors.InvalidArgument("no"),
        errors.DuplicateTask("no", task_id=42),
        errors.TaskAborted("cannot be retried", status="aborted", hopeless=True),
        pickle.loads(pickle.dumps(errors.TaskFailed("cannot be retried", hopeless=True))),  # noqa: S301
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_only_a_person_can_mend_fails_at_once_and_says_why(error: errors.PandaError) -> None:
    decision = POLICY.evaluate(error, 1, 3)
    assert decision.action is RetryAction.FAIL
    assert str(error) in str(decision.reason)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotDelivered("no"),
        errors.OutcomeUnknown("no"),
        errors.ServerError("no"),
        errors.NotCarriedOut("no"),
        errors.ServerAway("no"),
        errors.ConfigError("this is not PanDA but a page", endpoint="task/submit"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_outage_is_waited_for(error: errors.PandaError) -> None:
    decision = POLICY.evaluate(error, 1, 3)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay == timedelta(minutes=15)


@pytest.mark.parametrize("kind", ["outage", "timeout"])
def test_only_an_outage_that_ended_a_wait_is_waited_for_after_it(kind: str) -> None:
    wanted = RetryAction.RETRY if kind == "outage" else RetryAction.DEFAULT
    with pytest.raises(errors.WaitTimeout) as of_task:
        task.wait_result({"kind": kind, "task_id": 42, "status": "running"})
    with pytest.raises(errors.WaitTimeout) as of_other:
        polling.poll_result({"kind": kind, "what": "PanDA job 1", "value": None})
    assert [POLICY.evaluate(caught.value, 1, 3).action for caught in (of_task, of_other)] == [wanted, wanted]


@pytest.mark.parametrize(
    "error",
    [
        errors.TaskFailed("no"),
        errors.TaskPartlyDone("no"),
        errors.TaskAborted("no"),
        errors.WaitTimeout("no"),
        errors.NotFound("no"),
        errors.WrongState("no"),
        errors.Refused("the server cannot write its log"),
        errors.ConnectionMissing("no"),
        errors.CredentialExpired("no"),
        KeyError("no"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everything_else_follows_the_retries_of_the_step(error: BaseException) -> None:
    assert POLICY.evaluate(error, 1, 3).action is RetryAction.DEFAULT


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_pauses_grow_up_to_their_limit_and_are_never_shorter_than_the_authors(first: int, limit: int, own: int) -> None:
    policy = PandaRetryPolicy(timedelta(seconds=first), timedelta(seconds=limit))
    context: Any = {"ti": SimpleNamespace(task=SimpleNamespace(retry_delay=timedelta(seconds=own)))}
    pauses = [
        policy.evaluate(errors.ServerError("no"), number, 99, context).retry_delay for number in (0, 1, 2, 3, 50, 5000)
    ]
    assert all(pause is not None for pause in pauses)
    assert pauses == sorted(pauses, key=lambda pause: pause or timedelta(0))
    assert pauses[-1] == timedelta(seconds=max(own, min(limit, first * 2**20)))
    assert pauses[1] == timedelta(seconds=max(own, min(limit, first)))
