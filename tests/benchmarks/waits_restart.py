"""Kills a real triggerer in the middle of many waits, and measures how soon the next one has caught up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from panda_airflow.devserver.auth.certificates import Authority
from tests.benchmarks.programs import ROOT, Figure, Program, line, program
from tests.benchmarks.waits_script import Script
from tests.support.tokens import jwt
from tests.system.airflow import Airflow, Layout

DAGS = Path(__file__).with_name("waits_dags")


def measure(root: Path, number: int) -> Iterator[Figure]:
    """Let a third of the tasks end in peace, a third while no triggerer runs, and a third after that.

    :param number: of deferred steps, one for each task.
    """
    with program("waits_server", Authority(root).host_file) as server:
        connection = connected(root, int(line(server)))
        line(server, Script(number, time.time(), minute=60.0, share=0.0).to_line())
        layout = Layout(settings={"CORE__DAGS_FOLDER": DAGS, "TRIGGERER__CAPACITY": 2 * number}, first_dag="waits")
        known = {"AIRFLOW_CONN_PANDA_DEFAULT": connection, "PYTHONPATH": str(ROOT), "WAITS": str(number)}
        with Airflow(layout, root / "airflow", known) as airflow:
            airflow.api.trigger("waits", conf={})
            reach(airflow, "deferred", number)
            end(server, airflow, number // 3)
            airflow.kill("triggerer")
            line(server, str(number // 3))
            airflow.start("triggerer", "--skip-serve-logs")
            began = time.monotonic()
            reach(airflow, "success", 2 * (number // 3))
            again = time.monotonic() - began
            end(server, airflow, number - 2 * (number // 3))
            asked = json.loads(line(server, "count"))
            tries = airflow.query("SELECT COUNT(*) FROM task_instance WHERE try_number > 1")[0][0]
    yield Figure(f"{number:,} steps, triggerer killed: s until all is noticed again", again, 60.0)
    yield Figure("steps that were run twice", tries, 0.0)
    yield Figure("requests per step", sum(asked.values()) / number, 1.0)


def end(server: Program, airflow: Airflow, number: int) -> None:
    """End some more tasks, and see their steps succeed."""
    succeeded = steps(airflow, "success")
    line(server, str(number))
    reach(airflow, "success", succeeded + number)


def reach(airflow: Airflow, state: str, number: int) -> None:
    """Wait until so many steps are in a state."""
    airflow.wait(lambda: steps(airflow, state) == number, f"{number} steps to be in state {state}")


def steps(airflow: Airflow, state: str) -> int:
    """Count the steps in a state."""
    return int(airflow.query("SELECT COUNT(*) FROM task_instance WHERE state = :state", state=state)[0][0])


def connected(root: Path, port: int) -> str:
    """Describe the server to Airflow."""
    extra = {"vo": "wlcg", "ca": str(Authority(root).ca_directory), "real_load_balancer": True}
    there = {"conn_type": "panda", "host": f"https://localhost:{port}", "password": jwt(), "extra": extra}
    return json.dumps(there)
