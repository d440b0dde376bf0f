from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from airflow.sdk import Connection, RetryAction
from airflow.sdk.bases.secrets_backend import BaseSecretsBackend
from airflow.sdk.execution_time import supervisor

from panda_airflow.client import ClientConfig, ConfigError, ConnectionMissing
from panda_airflow.hooks.panda import PandaHook, config_from_connection
from panda_airflow.policies.retry import PandaRetryPolicy
from tests.airflow.conftest import Panda, connection

EXTRA: dict[str, Any] = {
    "cache_url": "https://cache.example:25443",
    "auth": "oidc",
    "vo": "atlas",
    "production": True,
    "token_file": "/etc/panda/token",
    "config_root": "/etc/panda",
    "proxy": "/etc/panda/proxy",
    "ca": "/etc/panda/ca.pem",
    "verify_host": False,
    "real_load_balancer": True,
    "monitor_url": "https://monitor.example",
    "connect_timeout": 3.5,
    "read_timeout": 7.5,
    "attempts": 2,
    "retry_budget": 9.5,
    "push_url": "stomp+ssl://broker.example:61614",
    "push_destination": "/topic/panda.status",
    "push_user": "airflow",
    "push_password": "a secret password",
}
EXPECTED = ClientConfig(
    url_ssl="https://panda.example:25443",
    token="a/secret token",
    **(EXTRA | {name: Path(EXTRA[name]) for name in ("token_file", "config_root", "proxy", "ca")}),
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for item in fields(ClientConfig):
        for name in item.metadata["env"]:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AIRFLOW_CONN_PANDA_DEFAULT", raising=False)


def config_of(monkeypatch: pytest.MonkeyPatch, description: str) -> ClientConfig:
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", description)
    return PandaHook().config


def test_the_example_holds_every_setting() -> None:
    assert EXTRA.keys() | {"url", "url_ssl", "token"} == {item.name for item in fields(ClientConfig)}


def test_a_connection_as_json_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"conn_type": "panda", "host": "panda.example", "port": 25443, "password": "a/secret token"}
    assert config_of(monkeypatch, json.dumps(described | {"extra": EXTRA})) == EXPECTED


def test_a_connection_as_uri_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"panda://:{quote('a/secret token', safe='')}@panda.example:25443/?{urlencode(EXTRA)}"
    assert config_of(monkeypatch, uri) == EXPECTED


@pytest.mark.parametrize(
    ("place", "server"),
    [
        ({"host": "panda.example"}, "https://panda.example"),
        ({"host": "panda.example", "port": 25443}, "https://panda.example:25443"),
        ({"host": "https://panda.example/server/panda", "port": 25443}, "https://panda.example:25443"),
        ({"host": "https://panda.example:25443/server/panda"}, "https://panda.example:25443"),
        ({"host": "panda.example", "port": 25080, "schema": "http"}, "http://panda.example:25080"),
        ({"host": "http://panda.example:25080"}, "http://panda.example:25080"),
    ],
)
def test_the_server_can_be_written_as_people_write_it(place: dict[str, Any], server: str) -> None:
    assert config_from_connection(Connection(conn_id="panda_default", conn_type="panda", **place)).server == server


@pytest.mark.parametrize("host", ["https://panda.example", "http://panda.example"])
def test_the_environment_does_not_redirect_what_a_connection_names(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for name in ("PANDA_URL", "PANDA_URL_SSL", "PANDACACHE_URL"):
        monkeypatch.setenv(name, "https://elsewhere.example:25443")
    monkeypatch.setenv("PANDA_AUTH_VO", "wlcg")
    config = config_from_connection(Connection(conn_id="panda_default", conn_type="panda", host=host))
    assert config.server == config.cache == host
    assert config.vo == "wlcg"


def test_an_extra_field_that_does_not_exist_is_named() -> None:
    odd = Connection(
        conn_id="panda_default", conn_type="panda", host="panda.example", extra='{"virtual_organisation": "x"}'
    )
    with pytest.raises(ConfigError, match="no setting called virtual_organisation"):
        config_from_connection(odd)


@pytest.mark.parametrize(
    ("name", "server"), [("PANDA_URL_SSL", "https://panda.example:25443"), ("PANDA_URL", "http://panda.example:25080")]
)
def test_without_the_default_connection_the_environment_of_panda_users_applies(
    monkeypatch: pytest.MonkeyPatch, database: None, name: str, server: str
) -> None:
    monkeypatch.setenv(name, f"{server}/server/panda")
    assert PandaHook().config.server == server


def test_without_the_default_connection_no_server_is_guessed(monkeypatch: pytest.MonkeyPatch, database: None) -> None:
    monkeypatch.setenv("PANDA_AUTH_VO", "wlcg")
    with pytest.raises(ConnectionMissing, match=r"'panda_default' does not exist, or cannot be read.*PANDA_URL_SSL"):
        _ = PandaHook().config


def test_another_connection_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch, database: None) -> None:
    monkeypatch.setenv("PANDA_URL_SSL", "https://panda.example:25443")
    with pytest.raises(ConnectionMissing, match=r"'panda_nowhere' does not exist.*panda_conn_id"):
        _ = PandaHook("panda_nowhere").config


class AwayBackend(BaseSecretsBackend):
    """Airflow's store of connections while it cannot be read."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        raise OSError(f"the database is away, and with it {conn_id}")


@pytest.mark.parametrize("name", ["panda_default", "panda_pilot"])
def test_a_connection_that_cannot_be_read_for_a_moment_is_read_by_a_later_try(
    monkeypatch: pytest.MonkeyPatch, database: None, name: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", '{"conn_type": "panda", "host": "panda.example"}')
    hook = PandaHook(name)
    with monkeypatch.context() as trouble:
        trouble.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: [AwayBackend()])
        with pytest.raises(ConnectionMissing) as caught:
            _ = hook.config
    assert PandaRetryPolicy().evaluate(caught.value, 1, 3).action is RetryAction.DEFAULT
    assert hook.config.server == "https://panda.example"


def test_the_test_button_says_who_we_are(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PandaHook().test_connection() == (True, f"{panda.server.url_ssl} knows you as Bob Tester.")
    as_production = connection(panda.server, panda.server.token(production=True), production=True)
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", as_production)
    works, says = PandaHook().test_connection()
    assert works
    assert says.endswith("knows you as Bob Tester, with the production role.")


def test_the_test_button_says_what_is_wrong(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        connection(panda.server, panda.server.token(lifetime=-60)): "expired",
        connection(panda.server, panda.server.token(), production=True): "production",
        connection(panda.server, panda.server.token(), vo=""): "VO is not given",
        connection(panda.server, panda.server.token(), flavour="up"): "no setting called flavour",
        connection(panda.server, panda.server.token(), attempts="many"): "attempts",
    }
    for described, expected in cases.items():
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", described)
        works, says = PandaHook().test_connection()
        assert (works, expected in says) == (False, True), says


def test_the_test_button_says_that_nobody_answers(panda: Panda) -> None:
    panda.server.stop()
    works, says = PandaHook().test_connection()
    assert not works
    assert "does not accept connections" in says
    panda.server.start()


def test_no_secret_is_shown(panda: Panda, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    hook = PandaHook()
    panda.server.faults.inject("garbage", "system/*", times=9)
    says = hook.test_connection()
    hook.client.task.get_job_ids(1)
    shown = "".join((repr(hook.config), repr(hook.client), repr(says), caplog.text, *capsys.readouterr()))
    assert panda.client.config.token not in shown
    assert "get_job_ids" in shown
