"""Sensor for requests to iDDS, the workflow service behind PanDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from panda_airflow.client import UsageError
from panda_airflow.client.status import check_statuses
from panda_airflow.sensors.base import PandaPollSensor
from panda_airflow.waiting.poll_checks import request_plan
from panda_airflow.waiting.polling import PollPlan


class PandaWaitIddsRequestSensor(PandaPollSensor):
    """Wait until an iDDS request has one of the given statuses; any other final status fails the sensor.

    Needs a server that has the legacy route to iDDS, as the newer one cannot tell the status of a request.

    :param request_id: of the request, or a template that yields it.
    :param statuses: statuses that end the wait well, in iDDS's spelling.

    The other parameters are those of :class:`~panda_airflow.sensors.base.PandaPollSensor`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "request_id")

    def __init__(self, *, request_id: int | str, statuses: Sequence[str] = ("Finished",), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.request_id = request_id
        self.statuses = check_statuses(statuses, f"statuses of {self.task_id}", "request")

    def plan(self, since: float) -> PollPlan:
        """Plan the wait; see :meth:`PandaPollSensor.plan`."""
        return request_plan(
            _read_request_id(self.request_id), self.statuses, since, self.poke_interval, outage=self.outage
        )


def _read_request_id(value: int | str) -> int:
    """Read an ID as a DAG author or a template gives it.

    :raises UsageError: it is none.
    """
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise UsageError(f"request_id must be the ID of an iDDS request, not {value!r:.80}.")
    return int(value)
