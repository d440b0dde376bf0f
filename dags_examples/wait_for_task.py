"""Wait for a PanDA task that somebody submitted elsewhere, and look at its jobs."""

from __future__ import annotations

from airflow.sdk import Param, dag, task

from panda_airflow.hooks.panda import PandaHook
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor

JEDI_TASK_ID = "{{ params.jedi_task_id }}"


@task
def count_jobs(jedi_task_id: str) -> dict[str, int]:
    """Count the jobs of the task by status."""
    jobs = PandaHook().client.task.get_job_descriptions(int(jedi_task_id))
    statuses = [job.status for job in jobs]
    return {status: statuses.count(status) for status in set(statuses)}


@dag(schedule=None, params={"jedi_task_id": Param(type="integer", minimum=1, description="JediTaskID")})
def wait_for_task() -> None:
    """Wait for ``done`` or ``finished``, then count."""
    wait = PandaWaitTaskStatusSensor(
        task_id="wait",
        jedi_task_id=JEDI_TASK_ID,
        statuses=["done", "finished"],
        deferrable=True,
        timeout=7 * 24 * 3600,
    )
    wait >> count_jobs(JEDI_TASK_ID)


wait_for_task()
