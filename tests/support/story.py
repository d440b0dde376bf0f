"""A story of calls of panda-client, told by a process of its own."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from panda_airflow.client.task_parameters import command_task
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer

STORY = """
import json, pathlib, sys, time
from pandaclient import Client

ok, half, hang, name = json.load(open(sys.argv[1]))
told = {}

def tell(what, value):
    told[what] = json.loads(json.dumps(value))

def settle(task_id, unlike=""):
    for _ in range(600):
        status, word = Client.getTaskStatus(task_id)
        if word in ("done", "finished", "failed", "aborted", "broken") and word != unlike:
            return word
        time.sleep(0.05)

tell("hello", Client.hello())
tell("put", Client.putFile(name))
tell("put again", Client.putFile(name))
tell("put reusing", Client.putFile(name, reuseSandbox=True))
tell("get", Client.getFile(name, output_path="got"))
tell("got", pathlib.Path("got").read_bytes() == pathlib.Path(name).read_bytes())
tell("get missing", Client.getFile("nosuch.tgz", output_path="got2"))

status, (code, message) = Client.insertTaskParams(ok)
task_id = int(message.rpartition("=")[2])
tell("insert", (status, code, message.replace(str(task_id), "N")))
tell("status at once", Client.getTaskStatus(task_id))
status, (code, message) = Client.insertTaskParams(ok, properErrorCode=True)
tell("insert again", (status, code, message.replace(str(task_id), "N")))
pathlib.Path("looked").touch()
tell("ends", settle(task_id))
tell("kill done", Client.killTask(task_id))
tell("retry done", Client.retryTask(task_id))
tell("status unknown", Client.getTaskStatus(99999))
tell("kill unknown", Client.killTask(99999))
tell("retry unknown", Client.retryTask(99999))

half_id = int(Client.insertTaskParams(half)[1][1].rpartition("=")[2])
tell("half ends", settle(half_id))
status, (code, message) = Client.retryTask(half_id)
tell("retry half", (status, code, message.replace(str(half_id), "N")))
tell("half in the end", settle(half_id, unlike="finished"))

hang_id = int(Client.insertTaskParams(hang)[1][1].rpartition("=")[2])
while Client.getTaskStatus(hang_id)[1] != "running":
    time.sleep(0.05)
tell("kill", Client.killTask(hang_id))
tell("hang ends", settle(hang_id))
print("TOLD" + json.dumps(told))
"""


def hear(server: DevServer, directory: Path, credential: dict[str, str], told: str = STORY) -> dict[str, Any]:
    """Run a story in a process of its own and return what each call returned."""
    sandbox = directory / "sources.0a1b2c3d.tar.gz"
    sandbox.write_bytes(gzip.compress(b"sandbox"))
    plain = command_task("user.bob.ok", "echo %RNDM:0", vo="wlcg", jobs=2, uniqueTaskName=True)
    flag = directory / "flag"
    command = f"test %RNDM:0 = 1 -o -e {flag} || ( touch {flag}; exit 1 )"
    flaky = command_task("user.bob.half", command, vo="wlcg", jobs=2, max_attempt=1)
    hanging = command_task("user.bob.hang", "sleep 600", vo="wlcg")
    story = directory / "story.json"
    story.write_text(json.dumps([plain, flaky, hanging, sandbox.name]))
    pace, over = server.backend.pace, Event()
    server.backend.pace = replace(pace, registration=3600.0)
    Thread(target=register, args=(server, pace, directory / "looked", over), daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PANDA", "X509", "OIDC"))}
    done = subprocess.run(
        [sys.executable, "-c", told, str(story)],
        cwd=directory,
        env=environment | server.environment() | credential | {"PANDA_CONFIG_ROOT": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    over.set()
    _, heard, answers = done.stdout.partition("TOLD")
    assert heard, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(answers)
    return result


def register(server: DevServer, pace: Pace, looked: Path, over: Event) -> None:
    """Let JEDI register tasks once the story has looked at one that is not."""
    while not looked.exists() and not over.wait(0.02):
        pass
    server.backend.pace = pace


@pytest.fixture
def devserver(tmp_path: Path) -> Iterator[DevServer]:
    """A server with a registration window in which a few calls fit."""
    with DevServer(tmp_path / "panda", pace=Pace(registration=1.0, cycle=0.05, command=0.2)) as server:
        yield server
