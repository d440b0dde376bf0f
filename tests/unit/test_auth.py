"""Credentials: what is sent as whom, when a token is refreshed, and what is said when there is none."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from panda_airflow.client import (
    ClientConfig,
    ConfigError,
    CredentialExpired,
    CredentialMissing,
    CredentialRefused,
    NotDelivered,
    ServerError,
)
from panda_airflow.client.auth import reread, tokens, trust
from panda_airflow.client.auth.credentials import X509Proxy, credential_of
from panda_airflow.client.auth.tokens import TokenDirectory, TokenFile, expiry
from panda_airflow.devserver.auth.certificates import Authority
from tests.support.rude_server import CLOSE, Rude, reply, serve
from tests.support.tokens import jwt


def signed(settings: ClientConfig) -> dict[str, str]:
    """The headers that a credential adds."""
    request = requests.Request("GET", "http://localhost").prepare()
    credential_of(settings)(request)
    return dict(request.headers)


def test_production_is_part_of_the_origin() -> None:
    config = ClientConfig(auth="oidc", vo="wlcg", token="a.b.c\n")
    assert signed(config) == {"Authorization": "Bearer a.b.c", "Origin": "wlcg"}
    for vo in ("wlcg", "wlcg.production"):
        assert signed(ClientConfig(auth="oidc", vo=vo, token="t", production=True))["Origin"] == "wlcg.production"


@pytest.mark.parametrize("token", ["two words", "umläut"])
def test_a_token_that_cannot_be_a_header_is_not_shown(token: str) -> None:
    with pytest.raises(CredentialMissing) as caught:
        credential_of(ClientConfig(auth="oidc", vo="wlcg", token=token)).check()
    assert token not in str(caught.value)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.e30.c", "a.WzFd.c", "é.é.é", "a.eyJleHAiOiJ4In0.c"])
def test_what_does_not_say_when_it_expires_is_left_to_the_server(token: str) -> None:
    assert expiry(token) is None


def test_a_token_file_is_read_whenever_it_changes(tmp_path: Path) -> None:
    source = TokenFile(tmp_path / "token")
    with pytest.raises(CredentialMissing, match=r"token cannot be read .* Check OIDC_AUTH_TOKEN_FILE"):
        source.token()
    source.path.write_text("first\n")
    assert source.token() == "first"
    assert not source.renew()
    source.path.write_text("second\n")
    assert source.renew()
    assert source.token() == "second"
    source.path.write_text(jwt(lifetime=-1))
    with pytest.raises(CredentialExpired, match=r"the token expired at .* has to write a new one"):
        source.token()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def stored(directory: Path, lifetime: float, refresh: str | None = "once") -> str:
    """Put a token where panda-client's device flow leaves it."""
    token = jwt(lifetime)
    (directory / ".token").write_text(json.dumps({"id_token": token, "refresh_token": refresh, "scope": "openid"}))
    return token


def provider(rude: Rude, token: str) -> list[bytes]:
    """Answers of a PanDA server and an identity provider to one refresh."""
    config = {"client_id": "panda", "client_secret": "hush", "oidc_config_url": f"{rude.url}/.well-known"}
    replies = (config, {"token_endpoint": f"{rude.url}/token"}, {"id_token": token, "refresh_token": "twice"})
    return [reply(json.dumps(item)) for item in replies]


def source(directory: Path, rude: Rude) -> TokenDirectory:
    return TokenDirectory(directory, f"{rude.url}/auth/wlcg_auth_config.json")


def test_a_long_lived_token_is_used_as_it_is(directory: Path) -> None:
    token = stored(directory, 3600)
    with serve() as rude:
        assert source(directory, rude).token() == token
        assert rude.connections == 0


