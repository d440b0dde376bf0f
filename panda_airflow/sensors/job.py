"""Sensor for PanDA jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from panda_airflow.client.status import check_statuses
from panda_airflow.sensors.base import PandaPollSensor
from panda_airflow.waiting.poll_checks import jobs_plan, panda_ids
from panda_airflow.waiting.polling import PollPlan


class PandaWaitJobStatusSensor(PandaPollSensor):
    """Wait until PanDA jobs have one of the given statuses, all of them.

    A job with another final status (finished, failed, cancelled, closed) fails the sensor at once. Statuses and
    their counts are in XCom.

    :param job_ids: a PandaID, a list of them, or a template that yields either.
    :param statuses: statuses that end the wait well.

    The other parameters are those of :class:`~panda_airflow.sensors.base.PandaPollSensor`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "job_ids")

    def __init__(
        self, *, job_ids: int | str | Sequence[int | str], statuses: Sequence[str] = ("finished",), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.job_ids = job_ids
        self.statuses = check_statuses(statuses, f"statuses of {self.task_id}", "job")

    def plan(self, since: float) -> PollPlan:
        """Plan the wait; see :meth:`PandaPollSensor.plan`."""
        return jobs_plan(panda_ids(self.job_ids), self.statuses, since, self.poke_interval, outage=self.outage)
