"""No secret is anywhere but where its owner put it: steps of all kinds run, then everything that was written is read.

Airflow's own masking is off, so that nothing relies on it. Secrets belong into connections and variables, which are
in the environment here; the value of a user's secret also into the server's database, as jobs read it there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow._shared.logging import structlog as core_logs
from airflow._shared.secrets_masker import SecretsMasker as CoreMasker
from airflow.sdk import DAG, BaseSensorOperator
from airflow.sdk import task as python_task
from airflow.sdk._shared.logging import structlog as sdk_logs
from airflow.sdk._shared.secrets_masker import SecretsMasker as SdkMasker

from panda_airflow.client import ClientConfig
from panda_airflow.devserver.backend import Pace
from panda_airflow.operators.command import PandaKillTaskOperator
from panda_airflow.operators.file import PandaGetFileOperator, PandaPutFileOperator
from panda_airflow.operators.idds import PandaIddsCommandOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.secret import PandaSetSecretOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.operators.workflow import PandaSubmitWorkflowOperator
from panda_airflow.sensors.idds import PandaWaitIddsRequestSensor
from panda_airflow.sensors.server import PandaServerSensor
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps.kill.reaper import Target, send_reaper
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import PACE, Panda, Run, connection, fails_once, serve, task, unnamed, wait_until
from tests.support.scenes import SCENES
from tests.support.steps import STEPS

Play = Callable[[DAG], Run]
CANARY = "a canary that is meant to be found"
VALUES = {name: f"the-value-from-a-{name}" for name in ("password", "extra", "variable", "callable", "typo", "token")}
"""Secrets that are given to steps in every way there is."""


@pytest.fixture
def unmasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn off what Airflow masks: known secrets, and whatever looks like a token."""
    for masker in (CoreMasker, SdkMasker):
        monkeypatch.setattr(masker, "_redact", lambda self, item, *_, **__: item)
    for logs in (core_logs, sdk_logs):
        monkeypatch.setattr(logs, "JWT_PATTERN", re.compile("(?!)"))


@pytest.fixture
def panda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panda]:
    """A server on which some jobs may hang without holding up the others."""
    with serve(tmp_path / "panda", monkeypatch, pace=replace(PACE, slots=16)) as running:
        yield running


