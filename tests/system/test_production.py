"""The shape that production has: PostgreSQL, Celery over Redis, and two of each part, of which one is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.airflow import TRIGGERER, Airflow, Layout, Run
from tests.system.panda import PACE, Panda
from tests.system.production import Stores, running_stores

pytestmark = pytest.mark.system

SLOTS = 6
"""Steps that one worker works on."""
SYNC, DEFERRABLE = 2 * SLOTS, 38
TASKS = SYNC + DEFERRABLE


def layout(stores: Stores) -> Layout:
    """Describe an Airflow that stands on stores, with two of each part that may come in numbers."""
    worker = ("celery", "worker", "--skip-serve-logs", "--concurrency", str(SLOTS), "--celery-hostname")
    return Layout(
        executor="CeleryExecutor",
        database=stores.database,
        parts={
            ("scheduler", "--skip-serve-logs"): 2,
            (*worker, "first"): 1,
            (*worker, "second"): 1,
            TRIGGERER: 2,
            ("dag-processor",): 1,
        },
        parallelism=2 * SLOTS,
        settings={
            "CELERY__BROKER_URL": stores.broker,
            "CELERY__OPERATION_TIMEOUT": 20,
            "CORE__DEFAULT_POOL_TASK_SLOT_COUNT": 2 * SLOTS,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 30,
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 20,
            "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 20,
            "TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": 1,  # so that each gets its share
        },
    )


@pytest.fixture
def panda(tmp_path: Path) -> Iterator[Panda]:
    running = Panda(tmp_path / "server")
    running.server.backend.pace = replace(PACE, slots=10)
    yield running
    running.stop()


@pytest.fixture
def airflow(panda: Panda, tmp_path: Path) -> Iterator[Airflow]:
    variables = {"AIRFLOW_CONN_PANDA_DEFAULT": json.dumps(panda.connection())}
    with running_stores() as stores, Airflow(layout(stores), tmp_path / "airflow", variables) as running:
        running.wait(lambda: members(running) == {"SchedulerJob": 2, "TriggererJob": 2}, "two of each part")
        yield running


def test_the_death_of_one_of_each_part_costs_no_work(
    airflow: Airflow, panda: Panda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    runs = in_flight(airflow, panda, f"until test -e {gate}; do sleep 1; done")
    airflow.wait(lambda: len(shares(airflow)) == 2, "both triggerers to have their shares of the triggers")
    for part in ("celery", "scheduler", "triggerer"):
        airflow.kill(part, 0)
    airflow.wait(lambda: len(shares(airflow)) == 1, "the other triggerer to take over")
    airflow.wait(lambda: members(airflow)["SchedulerJob"] == 1, "the other scheduler to take over")
    airflow.wait(lambda: restarts(airflow) >= SLOTS, "the steps of the worker to be tried again")
    assert not any(entry.is_over for entry in panda.book()), panda.book()
    gate.touch()
    states = airflow.finish(*runs)
    panda.settle()
    done = [any(entry.status == "done" for entry in panda.book(run)) for run in runs]
    lost = sum(state != "success" or not is_done for state, is_done in zip(states, done, strict=True))
    duplicated = len(panda.book()) - TASKS + sum(e.attempt > 0 or e.jobs_finished > 1 for e in panda.book())
    orphaned = sum(not entry.is_over for entry in panda.book())
    with capsys.disabled():
        print(f"\nproduction: tasks={len(runs)} {lost=} {duplicated=} {orphaned=}")  # noqa: T201 - for the log
    assert (lost, duplicated, orphaned) == (0, 0, 0), (states, panda.book())


def in_flight(airflow: Airflow, panda: Panda, command: str) -> list[Run]:
    """Start all steps, and wait until each has a PanDA task and waits for it, in a worker or deferred."""
    deferred = [airflow.run("calm_deferrable", command=command) for _ in range(DEFERRABLE)]
    airflow.reach("deferred", *deferred)
    waiting = [airflow.run("calm_sync", command=command) for _ in range(SYNC)]
    runs = deferred + waiting
    airflow.wait(lambda: len(panda.book()) == TASKS, "all tasks to be submitted")
    airflow.reach("running", *waiting)
    return runs


def members(airflow: Airflow) -> dict[str, int]:
    """Count the schedulers and triggerers that Airflow believes to be alive."""
    sql = "SELECT job_type, COUNT(*) FROM job WHERE state = 'running' AND job_type ~ 'Scheduler|Triggerer' GROUP BY 1"
    return dict(map(tuple, airflow.query(sql)))


def shares(airflow: Airflow) -> list[int]:
    """Count the waiting triggers of each triggerer; none as long as one is nobody's."""
    rows = airflow.query("SELECT triggerer_id, COUNT(*) FROM trigger GROUP BY 1")
    return [] if any(number is None for number, _ in rows) else [count for _, count in rows]


def restarts(airflow: Airflow) -> int:
    """Count the steps that are not in their first try."""
    return int(airflow.query("SELECT COUNT(*) FROM task_instance WHERE try_number > 1")[0][0])
