"""What the steps have in common that wait for something else than a task."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import replace
from datetime import timedelta
from typing import Any

from airflow.sdk.configuration import conf

from panda_airflow.client.models import Json
from panda_airflow.steps.base import Context, PandaStep
from panda_airflow.steps.ended import kill_if_refused
from panda_airflow.steps.state_store import end_noted
from panda_airflow.triggers.base import backstop
from panda_airflow.triggers.polling import PandaPollTrigger
from panda_airflow.waiting.driver import Request, check_interval, drive, first_look
from panda_airflow.waiting.poll_checks import POLL_CHECKS
from panda_airflow.waiting.polling import Finding, PollPlan, poll_result


class PandaPollOperator(PandaStep):
    """Base of these steps.

    :param wait_for_completion: wait; otherwise succeed once the server has accepted.
    :param deferrable: wait in the triggerer, where no worker is held.
    :param poll_interval: seconds between looks, at first; long waits look less often.
    :param timeout: longest wait of each try, as a timedelta or in seconds.
    :param outage: how long the server may be unreachable, in seconds, before the step gives up.
    """

    ui_color = "#d8e8d0"

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 60.0,
        timeout: timedelta | float | None = None,
        outage: float = 6 * 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_interval(poll_interval)
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self.outage = outage

    @abstractmethod
    def begin(self, context: Context) -> Json:
        """Do what the step is for, then wait with :meth:`follow`, and return what the step returns."""

    def execute(self, context: Context) -> Json:
        """Do what the step is for, then wait."""
        with end_noted(self, context):
            return self.begin(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral."""
        with end_noted(self, context):
            return super().resume_execution(next_method, next_kwargs, context)

    def follow(self, context: Context, plan: PollPlan, *, cancel_on_kill: bool = False) -> Json:
        """Wait in the triggerer or in this worker.

        :param cancel_on_kill: whether the trigger kills the jobs of the plan when a person ends the step.
        """
        deadline = self._deadline(context, plan.since)
        plan = replace(plan, deadline=deadline, outage=self.outage, account=self.account)

        def look(_: Request) -> Finding:
            return POLL_CHECKS[plan.look](self.client, **plan.arguments)

        event = first_look(plan, look, self.log) if self.deferrable else None
        if self.deferrable and event is None:
            kill_if_refused(context["ti"], self.on_kill)
            self.defer(
                trigger=PandaPollTrigger(self.panda_conn_id, plan.to_json(), cancel_on_kill=cancel_on_kill),
                method_name="execute_complete",
                timeout=backstop(plan.deadline, plan.poll_interval),
            )
        event = event or drive(plan, look, sleep=time.sleep, clock=time.time, log=self.log)
        return self.execute_complete(context, event)

    def execute_complete(self, context: Context, event: object) -> Json:  # noqa: ARG002
        """Turn the event of a wait into the step's result, or raise why there is none."""
        self.same_as_waited_for(event)
        return poll_result(event)

    def _deadline(self, context: Context, since: float) -> float | None:
        """Take the earlier of this step's timeout and, where it is deferred and so not enforced, Airflow's own."""
        limits = [since + self.timeout] if self.timeout is not None else []
        if self.deferrable and self.execution_timeout:
            limits.append(context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds())
        return min(limits, default=None)
