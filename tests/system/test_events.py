"""The end of a task that no DAG has submitted starts a DAG, also if the triggerer was away when it ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panda_airflow.client import ClientConfig, PandaClient
from panda_airflow.client.task_parameters import command_task
from tests.system.airflow import TRIGGERER, Airflow
from tests.system.panda import Panda

pytestmark = pytest.mark.system

DAG_ID = "after_production"


def stored(airflow: Airflow) -> list[Any]:
    """What the watcher has stored."""
    rows = airflow.query("SELECT value FROM asset_state_store JOIN asset ON asset.id = asset_id WHERE name = :name",
                         name="finished_simulation")  # fmt: skip
    return [json.loads(value) for (value,) in rows]


def runs(airflow: Airflow) -> list[str]:
    """The DAG runs, in the order of their start."""
    found = airflow.query("SELECT run_id, state FROM dag_run WHERE dag_id = :dag_id ORDER BY id", dag_id=DAG_ID)
    return [run_id for run_id, state in found if state == "success"]


def test_a_task_that_ends_starts_a_dag(airflow: Airflow, panda: Panda) -> None:
    config = ClientConfig(url=panda.server.url, auth="oidc", vo="wlcg", token=panda.server.token())

    def submit(number: int) -> int:
        name = f"user.bob.simulation.{number}"
        with PandaClient(config) as client:
            return client.task.submit(
                command_task(name, "echo > events.txt", vo="wlcg", outputs=["events.txt"])
            ).task_id

    airflow.wait(lambda: stored(airflow), "the asset to be watched")
    first = submit(1)
    airflow.wait(lambda: len(runs(airflow)) == 1 and str(first) in stored(airflow)[0]["told"], "a first DAG run")
    airflow.kill("triggerer")
    second = submit(2)
    airflow.wait(lambda: panda.server.backend.store.row("SELECT * FROM tasks WHERE status = 'done' AND jediTaskID = ?",
                                                        second), "the second task")  # fmt: skip
    airflow.start(*TRIGGERER)
    airflow.wait(lambda: len(runs(airflow)) == 2, "a second DAG run")

    ends = [airflow.api.result(DAG_ID, run_id, "ended") for run_id in runs(airflow)]
    assert [[end["jedi_task_id"] for end in found] for found in ends] == [[first], [second]]
    assert all(len(end["output_datasets"]) > 0 for found in ends for end in found)
