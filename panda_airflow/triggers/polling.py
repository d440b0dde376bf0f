"""The trigger of waits for what is no task: jobs, a log, a request, the server."""

from __future__ import annotations

from typing import Any

from panda_airflow.client import NotOurs, PandaClient, PandaError
from panda_airflow.client.auth.credentials import account_of
from panda_airflow.steps.kill.jobs import kill_jobs
from panda_airflow.steps.kill.reaper import FAREWELL, send_reaper, target_of_jobs
from panda_airflow.triggers.base import PandaTrigger
from panda_airflow.waiting.driver import Request
from panda_airflow.waiting.ownership import RESTORE, elsewhere
from panda_airflow.waiting.poll_checks import POLL_CHECKS
from panda_airflow.waiting.polling import Finding, PollPlan


class PandaPollTrigger(PandaTrigger):
    """Waits for what is no task.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.waiting.polling.PollPlan` as JSON primitives.
    :param cancel_on_kill: kill the jobs that the plan is about when a person ends the Airflow task while it is
        deferred.
    """

    def __init__(
        self,
        panda_conn_id: str,
        plan: dict[str, Any],
        *,
        cancel_on_kill: bool = False,
        deferred: float | None = None,
        **_: object,
    ) -> None:
        self.plan = PollPlan.from_json(plan)
        super().__init__(panda_conn_id, self.plan, self.plan.what, cancel_on_kill=cancel_on_kill, deferred=deferred)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return self._named(plan=self.plan.to_json())

    def _perform(self, request: Request) -> Finding:  # noqa: ARG002 - such a wait only looks
        return POLL_CHECKS[self.plan.look](self._there(), **self.plan.arguments)

    def _end(self) -> str:
        """Kill the jobs; leave to a process what cannot be killed now."""
        job_ids: Any = self.plan.arguments["job_ids"]
        try:
            kill_jobs(self._there(), job_ids)
        except NotOurs as error:
            return f"{error} They were left running."
        except PandaError as error:
            self.log.warning("Killing %s: %s", self.what, error)
            return send_reaper(self._connected().config, target_of_jobs(job_ids, self.plan.account), FAREWELL)
        return f"{self.what}: told to stop."

    def _there(self) -> PandaClient:
        """Connect.

        :raises NotOurs: the connection means another server or user by now, where the same numbers are others.
        """
        client = self._connected()
        if (found := account_of(client.config)).differs_from(self.plan.account):
            raise NotOurs(elsewhere(self.what, self.plan.account, self.panda_conn_id, found), advice=RESTORE)
        return client
