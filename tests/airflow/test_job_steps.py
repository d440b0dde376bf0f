"""Steps for jobs, for iDDS and for the server itself."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from panda_airflow.client import (
    PandaError,
    PermissionDenied,
    TaskFailed,
    TaskOutcome,
    UsageError,
    WaitTimeout,
)
from panda_airflow.client.api.job import JobApi
from panda_airflow.operators.idds import PandaIddsCommandOperator
from panda_airflow.operators.job import PandaKillJobsOperator, PandaSubmitJobsOperator
from panda_airflow.sensors.idds import PandaWaitIddsRequestSensor
from panda_airflow.sensors.job import PandaWaitJobStatusSensor
from panda_airflow.sensors.server import PandaServerSensor
from panda_airflow.triggers.polling import PandaPollTrigger
from panda_airflow.waiting.polling import PollPlan
from tests.airflow.conftest import ATTEMPTS, Memory, Panda, Run, task, wait_until
from tests.support.recorder import Recorder
from tests.support.scenes import IDDS, job, request_in
from tests.support.triggers import airflow_says, airflow_task, by_core, by_sdk, event_of, kill_by_person

Play = Callable[[DAG], Run]
WAYS: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "defer": {"deferrable": True}}
both_ways = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def running_jobs(panda: Panda, command: str = "sleep 60") -> list[int]:
    task_id = panda.client.task.submit(task(command)).task_id
    panda.wait(task_id, ("running",))
    wait_until(lambda: len(panda.client.task.get_job_ids(task_id)) == 2)
    return panda.client.task.get_job_ids(task_id)


def ended_jobs(panda: Panda, command: str) -> list[int]:
    task_id = panda.client.task.submit(task(command)).task_id
    panda.wait(task_id)
    return panda.client.task.get_job_ids(task_id)


def statuses(panda: Panda, job_ids: list[int]) -> set[str]:
    return {state.status for state in panda.client.job.get_status(job_ids)}


def sensors(dag_id: str, job_ids: Any, **options: Any) -> DAG:
    with DAG(dag_id) as dag:
        for name, way in WAYS.items():
            given = {"poke_interval": 0.2, "timeout": 30} | options | way
            PandaWaitJobStatusSensor(task_id=name, job_ids=job_ids, **given)
    return dag


def test_job_sensors_come_to_the_same_result_on_every_path(panda: Panda, play: Play) -> None:
    ids = running_jobs(panda, "sleep 0.5")
    run = play(sensors("jobs", ids))
    assert set(run.states.values()) == {"success"}
    assert run.results["poke"] == {"jobs": {str(i): "finished" for i in ids}, "statuses": {"finished": 2}}
    assert run.results["poke"] == run.results["reschedule"] == run.results["defer"]


def test_a_job_that_failed_fails_its_sensor_in_the_same_words_on_every_path(panda: Panda, play: Play) -> None:
    ids = ended_jobs(panda, "exit 7")
    run = play(sensors("broken_jobs", ids))
    assert set(run.states.values()) == {"failed"}
    assert {type(error) for error in run.errors.values()} == {TaskFailed}
    [words] = {str(error) for error in run.errors.values()}
    assert "They are 2 failed." in words
    assert "payload exit 7" in words


def test_a_job_sensor_that_times_out_fails_as_sensors_do(panda: Panda, play: Play) -> None:
    run = play(sensors("slow_jobs", running_jobs(panda)[0], timeout=0.5))
    assert {type(error) for error in run.errors.values()} == {AirflowSensorTimeout}


def test_any_status_may_be_waited_for(panda: Panda, memory: Memory) -> None:
    ids = running_jobs(panda)
    step = PandaWaitJobStatusSensor(task_id="wait", job_ids=str(ids[0]), statuses=["running"], poke_interval=0.1)
    assert step.execute(memory())["statuses"] == {"running": 1}


def test_an_unknown_job_is_not_taken_for_anything(panda: Panda, memory: Memory) -> None:
    step = PandaWaitJobStatusSensor(task_id="wait", job_ids=[404], poke_interval=0.01, outage=0)
    with pytest.raises(TaskOutcome, match="no job has the PandaID 404"):
        step.execute(memory())


@both_ways
def test_jobs_are_killed(panda: Panda, play: Play, deferrable: bool) -> None:
    ids = running_jobs(panda)
    with DAG(f"kill_jobs_{deferrable}") as dag:
        PandaKillJobsOperator(task_id="kill", job_ids=ids, poll_interval=0.1, deferrable=deferrable)
    run = play(dag)
    assert set(run.results["kill"]["statuses"]) <= {"cancelled", "failed"}
    assert run.results["kill"]["jobs"].keys() == {str(i) for i in ids}
    assert statuses(panda, ids) <= {"cancelled", "failed"}


def test_a_repeated_kill_of_jobs_is_harmless(panda: Panda, memory: Memory) -> None:
    ids = running_jobs(panda)
    step = PandaKillJobsOperator(task_id="kill", job_ids=ids, poll_interval=0.1, wait_for_completion=False)
    assert step.execute(memory()) == step.execute(memory()) == {"job_ids": ids}
    wait_until(lambda: statuses(panda, ids) <= {"cancelled", "failed"})
    assert step.execute(memory()) == {"job_ids": ids}


def test_the_jobs_of_others_are_not_killed(panda: Panda, memory: Memory) -> None:
    ids = running_jobs(panda)
    panda.server.backend.store.run("UPDATE jobs SET prodUserName = 'Eve Stranger'")
    with pytest.raises(PermissionDenied, match=rf"refused to kill PanDA job\(s\) {ids[0]}, {ids[1]}"):
        PandaKillJobsOperator(task_id="kill", job_ids=ids, poll_interval=0.1).execute(memory())
    assert statuses(panda, ids) <= {"running", "starting", "activated"}


@pytest.mark.parametrize("travel", [by_sdk, by_core])
def test_a_deferred_wait_is_resumed_elsewhere(panda: Panda, memory: Memory, travel: Callable[[Any], Any]) -> None:
    ids = ended_jobs(panda, "true")
    panda.server.faults.inject("garbage", "job/get_status", times=ATTEMPTS)
    step = PandaWaitJobStatusSensor(task_id="wait", job_ids=ids, poke_interval=0.1, deferrable=True)
    with pytest.raises(TaskDeferred) as stopped:
        step.execute(memory())
    trigger = travel(stopped.value.trigger)
    assert isinstance(trigger, PandaPollTrigger)
    assert trigger.serialize() == stopped.value.trigger.serialize()
    fresh = PandaWaitJobStatusSensor(task_id="wait", job_ids=ids, deferrable=True)
    assert fresh.execute_complete(memory(), event_of(trigger))["statuses"] == {"finished": 2}


def test_a_poll_trigger_that_cannot_connect_says_so_in_its_event() -> None:
    impatient = PollPlan("server", {}, "The server", time.time(), poll_interval=0.1, outage=0.0)
    event = event_of(PandaPollTrigger("panda_nowhere", impatient.to_json()))
    assert event["kind"] == "outage"
    assert "'panda_nowhere' does not exist" in event["note"]


def test_a_poll_trigger_looks_outside_the_event_loop(panda: Panda, askers: set[int]) -> None:
    assert event_of(PandaPollTrigger("panda_default", PollPlan("server", {}, "The server", time.time()).to_json()))
    assert askers
    assert threading.get_ident() not in askers


def test_the_server_sensor_passes_where_all_is_well(panda: Panda, play: Play) -> None:
    with DAG("server") as dag:
        for name, way in WAYS.items():
            PandaServerSensor(task_id=name, poke_interval=0.2, timeout=30, **way)
    run = play(dag)
    assert set(run.states.values()) == {"success"}
    assert run.results["poke"] == run.results["defer"] == {"server": panda.server.url_ssl}


TROUBLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "database down": ("database_down", "*", {}),
    "away": ("refuse", "system/*", {"times": 99}),
    "maintenance page": ("garbage", "system/*", {"times": 99}),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_the_server_sensor_waits_until_a_maintenance_is_over(panda: Panda, memory: Memory, trouble: str) -> None:
    kind, endpoint, details = TROUBLE[trouble]
    panda.server.faults.inject(kind, endpoint, **details)  # type: ignore[arg-type]
    over = threading.Timer(1.0, panda.server.faults.clear)
    over.start()
    begun = time.monotonic()
    step = PandaServerSensor(task_id="up", poke_interval=0.1, timeout=30)
    assert step.execute(memory()) == {"server": panda.server.url_ssl}
    assert time.monotonic() - begun > 0.9
    over.join()


def test_the_server_sensor_does_not_pass_with_an_identity_that_is_refused(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    panda.server.faults.inject("expire_tokens")
    step = PandaServerSensor(task_id="up", poke_interval=0.1, timeout=0.5)
    with pytest.raises(AirflowSensorTimeout):
        step.execute(memory())


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A server that says what it is told to, known to Airflow."""
    with Recorder.running() as server:
        extra = {"vo": "wlcg", "real_load_balancer": True, "attempts": 1}
        value = {"conn_type": "panda", "host": server.url, "password": "token", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(value))
        yield server


