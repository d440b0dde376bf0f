"""One step in every variant that the scenarios need, sync and deferrable; the command is a parameter of the run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from panda_airflow.client.task_parameters import command_task
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.policies.retry import PandaRetryPolicy

PATIENT = PandaRetryPolicy(outage_delay=timedelta(seconds=1), max_outage_delay=timedelta(seconds=4))

USUAL: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(0), "retry_policy": PATIENT, "poll_interval": 1.0}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "calm": {"poll_interval": 4.0},
    "patient": {"retries": 20},
    "single": {"retries": 0},
    "timeout": {"timeout": 8.0, "retries": 0},
    "execution_timeout": {"execution_timeout": timedelta(seconds=10), "retries": 0},
    "dagrun_timeout": {},
    "outage": {"outage": 2.0, "retries": 0},
    "retried_outage": {"outage": 2.0, "retries": 40},
}

PARAMETERS = command_task("named by the step", "{{ params.command }}", vo="wlcg")
del PARAMETERS["taskName"]


def make(name: str, options: dict[str, Any], *, deferrable: bool) -> DAG:
    """Make the DAG of one variant."""
    dag_id = f"{name}_{'deferrable' if deferrable else 'sync'}"
    limit = timedelta(seconds=10) if name == "dagrun_timeout" else None
    with DAG(dag_id, schedule=None, dagrun_timeout=limit, params={"command": "true"}) as dag:
        PandaSubmitTaskOperator(task_id="fit", task_parameters=PARAMETERS, deferrable=deferrable, **(USUAL | options))
    return dag


for _name, _options in VARIANTS.items():
    for _deferrable in (False, True):
        _dag = make(_name, _options, deferrable=_deferrable)
        globals()[_dag.dag_id] = _dag
