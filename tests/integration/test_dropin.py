"""The drop-in against the embedded server: the story of panda-client with one import line changed, and more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client.task_parameters import command_task
from panda_airflow.devserver.server import DevServer
from panda_airflow.pandaclient import Client, servers
from panda_airflow.pandaclient.JobSpec import JobSpec
from tests.support.story import STORY, devserver, hear

__all__ = ["devserver"]

BETTER = {"put again": [0, "True"]}
"""Where the drop-in answers otherwise: the same content under the same name is a success."""


@pytest.fixture(params=["oidc", "x509_no_grid"])
def credential(request: pytest.FixtureRequest, devserver: DevServer) -> dict[str, str]:
    if request.param == "oidc":
        return {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg", "PANDA_AUTH_ID_TOKEN": devserver.token()}
    return {"PANDA_AUTH": request.param, "X509_USER_PROXY": str(devserver.proxy())}


def test_the_drop_in_tells_the_story_of_panda_client(
    devserver: DevServer, tmp_path: Path, credential: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    theirs = hear(devserver, tmp_path / "theirs", credential)
    changed = STORY.replace("from pandaclient import", "from panda_airflow.pandaclient import")
    assert changed != STORY
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with DevServer(tmp_path / "another", pace=devserver.backend.pace) as another:
        ours = hear(another, tmp_path / "ours", credential_of(another, credential), changed)
    missing, their_missing = ours.pop("get missing"), theirs.pop("get missing")
    assert missing[0] == their_missing[0] == 404
    assert missing[1].startswith("cache/nosuch.tgz: there is no such file. Check the name")
    assert ours == theirs | BETTER


def credential_of(server: DevServer, like: dict[str, str]) -> dict[str, str]:
    """The same way to sign in at another server."""
    if "PANDA_AUTH_ID_TOKEN" in like:
        return like | {"PANDA_AUTH_ID_TOKEN": server.token()}
    return like | {"X509_USER_PROXY": str(server.proxy())}


@pytest.fixture
def bob(devserver: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process signs in with a token."""
    settings = devserver.environment() | {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg"}
    for name, value in (settings | {"PANDA_AUTH_ID_TOKEN": devserver.token()}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(servers, "_switched", {})
    yield
    servers._session.cache_clear()


def task_id_of(answer: tuple[int, Any]) -> int:
    status, (code, message) = answer
    assert (status, code) in ((0, 0), (0, 3)), message
    return int(message.partition("jediTaskID=")[2].split()[0])


def wait_for(task_id: int) -> str:
    for _ in range(1000):
        _, word = Client.getTaskStatus(task_id)
        if word in ("done", "finished", "failed", "aborted", "broken"):
            return str(word)
        time.sleep(0.02)
    raise AssertionError(f"task {task_id} does not end")


PRUN = """
import sys
import pandaclient
from panda_airflow.pandaclient import Client
sys.modules["pandaclient.Client"] = pandaclient.Client = Client
from pandaclient import PrunScript
PrunScript.main()
"""
"""The program prun of panda-client with the drop-in in the place of its client."""


@pytest.mark.usefixtures("bob")
def test_prun_submits_with_the_drop_in(devserver: DevServer, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("from the sandbox")
    options = [
        "--outDS",
        "user.bob.prun",
        "--vo",
        "wlcg",
        "--site",
        "LOCAL",
        "--noBuild",
        "--outputs",
        "out.txt",
        "--noEmail",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PRUN, "--exec", "cp input.txt out.txt", *options],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PANDA_CONFIG_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert wait_for(int(done.stdout.rpartition("jediTaskID=")[2])) == "done", done.stdout
    (output,) = (devserver.root / "cache").glob("*out.txt")
    assert output.read_text() == "from the sandbox"


@pytest.mark.usefixtures("bob")
def test_a_task_and_its_jobs_can_be_looked_at() -> None:
    task = command_task("user.bob.look", "echo %RNDM:0", vo="wlcg", jobs=2, uniqueTaskName=True)
    task_id = task_id_of(Client.insertTaskParams(task))
    assert Client.getTaskParamsMap(task_id)[1]["taskName"] == "user.bob.look"
    assert wait_for(task_id) == "done"
    status, job_ids = Client.getPandaIDsWithTaskID(task_id)
    assert (status, len(job_ids)) == (0, 2)
    for read in (Client.getJobStatus, Client.getFullJobStatus):
        status, (known, unknown) = read([job_ids[0], 99999])
        assert (status, type(known), unknown) == (0, JobSpec, None)
        assert (known.PandaID, known.jediTaskID, known.jobStatus) == (job_ids[0], task_id, "finished")
        assert known.commandToPilot == "NULL"
        assert {file.PandaID for file in known.Files} == {known.PandaID}
    assert Client.killJobs(job_ids) == (0, [False, False])
    details: dict[str, Any] = {"jediTaskID": task_id, "mine": 1}
    assert Client.getJediTaskDetails(details, True, True) == (0, details)
    assert (details["mine"], details["status"], sorted(details["PandaID"])) == (1, "done", sorted(job_ids))
    status, (success, info) = Client.get_task_details_json(task_id)
    assert (status, success, info["status"]) == (0, True, "done")
    assert Client.get_task_details_json(99999)[1][0] is False
    assert len(Client.get_job_descriptions(task_id)[1]) == 2
    assert Client.get_tasks_detailed_info_since(filters={"taskName": "user.bob.look"})[1][0]["jediTaskID"] == task_id
    assert str(task_id) in Client.getJobIDsJediTasksInTimeRange("2020-01-01 00:00:00")[1]
    assert Client.get_files_in_datasets(task_id, "log")[0] == 0


@pytest.mark.usefixtures("bob")
def test_an_ended_task_that_runs_again_has_code_3_for_those_who_ask() -> None:
    task = command_task("user.bob.again", "echo", vo="wlcg", uniqueTaskName=True)
    task_id = task_id_of(Client.insertTaskParams(task))
    for detailed, code in ((True, 3), (False, 0)):
        assert wait_for(task_id) == "done"
        status, (found, message) = Client.insertTaskParams(task, properErrorCode=detailed)
        assert (status, found) == (0, code)
        assert message.startswith(f"reactivation accepted. jediTaskID={task_id} ")
        while Client.getTaskStatus(task_id)[1] == "done":
            time.sleep(0.02)


@pytest.mark.usefixtures("bob")
def test_secrets_go_there_and_back() -> None:
    assert Client.set_user_secret("K", "é") == (0, (True, None))
    assert Client.set_user_secert("L", "v") == (0, (True, None))
    assert Client.get_user_secrets() == Client.get_user_secerts() == (0, (True, {"K": "é", "L": "v"}))
    assert Client.set_user_secret(None, None) == (0, (True, None))
    assert Client.get_user_secrets() == (0, (True, {}))


@pytest.mark.usefixtures("bob")
def test_a_sandbox_is_uploaded_once_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("sources.1.tar.gz", "sources.2.tar.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b" + b"content" * 10)
    assert Client.putFile("sources.1.tar.gz", useCacheSrv=True, reuseSandbox=True) == (0, "True")
    assert Client.putFile("sources.2.tar.gz", False, True, True) == (0, "NewFileName:sources.1.tar.gz")
    assert Client.getFile("sources.1.tar.gz", "copy") == (0, True)
    (tmp_path / "sources.1.tar.gz").write_text("other")
    assert Client.putFile("sources.1.tar.gz") == (0, "ERROR: cannot overwrite file")
    assert Client.getFile("../../etc/passwd")[0] == 1


@pytest.mark.usefixtures("bob")
def test_jobs_without_a_task_reach_the_server_as_it_reads_them() -> None:
    status, [[job_id, *_]] = Client.submitJobs([JobSpec(jobName="x", VO="wlcg")])
    assert (status, Client.getJobStatus([job_id])[1][0].jobName) == (0, "x")
    assert Client.submitJobs([]) == (255, None)
    assert Client.hello() == (0, "")
    assert Client.setDebugMode(99999, True, False) == (0, "production or pilot role required")
    assert Client.get_user_name_from_token()[0] == "Bob Tester"
    assert json.dumps(Client.get_cert_attributes()[1])