@both_ways
def test_jobs_are_submitted_and_waited_for(panda: Panda, play: Play, deferrable: bool) -> None:
    output = {"lfn": "mass.{{ params.what }}.txt", "type": "output", "dataset": "user.bob"}
    jobs = [job("echo 125 > mass.higgs.txt", Files=[output]), job("true", jobName="plot")]
    with DAG(f"submit_jobs_{deferrable}", params={"what": "higgs"}) as dag:
        PandaSubmitJobsOperator(task_id="jobs", jobs=jobs, poll_interval=0.1, deferrable=deferrable)
    result = play(dag).results["jobs"]
    assert result["statuses"] == {"finished": 2}
    described = panda.client.job.get_description(result["job_ids"])
    assert [found.raw["jobName"] for found in described if found][1] == "plot"
    assert (panda.server.backend.cache / "mass.higgs.txt").read_text() == "125\n"


def test_a_submitted_job_that_fails_fails_the_step(panda: Panda, memory: Memory) -> None:
    with pytest.raises(TaskFailed, match=r"1 failed, 1 finished[\s\S]*payload exit 7"):
        PandaSubmitJobsOperator(task_id="jobs", jobs=[job("exit 7"), job("sleep 0.1")], poll_interval=1).execute(
            memory()
        )


def test_jobs_are_submitted_once(panda: Panda, memory: Memory) -> None:
    step = PandaSubmitJobsOperator(task_id="jobs", jobs=[job("true")], wait_for_completion=False)
    assert step.execute(memory()) == step.execute(memory()) == {"job_ids": [1]}
    memory.clear()
    assert step.execute(memory()) == {"job_ids": [2]}


