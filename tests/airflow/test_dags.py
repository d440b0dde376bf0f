from __future__ import annotations

import copy
import io
import re
import tarfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSensorTimeout

from panda_airflow.client import TaskFailed, WaitTimeout
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from tests.airflow.conftest import Panda, Run, fails_once, task, unnamed

Play = Callable[[DAG], Run]
both_ways = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
SOON: dict[str, Any] = {"retry_delay": timedelta(0)}


def log_at(link: str) -> list[str]:
    answer = requests.get(link, timeout=10)
    return tarfile.open(fileobj=io.BytesIO(answer.content)).getnames()


@both_ways
def test_a_step_submits_one_task_and_waits_for_it(panda: Panda, play: Play, deferrable: bool) -> None:
    parameters = unnamed(task("echo 125 > mass.txt", outputs=["mass.txt"]))
    before = copy.deepcopy(parameters)
    with DAG(f"submit_{deferrable}") as dag:
        PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, poll_interval=0.2, deferrable=deferrable)
    run = play(dag)
    [task_id] = panda.submitted()
    result = run.results["fit"]
    assert run.states == {"fit": "success"}
    assert (result["jedi_task_id"], result["status"]) == (task_id, "done")
    assert result["name"].startswith(f"airflow.submit_{deferrable}.fit.")
    assert result["files"] == {"total": 2, "finished": 2, "failed": 0}
    assert any("mass.txt" in dataset for dataset in result["output_datasets"])
    assert result["monitor_url"] == f"{panda.server.url}/task/{task_id}/" == run.links["fit"]
    assert parameters == before


@both_ways
def test_a_retry_of_the_step_retries_the_same_task(panda: Panda, play: Play, tmp_path: Path, deferrable: bool) -> None:
    with DAG(f"retry_{deferrable}") as dag:
        PandaSubmitTaskOperator(
            task_id="fit",
            task_parameters=unnamed(task(fails_once(tmp_path))),
            poll_interval=0.2,
            deferrable=deferrable,
            retries=1,
            **SOON,
        )
    run = play(dag)
    [task_id] = panda.submitted()
    info = panda.task(task_id)
    assert run.states == {"fit": "success"}
    assert (info.status, info.attempt_nr) == ("done", 1)


def test_a_failure_explains_itself_in_the_same_words_wherever_the_step_waited(panda: Panda, play: Play) -> None:
    with DAG("fail") as dag:
        for place, deferrable in (("worker", False), ("triggerer", True)):
            PandaSubmitTaskOperator(
                task_id=place,
                task_parameters=unnamed(task("exit 7")),
                poll_interval=0.2,
                deferrable=deferrable,
            )
    run = play(dag)
    assert run.states == {"worker": "failed", "triggerer": "failed"}
    for error in run.errors.values():
        assert type(error) is TaskFailed
        jobs = "|".join(map(str, panda.client.task.get_job_ids(error.task_id)))
        assert f"PanDA task {error.task_id} ended as failed" in str(error)
        assert "no file was successfully processed" in str(error)
        found = re.search(rf"2 job\(s\): .*payload exit 7 .*LOCAL_TEST.*PandaID ({jobs}), log (http\S+)\)", str(error))
        assert found
        assert f"tarball_PandaJob_{found[1]}/payload.stderr" in log_at(found[2])
        assert f"{panda.server.url}/task/{error.task_id}/" in str(error)
    assert len({re.sub(r"(task[ /]|PandaID |pandaid=)\d+", "", str(error)) for error in run.errors.values()}) == 1


def test_sensors_come_to_the_same_result_by_poking_rescheduling_and_deferring(panda: Panda, play: Play) -> None:
    ways: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "defer": {"deferrable": True}}
    with DAG("sense") as dag:
        submit = PandaSubmitTaskOperator(task_id="submit", task_parameters=unnamed(task()), wait_for_completion=False)
        for name, way in ways.items():
            submit >> PandaWaitTaskStatusSensor(
                task_id=name,
                jedi_task_id="{{ ti.xcom_pull('submit')['jedi_task_id'] }}",
                poke_interval=0.2,
                timeout=30,
                **way,
            )
    run = play(dag)
    [task_id] = panda.submitted()
    assert set(run.states.values()) == {"success"}
    assert (run.results["submit"]["jedi_task_id"], run.results["submit"]["status"]) == (task_id, "")
    assert run.results["poke"]["status"] == "done"
    assert run.results["poke"] == run.results["reschedule"] == run.results["defer"]
    assert run.links["poke"] == run.links["reschedule"] == run.links["defer"] == f"{panda.server.url}/task/{task_id}/"


def test_a_step_of_its_own_retries_what_another_left_unfinished(panda: Panda, play: Play, tmp_path: Path) -> None:
    with DAG("repair") as dag:
        submit = PandaSubmitTaskOperator(
            task_id="submit",
            task_parameters=unnamed(task(fails_once(tmp_path))),
            poll_interval=0.2,
            statuses=["done", "finished"],
        )
        submit >> PandaRetryTaskOperator(
            task_id="repair",
            jedi_task_id="{{ ti.xcom_pull('submit')['jedi_task_id'] }}",
            poll_interval=0.2,
            deferrable=True,
        )
    run = play(dag)
    [task_id] = panda.submitted()
    assert (run.results["submit"]["status"], run.results["repair"]["status"]) == ("finished", "done")
    assert panda.task(task_id).attempt_nr == 1


def test_a_timeout_ends_step_and_task(panda: Panda, play: Play) -> None:
    with DAG("late") as dag:
        for place, deferrable in (("worker", False), ("triggerer", True)):
            PandaSubmitTaskOperator(
                task_id=place,
                task_parameters=unnamed(task("sleep 60")),
                poll_interval=0.2,
                timeout=timedelta(seconds=1),
                deferrable=deferrable,
            )
    run = play(dag)
    assert run.states == {"worker": "failed", "triggerer": "failed"}
    for error in run.errors.values():
        assert isinstance(error, WaitTimeout)
        assert "did not end in time" in str(error)
        assert "told to stop" in str(error)
    assert {panda.wait(task_id).status for task_id in panda.submitted()} == {"aborted"}


def test_a_sensor_that_times_out_fails_as_sensors_do(panda: Panda, play: Play) -> None:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    with DAG("late_sensors") as dag:
        for name, deferrable in (("poke", False), ("defer", True)):
            PandaWaitTaskStatusSensor(
                task_id=name, jedi_task_id=task_id, poke_interval=0.2, timeout=0.8, deferrable=deferrable
            )
        PandaWaitTaskStatusSensor(
            task_id="skip", jedi_task_id=task_id, poke_interval=0.2, timeout=0.8, deferrable=True, soft_fail=True
        )
    run = play(dag)
    assert run.states == {"poke": "failed", "defer": "failed", "skip": "skipped"}
    assert {type(error) for error in run.errors.values()} == {AirflowSensorTimeout}
    assert panda.task(task_id).status == "running"


def test_a_task_that_was_split_otherwise_than_asked_for_is_told(
    panda: Panda, capfd: pytest.CaptureFixture[str], play: Play
) -> None:
    by_files = {"nEvents": None, "nEventsPerJob": None, "nFiles": 4, "nFilesPerJob": 1}
    with DAG("split") as dag:
        PandaSubmitTaskOperator(
            task_id="fit", task_parameters=unnamed(task() | by_files), poll_interval=0.2, deferrable=True
        )
    run = play(dag)
    assert run.states == {"fit": "success"}
    assert "made of 1 job(s), not of the 4 that its parameters ask for" in "".join(capfd.readouterr())
