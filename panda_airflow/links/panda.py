"""Link from a step to its task on the PanDA monitor."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class PandaTaskLink(BaseOperatorLink):
    """Button on the step's page; Airflow stores the address after every run of the step, deferrals included."""

    name = "PanDA monitor"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - the signature is Airflow's
        """Return the address of the task's page, empty while no task is known."""
        return str(getattr(operator, "monitor_url", ""))