def sleepers(**more: Any) -> PandaSubmitJobsOperator:
    """Make a step whose two jobs last longer than any test."""
    return PandaSubmitJobsOperator(task_id="jobs", jobs=[job("sleep 60")] * 2, poll_interval=0.1, **more)


def are_told_to_stop(panda: Panda, job_ids: list[int]) -> bool:
    """Whether all of the jobs are; it is a failure if only some are."""
    states = panda.client.job.get_status(job_ids)
    [told] = {state.command == "tobekilled" or state.status in ("cancelled", "failed") for state in states}
    return told


@both_ways
@pytest.mark.parametrize(
    ("options", "fate", "killed"),
    [
        ({}, "The jobs were told to stop; clear this step to submit others.", True),
        ({"cancel_on_timeout": False}, "The jobs were left running; a retry of this step waits for them again.", False),
    ],
)
def test_jobs_that_are_late_are_killed_unless_the_author_says_otherwise(
    panda: Panda, memory: Memory, options: dict[str, Any], fate: str, killed: bool, deferrable: bool
) -> None:
    step = sleepers(timeout=0.3, deferrable=deferrable, **options)
    with pytest.raises(WaitTimeout) as late:
        come_to_the_end(step, memory)
    assert (late.value.fate, late.value.hopeless) == (fate, killed)
    assert str(late.value).endswith(fate)
    assert are_told_to_stop(panda, [1, 2]) == killed


def come_to_the_end(step: PandaSubmitJobsOperator, memory: Memory) -> Any:
    """Run a step, which another worker resumes if it defers."""
    try:
        return step.execute(memory())
    except TaskDeferred as stopped:
        return sleepers(cancel_on_timeout=step.cancel_on_timeout).execute_complete(memory(), event_of(stopped.trigger))


def test_late_jobs_that_cannot_be_killed_are_told_of(panda: Panda, memory: Memory) -> None:
    panda.server.faults.inject("garbage", "job/kill", times=99)
    with pytest.raises(WaitTimeout, match=r"cannot be stopped yet; process [0-9]+ goes on trying") as late:
        sleepers(timeout=0.3).execute(memory())
    assert late.value.hopeless


