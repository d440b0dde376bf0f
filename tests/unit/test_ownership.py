from __future__ import annotations

import base64
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import (
    ClientConfig,
    InvalidArgument,
    NotFound,
    NotOurs,
    PandaClient,
    PermissionDenied,
    ServerError,
)
from panda_airflow.client.auth.credentials import account_of
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.stored import Account
from panda_airflow.client.task_parameters import STAMP, definition_digest
from panda_airflow.devserver.server import DevServer
from panda_airflow.steps.kill import last_words
from panda_airflow.steps.record import differences
from panda_airflow.waiting.ownership import PAUSES, ask_again, elsewhere, new_key, origin, require, stamp_of, stamped


def server_with(parameters: Any) -> PandaClient:
    """A server that has one task, or fails."""

    def get_task_parameters(_: int) -> Any:
        if isinstance(parameters, Exception):
            raise parameters
        return parameters

    return cast("PandaClient", SimpleNamespace(task=SimpleNamespace(get_task_parameters=get_task_parameters)))


STAMPED = stamped({"vo": "wlcg"}, {"key": "mine", "dag_id": "higgs", "run_id": "daily", "task_id": "fit"})


def test_keys_differ_and_cannot_be_guessed() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000
    assert len(new_key()) == 32


@pytest.mark.parametrize("error", [InvalidArgument("method x is forbidden"), PermissionDenied("not the task owner")])
def test_a_refusal_of_what_anybody_may_ask_is_believed_the_third_time(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    slept, asked = list[float](), list[int]()
    monkeypatch.setattr("time.sleep", slept.append)

    def ask(refusals: int) -> str:
        asked.append(1)
        if len(asked) <= refusals:
            raise error
        return "told"

    for refusals in range(3):
        asked.clear()
        assert ask_again(partial(ask, refusals)) == "told"
        assert len(asked) == refusals + 1
    asked.clear()
    with pytest.raises(type(error)):
        ask_again(partial(ask, 3))
    assert slept == [*PAUSES[:1], *PAUSES, *PAUSES]


def test_where_a_task_comes_from_is_told_as_far_as_it_is_known() -> None:
    assert origin({"key": "mine", "map_index": -1}) == "was submitted by somebody with another key"
    assert origin({"dag_id": "higgs", "map_index": 0, "url": "x"}) == "was submitted by DAG higgs, map index 0"
    text = elsewhere("PanDA task 1", Account("https://a", "Bob"), "panda_default", Account("https://b", "Eve"))
    assert text == (
        "PanDA task 1 belongs to Bob at https://a, and the connection panda_default now means Eve at https://b: "
        "nothing was touched there."
    )


def test_a_stamp_survives_and_names_the_framework_where_the_author_does_not() -> None:
    stored = json.loads(json.dumps(STAMPED))
    assert stamp_of(stored)["key"] == "mine"
    assert stored["framework"] == STAMP
    assert stamped({"framework": "prun"}, {"key": "mine"})["framework"] == "prun"


@pytest.mark.parametrize("stamp", [None, "text", ["mine"], 5])
def test_what_is_no_stamp_is_none(stamp: Any) -> None:
    assert stamp_of({STAMP: stamp}) == {}


def test_comparisons_of_definitions_leave_the_stamp_out() -> None:
    assert differences({"vo": "wlcg"}, STAMPED) == []
    assert differences({"vo": "wlcg", STAMP: {"key": "another"}}, STAMPED) == []
    assert definition_digest({"vo": "wlcg"}) == definition_digest({"vo": "wlcg"})


def test_only_the_key_proves_whose_a_task_is() -> None:
    require(server_with(STAMPED), 42, "mine")
    with pytest.raises(NotOurs, match="42 is not this step's: it was submitted by DAG higgs, run daily, step fit"):
        require(server_with(STAMPED), 42, "another")
    with pytest.raises(NotOurs, match="without a key"):
        require(server_with({"vo": "wlcg"}), 42, "mine")


@pytest.mark.parametrize("trouble", [NotFound("database down"), ServerError("HTTP 500")])
def test_trouble_proves_nothing(trouble: Exception) -> None:
    with pytest.raises(type(trouble)):
        require(server_with(trouble), 42, "mine")


def test_a_task_that_its_user_has_named_needs_no_key() -> None:
    require(server_with(ServerError("not even asked")), 42, "")


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text()))
def test_any_stamp_can_be_told(stamp: dict[str, Any]) -> None:
    assert origin(stamp).startswith("was submitted")


