"""Whatever ends a step, its PanDA task ends with it, or a new one takes its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.airflow import TRIGGERER, Airflow, Run
from tests.system.panda import PACE, Hold, Panda

pytestmark = pytest.mark.system

LONG = "sleep 200"


def running(airflow: Airflow, panda: Panda) -> list[Run]:
    """Start a step in a worker and a deferred one, both with a task that runs."""
    runs = [airflow.run("plain_sync", command=LONG), airflow.run("plain_deferrable", command=LONG)]
    airflow.reach("deferred", runs[1])
    airflow.wait(lambda: [entry.status for entry in panda.book(*runs)] == ["running"] * 2, "the tasks to run")
    return runs


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_step_marked_by_a_person_ends_its_task(airflow: Airflow, panda: Panda, state: str) -> None:
    runs = running(airflow, panda)
    for run in runs:
        run.mark(state)
    assert panda.settle(*runs) == ["aborted", "aborted"]
    assert [run.step["state"] for run in runs] == [state, state]


def test_a_cleared_step_replaces_its_task(airflow: Airflow, panda: Panda, tmp_path: Path) -> None:
    runs = [airflow.run(f"plain_{kind}", command=long_at_first(tmp_path / kind)) for kind in ("sync", "deferrable")]
    airflow.wait(lambda: {path.name for path in tmp_path.iterdir()} == {"sync", "deferrable"}, "the jobs to run")
    airflow.reach("deferred", runs[1])
    for run in runs:
        run.clear()
    assert airflow.finish(*runs) == ["success", "success"]
    panda.settle(*runs)
    for run in runs:
        old, new = panda.book(run)
        assert (old.status, new.is_done_once) == ("aborted", True)
        assert old.name != new.name


def long_at_first(marker: Path) -> str:
    """A command that takes long when it runs for the first time, and no time after that."""
    return f"[ -e {marker} ] || {{ touch {marker}; {LONG}; }}"


def register_slowly(panda: Panda) -> None:
    """Let JEDI take its time, so that tasks stay invisible and cannot be killed."""
    panda.server.backend.pace = replace(PACE, registration=10.0)


def submitting(airflow: Airflow, panda: Panda, command: str) -> tuple[list[Run], list[Hold]]:
    """Start steps, sync and deferrable, whose submissions the server has accepted and not answered."""
    runs, holds = [airflow.prepare("plain_sync"), airflow.prepare("plain_deferrable")], [Hold(), Hold()]
    for run, hold in zip(runs, holds, strict=True):
        panda.ambush(run, "acted", hold)
        airflow.start_run(run, command=command)
    airflow.wait(lambda: all(hold.reached.is_set() for hold in holds), "the submissions")
    return runs, holds


def test_a_step_marked_failed_while_it_submits_leaves_nothing_running(airflow: Airflow, panda: Panda) -> None:
    register_slowly(panda)
    runs, holds = submitting(airflow, panda, LONG)
    workers = [airflow.process_of(run) for run in runs]
    for run in runs:
        run.mark("failed")
    airflow.wait(lambda: not any(worker and worker.is_running() for worker in workers), "the workers to end")
    for hold in holds:
        hold.release()
    assert panda.settle(*runs) == ["aborted", "aborted"]


def test_a_step_cleared_while_it_submits_leaves_one_task(airflow: Airflow, panda: Panda) -> None:
    runs, holds = submitting(airflow, panda, "sleep 5")
    for run in runs:
        run.clear()
    airflow.wait(lambda: all(run.step["try_number"] > 1 for run in runs), "the next tries")
    for hold in holds:
        hold.release()
    assert airflow.finish(*runs) == ["success", "success"]
    for run in runs:
        panda.settle(run)
        assert [entry.status for entry in panda.book(run) if entry.status != "aborted"] == ["done"], panda.book(run)


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_step_marked_before_its_task_is_registered_leaves_nothing_running(
    airflow: Airflow, panda: Panda, state: str
) -> None:
    register_slowly(panda)
    runs = [airflow.run("plain_sync", command=LONG), airflow.run("plain_deferrable", command=LONG)]
    airflow.wait(lambda: all("is not registered yet" in airflow.log_of(run) for run in runs), "the first looks")
    for run in runs:
        run.mark(state)
    assert panda.settle(*runs) == ["aborted", "aborted"]


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_step_marked_just_before_it_defers_leaves_nothing_running(airflow: Airflow, panda: Panda, state: str) -> None:
    run = airflow.prepare("plain_deferrable")
    panda.ambush(run, "acted", lambda _: run.mark(state))
    airflow.start_run(run, command=LONG)
    assert airflow.finish(run) == [state]
    assert panda.settle(run) == ["aborted"]


def test_a_step_marked_failed_before_a_triggerer_has_taken_it_leaves_nothing_running(
    airflow: Airflow, panda: Panda
) -> None:
    airflow.stop("triggerer")
    try:
        run = airflow.run("plain_deferrable", command=LONG)
        airflow.reach("deferred", run)
        run.mark("failed")
    finally:
        airflow.start(*TRIGGERER)
    assert panda.settle(run) == ["aborted"]


@pytest.mark.parametrize(
    ("limit", "state"), [("timeout", "failed"), ("execution_timeout", "failed"), ("dagrun_timeout", "skipped")]
)
def test_a_step_that_runs_into_a_limit_ends_its_task(airflow: Airflow, panda: Panda, limit: str, state: str) -> None:
    runs = [airflow.run(f"{limit}_sync", command=LONG), airflow.run(f"{limit}_deferrable", command=LONG)]
    assert airflow.finish(*runs) == [state, state]
    assert panda.settle(*runs) == ["aborted", "aborted"]
