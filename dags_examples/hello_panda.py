"""Run a command in four PanDA jobs and wait for them without holding a worker."""

from __future__ import annotations

from airflow.sdk import dag

from panda_airflow.client.task_parameters import command_task
from panda_airflow.operators.task import PandaSubmitTaskOperator


@dag(schedule=None)
def hello_panda() -> None:
    """Submit and wait; each retry of this step retries the failed jobs of the same PanDA task."""
    name = "user.alice.hello.{{ dag_run.run_after | ts_nodash }}"
    command = "echo hello from job %RNDM:0 > hello.txt"
    PandaSubmitTaskOperator(
        task_id="hello",
        task_parameters=command_task(name, command, vo="wlcg", jobs=4, outputs=["hello.txt"]),
        deferrable=True,
        retries=3,
    )


hello_panda()
