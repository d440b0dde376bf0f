"""Produce a week's simulation, repair what fails, and tell other DAGs when it is complete."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, dag

from panda_airflow.client.task_parameters import command_task
from panda_airflow.task_groups import panda_task_group
from panda_airflow.waiting.task_retry import TaskRetryPolicy


@dag(schedule="@weekly", catchup=False, max_active_runs=1, doc_md=__doc__)
def production_chain() -> None:
    """One chain; jobs that fail again and again get more memory."""
    panda_task_group(
        "simulation",
        task_parameters=command_task(
            "user.alice.simulation.{{ dag_run.run_after | ts_nodash }}",
            "echo event %RNDM:0 of the week before {{ ds }} > events.txt",
            vo="wlcg",
            jobs=10,
            outputs=["events.txt"],
        ),
        retry=TaskRetryPolicy(attempts=2, delay=timedelta(hours=1), new_parameters=[{"ramCount": 4000}]),
        outlets=[Asset("weekly_simulation")],
        retries=2,
    )


production_chain()
