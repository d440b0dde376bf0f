"""An event that comes before the scheduler has taken in the deferral must not cost the step."""

from __future__ import annotations

import pytest

from panda_airflow.client import ClientConfig, PandaClient
from panda_airflow.client.task_parameters import command_task
from tests.system.airflow import ENDED, Airflow
from tests.system.dags.early import SUBMISSIONS, WAITS
from tests.system.panda import Panda

pytestmark = pytest.mark.system

LIMIT = 1200.0
"""Seconds for 200 steps, each of which needs two workers."""


def test_no_step_is_lost_whose_task_ends_as_soon_as_it_is_deferred(airflow: Airflow, panda: Panda) -> None:
    server = panda.server
    with PandaClient(ClientConfig(url=server.url, auth="oidc", vo="wlcg", token=server.token())) as client:
        ended = client.task.submit(command_task("user.alice.early", "true", vo="wlcg", jobs=1)).task_id
    panda.settle()
    run = airflow.run("early", task_id=ended)
    airflow.wait(lambda: run.state in ENDED, "200 deferred steps to end", LIMIT)
    counted = (
        "SELECT task_id, state, count(*) FROM task_instance WHERE dag_id = 'early' AND run_id = :run "
        "GROUP BY task_id, state ORDER BY task_id"
    )
    found = [tuple(row) for row in airflow.query(counted, run=run.run_id)]
    assert found == [("submit", "success", SUBMISSIONS), ("wait", "success", WAITS)]
