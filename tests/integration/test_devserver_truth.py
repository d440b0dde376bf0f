"""Where the embedded server once said something else than a real one beside it: a test for each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.handlers import task as task_module
from panda_airflow.devserver.server import DevServer
from tests.support.site import ALICE, BOB, Caller, Site, parameters, until

SEQUENCE = {"type": "template", "param_type": "pseudo_input", "dataset": "seq_number", "value": "${SEQNUMBER}"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def ask(server: DevServer, method: str, path: str, **body: Any) -> requests.Response:
    """Ask as somebody with the production role."""
    token = server.token("Prod Manager", production=True)
    headers = {"Authorization": f"Bearer {token}", "Origin": "wlcg.production", "Accept": "application/json"}
    return requests.request(method, f"{server.url}/api/v1/{path}", headers=headers, timeout=10, **body)


class TestJobsWithoutInput:
    @pytest.mark.parametrize(
        ("split", "jobs"),
        [
            ({"nFiles": 4, "nFilesPerJob": 1}, 1),
            ({"nFiles": 4, "nFilesPerJob": 1, "nEvents": 3, "nEventsPerJob": 1}, 3),
            ({"nEvents": 5, "nEventsPerJob": 2}, 3),
            ({"nEvents": 5}, 1),
            ({"nJobs": 4}, 1),
            ({"pfnList": ["a", "b", "c"], "nFilesPerJob": 1}, 1),
            ({"pfnList": ["a", "b", "c"], "nFilesPerJob": 1, "nFiles": 3}, 3),
            ({}, 1),
        ],
    )
    def test_only_events_split(self, site: Site, split: dict[str, Any], jobs: int) -> None:
        described = parameters("user.bob.split")
        del described["nEvents"], described["nEventsPerJob"]
        task_id = site.task.submit(described | split).data
        assert site.end(task_id) == "done"
        assert (len(site.jobs(task_id)), site.info(task_id)["nFiles"]) == (jobs, jobs)

    def test_sequence_numbers_are_a_pseudo_input_of_their_own(self, site: Site) -> None:
        described = parameters("user.bob.numbers", "true", 3)
        described["jobParameters"].append(SEQUENCE | {"offset": 10, "hidden": True})
        task_id = site.task.submit(described).data
        assert site.end(task_id) == "done"
        found = site.task.get_datasets_and_files(task_id).data
        assert [dataset["dataset"]["name"] for dataset in found] == ["pseudo_dataset", "seq_number"]
        assert [file["lfn"] for file in found[1]["files"]] == ["11", "12", "13"]
        inputs = [[f["lfn"] for f in job["Files"] if f["type"] == "pseudo_input"] for job in site.jobs(task_id)]
        assert inputs == [["pseudo_lfn", "11"], ["pseudo_lfn", "12"], ["pseudo_lfn", "13"]]

    def test_a_task_without_any_input_dataset_stays_defined(self, site: Site) -> None:
        described = parameters("user.bob.none")
        del described["noInput"]
        task_id = site.task.submit(described).data
        site.reach(task_id, "defined")
        later = site.submit("user.bob.later", jobs=1)
        assert site.end(later) == "done"
        assert site.status(task_id) == "defined"


class TestScouts:
    @pytest.mark.parametrize(
        ("jobs", "ends", "why", "made"),
        [
            (10, "failed", "failed since no file was successfully processed", 10),
            (11, "broken", "no scout jobs succeeded", 10),
        ],
    )
    def test_up_to_ten_jobs_there_are_none(self, site: Site, jobs: int, ends: str, why: str, made: int) -> None:
        described = parameters("user.bob.few", "exit 3", jobs, maxAttempt=1)
        del described["skipScout"]
        task_id = site.task.submit(described).data
        assert site.end(task_id) == ends
        assert (site.info(task_id)["errorDialog"], len(site.jobs(task_id))) == (why, made)
        assert site.task.retry(task_id).data == (0 if ends == "failed" else 4)

    def test_an_avalanche_runs_the_rest_beside_the_scouts(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=0.0, cycle=0.02, command=0.0, slots=1))
        described = parameters("user.bob.many", "sleep 60", 12)
        del described["skipScout"]
        task_id = site.task.submit(described).data
        site.reach(task_id, "scouting")
        assert site.manager.avalanche(task_id).data == 0
        site.reach(task_id, "running")
        until(lambda: len(site.jobs(task_id)) == 12, "the other jobs")
        site.close()


class TestCommands:
    def test_the_error_dialog_names_the_command_and_who_gave_it(self, site: Site) -> None:
        task_id = site.submit("user.bob.hang", "sleep 60", 1)
        site.reach(task_id, "running")
        site.manager.pause(task_id)
        site.reach(task_id, "paused")
        assert site.info(task_id)["errorDialog"] == "pause by Alice Tester"
        site.manager.resume(task_id)
        site.reach(task_id, "running")
        assert site.info(task_id)["errorDialog"] == "resume by Alice Tester"
        site.task.finish(task_id)
        assert site.end(task_id) == "failed"
        why = "finish by Bob Tester failed since no file was successfully processed"
        assert site.info(task_id)["errorDialog"] == why

    def test_a_killed_job_carries_the_command_of_its_task(self, site: Site) -> None:
        task_id = site.submit("user.bob.killed", "sleep 60", 1, maxAttempt=1)
        until(lambda: site.running(task_id), "a running job")
        site.task.kill(task_id)
        assert site.end(task_id) == "aborted"
        assert site.info(task_id)["errorDialog"] == "kill by Bob Tester"
        job = site.jobs(task_id)[0]
        assert job["taskBufferErrorDiag"] == "killed by kill by Bob Tester"
        assert (job["commandToPilot"], job["exeErrorCode"], job["jobStatus"]) == ("tobekilled", 0, "cancelled")
        assert site.task.get_details(task_id).data["statistics"] == "failed*1"

    def test_reload_input_runs_an_aborted_task_again(self, site: Site, tmp_path: Path) -> None:
        flag = tmp_path / "flag"
        task_id = site.submit("user.bob.reload", f"test -e {flag} || sleep 60", 1, maxAttempt=1)
        until(lambda: site.running(task_id), "a running job")
        site.task.kill(task_id)
        assert site.end(task_id) == "aborted"
        assert site.task.retry(task_id).data == 4
        flag.touch()
        assert Caller(task_module, site.backend, ALICE).reload_input(task_id).data == 0
        site.reach(task_id, "done")
        assert len(site.jobs(task_id)) == 2

    def test_a_retry_gives_five_more_attempts_and_counts_itself(self, site: Site) -> None:
        task_id = site.submit("user.bob.five", "exit 3", 1, maxAttempt=1)
        assert site.end(task_id) == "failed"
        assert [file["status"] for file in site.task.get_datasets_and_files(task_id).data[0]["files"]] == ["ready"]
        ended = site.info(task_id)["endTime"]
        site.task.retry(task_id)
        until(lambda: len(site.jobs(task_id)) == 6, "five more jobs")
        until(lambda: site.info(task_id)["endTime"] > ended, "the second end")
        assert (site.status(task_id), site.info(task_id)["attemptNr"]) == ("failed", 1)
        assert len(site.jobs(task_id)) == 6

    def test_new_parameters_set_the_attempts_back_to_zero(self, site: Site) -> None:
        task_id = site.submit("user.bob.reset", "exit 3", 1, maxAttempt=1)
        assert site.end(task_id) == "failed"
        assert site.task.retry(task_id, {"ramCount": 4000, "framework": "another"}).data == 3
        assert site.info(task_id)["ramCount"] == 4000
        until(lambda: len(site.jobs(task_id)) == 6, "five more jobs")
        assert site.end(task_id) == "failed"
        assert (site.info(task_id)["attemptNr"], site.info(task_id)["framework"]) == (0, None)
        assert "ramCount" not in site.task.get_task_parameters(task_id).data

    def test_a_task_that_is_reactivated_gets_its_jobs_late(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=0.0, cycle=0.02, command=30.0, slots=1))
        task_id = site.submit("user.bob.asleep", jobs=1)
        assert site.end(task_id) == "done"
        before = site.info(task_id)
        site.manager.reactivate(task_id)
        after = site.info(task_id)
        assert after["status"] == "ready"
        assert {name for name in before if before[name] != after[name]} == {
            "status", "nFilesFinished", "pctFinished",
        }  # fmt: skip
        other = site.submit("user.bob.other", jobs=1)
        assert site.end(other) == "done"
        assert len(site.jobs(task_id)) == 1
        # The clock of a task can be turned, and then JEDI takes it; or it is triggered.
        site.manager.change_modification_time(task_id, -1)
        assert site.end(task_id) == "done"
        site.manager.reactivate(task_id, trigger_job_generation=True)
        assert len(site.jobs(task_id)) == 3
        assert site.end(task_id) == "done"
        site.close()

    def test_only_inputs_that_no_job_has_get_more_attempts(self, site: Site) -> None:
        task_id = site.submit("user.bob.increase", "test %RNDM:0 = 1 && exit 3; sleep 60", 2, maxAttempt=1)
        until(lambda: site.jobs(task_id, bad=True), "a failed job")
        words = "increased attemptNr for 1 inputs (1 reactivated)"
        assert site.manager.increase_attempts(task_id, 2) == Envelope(True, words, 0)
        until(lambda: len(site.jobs(task_id)) == 4, "two more jobs")

    def test_a_server_that_executes_no_command_makes_jobs_all_the_same(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=0.0, cycle=0.02, command=24 * 3600.0, slots=1))
        assert site.end(site.submit("user.bob.idle", jobs=1)) == "done"
        site.close()


class TestAnswers:
    @pytest.mark.parametrize("jumbo_jobs", [0, 1])
    def test_jumbo_jobs_are_a_500(self, devserver: DevServer, jumbo_jobs: int) -> None:
        body = {"task_id": 1, "jumbo_jobs_total": jumbo_jobs}
        answer = ask(devserver, "POST", "task/enable_jumbo_jobs", json=body)
        assert (answer.status_code, answer.text) == (500, "'int' object has no attribute 'subprocess_env'")

    def test_new_parameters_that_are_no_json_are_a_500(self, devserver: DevServer) -> None:
        answer = ask(devserver, "POST", "task/retry", json={"task_id": 1, "new_parameters": "{bad"})
        assert answer.status_code == 500

    def test_a_number_in_a_filter_is_a_500(self, devserver: DevServer) -> None:
        answer = ask(devserver, "GET", "task/get_tasks_detailed_info_since", params={"filters": '{"reqID": 7}'})
        assert answer.status_code == 500
        answer = ask(devserver, "GET", "task/get_tasks_detailed_info_since", params={"filters": '{"reqID": "7"}'})
        assert answer.json() == {"success": True, "message": "", "data": []}

    @pytest.mark.parametrize("task_id", ["abc", "2.0", "", "1e3"])
    def test_a_status_is_told_by_an_integer_only(self, devserver: DevServer, task_id: str) -> None:
        answer = ask(devserver, "GET", "task/get_status", params={"task_id": task_id})
        assert answer.json() == {"success": False, "message": "jediTaskID must be an integer", "data": None}
        repeated = ask(devserver, "GET", "task/get_status", params={"task_id": ["2", "4"]})
        words = "int() argument must be a string, a bytes-like object or a real number, not 'list'"
        assert (repeated.status_code, repeated.text) == (500, words)

    def test_a_bool_for_a_task_is_said_to_hang_a_real_server(self, devserver: DevServer) -> None:
        answer = ask(devserver, "POST", "task/kill", json={"task_id": True})
        assert answer.status_code == 500
        assert "a real server hangs on a bool" in answer.text

    def test_outputs_are_named_by_their_containers_if_they_have_some(self, site: Site) -> None:
        described = parameters("user.bob.out", "true > out.txt", 1, output=True)
        task_id = site.task.submit(described).data
        assert site.end(task_id) == "done"
        log = next(f["dataset"] for f in site.jobs(task_id)[0]["Files"] if f["type"] == "log")
        told = f"user.bob.out_out.txt/,user.bob.out.log/,{log}"
        assert site.task.get_details(task_id).data["outDS"] == told
        described["log"]["container"] = "user.bob.out.log/"
        task_id = site.task.submit(described | {"taskName": "user.bob.out2"}).data
        assert site.end(task_id) == "done"
        assert site.task.get_details(task_id).data["outDS"] == "user.bob.out_out.txt/,user.bob.out.log/"

    def test_outputs_have_a_scope_and_the_source_stays_as_it_was_given(self, site: Site) -> None:
        task_id = site.submit("user.Bob.scoped", "true > out.txt", 1, output=True)
        assert site.end(task_id) == "done"
        outputs = site.task.get_datasets_and_files(task_id, ["output", "log"]).data
        assert {file["scope"] for dataset in outputs for file in dataset["files"]} == {"user.bob"}
        job = site.jobs(task_id)[0]
        assert {f["type"]: f["scope"] for f in job["Files"]} == {
            "pseudo_input": None, "output": "user.bob", "log": "user.bob",
        }  # fmt: skip
        assert "--sourceURL ${SURL}" in job["jobParameters"]
        given = site.submit("user.bob.source", jobs=1, sourceURL="https://cache.example")
        assert site.end(given) == "done"
        assert "--sourceURL https://cache.example" in site.jobs(given)[0]["jobParameters"]

    def test_what_is_not_given_is_filled_in(self, site: Site) -> None:
        task_id = site.submit("user.bob.ram", jobs=1)
        assert site.end(task_id) == "done"
        info = site.info(task_id)
        assert (info["ramCount"], info["ramUnit"], info["activatedTime"]) == (2000, "MBPerCore", None)
        assert info["raw_task_params"]["ramCount"] == 2000
        given = site.submit("user.bob.ram2", "sleep 60", 1, ramCount=3000)
        site.reach(given, "running")
        info = site.info(given)
        assert (info["ramCount"], info["ramUnit"]) == (3000, None)
        assert info["activatedTime"]

    def test_running_inputs_are_told_by_their_jobs(self, site: Site) -> None:
        task_id = site.submit("user.bob.told", "test %RNDM:0 = 0 && sleep 60", 2, maxAttempt=1)
        until(lambda: site.jobs(task_id, bad=True), "a failed job")
        until(lambda: site.running(task_id), "a running job")
        assert site.task.get_details(task_id).data["statistics"] == "failed*1,running*1"


class TestProof:
    def test_parameters_are_kept_word_for_word_from_the_first_moment(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=60.0, cycle=0.02, command=0.0, slots=1))
        key = {"airflowKey": {"id": "7f", "list": [1, None]}, "framework": "airflow"}
        task_id = site.submit("user.bob.key", jobs=1, **key)
        found = site.task.get_task_parameters(task_id).data
        assert {name: found[name] for name in key} == key
        assert Caller(task_module, site.backend, BOB).kill(task_id).data == 2
        site.close()

    def test_a_reactivation_keeps_the_old_parameters_and_runs_nothing(self, site: Site) -> None:
        task_id = site.submit("user.bob.old", jobs=1, airflowKey="first", framework="airflow")
        assert site.end(task_id) == "done"
        ended = site.info(task_id)["endTime"]
        assert site.submit("user.bob.old", jobs=1, airflowKey="second") == task_id
        until(lambda: site.info(task_id)["endTime"] > ended, "the second end")
        info = site.info(task_id)
        assert (info["status"], info["attemptNr"], info["framework"]) == ("done", 0, "airflow")
        assert site.task.get_task_parameters(task_id).data["airflowKey"] == "first"
        assert len(site.jobs(task_id)) == 1


class TestBroken:
    def test_the_production_role_without_a_priority_breaks_a_task_without_a_trace(self, site: Site) -> None:
        described = parameters("user.bob.noprio", taskType="anal")
        del described["taskPriority"]
        task_id = site.manager.submit(described).data
        assert site.end(task_id) == "broken"
        info = site.info(task_id)
        assert info["errorDialog"] == "post-process permanently failed"
        assert (info["userName"], info["attemptNr"], info["taskPriority"], info["endTime"]) == ("tobeset", *[None] * 3)
        assert site.manager.get_tasks_detailed_info_since(filters='{"taskName": "user.bob.noprio"}').data == []
        assert site.manager.submit(described | {"uniqueTaskName": True}).data == 1

    def test_a_shape_that_jedi_cannot_read_breaks_a_task_that_keeps_its_name(self, site: Site) -> None:
        task_id = site.task.submit(parameters("user.bob.shape") | {"jobParameters": "text"}).data
        assert site.end(task_id) == "broken"
        info = site.info(task_id)
        assert info["errorDialog"].startswith("failed to refine task with AttributeError:")
        assert (info["taskName"], info["userName"], info["attemptNr"]) == ("user.bob.shape", "Bob Tester", 0)

    def test_an_unknown_parent_breaks_a_task_that_keeps_its_name(self, site: Site) -> None:
        task_id = site.task.submit(parameters("user.bob.orphan"), 99999999).data
        assert site.end(task_id) == "broken"
        info = site.info(task_id)
        assert info["errorDialog"] == "parent task 99999999 failed to complete"
        assert (info["taskName"], info["userName"], info["attemptNr"]) == ("user.bob.orphan", "Bob Tester", 0)

    def test_children_are_aborted_with_their_parent(self, site: Site) -> None:
        parent = site.submit("user.bob.parent", "sleep 60", 1)
        child = site.task.submit(parameters("user.bob.child"), parent).data
        site.reach(child, "pending")
        assert site.info(child)["errorDialog"] == f"pending until parent task {parent} is done"
        site.task.kill(parent)
        assert site.end(parent) == "aborted"
        assert site.end(child) == "aborted"
        assert site.info(child)["errorDialog"] == "parent task is aborted"

    def test_a_child_waits_for_its_parent_and_is_done_with_it(self, site: Site, tmp_path: Path) -> None:
        flag = tmp_path / "flag"
        parent = site.submit("user.bob.parent", f"until test -e {flag}; do sleep 0.02; done", 1)
        child = site.task.submit(parameters("user.bob.child", jobs=1), parent).data
        site.reach(child, "pending")
        flag.touch()
        assert site.end(parent) == "done"
        assert site.end(child) == "done"
