"""Requests that do harm when they are repeated, and that cannot be looked up on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from panda_airflow.client import PandaError
from panda_airflow.client.errors import NOTHING_DONE
from panda_airflow.operators.memory import Context, Memory, clears


def at_most_once(step: BaseOperator, context: Context, what: str, send: Callable[[], Any]) -> Any:
    """Send a request unless an earlier try of this step did.

    :param step: whose request it is.
    :param context: Airflow's context of the running try.
    :param what: names the request in messages.
    :param send: sends it and returns its answer, as JSON primitives.
    :return: the answer, or the one that an earlier try was given.
    :raises AirflowFailException: it was sent and nobody knows what came of it, so a person has to look. A clear
        of the step sends it again.
    """
    memory, cleared = Memory(context, "panda_once"), clears(context, step.retries)
    before = memory.recall()
    if before and before["clears"] == cleared:
        if "answer" in before:
            return before["answer"]
        if before["sent"]:
            raise _unknown(what, "An earlier try of this step was lost.")
    memory.remember({"clears": cleared, "sent": True})
    try:
        answer = send()
    except NOTHING_DONE:
        memory.remember({"clears": cleared, "sent": False})
        raise
    except PandaError as error:
        raise _unknown(what, str(error)) from error
    memory.remember({"clears": cleared, "sent": True, "answer": answer})
    return answer


def _unknown(what: str, why: str) -> AirflowFailException:
    return AirflowFailException(
        f"{why} Whether {what} took place is unknown, and to do it twice does harm. "
        "Look on the PanDA monitor, then clear this step to do it again or mark it as success."
    )
