"""The trigger of waits for what is no task: jobs, a log, a request, the server."""

from __future__ import annotations

from typing import Any

from panda_airflow.client.driver import Step
from panda_airflow.client.looks import LOOKS
from panda_airflow.client.polling import Finding, PollPlan
from panda_airflow.triggers.base import PandaTrigger


class PandaPollTrigger(PandaTrigger):
    """Waits for what is no task; it only looks, and ends nothing on the server when it is killed.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.client.polling.PollPlan` as JSON primitives.
    """

    def __init__(self, panda_conn_id: str, plan: dict[str, Any]) -> None:
        self.plan = PollPlan(**plan)
        super().__init__(panda_conn_id, self.plan)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return self._named(plan=self.plan.to_json())

    def _perform(self, step: Step) -> Finding:  # noqa: ARG002 - such a wait only looks
        return LOOKS[self.plan.look](self._connected(), **self.plan.arguments)
