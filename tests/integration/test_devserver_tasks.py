"""Tasks of the embedded server, from submission to the end, with jobs that are real processes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client.models import Envelope
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.handlers import job as job_module
from panda_airflow.devserver.handlers import task as task_module
from tests.support.site import ALICE, BOB, PATIENCE, Caller, Site, parameters, until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def alive(pid_file: Path) -> bool:
    """Tell whether a process still runs; one that nobody has reaped yet does not."""
    stat = Path(f"/proc/{int(pid_file.read_text())}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestLife:
    def test_all_jobs_succeed_and_leave_outputs_and_logs(self, site: Site) -> None:
        task_id = site.submit("user.bob.ok", "echo $PanDA_TaskID > out.txt; echo seen", output=True)
        assert site.end(task_id) == "done"
        info = site.info(task_id)
        assert (info["nFiles"], info["nFilesFinished"], info["pctFinished"], info["attemptNr"]) == (2, 2, 100, 0)
        assert info["userName"], info["taskPriority"] == ("Bob Tester", 1000)
        for job in site.jobs(task_id):
            files = {file["type"]: file for file in job["Files"]}
            assert job["jobStatus"] == "finished"
            assert files["output"]["status"] == "ready"
            assert files["output"]["checksum"].startswith("ad:")
            assert site.text(files["output"]["lfn"]) == f"{task_id}\n"
            assert files["output"]["fsize"] == len(f"{task_id}\n")
            with tarfile.open(site.backend.cache / files["log"]["lfn"]) as log:
                printed = log.extractfile(f"tarball_PandaJob_{job['PandaID']}/payload.stdout")
                assert printed is not None
                assert printed.read() == b"seen\n"
        assert site.task.get_details(task_id, include_status=True).data["statistics"] == "finished*2"
        assert not list((site.backend.root / "scratch").iterdir())

    def test_statuses_come_in_the_order_of_jedi(self, site: Site) -> None:
        task_id = site.submit("user.bob.order")
        assert site.status(task_id) is None
        seen: list[str] = []

        def look() -> bool:
            status = site.status(task_id)
            if status and status not in seen:
                seen.append(status)
            return status == "done"

        until(look, "done")
        order = ["registered", "defined", "ready", "running", "prepared", "done"]
        assert seen == [status for status in order if status in seen]
        assert {"registered", "defined", "done"} <= set(seen)

    def test_half_the_jobs_fail_and_say_why(self, site: Site) -> None:
        command = "test $((${SEQ} % 2)) = 0 || { echo no luck >&2; exit 3; }".replace("${SEQ}", "%RNDM:0")
        task_id = site.submit("user.bob.half", command, 4, maxAttempt=1)
        assert site.end(task_id) == "finished"
        assert site.task.get_details(task_id).data["statistics"] == "finished*2,failed*2"
        failed = site.jobs(task_id, bad=True)
        assert len(failed) == 2
        assert (failed[0]["pilotErrorCode"], failed[0]["exeErrorCode"], failed[0]["transExitCode"]) == (1305, 3, "3")
        assert failed[0]["pilotErrorDiag"] == "Failed to execute payload: no luck"

    def test_no_success_is_a_failed_task(self, site: Site) -> None:
        task_id = site.submit("user.bob.bad", "false", maxAttempt=1)
        assert site.end(task_id) == "failed"
        assert site.info(task_id)["errorDialog"] == "failed since no file was successfully processed"

    def test_a_job_that_fails_once_is_repeated_within_the_task(self, site: Site) -> None:
        task_id = site.submit("user.bob.once", "test $PanDA_AttemptNr -gt 1", 1)
        assert site.end(task_id) == "done"
        assert [(job["jobStatus"], job["attemptNr"]) for job in site.jobs(task_id)] == [("failed", 1), ("finished", 2)]

    def test_a_retry_runs_only_what_failed(self, site: Site) -> None:
        command = "test $PanDA_AttemptNr -gt 1 -o %RNDM:0 = 0"
        task_id = site.submit("user.bob.retry", command, 3, maxAttempt=1)
        assert site.end(task_id) == "finished"
        assert site.task.retry(task_id) == Envelope(
            True, f"command=retry is registered for task ID {task_id}. will be executed in a few minutes", 0
        )
        assert site.status(task_id) == "finished"
        until(lambda: site.info(task_id)["attemptNr"] == 1, "the second attempt")
        assert site.end(task_id) == "done"
        assert [job["jobStatus"] for job in site.jobs(task_id)].count("finished") == 3
        assert len(site.jobs(task_id)) == 5
        assert site.task.retry(task_id).data == 4

    def test_scouts_go_first(self, site: Site) -> None:
        task_id = site.submit("user.bob.scouts", "sleep 0.05", 12, skipScout=False)
        site.reach(task_id, "scouting")
        assert len(site.jobs(task_id)) == 10
        assert site.end(task_id) == "done"
        assert len(site.jobs(task_id)) == 12

    def test_scouts_that_all_fail_break_the_task(self, site: Site) -> None:
        task_id = site.submit("user.bob.scoutfail", "false", 12, skipScout=False, maxAttempt=1)
        assert site.end(task_id) == "broken"
        assert site.info(task_id)["errorDialog"] == "no scout jobs succeeded"

    def test_the_sandbox_is_unpacked_where_the_payload_starts(self, site: Site) -> None:
        with tarfile.open(site.backend.cache / "sources.1.tar.gz", "w:gz") as archive:
            script = b"echo from the sandbox > out.txt\n"
            member = tarfile.TarInfo("run/go.sh")
            member.size = len(script)
            archive.addfile(member, io.BytesIO(script))
        described = parameters("user.bob.sandbox", "sh go.sh", 1, output=True)
        described["jobParameters"].insert(1, {"type": "constant", "value": "-a sources.1.tar.gz -r run"})
        task_id = site.task.submit(described).data
        assert site.end(task_id) == "done"
        assert site.text(f"user.bob.{task_id}._000001.out.txt") == "from the sandbox\n"

    def test_outputs_of_one_task_are_the_input_of_the_next(self, site: Site) -> None:
        first = site.submit("user.bob.first", "echo %RNDM:1 > out.txt", 3, output=True)
        assert site.end(first) == "done"
        described = parameters("user.bob.second", "cat $(echo %IN | tr , ' ') > out.txt", output=True, nFilesPerJob=2)
        del described["noInput"], described["nEvents"], described["nEventsPerJob"]
        described["jobParameters"].insert(
            0,
            {"type": "template", "param_type": "input", "value": '-i "${IN/T}"', "dataset": "user.bob.first_out.txt/"},
        )
        second = site.task.submit(described).data
        assert site.end(second) == "done"
        made = [site.text(f"user.bob.{second}._{number:06d}.out.txt") for number in (1, 2)]
        assert sorted("".join(made).split()) == ["1", "2", "3"]
        assert site.info(second)["nFiles"] == 3
        assert site.task.get_details(second).data["inDS"] == "user.bob.first_out.txt/"
        inputs = site.task.get_datasets_and_files(second).data[0]["files"]
        assert [file["status"] for file in inputs] == ["finished"] * 3


class TestJobErrors:
    @pytest.mark.parametrize(
        ("command", "more", "code", "words"),
        [
            ("true", {}, 1165, "Expected output file does not exist: out.txt"),
            ("sleep 60", {"maxWalltime": 0.2 / 3600}, 1213, "Job has exceeded the maximum walltime"),
        ],
    )
    def test_the_pilot_says_what_went_wrong(
        self, site: Site, command: str, more: dict[str, Any], code: int, words: str
    ) -> None:
        task_id = site.submit("user.bob.trouble", command, 1, output=True, maxAttempt=1, **more)
        assert site.end(task_id) == "failed"
        job = site.jobs(task_id)[0]
        assert job["pilotErrorCode"] == code
        assert job["pilotErrorDiag"].startswith(words)

    def test_a_sandbox_that_is_not_there_fails_the_job(self, site: Site) -> None:
        described = parameters("user.bob.nosandbox", jobs=1, maxAttempt=1)
        described["jobParameters"].append({"type": "constant", "value": "-a sources.none.tar.gz"})
        task_id = site.task.submit(described).data
        assert site.end(task_id) == "failed"
        assert site.jobs(task_id)[0]["pilotErrorDiag"] == "the sandbox sources.none.tar.gz is not in the cache"

    def test_the_payload_sees_nothing_of_the_server(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "secret")
        task_id = site.submit("user.bob.env", "env > out.txt", 1, output=True)
        assert site.end(task_id) == "done"
        names = {line.partition("=")[0] for line in site.text(f"user.bob.{task_id}._000001.out.txt").splitlines()}
        given = {"PATH", "HOME", "LANG", "PandaID", "PANDAID", "PanDA_TaskID", "PanDA_AttemptNr"}
        assert names <= given | {"PWD", "OLDPWD", "SHLVL", "_"}


class TestCommands:
    def test_a_kill_ends_every_process(self, site: Site, tmp_path: Path) -> None:
        note = tmp_path / "child"
        task_id = site.submit("user.bob.hang", f"sleep 60 & echo $! > {note}; sleep 60", 1)
        until(lambda: note.exists() and note.read_text().strip(), "the child process")
        assert site.task.kill(task_id).data == 0
        assert site.end(task_id) == "aborted"
        until(lambda: not alive(note), "the end of the child process")
        job = site.jobs(task_id)[0]
        assert (job["jobStatus"], job["pilotErrorCode"], job["taskBufferErrorCode"]) == ("cancelled", 1144, 100)

    def test_a_new_command_replaces_the_one_that_waits(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=0.0, cycle=0.02, command=0.4, slots=2))
        task_id = site.submit("user.bob.replace", "sleep 60", 1)
        site.reach(task_id, "running")
        assert site.task.kill(task_id).success
        assert site.manager.pause(task_id).success
        assert site.reach(task_id, "paused", "aborting") == "paused"
        site.close()

    def test_a_paused_task_starts_no_job_until_it_is_resumed(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=0.0, cycle=0.02, command=0.0, slots=1))
        task_id = site.submit("user.bob.pause", "sleep 0.2", 3)
        until(lambda: site.running(task_id), "a running job")
        site.manager.pause(task_id)
        site.reach(task_id, "paused")
        until(lambda: not site.running(task_id), "the end of the first job")
        started = [job for job in site.jobs(task_id) if job["startTime"]]
        assert len(started) == 1
        assert site.manager.resume(task_id).data == 0
        assert site.end(task_id) == "done"
        site.close()

    @pytest.mark.parametrize(("soft", "ends"), [(True, "finished"), (False, "finished")])
    def test_finish_waits_for_running_jobs_only_if_soft(self, tmp_path: Path, soft: bool, ends: str) -> None:
        site = Site(tmp_path, Pace(registration=0.0, cycle=0.02, command=0.0, slots=2))
        # The first job ends by itself; the second when the test lets it go.
        gate = tmp_path / "gate"
        command = f"test %RNDM:0 = 0 && exit; while test ! -e {gate}; do sleep 0.02; done; exit 1"
        task_id = site.submit("user.bob.finish", command, 2, maxAttempt=1)
        until(lambda: site.info(task_id) and site.info(task_id)["nFilesFinished"] == 1, "the first job")
        site.task.finish(task_id, soft=soft)
        site.reach(task_id, "finishing", *FINAL_STATUSES)
        if soft:
            time.sleep(0.1)
            assert site.status(task_id) == "finishing"
            gate.touch()
        assert site.end(task_id) == ends
        site.close()

    def test_reactivation_runs_everything_again(self, site: Site) -> None:
        task_id = site.submit("user.bob.again")
        assert site.end(task_id) == "done"
        assert site.manager.reactivate(task_id).message == f"updated 2 inputs and task {task_id} was reactivated "
        until(lambda: len(site.jobs(task_id)) == 4, "two more jobs")
        assert site.end(task_id) == "done"
        assert site.manager.reactivate(99999) == Envelope(True, "updated 0 inputs and task 99999 was reactivated ", 0)

    def test_retry_of_a_running_user_task_repeats_its_failed_jobs(self, site: Site) -> None:
        command = "test %RNDM:0 = 0 && sleep 1.5; test $PanDA_AttemptNr -gt 1 -o %RNDM:0 = 0"
        task_id = site.submit("user.bob.inflight", command, 2, maxAttempt=1)
        until(lambda: site.jobs(task_id, bad=True), "a failed job")
        assert site.task.retry(task_id) == Envelope(
            True, "retry has been triggered for failed jobs while the task is still running", 0
        )
        assert site.end(task_id) == "done"
        assert site.info(task_id)["attemptNr"] == 0

    def test_refusals_of_retry_look_like_success(self, site: Site) -> None:
        assert site.manager.retry(99999) == Envelope(True, "jediTaskID=99999 not found", 2)

    def test_a_task_at_an_unknown_site_waits_until_it_is_reassigned(self, site: Site) -> None:
        task_id = site.submit("user.bob.badsite", site="NO_SUCH_SITE")
        site.reach(task_id, "pending")
        dialog = f'/cache/jedilog/{task_id}">log</a> : unknown site=NO_SUCH_SITE. brokerage failed'
        assert dialog in site.info(task_id)["errorDialog"]
        assert Caller(task_module, site.backend, ALICE).reassign(task_id, site="LOCAL_TEST").data == 0
        assert site.end(task_id) == "done"

    def test_kill_lists_say_which_jobs_were_alive_and_ones_own(self, site: Site) -> None:
        task_id = site.submit("user.bob.jobs", "sleep 60", 1, maxAttempt=1)
        job_id = until(lambda: site.running(task_id), "a running job")[0]["PandaID"]
        stranger = Caller(job_module, site.backend, ALICE)
        assert stranger.kill([job_id]) == Envelope(True, "", [False])
        assert site.job.kill([job_id, 99999]) == Envelope(True, "", [True, False])
        assert site.end(task_id) == "failed"
        assert site.job.kill([job_id]).data == [False]


class TestNames:
    def test_a_unique_name_has_three_answers(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=0.3, cycle=0.02, command=0.0, slots=1))
        described = parameters("user.bob.unique", "sleep 0.3", 1)
        task_id = site.task.submit(described).data
        assert site.task.submit(described) == Envelope(
            False,
            f"jediTaskID={task_id} is already queued for outDS=user.bob.unique. You cannot submit duplicated tasks. ",
            1,
        )
        site.reach(task_id, "running")
        active = site.task.submit(described)
        assert (active.success, active.data) == (False, 2)
        assert active.message.startswith(f"jediTaskID={task_id} is in the running state for outDS=user.bob.unique. ")
        assert site.end(task_id) == "done"
        ended = site.info(task_id)["endTime"]
        assert site.task.submit(described) == Envelope(
            True,
            f"reactivation accepted. jediTaskID={task_id} (currently in done state) "
            "will be re-executed with old and/or new input",
            task_id,
        )
        until(lambda: site.info(task_id)["endTime"] > ended, "the second end")
        assert site.status(task_id) == "done"
        assert len(site.jobs(task_id)) == 1
        site.close()

    def test_reactivation_takes_new_input(self, site: Site) -> None:
        task_id = site.submit("user.bob.more", jobs=1)
        assert site.end(task_id) == "done"
        assert site.submit("user.bob.more", jobs=3) == task_id
        until(lambda: site.info(task_id)["nFilesFinished"] == 3, "two more jobs")
        assert len(site.jobs(task_id)) == 3

    def test_names_are_unique_per_user_and_only_if_asked(self, site: Site) -> None:
        first = site.submit("user.bob.same", "sleep 60", 1)
        site.reach(first, "running")
        assert Caller(task_module, site.backend, ALICE).submit(parameters("user.bob.same")).success
        assert site.submit("user.bob.same", uniqueTaskName=False) != first

    def test_the_second_of_two_production_twins_aborts_and_names_the_first(self, site: Site) -> None:
        described = parameters("valid.twin", taskType="prod", prodSourceLabel="managed")
        first, second = (site.manager.submit(described) for _ in range(2))
        assert first.success
        assert second.success
        assert site.end(second.data) == "aborted"
        twin = site.info(second.data)
        assert twin["errorDialog"] == f"toabort since there is duplicated task -> jediTaskID={first.data}"
        assert twin["taskName"] is None
        assert site.end(first.data) == "done"

    @pytest.mark.parametrize("missing", ["processingType", "transUses", "transHome", "architecture"])
    def test_a_broken_task_loses_its_name_and_keeps_it_reserved(self, site: Site, missing: str) -> None:
        described = parameters("user.bob.broken")
        del described[missing]
        task_id = site.task.submit(described).data
        assert site.end(task_id) == "broken"
        info = site.info(task_id)
        assert (info["errorDialog"], info["attemptNr"]) == ("post-process permanently failed", None)
        assert len(info["taskName"]) == len("00000000-0000-0000-0000-000000000000")
        assert site.store.owner_of(task_id) != BOB.name
        assert site.task.submit(parameters("user.bob.broken")).data == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"vo": "nosuchvo"},
            {"nEvents": "many"},
            {"jobParameters": "text"},
            {"site": {"not": "text"}},
            {"maxAttempt": "often"},
            {"log": {"type": "template", "param_type": "log", "dataset": "x/", "value": "../../escape"}},
        ],
    )
    def test_parameters_that_make_no_sense_break_the_task_and_nothing_else(
        self, site: Site, change: dict[str, Any]
    ) -> None:
        task_id = site.task.submit(parameters("user.bob.nonsense") | change).data
        assert site.end(task_id) == "broken"
        assert site.info(task_id)["errorDialog"]
        assert site.end(site.submit("user.bob.sense")) == "done"

    @pytest.mark.parametrize(
        "change", [{"vo": None}, {"taskName": "x" * 257}, {"taskName": None}, {"prodSourceLabel": None}]
    )
    def test_what_the_database_cannot_hold_is_refused(self, site: Site, change: dict[str, Any]) -> None:
        assert site.task.submit(parameters("user.bob.x") | change) == Envelope(False, "failed to register task", 4)


class TestReading:
    def test_a_task_is_invisible_before_it_is_registered(self, tmp_path: Path) -> None:
        site = Site(tmp_path, Pace(registration=60.0, cycle=0.02, command=0.0, slots=1))
        task_id = site.submit("user.bob.early")
        assert site.task.get_status(task_id) == Envelope(False, "Task not found")
        assert site.task.get_detailed_info(task_id) == Envelope(False, "Task not found or error retrieving task info")
        assert site.task.get_details(task_id).data["PandaID"] == []
        assert site.task.get_job_ids(task_id) == Envelope(True, "", [])
        assert site.task.get_task_parameters(task_id).data["userName"] == "Bob Tester"
        assert site.manager.kill(task_id) == Envelope(False, f"jediTaskID={task_id} not found", 2)
        assert site.store.owner_of(task_id) is None
        site.close()

    def test_running_tasks_are_back_dated_and_ended_ones_are_not(self, site: Site) -> None:
        task_id = site.submit("user.bob.clock", "sleep 0.3", 1)
        site.reach(task_id, "running")
        info = site.info(task_id)
        assert (info["stateChangeTime"] - info["modificationTime"]).total_seconds() == 3600
        site.end(task_id)
        info = site.info(task_id)
        assert info["stateChangeTime"] == info["modificationTime"]

    def test_tasks_that_share_a_request_hide_each_other_in_the_feed(self, site: Site) -> None:
        numbers = [site.submit(f"user.bob.feed{number}", jobs=1, reqID=7) for number in range(3)]
        own = site.submit("user.bob.own", jobs=1)
        for task_id in (*numbers, own):
            site.end(task_id)
        feed = site.task.get_tasks_modified_since("2020-01-01 00:00:00").data
        assert set(feed) == {"7", str(own)}
        assert feed["7"]["jediTaskID"] in numbers
        assert site.task.get_tasks_modified_since("garbage") == Envelope(True, "", {})
        assert Caller(task_module, site.backend, ALICE).get_tasks_modified_since("2020-01-01 00:00:00").data == {}

    def test_names_are_looked_up_literally_unless_they_look_like_a_pattern(self, site: Site) -> None:
        plain, odd = site.submit("user.bob.plain", jobs=1), site.submit("user.bob.a+b", jobs=1)
        site.end(plain)
        site.end(odd)

        def look_up(filters: str) -> list[int]:
            return [task["jediTaskID"] for task in site.task.get_tasks_detailed_info_since(filters=filters).data]

        assert look_up('{"taskName": "user.bob.plain"}') == [plain]
        assert look_up('{"taskName": "user.bob.a+b"}') == []
        assert look_up(r'{"taskName": "user.bob.a\\+b"}') == [odd]
        assert site.task.get_tasks_detailed_info_since(filters="{bad").message == "filters is not valid JSON"

    def test_a_database_that_is_down_looks_like_a_task_that_is_not_there(self, site: Site) -> None:
        task_id = site.submit("user.bob.dbdown", "sleep 0.2", 1)
        site.reach(task_id, "running")
        site.store.down = True
        time.sleep(0.4)
        assert site.task.get_status(task_id) == Envelope(False, "Task not found")
        assert site.task.get_details(task_id) == Envelope(False, "Task not found or error retrieving the details")
        assert site.task.submit(parameters("user.bob.x")) == Envelope(False, "failed to register task", 4)
        assert site.task.kill(task_id) == Envelope(False, "failed to register command", 1)
        site.store.down = False
        assert site.end(task_id) == "done"

    def test_debug_mode_answers_the_wrong_way_round(self, site: Site) -> None:
        task_id = site.submit("user.bob.debug", "sleep 60", 1)
        job_id = until(lambda: site.running(task_id), "a running job")[0]["PandaID"]
        assert site.job.set_debug_mode(job_id, True) == Envelope(False, "Succeeded")
        assert site.job.set_debug_mode(99999, True) == Envelope(True, "PandaID=99999 not found in active DB")

    def test_ten_thousand_tasks_do_not_slow_a_look_down(self, site: Site) -> None:
        task_id = site.submit("user.bob.one", jobs=1)
        site.end(task_id)
        row = site.store.row("SELECT * FROM tasks WHERE jediTaskID = ?", task_id)
        assert row is not None
        with site.store.transaction():
            for number in range(10_000):
                site.store.insert("tasks", **row | {"jediTaskID": 100 + number, "reqID": 100 + number})
        work = list[None]()
        site.store._connection.set_progress_handler(lambda: work.append(None), 100)  # at every so many steps of SQLite
        site.task.get_status(100)
        site.jedi.cycle()
        assert len(work) < 100  # reading all tasks once takes several hundred


CAPTURED = Path(__file__).parents[1] / "data" / "devserver_shapes.json"


class TestShapes:
    def test_a_task_and_a_job_have_the_keys_of_a_real_server_in_their_order(self, site: Site) -> None:
        task_id = site.submit("user.bob.shape", jobs=1)
        site.end(task_id)
        shapes = json.loads(CAPTURED.read_text())
        assert list(site.info(task_id)) == shapes["task"]
        job = site.jobs(task_id)[0]
        assert list(job) == shapes["job"]
        assert [list(file) for file in job["Files"]] == [shapes["file"]] * 2
        feed = site.task.get_tasks_modified_since("2020-01-01 00:00:00", full=True).data[str(task_id)]
        assert list(feed) == shapes["feed"]
        assert list(site.task.get_details(task_id, True, True).data) == shapes["digest"]


class TestRestart:
    def test_processes_that_a_killed_server_left_behind_end_at_the_next_start(self, tmp_path: Path) -> None:
        work = tmp_path / "scratch" / "7" / "work"
        work.mkdir(parents=True)
        orphan = subprocess.Popen(["sleep", "60"], cwd=work, start_new_session=True)
        (work.parent / "pgid").write_text(str(orphan.pid))
        site = Site(tmp_path)
        assert orphan.wait(PATIENCE) == -signal.SIGKILL
        site.close()

    def test_jobs_of_a_server_that_stopped_lost_their_heartbeat_and_are_repeated(self, tmp_path: Path) -> None:
        site, note = Site(tmp_path), tmp_path / "child"
        command = f"test $PanDA_AttemptNr -gt 1 && exit; sleep 60 & echo $! > {note}; wait"
        task_id = site.submit("user.bob.restart", command, 1)
        waiting = site.submit("user.bob.later", jobs=1)
        until(lambda: note.exists() and note.read_text().strip(), "the child process")
        site.close()
        until(lambda: not alive(note), "the end of the child process")
        site = Site(tmp_path)
        assert site.end(task_id) == "done"
        assert site.end(waiting) == "done"
        lost = site.jobs(task_id)[0]
        assert (lost["jobStatus"], lost["jobDispatcherErrorCode"]) == ("failed", 100)
        assert lost["jobDispatcherErrorDiag"].startswith("lost heartbeat : ")
        site.close()
