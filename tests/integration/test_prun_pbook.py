"""The programs prun and pbook of the unmodified panda-client 2.2.0 work against the embedded server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from panda_airflow.client import ClientConfig, PandaClient
from panda_airflow.devserver.server import DevServer

BIN = Path(sys.executable).parent


@dataclass
class User:
    """Somebody at a shell, with a client to look at what comes of it.

    :param directory: where the programs run; they do not like to send a home directory away.
    :param environment: what the programs see.
    """

    directory: Path
    environment: dict[str, str]
    client: PandaClient

    def run(self, program: str, *arguments: str) -> str:
        """Run a program and return what it printed."""
        done = subprocess.run(
            [BIN / program, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def prun(self, name: str, command: str, *options: str) -> int:
        """Submit a task whose jobs make ``out.txt`` and return its ID."""
        always = ("--outDS", f"user.bob.{name}", "--vo", "wlcg", "--site", "LOCAL", "--noEmail", "--outputs", "out.txt")
        said = self.run("prun", "--exec", command, *always, *options)
        assert "succeeded. new jediTaskID=" in said
        return int(said.rpartition("jediTaskID=")[2])

    def wait(self, task_id: int, *statuses: str) -> str:
        """Wait until the task has one of the statuses."""
        for _ in range(1000):
            found = self.client.task.get_tasks_detailed_info_since(filters=json.dumps({"jediTaskID": str(task_id)}))
            if found and found[0].status in statuses:
                return found[0].status
            time.sleep(0.02)
        raise AssertionError(f"task {task_id} does not get to {statuses}")

    def outputs(self, task_id: int) -> list[str]:
        """Download what the jobs of a task have made."""
        (dataset,) = self.client.task.get_datasets_and_files(task_id, ["output"])
        return [self.client.download(file.lfn, self.directory).read_text() for file in dataset.files]


@pytest.fixture
def bob(devserver: DevServer, tmp_path: Path) -> Iterator[User]:
    work, token = tmp_path / "work", devserver.token()
    work.mkdir()
    (work / "input.txt").write_text("from the sandbox\n")
    programs = {"PANDA_SYS": sys.prefix, "PANDA_PYTHON_EXEC": sys.executable, "COLUMNS": "200"}
    person = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PANDA_CONFIG_ROOT": str(tmp_path / "config")}
    credential = {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg", "PANDA_AUTH_ID_TOKEN": token}
    config = ClientConfig(url=devserver.url, auth="oidc", vo="wlcg", token=token)
    with PandaClient(config) as client:
        yield User(work, programs | person | credential | devserver.environment(), client)


END = ("done", "finished", "failed", "broken", "aborted")


def test_prun_without_a_build_runs_in_the_sandbox(bob: User) -> None:
    task_id = bob.prun("plain", "cp input.txt out.txt", "--noBuild")
    assert bob.wait(task_id, *END) == "done"
    assert bob.outputs(task_id) == ["from the sandbox\n"]


def test_prun_signs_in_with_a_proxy(bob: User, devserver: DevServer) -> None:
    bob.environment |= {
        "PANDA_AUTH": "x509_no_grid",
        "X509_USER_PROXY": str(devserver.proxy()),
        "PANDA_NICKNAME": "bob",
    }
    task_id = bob.prun("proxy", "cp input.txt out.txt", "--noBuild")
    assert bob.wait(task_id, *END) == "done"


def test_prun_builds_before_it_runs(bob: User) -> None:
    options = ("--bexec", "cp input.txt built.txt", "--nJobs", "2")
    task_id = bob.prun("built", "cat built.txt > out.txt; echo %RNDM:0 >> out.txt", *options)
    assert bob.wait(task_id, *END) == "done"
    assert sorted(bob.outputs(task_id)) == ["from the sandbox\n1\n", "from the sandbox\n2\n"]


def test_a_build_that_fails_is_the_end_of_the_job(bob: User) -> None:
    task_id = bob.prun("misbuilt", "touch out.txt", "--bexec", "echo no compiler >&2; false", "--maxAttempt", "1")
    assert bob.wait(task_id, *END) in ("broken", "failed")
    errors = [error for job in bob.client.task.get_job_descriptions(task_id) for _, _, error in job.errors]
    assert any("no compiler" in error for error in errors), errors


def test_pbook_shows_retries_and_kills(bob: User) -> None:
    flag = bob.directory / "flag"
    command = f"cp input.txt out.txt; test %RNDM:0 = 1 -o -e {flag} || ( touch {flag}; exit 1 )"
    half = bob.prun("half", command, "--noBuild", "--nJobs", "2", "--maxAttempt", "1")
    hanging = bob.prun("hanging", "sleep 600", "--noBuild")
    assert bob.wait(half, *END) == "finished"
    bob.wait(hanging, "scouting", "running")
    lines = [line.split() for line in bob.run("pbook", "show").splitlines()]
    assert [str(half), str(half), "finished", "50%", "user.bob.half/"] in lines
    assert "user.bob.half/" not in bob.run("pbook", "show", "run")

    assert "command=retry is registered" in bob.run("pbook", "retry", str(half))
    assert bob.wait(half, "done") == "done"
    assert "will be killed" in bob.run("pbook", "kill", str(hanging))
    assert bob.wait(hanging, *END) == "aborted"
    assert "not accepted if the task is in aborted status" in bob.run("pbook", "finish", str(hanging))
    assert "Permission denied" in bob.run("pbook", "kill", "99")


def test_pbook_runs_a_snippet_without_a_prompt(bob: User) -> None:
    task_id = bob.prun("snippet", "cp input.txt out.txt", "--noBuild")
    assert bob.wait(task_id, *END) == "done"
    snippet = "print([(task['jediTaskID'], task['status']) for task in show(format='json')])"
    assert f"[({task_id}, 'done')]" in bob.run("pbook", "-c", snippet)


def test_pbook_keeps_secrets(bob: User) -> None:
    bob.run("pbook", "set_secret", "K", "a value")
    assert "a value" in bob.run("pbook", "list_secrets")
    bob.run("pbook", "delete_secret", "K")
    assert "a value" not in bob.run("pbook", "list_secrets")
