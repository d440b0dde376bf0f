"""When a failed request is sent again: the family of its error times whether repeating does harm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential, wait_random

from panda_airflow.client.errors import NotDelivered, ServerError, TransportError

log = logging.getLogger(__name__)

LONGEST_WAIT = 30.0
"""Seconds between two attempts at most, whatever the server asks for."""

_backoff = wait_exponential(multiplier=0.5) + wait_random(0, 0.5)


def worth_repeating(error: BaseException, *, idempotent: bool) -> bool:
    """Decide whether the same request may be sent again.

    :param idempotent: repeating does no harm even if the server acted on the first attempt.
    """
    if isinstance(error, NotDelivered):
        return True
    if isinstance(error, ServerError) and error.hopeless:
        return False
    if isinstance(error, ServerError) and (error.retry_after or 0.0) > LONGEST_WAIT:
        return False  # whoever waits for days has time to do as the server asks
    return idempotent and isinstance(error, TransportError | ServerError)


def retrying(
    *, idempotent: bool, attempts: int, budget: float, sleep: Callable[[float], None] = time.sleep
) -> Retrying:
    """Build the loop that repeats a request; the last error is raised as it is.

    :param attempts: how often to send at most.
    :param budget: seconds after which nothing is repeated any more.
    :param sleep: waits between attempts.
    """
    return Retrying(
        retry=retry_if_exception(lambda error: worth_repeating(error, idempotent=idempotent)),
        stop=stop_after_attempt(attempts) | stop_before_delay(budget),
        wait=_wait,
        sleep=sleep,
        before_sleep=_announce,
        reraise=True,
    )


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ServerError) else None
    return min(max(_backoff(state), asked or 0.0), LONGEST_WAIT)


def _announce(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info("Attempt %d failed, the next is in %.1f s: %s", state.attempt_number, state.upcoming_sleep, error)
