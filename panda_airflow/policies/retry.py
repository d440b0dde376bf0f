"""Whether Airflow tries a failed step again, by what the error says can be done about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy

from panda_airflow.client import errors

OUTAGE = (errors.TransportError, errors.ServerError, errors.ServerAway)
"""What passes by itself, when the network or the server is back."""


class PandaRetryPolicy(RetryPolicy):
    """Fails at once where trying again cannot help, and waits for the server where it is down.

    After an outage, also one that ended a wait, the next try comes later than most outages last, and each time twice
    as late. An error that says that it is ``hopeless`` fails the step: a wrong argument, a missing role, a task name
    that another task has, a PanDA task that cannot be retried. Everything else follows the ``retries`` and
    ``retry_delay`` of the step, among it the failure of a PanDA task and a refusal that may pass, such as one for the
    task's present status. ``retries`` is the limit in any case. It is the policy of every step that is given no other.

    :param outage_delay: pause before the first retry after an outage; a longer ``retry_delay`` counts instead.
    :param max_outage_delay: longest pause.
    """

    def __init__(
        self,
        outage_delay: timedelta = timedelta(minutes=15),
        max_outage_delay: timedelta = timedelta(hours=4),
    ) -> None:
        self.outage_delay = outage_delay
        self.max_outage_delay = max_outage_delay

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,  # noqa: ARG002 - Airflow itself stops at the limit
        context: Any = None,
    ) -> RetryDecision:
        """Decide about one failure; see :class:`airflow.sdk.RetryPolicy`."""
        if self._is_outage(exception):
            return RetryDecision.retry(self._delay(try_number, context), f"Waiting for PanDA: {exception}")
        if isinstance(exception, errors.PandaError) and exception.hopeless:
            return RetryDecision.fail(f"Trying again cannot help: {exception}")
        return RetryDecision.default()

    def _is_outage(self, error: BaseException) -> bool:
        """Whether the server is away; a page that is not PanDA's may be that of its maintenance."""
        return isinstance(error, OUTAGE) or (isinstance(error, errors.ConfigError) and bool(error.endpoint))

    def _delay(self, try_number: int, context: Any) -> timedelta:
        doublings = min(max(try_number, 1) - 1, 20)
        own: timedelta = context["ti"].task.retry_delay if context else timedelta(0)
        return max(own, min(self.outage_delay * 2.0**doublings, self.max_outage_delay))
