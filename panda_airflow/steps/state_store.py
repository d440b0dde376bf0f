"""What a step remembers across its tries, and how it tells a clear by a person from a retry by Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from airflow.sdk import BaseOperator, RetryAction
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, AirflowTaskTimeout
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from panda_airflow.client import UsageError
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.steps.base import Context
from panda_airflow.steps.ended import kill_if_refused


class Memory:
    """What a step remembers across its tries, in Airflow's task state store.

    :param context: Airflow's context of the running try.
    :param key: what is remembered.
    """

    def __init__(self, context: Context, key: str) -> None:
        self._store = context["task_state_store"]
        self._key = key

    def recall(self) -> dict[str, Any] | None:
        """Return what was remembered last, or None."""
        value: dict[str, Any] | None = self._store.get(self._key)
        return value

    def remember(self, value: dict[str, Any]) -> None:
        """Remember a JSON object for as long as the DAG run exists."""
        self._store.set(self._key, value, retention=NEVER_EXPIRE)


def clears(context: Context, retries: int | None, submitted_with: int = 0) -> int:
    """Count how often a person has cleared the step, in a unit that only grows; a retry by Airflow leaves it alone.

    A clear sets ``max_tries`` to the number of the last try plus the step's retries. That moves it, unless the
    retries were lowered meanwhile by as many as there were tries: hence the step remembers its retries, and which try
    was to be tried again. Its end is not always known: a person may end it while it is deferred.

    :param retries: the step's own, as its DAG says now.
    :param submitted_with: what they were when it last submitted; 0 if that is not known.
    """
    memory, max_tries, now = Memory(context, "panda_clears"), context["ti"].max_tries, retries or 0
    stored, last = memory.recall() or {}, context["ti"].try_number - 1
    before = {"clears": max_tries, "max_tries": max_tries, "retries": submitted_with} | stored
    lowered = now < before["retries"] and max_tries == last + now and before.get("again") != last
    if before["max_tries"] == max_tries and not lowered:
        return int(before["clears"])
    number = max(before["clears"] + 1, max_tries)
    memory.remember({**before, "clears": number, "max_tries": max_tries, "retries": now})
    return int(number)


def note_end(context: Context, retries: int | None, *, again: bool = False) -> None:
    """Remember that this try ended: as a success or for good, so that only a clear makes the step run again, or not.

    :param retries: the step's own.
    :param again: whether Airflow tries again.
    """
    memory, ti = Memory(context, "panda_clears"), context["ti"]
    before = {"clears": ti.max_tries, "max_tries": ti.max_tries} | (memory.recall() or {})
    memory.remember(before | {"retries": retries or 0, "again": ti.try_number if again else 0})


@contextmanager
def end_noted(step: BaseOperator, context: Context) -> Iterator[None]:
    """Note the end of a try where the block ends it, and whether it is tried again; a deferral does not end it.

    What such a failure leaves to the next try is killed if a person has ended the step meanwhile.
    """
    try:
        yield
    except (Exception, AirflowTaskTimeout) as error:
        again = not gives_up(step, context, error)
        if again:
            kill_if_refused(context["ti"], step.on_kill)
        if not isinstance(error, UsageError):  # nothing was sent
            with suppress(AirflowRuntimeError):  # what ended the step must not be hidden
                note_end(context, step.retries, again=again)
        raise
    note_end(context, step.retries)


def gives_up(step: BaseOperator, context: Context, error: BaseException) -> bool:
    """Whether Airflow will not try again after this error."""
    ti, policy = context["ti"], step.retry_policy or PandaRetryPolicy()
    if ti.try_number > ti.max_tries or isinstance(error, AirflowFailException):
        return True
    with suppress(Exception):  # Airflow, too, goes on without a policy that fails
        return policy.evaluate(error, ti.try_number, ti.max_tries, context).action is RetryAction.FAIL
    return False
