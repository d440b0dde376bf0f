"""What sensors have in common, above all those for jobs, requests and the server."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from panda_airflow.client import PandaError, WaitTimeout
from panda_airflow.steps.base import Context, PandaStep
from panda_airflow.triggers.base import backstop
from panda_airflow.triggers.polling import PandaPollTrigger
from panda_airflow.waiting.driver import first_look
from panda_airflow.waiting.poll_checks import POLL_CHECKS
from panda_airflow.waiting.polling import Poll, PollPlan, poll_result


class DeferredSensor(BaseSensorOperator):
    """A sensor that ends after a wait in the triggerer as it would end after poking."""

    def deadline(self, context: Context) -> float:
        """Return the epoch seconds when a wait in the triggerer, where Airflow enforces no limit, has to end."""
        started: float = context["ti"].start_date.timestamp()
        return started + self._limit

    @property
    def _limit(self) -> float:
        own = self.execution_timeout
        return min(self.timeout, own.total_seconds()) if own else self.timeout

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral: only ``timeout`` forbids a retry, and ``never_fail`` skips whatever PanDA says."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as late:
            if self._limit < self.timeout:
                raise WaitTimeout(f"The execution_timeout passed. {late}") from late
            raise
        except PandaError as error:
            if self.never_fail:
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error
            raise


def seen_in(key: str, context: Context) -> dict[str, Any]:
    """Recall what earlier pokes of this try saw, whichever version poked.

    :param key: under which it is in the task state store.
    :return: with ``since``, epoch seconds of the first poke, and ``seen``, what it remembers.
    """
    this_try = {"try": context["ti"].try_number}
    before: dict[str, Any] = context["task_state_store"].get(key) or {}
    return {"since": time.time(), "seen": {}} | (before if before.get("try") == this_try["try"] else this_try)


class PandaPollSensor(PandaStep, DeferredSensor):
    """Base of the sensors that do not wait for a task.

    :param deferrable: wait in the triggerer, whatever ``mode`` says.
    :param outage: how long the server may be unreachable, in seconds, before the sensor gives up.

    ``mode``, ``poke_interval``, ``timeout``, ``soft_fail`` and ``never_fail`` are those of any sensor.
    """

    ui_color = "#e0ecf4"
    watches_number: ClassVar[bool] = True
    """Whether it waits for what only one server knows by its number."""

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        outage: float = 6 * 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.outage = outage

    @abstractmethod
    def plan(self, since: float) -> PollPlan:
        """Plan the wait.

        :param since: epoch seconds of its begin.
        """

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or by poking as any sensor does."""
        if self.deferrable:
            plan = replace(self._own_plan(context, time.time()), deadline=self.deadline(context))
            ended = first_look(plan, lambda _: POLL_CHECKS[plan.look](self.client, **plan.arguments), self.log)
            if ended:
                return self.resume_execution("execute_complete", {"event": ended}, context)
            self.defer(
                trigger=PandaPollTrigger(self.panda_conn_id, plan.to_json()),
                method_name="execute_complete",
                timeout=backstop(plan.deadline, plan.poll_interval),
            )
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:  # noqa: ARG002
        """Turn the event of the wait into the sensor's result, or raise why there is none."""
        self.same_as_waited_for(event)
        try:
            return poll_result(event)
        except WaitTimeout as timeout:
            if event["kind"] != "timeout":
                raise
            raise AirflowSensorTimeout(str(timeout)) from timeout

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once; what earlier pokes of this try saw is in the task state store."""
        before = seen_in("panda_poll", context)
        poll = Poll(self._own_plan(context, before["since"]), **before["seen"])
        event = poll.judge(self._look(poll.plan), time.time())
        if event:
            return PokeReturnValue(is_done=True, xcom_value=poll_result(event))
        (self.log.warning if poll.warn else self.log.info)("%s", poll.note)
        context["task_state_store"].set("panda_poll", before | {"seen": poll.memory()})
        return PokeReturnValue(is_done=False)

    def _own_plan(self, context: Context, since: float) -> PollPlan:
        """Plan the wait; a number means something only to the server and user of the first try."""
        plan = self.plan(since)
        if not self.watches_number:
            return plan
        self.same_as_at_first(plan.what, context)
        return replace(plan, account=self.account)

    def _look(self, plan: PollPlan) -> object:
        try:
            return POLL_CHECKS[plan.look](self.client, **plan.arguments)
        except PandaError as error:
            return error
