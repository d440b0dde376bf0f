"""Tells a DAG run as it happens: Airflow's steps, the PanDA task and its jobs."""

from __future__ import annotations

import sys
import time
from typing import Any

from panda_airflow.client import NotFound, PandaClient
from panda_airflow.demo.rest import AirflowApi

_QUIET = ("defined", "activated", "starting", None, "scheduled", "queued")


class Story:
    """Prints every change once, with the seconds since the demo began.

    :param start: ``time.monotonic()`` of the beginning.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._told: dict[str, object] = {}

    def say(self, text: str) -> None:
        """Print one line."""
        sys.stdout.write(f"{time.monotonic() - self._start:6.1f} s  {text}\n")
        sys.stdout.flush()

    def _change(self, subject: str, state: str | None, more: str = "") -> None:
        if self._told.get(subject) != state:
            self._told[subject] = state
            if state not in _QUIET:
                self.say(f"{subject:32} {state}{more}")

    def steps(self, found: list[dict[str, Any]]) -> None:
        """Tell what the steps of the DAG run do."""
        for step in sorted(found, key=lambda step: step["start_date"] or "~"):
            again = f", try {step['try_number']}" if step["try_number"] > 1 else ""
            self._change(f"step {step['task_id']}{again}", step["state"])

    def task(self, client: PandaClient, task_id: int) -> None:
        """Tell what the PanDA task and its jobs do."""
        try:
            self._change(f"  PanDA task {task_id}", client.task.get_detailed_info(task_id).status)
        except NotFound:
            self._change(f"  PanDA task {task_id}", "submitted, not registered yet")
            return
        for job in sorted(client.task.get_job_descriptions(task_id), key=lambda job: job.panda_id):
            why = "".join(f" ({part} {code}: {text})" for part, code, text in job.errors[:1])
            self._change(f"    job {job.panda_id}, attempt {job.attempt_nr}", job.status, why)


def follow(story: Story, airflow: AirflowApi, client: PandaClient, dag_id: str, run_id: str) -> str:
    """Tell the present state of a DAG run and return it."""
    state = airflow.state(dag_id, run_id)
    story.steps(airflow.steps(dag_id, run_id))
    submitted = airflow.result(dag_id, run_id, "submit")
    if submitted:
        story.task(client, submitted["jedi_task_id"])
    return state