def test_jobs_that_cannot_be_looked_at_are_left_to_the_next_try(panda: Panda, memory: Memory) -> None:
    panda.server.faults.inject("garbage", "job/get_status", times=99)
    with pytest.raises(WaitTimeout, match=r"looked at for too long[\s\S]*The jobs were left running; a retry of"):
        sleepers(outage=0).execute(memory())
    panda.server.faults.clear()
    assert not are_told_to_stop(panda, [1, 2])


def test_jobs_whose_trigger_fell_silent_are_killed(panda: Panda, memory: Memory) -> None:
    with pytest.raises(TaskDeferred):
        sleepers(timeout=60, deferrable=True).execute(memory())
    with pytest.raises(WaitTimeout, match=r"did not report in time\. The jobs were told to stop"):
        sleepers().resume_execution("__fail__", {"error": "Trigger timeout"}, memory())
    assert are_told_to_stop(panda, [1, 2])


@pytest.mark.parametrize("travel", [by_sdk, by_core])
@pytest.mark.parametrize(
    ("state", "options", "killed"),
    [
        ("failed", {}, True),
        ("failed", {"cancel_on_kill": False}, False),
        ("deferred", {}, False),
    ],
)
def test_a_person_who_ends_a_deferred_step_ends_its_jobs(
    panda: Panda,
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    travel: Callable[[Any], Any],
    state: str,
    options: dict[str, Any],
    killed: bool,
) -> None:
    airflow_says(monkeypatch, state)
    with pytest.raises(TaskDeferred) as stopped:
        sleepers(deferrable=True, **options).execute(memory())
    trigger = travel(stopped.value.trigger)
    trigger.task_instance = airflow_task()
    kill_by_person(trigger)
    assert are_told_to_stop(panda, [1, 2]) == killed


def test_a_clear_kills_the_jobs_and_submits_others(panda: Panda, memory: Memory) -> None:
    step = sleepers(wait_for_completion=False)
    for _ in range(2):
        assert step.execute(memory()) == {"job_ids": [1, 2]}
    assert not are_told_to_stop(panda, [1, 2])
    memory.clear()
    assert step.execute(memory()) == {"job_ids": [3, 4]}
    assert are_told_to_stop(panda, [1, 2])
    assert not are_told_to_stop(panda, [3, 4])


def test_a_clear_submits_no_other_jobs_while_the_old_ones_cannot_be_killed(panda: Panda, memory: Memory) -> None:
    step = sleepers(wait_for_completion=False)
    step.execute(memory())
    memory.clear()
    panda.server.faults.inject("garbage", "job/kill", times=99)
    with pytest.raises(PandaError, match="job/kill"):
        step.execute(memory())
    panda.server.faults.clear()
    assert step.execute(memory()) == {"job_ids": [3, 4]}
    assert are_told_to_stop(panda, [1, 2])


@pytest.mark.parametrize("trouble", [{}, {"kind": "refuse", "times": 1}, {"kind": "garbage", "times": ATTEMPTS + 1}])
def test_a_worker_told_to_stop_has_its_jobs_killed_though_the_server_is_away(
    panda: Panda, memory: Memory, trouble: dict[str, Any]
) -> None:
    step = sleepers(wait_for_completion=False)
    step.execute(memory())
    if trouble:
        panda.server.faults.inject(trouble["kind"], "job/kill", times=trouble["times"])
    step.on_kill()
    wait_until(lambda: are_told_to_stop(panda, [1, 2]))


