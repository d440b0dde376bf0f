"""A worker that is killed by SIGKILL, whenever that is, leaves one PanDA task, and the step goes on with it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.system.airflow import Airflow, Run
from tests.system.panda import Moment, Panda, kill_process, kill_worker

pytestmark = pytest.mark.system


@pytest.mark.parametrize("moment", ["arrives", "acted", "answered"])
@pytest.mark.parametrize("kill", [kill_process, kill_worker], ids=["process", "worker"])
def test_a_worker_killed_around_its_submission_leaves_one_task(
    airflow: Airflow, panda: Panda, kill: Callable[[psutil.Process], None], moment: Moment
) -> None:
    runs = [airflow.prepare("plain_sync"), airflow.prepare("plain_deferrable")]
    ambushes = [panda.ambush(run, moment, kill) for run in runs]
    for run in runs:
        airflow.start_run(run)
    assert airflow.finish(*runs) == ["success", "success"]
    assert all(ambush.sprung.is_set() for ambush in ambushes)
    assert all(run.step["try_number"] > 1 for run in runs)
    assert [entry.is_done_once for entry in panda.book(*runs)] == [True, True], panda.book(*runs)


@pytest.mark.parametrize("kill", [kill_process, kill_worker], ids=["process", "worker"])
def test_a_worker_killed_while_it_waits_leaves_the_task_to_the_next_try(
    airflow: Airflow, panda: Panda, kill: Callable[[psutil.Process], None]
) -> None:
    run = airflow.run("plain_sync", command="sleep 8")
    airflow.wait(lambda: [entry.status for entry in panda.book(run)] == ["running"], "the task to run")
    process = airflow.process_of(run)
    assert process
    kill(process)
    assert airflow.finish(run) == ["success"]
    assert [entry.is_done_once for entry in panda.book(run)] == [True]


@pytest.mark.parametrize("part", ["scheduler", "api-server"])
def test_a_part_of_airflow_that_is_killed_and_started_again_costs_no_step(
    airflow: Airflow, panda: Panda, part: str
) -> None:
    runs = [airflow.run("patient_sync", command="sleep 20"), airflow.run("patient_deferrable", command="sleep 20")]
    airflow.reach("deferred", runs[1])
    airflow.wait(lambda: [entry.status for entry in panda.book(*runs)] == ["running"] * 2, "the tasks to run")
    airflow.restart(part, pause=6)
    assert airflow.finish(*runs) == ["success", "success"]
    for run in runs:
        panda.settle(run)
        assert [entry.status for entry in panda.book(run) if entry.status != "aborted"] == ["done"], panda.book(run)


def test_workers_killed_at_random_moments_leave_one_task_each(airflow: Airflow, panda: Panda) -> None:
    dice = random.Random(2026)  # noqa: S311 - no secret
    runs = [airflow.run(f"patient_{kind}", command="sleep 2") for kind in ("sync", "deferrable") for _ in range(4)]
    killers = [threading.Thread(target=kill_later, args=(airflow, run, dice.uniform(0, 3))) for run in runs]
    for killer in killers:
        killer.start()
    assert airflow.finish(*runs) == ["success"] * len(runs)
    for killer in killers:
        killer.join()
    assert [entry.is_done_once for entry in panda.book(*runs)] == [True] * len(runs), panda.book(*runs)


def kill_later(airflow: Airflow, run: Run, seconds: float) -> None:
    """Kill the process of a step some time after its start."""
    process = None
    while process is None:
        time.sleep(0.1)
        process = airflow.process_of(run)
    time.sleep(seconds)
    if process.is_running():
        process.kill()
