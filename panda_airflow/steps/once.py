"""Requests that do harm when they are repeated.

Of a task the server keeps a key and a name, by which it is found again. Single jobs and workflows of PanDA cannot be
looked up by anything that the client knows before the answer: an unknown outcome is left to a person. iDDS finds a
request by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from panda_airflow.client import OutcomeUnknown, PandaError
from panda_airflow.client.errors import NOTHING_DONE
from panda_airflow.client.stored import Account
from panda_airflow.steps.base import Context, PandaStep
from panda_airflow.steps.state_store import Memory, clears
from panda_airflow.waiting.ownership import elsewhere

SURFACED = 300.0
"""Seconds after which a request that reached the server can be found there, if it can be looked up."""


def at_most_once(
    step: PandaStep,
    context: Context,
    what: str,
    send: Callable[[], Any],
    newest: Callable[[], int] | None = None,
) -> Any:
    """Send a request unless an earlier try of this step did.

    :param step: whose request it is.
    :param context: Airflow's context of the running try.
    :param what: names the request in messages.
    :param send: sends it and returns its answer, as JSON primitives.
    :param newest: looks for what the request makes: the newest ID under its name, 0 if there is none.
    :return: the answer, or the one that an earlier try was given, or what was found.
    :raises NotOurs: the connection meant another server or user then.
    :raises OutcomeUnknown: nobody knows what came of it yet; a retry looks again.
    :raises AirflowFailException: nobody knows, and it cannot be looked up, so a person has to. A clear of the step
        sends it again.
    """
    memory, cleared = Memory(context, "panda_once"), clears(context, step.retries)
    before = same_as_sent(step, context, what)
    if before and before.get("clears") == cleared:
        if "answer" in before:
            return before["answer"]
        if before.get("sent", True) and (
            found := _found(before, what, "An earlier try of this step was lost.", newest)
        ):
            memory.remember({**before, "answer": found})
            return found
    elif before:
        _tell_what_is_left(step, what, before)
    intent: dict[str, Any] = {"clears": cleared, "sent": True, "since": time.time(), "account": asdict(step.account)}
    intent |= {"newest": newest() if newest else 0}
    memory.remember(intent)
    try:
        answer = send()
    except NOTHING_DONE:
        memory.remember({"clears": cleared, "sent": False})
        raise
    except PandaError as error:
        answer = _found(intent, what, str(error), newest)
        if not answer:
            memory.remember({"clears": cleared, "sent": False})
            raise
    memory.remember({**intent, "answer": answer})
    return answer


def same_as_sent(step: PandaStep, context: Context, what: str) -> dict[str, Any] | None:
    """Recall the request of an earlier try.

    :raises NotOurs: the connection means another server or user by now, and nobody has cleared the step since.
    """
    before = Memory(context, "panda_once").recall()
    if before and before.get("clears") == clears(context, step.retries):
        step.same_account(what, Account.from_json(before.get("account")))
    return before


def _tell_what_is_left(step: PandaStep, what: str, before: dict[str, Any]) -> None:
    """Say in the log what a cleared step leaves behind at another server, or with another user."""
    account, found = Account.from_json(before.get("account")), step.account
    if found.differs_from(account):
        left = elsewhere(what, account, step.panda_conn_id, found)
        step.log.warning("%s What came of it was left alone: %.200r", left, before.get("answer", "nobody knows what"))


def _found(intent: dict[str, Any], what: str, why: str, newest: Callable[[], int] | None) -> int:
    """Look for what a request made whose answer was lost; return its ID, or 0 if it surely made nothing."""
    if newest is None or "newest" not in intent:
        raise AirflowFailException(
            f"{why} Whether {what} took place is unknown, the server has no method to look it up, and to do it twice "
            "does harm. Look on the PanDA monitor, then clear this step to do it again or mark it as success."
        )
    found = newest()
    if found > intent["newest"]:
        return found
    if time.time() < intent.get("since", 0.0) + SURFACED:
        raise OutcomeUnknown(f"{why} Whether {what} took place is unknown yet; a retry of this step looks for it.")
    return 0
