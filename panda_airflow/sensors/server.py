"""Sensor for the PanDA server itself."""

from __future__ import annotations

from collections.abc import Sequence

from panda_airflow.sensors.base import PandaPollSensor
from panda_airflow.waiting.polling import FOREVER, PollPlan


class PandaServerSensor(PandaPollSensor):
    """Wait until the PanDA server works: it answers, accepts this identity and reaches its database.

    For maintenance windows: put it before steps that should not begin in one. However long the server is away, only
    ``timeout`` ends the wait.

    The parameters are those of :class:`~panda_airflow.sensors.base.PandaPollSensor`.
    """

    template_fields: Sequence[str] = ("panda_conn_id",)
    watches_number = False

    def plan(self, since: float) -> PollPlan:
        """Plan the wait; see :meth:`PandaPollSensor.plan`."""
        return PollPlan("server", {}, "The PanDA server", since, poll_interval=self.poke_interval, outage=FOREVER)