def token(**claims: Any) -> str:
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims, "")
    )


def account(text: str, **more: Any) -> Account:
    return account_of(
        ClientConfig.from_env({}, **({"url": "http://panda:25080", "auth": "oidc", "vo": "wlcg", "token": text} | more))
    )


def test_a_renewed_token_is_that_of_the_same_user() -> None:
    first, second = (account(token(sub="1", name="bob tester", exp=ends)) for ends in (1, 2))
    assert first == second == Account("http://panda:25080", "Bob Tester")
    assert first.differs_from(account(token(sub="1", name="eve other")))
    assert account(token(sub="1")).user == "1"


@pytest.mark.parametrize("text", ["", "thisisatoken", "a.b.c", token(), "e30.W10.e30"])
def test_what_a_token_does_not_say_is_not_compared(text: str) -> None:
    found = account(text or "x")
    assert found.user == ""
    assert not found.differs_from(Account("http://panda:25080", "Bob Tester"))
    assert found.differs_from(Account("http://elsewhere:25080", "Bob Tester"))


def test_a_token_file_that_is_being_written_tells_nothing(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("")
    given_file = {"token": None, "token_file": file}
    assert account("", **given_file).user == ""
    file.write_text(token(name="bob tester"))
    assert account("", **given_file).user == "Bob Tester"
    file.unlink()
    assert account("", **given_file).user == ""


def test_a_renewed_proxy_is_that_of_the_same_user(tmp_path: Path) -> None:
    with DevServer(tmp_path) as server:
        proxies = [server.proxy("Bob Tester"), server.proxy("Bob Tester"), server.proxy("Eve Other")]
        kept = [tmp_path / f"proxy{number}" for number in range(3)]
        for proxy, copy in zip(proxies, kept, strict=True):
            copy.write_bytes(proxy.read_bytes())
        first, second, other = (
            account_of(ClientConfig.from_env({}, url_ssl=server.url_ssl, auth="x509", proxy=copy)) for copy in kept
        )
    assert first.user
    assert first == second
    assert first.differs_from(other)


def test_the_default_port_is_no_other_server() -> None:
    assert account("", url="https://panda:443").server == account("", url="https://panda").server


def test_a_mark_holds_until_anything_has_moved() -> None:
    """``reactivate`` changes the status alone; earlier versions did not record it."""
    failed = TaskInfo(42, status="failed", attempt_nr=1)
    mark = Mark.of(failed)
    assert mark.holds(failed)
    assert not mark.holds(TaskInfo(42, status="ready", attempt_nr=1))
    assert not mark.holds(TaskInfo(42, status="failed", attempt_nr=0))
    assert Mark(1, "").holds(failed)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_last_words_are_read_once_and_by_nobody_else(temporary: Path) -> None:
    last_words.leave("a key", "it was told to stop")
    [folder] = temporary.iterdir()
    [file] = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert "a key" not in file.name
    assert last_words.read("another key") == ""
    assert last_words.read("a key").endswith("UTC: it was told to stop")
    assert last_words.read("a key") == ""


def test_old_last_words_are_taken_away(temporary: Path) -> None:
    for key in ("old", "new"):
        last_words.leave(key, "told to stop")
    [old] = [file for file in temporary.glob("*/*") if file.name == last_words._name("old")]
    os.utime(old, (0, 0))
    assert "told to stop" in last_words.read("new")
    assert not old.exists()


def test_last_words_without_a_key_or_a_place_are_lost_without_a_sound(temporary: Path) -> None:
    last_words.leave("", "nobody will ask")
    assert list(temporary.iterdir()) == []
    folder = temporary / f"panda-kills-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    last_words.leave("a key", "anybody could have written this")
    assert last_words.read("a key") == ""
