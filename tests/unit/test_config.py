"""Configuration: who wins, what is refused, and that nothing is read at import."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import ClientConfig, ConfigError, PandaClient
from panda_airflow.client.config import CERN_CACHE, CERN_SERVER, TOKEN_SOURCES

WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1)
FREE_TEXT = [item for item in fields(ClientConfig) if item.type == "str" and item.name not in TOKEN_SOURCES]


@given(argument=st.none() | WORDS, values=st.lists(st.none() | WORDS, min_size=2, max_size=2), data=st.data())
def test_an_argument_wins_over_the_environment_and_that_over_the_default(
    argument: str | None, values: list[str | None], data: st.DataObject
) -> None:
    item = data.draw(st.sampled_from(FREE_TEXT))
    environ = {name: value for name, value in zip(item.metadata["env"], values, strict=False) if value}
    config = ClientConfig.from_env(environ, **{item.name: argument})
    expected = argument or next((environ[name] for name in item.metadata["env"] if name in environ), item.default)
    assert getattr(config, item.name) == expected
    others = [other.name for other in fields(config) if other.name != item.name]
    assert all(getattr(config, name) == getattr(ClientConfig(), name) for name in others)


@given(
    argument=st.sampled_from([None, *TOKEN_SOURCES]),
    environ=st.sets(st.sampled_from(["PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN"])),
)
def test_a_token_comes_from_the_nearest_place(argument: str | None, environ: set[str]) -> None:
    config = ClientConfig.from_env({name: name for name in environ}, **({argument: "mine"} if argument else {}))
    given_first = next((str(getattr(config, name)) for name in TOKEN_SOURCES if getattr(config, name)), None)
    order = ["PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN"]
    assert given_first == ("mine" if argument else next((name for name in order if name in environ), None))


def test_variables_are_read_as_their_users_write_them() -> None:
    config = ClientConfig.from_env(
        {
            "PANDA_URL": "http://host:25080/server/panda",
            "PANDA_URL_SSL": "https://host:25443/server/panda",
            "PANDACACHE_URL": "https://cache/server/panda",
            "PANDA_AUTH": "oidc",
            "OIDC_AUTH_VO": "wlcg",
            "PANDA_CONFIG_ROOT": "~/.pathena",
            "PANDA_VERIFY_HOST": "off",
            "PANDA_BEHIND_REAL_LB": "1",
            "X509_USER_PROXY": "/proxies/bob",
            "X509_CERT_DIR": "",
        }
    )
    assert (config.server, config.cache) == ("https://host:25443", "https://cache")
    assert (config.auth, config.vo, config.config_root) == ("oidc", "wlcg", Path.home() / ".pathena")
    assert (config.verify, config.real_load_balancer, config.proxy_path) == (False, True, Path("/proxies/bob"))
    assert config.ca is None


def test_defaults_are_the_servers_at_cern_and_no_other_server_shares_their_cache() -> None:
    assert (ClientConfig().server, ClientConfig().cache) == (CERN_SERVER, CERN_CACHE)
    assert ClientConfig(url_ssl="https://mine:443/x").cache == "https://mine:443"
    assert ClientConfig(url="http://mine:80/x").server == ClientConfig(url="http://mine:80").cache == "http://mine:80"
    assert ClientConfig(url_ssl="https://[::1]:25443/server/panda").server == "https://[::1]:25443"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url_ssl": "host:25443"}, "PANDA_URL_SSL (url_ssl) must look like https://host:port, not 'host:25443'."),
        ({"url_ssl": "https://host:port"}, "PANDA_URL_SSL (url_ssl) is not a URL"),
        (
            {"cache_url": "ftp://u:secret@host"},
            "PANDACACHE_URL (cache_url) must look like https://host:port, not 'host'.",
        ),
        ({"auth": "kerberos"}, "PANDA_AUTH is 'kerberos'; it must be one of oidc, x509_no_grid, voms, x509."),
        ({"auth": "oidc"}, "PANDA_AUTH is oidc but the VO is not given; set PANDA_AUTH_VO, or vo in the connection."),
        ({"url_ssl": "http://host"}, "X.509 needs https, the server is http://host"),
        ({"ca": Path("/nosuch")}, "X509_CERT_DIR names /nosuch, which does not exist or cannot be read."),
        ({"token_file": Path("/nosuch")}, "OIDC_AUTH_TOKEN_FILE names /nosuch"),
        ({"attempts": 0}, "attempts is 0; it must be greater than 0, 86400 at most."),
        ({"read_timeout": float("nan")}, "read_timeout is nan"),
        ({"connect_timeout": 1e300}, "connect_timeout is 1e+300"),
        ({"retry_budget": float("inf")}, "retry_budget is inf"),
        ({"ca": True}, "X509_CERT_DIR (ca) must be a path, not a bool."),
        ({"attempts": True}, "attempts must be a whole number, not a bool."),
        ({"attempts": 2.5}, "attempts must be a whole number, not a float."),
        ({"production": 1}, "production must be true or false, not a int."),
        ({"push_password": 1234}, "push_password must be a text, not a int."),
        ({"vo": "wlcg\r\nX-Role: admin"}, "PANDA_AUTH_VO (vo) holds a line break or another control character."),
        ({"ca": Path("a\0b")}, "X509_CERT_DIR (ca) holds a line break or another control character."),
        ({"token": "a.b\nc"}, "PANDA_AUTH_ID_TOKEN (token) holds a line break or another control character."),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PandaClient(ClientConfig(**settings))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "label"),
    [({"vo": "atlas"}, "user"), ({"vo": "wlcg.production"}, "managed"), ({"production": True}, "managed")],
)
def test_with_the_production_role_tasks_are_taken_for_production(settings: dict[str, Any], label: str) -> None:
    assert ClientConfig(**settings).task_label == label


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attempts": "many"}, "attempts is 'many'"),
        ({"production": "perhaps"}, "production is 'perhaps': it must be on or off"),
        ({"ca": "~nobody.at.all/x"}, "home directory"),
        ({"urll": "x"}, "there is no setting called urll; did you mean url."),
        ({"pushurl": "x"}, "there is no setting called pushurl; did you mean push_url."),
        ({"%%%": "x"}, "there is no setting called %%%."),
    ],
)
def test_what_cannot_be_read_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ClientConfig.from_env({}, **settings)


def test_a_path_or_a_number_may_be_given_as_text() -> None:
    config = ClientConfig(proxy="/proxies/bob", token_file="~/token", attempts="3", verify_host="off")  # type: ignore[arg-type]
    assert (config.proxy_path, config.token_file) == (Path("/proxies/bob"), Path.home() / "token")
    assert (config.attempts, config.verify) == (3, False)


def test_every_setting_is_documented_and_secrets_stay_out_of_sight() -> None:
    for item in fields(ClientConfig):
        assert item.metadata["label"]
        assert item.metadata["help"].endswith(".")
        assert item.repr is not item.metadata["secret"]
    assert "hush" not in repr(ClientConfig(token="hush"))


def test_a_client_without_settings_reads_the_environment_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for server in ("https://one:25443", "https://two:25443"):
        monkeypatch.setenv("PANDA_URL_SSL", f"{server}/server/panda")
        with PandaClient() as client:
            assert client.config.server == server


def test_settings_can_be_pickled_and_a_client_says_that_it_cannot() -> None:
    config = ClientConfig(auth="oidc", vo="wlcg")
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301
    with pytest.raises(TypeError, match="cannot be pickled; make another one"), PandaClient(config) as client:
        pickle.dumps(client)


IMPORT = """
import os, socket, sys

class Forbidden:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "airflow" or name.startswith("panda_airflow.devserver"):
            raise ImportError(name)

sys.meta_path.insert(0, Forbidden())
import cryptography.x509, requests, tenacity, importlib, pkgutil, hashlib, tempfile, logging

def refuse(*args):
    raise AssertionError(f"touched at import: {args}")

class Sealed(dict):
    __getitem__ = get = __contains__ = refuse

os.environ = Sealed()
socket.socket = socket.getaddrinfo = socket.getfqdn = refuse
import panda_airflow.client, panda_airflow.waiting
for room in (panda_airflow.client, panda_airflow.waiting):
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        importlib.import_module(module.name)
print(*sorted(panda_airflow.client.__all__))
"""


def test_importing_reads_no_environment_opens_no_connection_and_needs_no_airflow() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "PandaClient" in done.stdout
