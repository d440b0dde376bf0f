"""A PanDA server that goes away or refuses a token, and what becomes of the steps."""

from __future__ import annotations

import pytest

from tests.system.airflow import Airflow, Run
from tests.system.panda import Panda

pytestmark = pytest.mark.system


def started(airflow: Airflow, panda: Panda, variant: str, command: str) -> list[Run]:
    """Start steps, in a worker and deferred, and wait until their tasks run."""
    runs = [airflow.run(f"{variant}_sync", command=command), airflow.run(f"{variant}_deferrable", command=command)]
    airflow.reach("deferred", runs[1])
    airflow.wait(lambda: {entry.status for entry in panda.book(*runs)} == {"running"}, "the tasks to run")
    return runs


def test_steps_survive_an_outage_within_their_window(airflow: Airflow, panda: Panda) -> None:
    runs = started(airflow, panda, "single", "sleep 5")
    panda.stop()
    airflow.wait(lambda: all("Look 3" in airflow.log_of(run) for run in runs), "looks that fail")
    panda.start()
    assert airflow.finish(*runs) == ["success", "success"]
    assert panda.settle(*runs) == ["done", "done"]


def test_an_outage_beyond_the_window_is_survived_by_a_retry(airflow: Airflow, panda: Panda) -> None:
    runs = started(airflow, panda, "retried_outage", "sleep 5")
    panda.stop()
    airflow.wait(lambda: all(run.step["try_number"] > 1 for run in runs), "the first tries to fail")
    panda.start()
    assert airflow.finish(*runs) == ["success", "success"]
    assert panda.settle(*runs) == ["done", "done"]


def test_a_step_that_an_outage_ends_for_good_leaves_nothing_running(airflow: Airflow, panda: Panda) -> None:
    runs = started(airflow, panda, "outage", "sleep 200")
    panda.stop()
    assert airflow.finish(*runs) == ["failed", "failed"]
    panda.start()
    assert panda.settle(*runs) == ["aborted", "aborted"]
    assert all("could not be looked at for too long" in airflow.log_of(run) for run in runs)


def test_steps_go_on_with_a_renewed_token(airflow: Airflow, panda: Panda) -> None:
    runs = started(airflow, panda, "single", "sleep 5")
    panda.server.faults.inject("expire_tokens")
    late = airflow.run("patient_sync")
    airflow.wait(lambda: all("Look 2" in airflow.log_of(run) for run in runs), "looks that are refused")
    airflow.wait(lambda: late.step["try_number"] > 1, "a submission that is refused")
    panda.renew_token()
    assert airflow.finish(*runs, late) == ["success"] * 3
    assert [entry.is_done_once for entry in panda.book(*runs, late)] == [True] * 3
