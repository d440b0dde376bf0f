"""Triggerers come and go; the PanDA tasks of deferred steps run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.airflow import TRIGGERER, Airflow, Run
from tests.system.panda import Panda

pytestmark = pytest.mark.system


def deferred(airflow: Airflow, panda: Panda, command: str, number: int = 3) -> list[Run]:
    """Start steps whose tasks run while they are deferred."""
    runs = [airflow.run("plain_deferrable", command=command) for _ in range(number)]
    airflow.reach("deferred", *runs)
    airflow.wait(lambda: {entry.status for entry in panda.book(*runs)} == {"running"}, "the tasks to run")
    return runs


def test_a_triggerer_that_is_killed_and_started_again_costs_no_task(airflow: Airflow, panda: Panda) -> None:
    runs = deferred(airflow, panda, "sleep 8")
    airflow.restart("triggerer")
    assert airflow.finish(*runs) == ["success"] * len(runs)
    assert [entry.is_done_once for entry in panda.book(*runs)] == [True] * len(runs), panda.book(*runs)


def test_a_triggerer_that_is_stopped_in_order_and_started_again_costs_no_task(airflow: Airflow, panda: Panda) -> None:
    runs = deferred(airflow, panda, "sleep 8")
    airflow.stop("triggerer")
    airflow.start(*TRIGGERER)
    assert airflow.finish(*runs) == ["success"] * len(runs)
    assert [entry.is_done_once for entry in panda.book(*runs)] == [True] * len(runs), panda.book(*runs)


def test_a_trigger_that_moves_to_another_triggerer_leaves_its_task_alone(
    airflow: Airflow, panda: Panda, tmp_path: Path
) -> None:
    before, gate = triggerers(airflow), tmp_path / "go"
    airflow.start(*TRIGGERER)
    try:
        airflow.wait(lambda: set(triggerers(airflow)) - set(before), "the second triggerer")
        [second] = set(triggerers(airflow)) - set(before)
        [run] = deferred(airflow, panda, f"until [ -e {gate} ]; do sleep 0.2; done", 1)
        airflow.wait(lambda: "is waited for together" in airflow.log_of(run), "a triggerer to run the trigger")
        other = before[0] if owner(airflow, run) == second else second
        airflow.query(
            "UPDATE trigger SET triggerer_id = :other WHERE id = (SELECT trigger_id FROM task_instance WHERE id = :ti)",
            other=other,
            ti=run.step["id"].replace("-", ""),
        )
        spared = f"PanDA task {panda.book(run)[0].task_id} is left alone"
        airflow.wait(lambda: spared in airflow.log_of(run), "the first triggerer to say so")
        gate.touch()
        assert airflow.finish(run) == ["success"]
        assert [entry.is_done_once for entry in panda.book(run)] == [True], panda.book(run)
    finally:
        airflow.kill("triggerer")


def triggerers(airflow: Airflow) -> list[int]:
    """List the triggerers that have not said that they end, the last to be heard of first."""
    alive = "SELECT id FROM job WHERE job_type = 'TriggererJob' AND state = 'running' ORDER BY latest_heartbeat DESC"
    return [row[0] for row in airflow.query(alive)]


def owner(airflow: Airflow, run: Run) -> int | None:
    """Tell which triggerer has the trigger of a step."""
    sql = "SELECT triggerer_id FROM trigger JOIN task_instance ON trigger.id = trigger_id WHERE task_instance.id = :ti"
    rows = airflow.query(sql, ti=run.step["id"].replace("-", ""))
    return rows[0][0] if rows else None