def test_the_next_try_tells_what_became_of_the_kill_of_its_jobs(
    panda: Panda, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    step = sleepers(wait_for_completion=False)
    step.execute(memory())
    step.on_kill()
    wait_until(lambda: list(tmp_path.glob("panda-kills-*/*")))
    assert step.execute(memory()) == {"job_ids": [1, 2]}
    assert "has left word: " in capsys.readouterr().out


def test_a_worker_told_to_stop_while_the_answer_to_its_submission_is_on_its_way_kills_its_jobs(
    panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, send = sleepers(wait_for_completion=False), JobApi.submit

    def told_to_stop(jobs: JobApi, text: str) -> Any:
        answer = send(jobs, text)
        step.on_kill()
        return answer

    monkeypatch.setattr(JobApi, "submit", told_to_stop)
    step.execute(memory())
    wait_until(lambda: are_told_to_stop(panda, [1, 2]))


def test_jobs_that_the_server_refused_to_kill_only_once_are_killed(panda: Panda, memory: Memory) -> None:
    """Those of a step that a person ends while it is deferred, and those of one that is late."""
    with pytest.raises(TaskDeferred) as stopped:
        sleepers(deferrable=True).execute(memory())
    trigger: Any = stopped.value.trigger
    for end in (trigger._end, lambda: sleepers()._end_late(memory())):
        panda.server.faults.inject("garbage", "job/kill", times=ATTEMPTS)
        assert "stop" in end()
        wait_until(lambda: not panda.server.faults.describe()["waiting"])
    wait_until(lambda: are_told_to_stop(panda, [1, 2]))


def test_production_jobs_without_the_role_are_refused(panda: Panda, memory: Memory) -> None:
    with pytest.raises(PandaError, match="missing production"):
        PandaSubmitJobsOperator(task_id="jobs", jobs=[job("true", prodSourceLabel="managed")]).execute(memory())


def test_a_submission_of_jobs_of_which_nobody_knows_is_left_to_a_person(recorder: Recorder, memory: Memory) -> None:
    recorder.answer = (500, "what?")
    step = PandaSubmitJobsOperator(task_id="jobs", jobs=[{"jobName": "fit"}], wait_for_completion=False)
    with pytest.raises(AirflowFailException, match="Whether the submission of the jobs took place is unknown"):
        step.execute(memory())


@pytest.mark.parametrize("described", [{"jobname": "fit"}, {"Files": [{"lnf": "a.root"}]}])
def test_a_job_with_an_attribute_that_does_not_exist_is_a_mistake(memory: Memory, described: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="nothing was sent"):
        PandaSubmitJobsOperator(task_id="jobs", jobs=[described]).execute(memory())


def test_an_idds_command_is_given_once(recorder: Recorder, memory: Memory) -> None:
    recorder.answer = (200, IDDS["abort"])
    step = PandaIddsCommandOperator(task_id="abort", command="abort", command_kwargs={"request_id": 2}, manager=True)
    value = step.execute(memory())
    assert value == ["Command registered successfully"]
    recorder.answer = (500, "not again")
    assert step.execute(memory()) == value


def test_an_idds_command_that_reads_is_given_by_every_try(recorder: Recorder, memory: Memory) -> None:
    step = PandaIddsCommandOperator(task_id="read", command="get_requests", manager=True, json_outputs=True)
    for status in ("New", "Finished"):
        recorder.answer = (200, request_in(status))
        assert step.execute(memory())[0]["status"]["attributes"]["_name_"] == status


def test_idds_may_say_no(recorder: Recorder, memory: Memory) -> None:
    recorder.answer = (200, IDDS["suspend"])
    with pytest.raises(Exception, match="not a command of iDDS"):
        PandaIddsCommandOperator(task_id="suspend", command="suspend", manager=True).execute(memory())


def test_a_command_without_a_request_cannot_be_waited_for(recorder: Recorder, memory: Memory) -> None:
    recorder.answer = (200, IDDS["abort"])
    step = PandaIddsCommandOperator(task_id="abort", command="abort", manager=True, wait_for_completion=True)
    with pytest.raises(UsageError, match="names no request"):
        step.execute(memory())


@pytest.mark.parametrize("request_given", [2, "2"])
def test_a_request_is_waited_for(recorder: Recorder, memory: Memory, request_given: int | str) -> None:
    recorder.answer = (200, request_in("Transforming"))
    finish = threading.Timer(0.5, lambda: setattr(recorder, "answer", (200, request_in("Finished"))))
    finish.start()
    step = PandaWaitIddsRequestSensor(task_id="wait", request_id=request_given, poke_interval=0.1, timeout=20)
    assert step.execute(memory()) == {"request_id": 2, "status": "Finished"}
    finish.join()


@pytest.mark.parametrize("given", ["None", "", "2.5", "-2", True])
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_request_id_that_is_none_is_a_mistake_of_the_author(memory: Memory, given: Any, deferrable: bool) -> None:
    step = PandaWaitIddsRequestSensor(task_id="wait", request_id=given, deferrable=deferrable)
    with pytest.raises(UsageError, match=f"request_id must be the ID of an iDDS request, not {given!r}"):
        step.execute(memory())


def test_a_request_that_failed_fails_its_sensor(recorder: Recorder, memory: Memory) -> None:
    recorder.answer = (200, request_in("Failed"))
    with pytest.raises(TaskFailed, match=r"iDDS request 2 failed\. It is Failed"):
        PandaWaitIddsRequestSensor(task_id="wait", request_id=2, poke_interval=0.1).execute(memory())
