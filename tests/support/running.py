from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.sdk import DAG

from tests.airflow.conftest import Run


def play(dag: DAG) -> Run:
    """Run a DAG through Airflow, in this process."""
    errors: dict[str, BaseException] = {}

    def note(context: Any) -> None:
        errors[context["ti"].task_id] = context["exception"]

    for step in dag.tasks:
        step.on_failure_callback = [note]
    write(dag)
    run = dag.test()
    instances = {ti.task_id: ti for ti in run.get_task_instances()}
    return Run(
        {name: str(ti.state) for name, ti in instances.items()},
        {name: ti.xcom_pull(task_ids=name) for name, ti in instances.items()},
        errors,
        {name: ti.xcom_pull(task_ids=name, key="_link_PandaTaskLink") for name, ti in instances.items()},
        {name: ti.try_number for name, ti in instances.items()},
    )


def write(dag: DAG) -> None:
    """Write a DAG that is in no file into the database, as ``dag.test`` wants it."""
    DagBundlesManager().sync_bundles_to_db()
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