@pytest.fixture
def secrets(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give Airflow connections and variables with secrets in them; name every part that would betray one."""
    token = panda.server.token(production=True)
    stale = panda.server.token("Ann Expired", lifetime=-60)
    elsewhere = {"conn_type": "generic", "password": VALUES["password"], "extra": {"key": VALUES["extra"]}}
    typo = json.loads(connection(panda.server, token, tokn=VALUES["typo"], vo="wlcg.production"))
    described = {
        "PANDA_DEFAULT": connection(panda.server, token, vo="wlcg.production"),
        "PANDA_STALE": connection(panda.server, stale),
        "PANDA_REFUSED": connection(panda.server, VALUES["token"]),
        "PANDA_TYPO": json.dumps(typo),
        "PANDA_EXTRA": json.dumps(typo | {"password": None, "extra": in_extra(typo["extra"], token)}),
        "ELSEWHERE": json.dumps(elsewhere),
    }
    for name, value in described.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", value)
    monkeypatch.setenv("AIRFLOW_VAR_HIGGS", VALUES["variable"])
    parts = [part for whole in (token, stale) for part in whole.split(".")[1:]]
    return [*parts, *VALUES.values()]


def in_extra(extra: dict[str, Any], token: str) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name != "tokn"} | {"token": token, "auth": "oidc"}


NOW: dict[str, Any] = {"poll_interval": 0.1}
WAYS: dict[str, dict[str, Any]] = {"worker": {}, "triggerer": {"deferrable": True}}
SHOW = "env | tee env.txt; cat /proc/self/environ >> env.txt"
"""What a job does that tells all it was given."""

ENDS = {
    "success": "submit server extra kill retry put get from other canary",
    "failed": "fail late stale refused typo idds request",
    "skipped": "sense",
}
"""How the steps end, by the first word of their names: secrets are looked for after both."""


def steps(panda: Panda, folder: Path) -> DAG:
    """Steps of all kinds, good and bad."""
    sandbox = folder / "sources.tar.gz"
    sandbox.write_bytes(b"sandbox")
    with DAG("secrets") as dag:
        for name, way in WAYS.items():
            running = panda.client.task.submit(task("sleep 60", name=f"user.bob.{name}", jobs=1)).task_id
            given = unnamed(task(SHOW, outputs=["env.txt"]))
            PandaSubmitTaskOperator(task_id=f"submit_{name}", task_parameters=given, **NOW, **way)
            PandaSubmitTaskOperator(
                task_id=f"fail_{name}",
                task_parameters=unnamed(task("exit 7")),
                task_retry=TaskRetryPolicy(attempts=1, delay=0),
                retries=1,
                retry_delay=timedelta(0),
                **NOW,
                **way,
            )
            PandaSubmitTaskOperator(
                task_id=f"late_{name}", task_parameters=unnamed(task("sleep 60")), timeout=0.5, **NOW, **way
            )
            PandaWaitTaskStatusSensor(
                task_id=f"sense_{name}",
                jedi_task_id=running,
                timeout=0.5,
                cancel_on_timeout=True,
                poke_interval=0.1,
                soft_fail=True,
                **way,
            ) >> PandaKillTaskOperator(
                task_id=f"kill_{name}", jedi_task_id=running, trigger_rule="all_done", **NOW, **way
            )
            PandaServerSensor(task_id=f"server_{name}", poke_interval=0.1, **way)
            for conn in ("stale", "refused", "typo", "extra"):
                PandaServerSensor(
                    task_id=f"{conn}_{name}", panda_conn_id=f"panda_{conn}", poke_interval=0.1, timeout=0.3, **way
                )
            PandaIddsCommandOperator(task_id=f"idds_{name}", command="get_requests", **way)
            PandaWaitIddsRequestSensor(task_id=f"request_{name}", request_id=2, outage=0, poke_interval=0.1, **way)
        for step in others():
            pace = {"poke_interval": 0.1} if issubclass(step, BaseSensorOperator) else NOW
            step(task_id=f"other_{step.__name__}", **SCENES[step.__name__](panda), **pace)
        PandaSubmitWorkflowOperator(
            task_id="other_workflow", workflow_definition={"workflow_name": "higgs", "nodes": {}}
        )
        finished = panda.client.task.submit(task(fails_once(folder), name="user.bob.finished")).task_id
        panda.wait(finished)
        PandaRetryTaskOperator(task_id="retry", jedi_task_id=finished, **NOW)
        put = PandaPutFileOperator(task_id="put", path=str(sandbox))
        put >> PandaGetFileOperator(task_id="get", names="sources.tar.gz", directory=str(folder / "got"))
        PandaSetSecretOperator(task_id="from_connection", key="one", from_connection="elsewhere")
        PandaSetSecretOperator(task_id="from_variable", key="two", from_variable="higgs")
        PandaSetSecretOperator(task_id="from_callable", key="three", from_callable=lambda: VALUES["callable"])

        @python_task
        def canary() -> str:
            print(CANARY)  # noqa: T201 - so that it is known that what is printed is found
            return CANARY

        canary()
    return dag


def others() -> list[Any]:
    """The steps that are not in the DAG in person."""
    here = {name for name, value in globals().items() if isinstance(value, type)}
    return [step for step in STEPS if step.__name__ in SCENES.keys() - here]


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read every file below a folder, databases and their journals as they are."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file), file.read_bytes()


def found(secrets: list[str], places: dict[str, bytes]) -> list[tuple[str, str]]:
    return [(place, secret) for place, text in places.items() for secret in secrets if secret.encode() in text]


def words_of(run: Run) -> str:
    return "".join(line for error in run.errors.values() for line in traceback.format_exception(error))


def test_no_step_leaves_a_secret_anywhere(
    panda: Panda,
    play: Play,
    tmp_path: Path,
    unmasked: None,
    secrets: list[str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    run = play(steps(panda, tmp_path))
    assert {name: state for name, state in run.states.items() if name.split("_")[0] not in ENDS[state]} == {}
    places = dict(contents(Path(os.environ["AIRFLOW_HOME"])))
    places |= {"printed": "".join(capfd.readouterr()).encode(), "logged": caplog.text.encode()}
    places["raised"] = words_of(run).encode()
    assert found(secrets, places) == []
    server = dict(contents(panda.server.root))
    stored = {name: server.pop(name) for name in list(server) if "panda.sqlite" in name}
    assert found(secrets, server) == []
    assert {secret for _, secret in found(secrets, stored)} == {
        VALUES[way] for way in ("password", "variable", "callable")
    }
    assert {place.rpartition("/")[2] for place, _ in found([CANARY], places)} >= {"airflow.db", "printed"}
    assert found(["PandaTaskTrigger"], places)
    assert found(["PanDA_TaskID="], server)


def test_the_process_that_ends_a_task_shows_nobody_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path / "panda", monkeypatch, pace=Pace(registration=60)) as panda:
        token = panda.server.token("Ann Other")
        config = ClientConfig(url=panda.server.url, auth="oidc", vo="wlcg", token=token)
        task_id = panda.client.task.submit(task()).task_id
        fate = send_reaper(config, Target((task_id,), until=time.time() + 60), 0.5)
        pid = int(fate.split("process ")[1].split()[0])
        try:
            wait_until(lambda: b"panda_airflow.steps.kill.reaper" in Path(f"/proc/{pid}/cmdline").read_bytes())
            arguments, environment = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        finally:
            os.kill(pid, signal.SIGTERM)
    assert not [part for part in token.split(".") if part.encode() in arguments]
    assert not [part for part in token.split(".")[1:] if part.encode() in environment]