@pytest.mark.parametrize("lifetime", [200, -200])
def test_a_token_near_its_end_is_refreshed_once_for_everybody(
    directory: Path, lifetime: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stale, fresh = stored(directory, lifetime), jwt(7200)
    with serve() as rude, ThreadPoolExecutor(8) as pool:
        rude.answers = [*provider(rude, fresh), CLOSE]
        tokens = list(pool.map(lambda _: source(directory, rude).token(), range(8)))
        paths = [request.target for request in rude.requests]
        sent = rude.requests[-1].body.decode()
    assert set(tokens) == {fresh}
    assert paths == ["/auth/wlcg_auth_config.json", "/.well-known", "/token"]
    assert sent == "client_id=panda&client_secret=hush&grant_type=refresh_token&refresh_token=once"
    kept = json.loads((directory / ".token").read_text())
    assert kept == {"id_token": fresh, "refresh_token": "twice", "scope": "openid"}
    assert stat.S_IMODE((directory / ".token").stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == [".token", ".token.lock"]
    assert not {stale, fresh, "hush", "once", "twice"} & set(caplog.text.split())
    assert fresh not in caplog.text


def test_a_refusal_forces_a_refresh(directory: Path) -> None:
    stored(directory, 3600)
    with serve() as rude:
        rude.answers = list(provider(rude, jwt(7200)))
        assert source(directory, rude).renew()
        rude.answers = [CLOSE]
        assert not source(directory, rude).renew()


def test_a_valid_token_survives_a_provider_that_is_down(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = stored(directory, 100)
    with serve(reply("oops", "502 Bad Gateway")) as rude:
        assert source(directory, rude).token() == token
    assert "is still valid but was not refreshed" in caplog.text


@pytest.mark.parametrize("at", [0, 1, 2], ids=["server", "provider", "token endpoint"])
def test_secrets_of_a_token_follow_nobody_elsewhere(directory: Path, at: int) -> None:
    stored(directory, -1)
    with serve() as elsewhere, serve() as rude:
        there = reply('{"id_token": "x"}', "307 Temporary Redirect", Location=f"{elsewhere.url}/token")
        rude.answers = [*provider(rude, jwt(7200))[:at], there]
        with pytest.raises(CredentialExpired, match="answered HTTP 307"):
            source(directory, rude).token()
        assert not elsewhere.requests


@pytest.mark.parametrize("url", ["http://idp.example/token", "HTTP://10.0.0.1/token", "ftp://idp.example", "", None, 5])
def test_secrets_of_a_token_are_not_sent_in_the_open(directory: Path, url: object) -> None:
    stored(directory, -1)
    with serve() as rude:
        rude.answers = [*provider(rude, "x")[:1], reply(json.dumps({"token_endpoint": url}))]
        with pytest.raises(ConfigError, match=r"is not https: no secret of a token is sent there"):
            source(directory, rude).token()
        assert len(rude.requests) == 2


def test_a_refresh_of_another_process_is_waited_for_but_not_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tokens, "LONGEST_LOCK", 0.2)
    with serve() as rude, (directory / ".token.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stored(directory, -1)
        with pytest.raises(
            NotDelivered, match=r"another process has been refreshing the token in .* for 0 s\. Try again"
        ):
            source(directory, rude).token()
        valid = stored(directory, 100)
        assert source(directory, rude).token() == valid
        assert not rude.requests
    assert "is still valid but was not refreshed" in caplog.text


def test_a_provider_that_answers_without_end_is_left(directory: Path) -> None:
    stored(directory, -1)
    with serve(reply(b" " * (2 << 20))) as rude, pytest.raises(ServerError, match="larger than 1 MB"):
        source(directory, rude).token()


def test_a_credential_of_another_user_in_a_shared_directory_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Authority(tmp_path / "ca").proxy("Bob")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "x509up").write_bytes(proxy.read_bytes())
    (shared / "token").write_text("a.b.c")
    (shared / ".token").write_text('{"id_token": "a.b.c"}')
    shared.chmod(0o1777)
    uses = [X509Proxy(shared / "x509up").check, TokenFile(shared / "token").token, TokenDirectory(shared, "").renew]
    for use in uses[:2]:
        use()
    monkeypatch.setattr(trust, "ROOT", 10**6)
    monkeypatch.setattr(os, "geteuid", lambda: 10**6)
    for use in uses:
        with pytest.raises(CredentialRefused, match="belongs to another user, in a directory that all users share"):
            use()
    shared.chmod(0o755)
    for use in uses[:2]:
        use()


def test_a_link_of_another_user_is_no_better_than_a_file(tmp_path: Path) -> None:
    assert not trust.is_foreign(tmp_path / "nosuch")
    tmp_path.chmod(0o1777)
    (tmp_path / "link").symlink_to("/etc/hostname")
    if os.geteuid() == 0:
        os.lchown(tmp_path / "link", 12345, 12345)
        assert trust.is_foreign(tmp_path / "link")


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    stored(tmp_path, -1)
    (tmp_path / ".token.lock").mkdir()
    with serve() as rude, pytest.raises(ConfigError, match=r"cannot be written to, so the token grows old"):
        source(tmp_path, rude).token()


def test_a_token_that_cannot_be_refreshed_says_how_to_get_one(directory: Path) -> None:
    with serve() as rude:
        with pytest.raises(CredentialMissing, match=r"\.token holds no token .* Run pbook"):
            source(directory, rude).token()
        stored(directory, -1, refresh=None)
        with pytest.raises(CredentialExpired, match=r"cannot be refreshed. Run pbook"):
            source(directory, rude).token()
        stored(directory, -1)
        rude.answers = [reply('{"error": "invalid_grant"}', "400 Bad Request")]
        with pytest.raises(CredentialExpired, match=r"answered HTTP 400. The server says: .*invalid_grant.* Run pbook"):
            source(directory, rude).token()
        rude.answers = [reply("", "503 Service Unavailable")]
        with pytest.raises(ServerError, match="HTTP 503"):
            source(directory, rude).token()
    with pytest.raises(NotDelivered, match="does not accept connections"):
        source(directory, rude).token()


def test_a_proxy_is_as_good_as_the_certificate_in_it_that_ends_first(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, bad = authority.proxy("Bob", lifetime=60), authority.proxy("Bob", lifetime=-60)
    X509Proxy(good).check()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(good.read_bytes() + bad.read_bytes())
    for proxy in (bad, chain):
        with pytest.raises(CredentialExpired, match=r"expired at 20\d\d-.* UTC. Renew it with voms-proxy-init"):
            X509Proxy(proxy).check()


def test_what_is_no_proxy_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(CredentialMissing, match="is not a grid proxy in PEM form"):
        X509Proxy(empty).check()
    with pytest.raises(CredentialMissing, match="nosuch cannot be read"):
        X509Proxy(tmp_path / "nosuch").check()


def test_a_proxy_that_is_written_just_now_is_waited_for(tmp_path: Path) -> None:
    whole = Authority(tmp_path).proxy("Bob", lifetime=60).read_text()
    proxy = tmp_path / "renewed"
    for torn in ("", whole[:200], whole[: whole.index("-----END CERTIFICATE-----") + 26]):
        proxy.write_text(torn)
        renewal = threading.Timer(0.3, proxy.write_text, [whole])
        renewal.start()
        X509Proxy(proxy).check()
        renewal.join()


def test_a_token_that_was_refused_is_read_again_while_its_file_is_being_written(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a.half")
    source = TokenFile(file)
    assert source.token() == "a.half"
    renewal = threading.Timer(0.3, file.write_text, ["a.whole.token"])
    renewal.start()
    assert source.renew()
    renewal.join()
    assert source.token() == "a.whole.token"


def test_a_file_that_stays_away_is_not_hopeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reread, "PAUSES", (0.01,))
    for read in (TokenFile(tmp_path / "nosuch").token, X509Proxy(tmp_path / "nosuch").check):
        with pytest.raises(CredentialMissing) as missing:
            read()
        assert not missing.value.hopeless
