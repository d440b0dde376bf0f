"""Credentials are renewed, and servers deployed, while steps run: none of that is hopeless, none of it kills a task."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from airflow.sdk import RetryAction

from panda_airflow.client import CredentialMissing, PandaError, TaskOutcome
from panda_airflow.client.auth import reread
from panda_airflow.client.errors import AuthError, ConfigError, CredentialExpired, NotCarriedOut, ServerError
from panda_airflow.client.http.envelope import http_error
from panda_airflow.client.models import TaskInfo
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.waiting.feed.backoff import Backoff
from panda_airflow.waiting.feed.planner import Waiting
from panda_airflow.waiting.feed.poller import Feed
from panda_airflow.waiting.task import WaitPlan, Watch, wait_result
from tests.airflow.conftest import Memory, Panda, connection, task, unnamed, wait_until
from tests.support.submitting import submit
from tests.support.triggers import still_runs

pytestmark = pytest.mark.usefixtures("impatient")

FORBIDDEN = http_error("task/get_detailed_info", 403, "ERROR : method get_detailed_info is forbidden", {})


@pytest.fixture
def token_file(panda: Panda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that the connection takes its token from."""
    file = tmp_path / "token"
    file.write_text(panda.server.token())
    value = json.loads(connection(panda.server, "", token_file=str(file)))
    value.pop("password", None)
    value["extra"]["auth"] = "oidc"
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(value))
    return file


@pytest.mark.parametrize("how", ["empty", "away", "torn"])
def test_a_token_file_that_is_written_just_now_fails_no_try(
    panda: Panda, memory: Memory, token_file: Path, how: str
) -> None:
    memory.max_tries = 5
    parameters = unnamed(task("sleep 2"))
    task_id = submit(memory, parameters)["jedi_task_id"]
    whole = token_file.read_text()
    if how == "away":
        token_file.unlink()
    else:
        token_file.write_text("" if how == "empty" else whole[: len(whole) // 2])
    renewal = threading.Timer(0.3, token_file.write_text, [whole])
    renewal.start()
    result = submit(memory, parameters, wait=True)
    renewal.join()
    assert (result["jedi_task_id"], result["status"], panda.submitted()) == (task_id, "done", [task_id])


@pytest.mark.parametrize("tries_left", [True, False])
@pytest.mark.parametrize("how", ["empty", "away"])
def test_a_credential_that_stays_away_is_no_reason_to_kill_a_healthy_task(
    panda: Panda, memory: Memory, token_file: Path, monkeypatch: pytest.MonkeyPatch, how: str, tries_left: bool
) -> None:
    monkeypatch.setattr(reread, "PAUSES", (0.05,))
    memory.max_tries = 5 if tries_left else 1
    task_id = submit(memory, unnamed(task("sleep 60")))["jedi_task_id"]
    panda.wait(task_id, ("running",))
    token_file.write_text("") if how == "empty" else token_file.unlink()
    with pytest.raises((CredentialMissing, ConfigError), match="was left running") as failed:
        submit(memory, unnamed(task("sleep 60")), wait=True)
    assert still_runs(panda, task_id)
    decision = PandaRetryPolicy().evaluate(failed.value, 2, 5)
    assert decision.action is not RetryAction.FAIL


def test_a_server_that_breaks_at_the_start_of_the_last_try_is_no_reason_either(panda: Panda, memory: Memory) -> None:
    memory.max_tries = 1
    task_id = submit(memory, unnamed(task("sleep 60")))["jedi_task_id"]
    panda.wait(task_id, ("running",))
    panda.server.faults.inject("garbage", "task/get_detailed_info", times=50)
    with pytest.raises(ServerError, match="was left running"):
        submit(memory, unnamed(task("sleep 60")), wait=True)
    panda.server.faults.clear()
    assert still_runs(panda, task_id)


@pytest.mark.parametrize(
    "error",
    [
        FORBIDDEN,
        CredentialMissing("the token file is empty.", hopeless=False),
        ConfigError("OIDC_AUTH_TOKEN_FILE names /x, which cannot be read.", hopeless=False),
        ConfigError("a page that is not PanDA's.", endpoint="task/get_detailed_info"),
    ],
    ids=str,
)
def test_what_passes_does_not_end_the_wait_for_a_task_that_was_seen(error: PandaError) -> None:
    watch = Watch(WaitPlan(42, 0.0))
    assert watch.judge(TaskInfo(42, status="running"), 1.0) is None
    assert watch.judge(error, 2.0) is None
    assert watch.judge(TaskInfo(42, status="done"), 3.0)


def test_a_wait_that_cannot_even_begin_leaves_the_task_alone() -> None:
    event = Watch(WaitPlan(42, 0.0)).judge(FORBIDDEN, 1.0)
    with pytest.raises(TaskOutcome, match="cannot be looked at") as failed:
        wait_result(event)
    assert failed.value.fate == "The PanDA task was left running."
    assert not failed.value.hopeless


def test_a_wait_goes_on_with_a_token_that_was_renewed(panda: Panda, memory: Memory, token_file: Path) -> None:
    parameters = unnamed(task("sleep 3"))
    step = PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, poll_interval=0.1, outage=600)

    def renew() -> None:
        wait_until(panda.submitted)
        panda.wait(panda.submitted()[0], ("running",))
        panda.server.faults.inject("expire_tokens")
        threading.Event().wait(1)
        token_file.write_text(panda.server.token())

    later = threading.Thread(target=renew)
    later.start()
    assert step.execute(memory())["status"] == "done"
    later.join()


def test_the_silence_after_a_refused_credential_ends_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    error = CredentialExpired("expired")
    error.file = (str(file), reread.stamp(file))
    waiting = Waiting(42, 60.0, True, frozenset())
    feed = object.__new__(Feed)
    feed._backoff = trouble = Backoff()
    for _ in range(20):
        trouble.failed(waiting, error, 1e12)
    with pytest.raises(NotCarriedOut):
        feed._check(waiting)
    file.write_text("newer")
    feed._check(waiting)


def test_a_refused_credential_tells_its_file(panda: Panda, token_file: Path, memory: Memory) -> None:
    panda.server.faults.inject("expire_tokens")
    with pytest.raises(AuthError) as refused:
        submit(memory, unnamed(task()))
    assert refused.value.file == (str(token_file), reread.stamp(token_file))
    assert not reread.is_renewed(refused.value)
    token_file.write_text("another")
    assert reread.is_renewed(refused.value)
