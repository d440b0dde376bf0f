"""What the client sends, and what it makes of everything that can happen to it, over real sockets."""

from __future__ import annotations

import json
import logging
import os
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client import (
    ConfigError,
    CredentialExpired,
    CredentialMissing,
    CredentialRefused,
    InvalidArgument,
    NotDelivered,
    NotFound,
    OutcomeUnknown,
    PandaError,
    Refused,
    ServerError,
    UsageError,
)
from panda_airflow.devserver.auth.certificates import Authority
from tests.support.clients import SUBMITTED, TASK, Clients
from tests.support.rude_server import CLOSE, CLOSED_PORT, HANG, OK, RESET, Rude, reply, serve, tls
from tests.support.tokens import jwt

HTML = "<html><head><title>Welcome</title></head><body><p>nginx</p></body></html>"


def test_a_get_is_sent_exactly_as_the_server_wants_it(clients: Clients) -> None:
    with serve() as rude:
        assert clients(rude, production=True, token="the.token").task.get_status(42) == "done"
        (request,) = rude.requests
    assert (request.method, request.target, request.body) == ("GET", "/api/v1/task/get_status?task_id=42", b"")
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Authorization"] == "Bearer the.token"
    assert request.headers["Origin"] == "wlcg.production"
    assert "Content-Type" not in request.headers


def test_a_post_is_sent_exactly_as_the_server_wants_it(clients: Clients) -> None:
    with serve(SUBMITTED) as rude:
        assert clients(rude).task.submit(TASK, parent_tid=3).task_id == 7
        (request,) = rude.requests
    assert (request.method, request.target) == ("POST", "/api/v1/task/submit")
    assert json.loads(request.body) == {"task_parameters": TASK, "parent_tid": 3}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept"] == "application/json"


def test_query_arguments_repeat_lists_and_spell_booleans(clients: Clients) -> None:
    with serve(reply('{"success": true, "data": []}'), reply('{"success": true, "data": {}}')) as rude:
        clients(rude).job.get_status(job_ids=[1, 2], timeout=3)
        clients(rude).task.get_details(5, include_parameters=True, include_status=False)
        targets = [request.target.split("?")[1] for request in rude.requests]
    assert targets == ["job_ids=1&job_ids=2&timeout=3", "task_id=5&include_parameters=true&include_status=false"]


def test_a_file_is_sent_as_multipart_and_read_again_for_each_attempt(clients: Clients, tmp_path: Path) -> None:
    file = tmp_path / 'sources."x".tar.gz'
    file.write_bytes(os.urandom(3_000_000))
    with serve(reply("busy", "503 Service Unavailable"), reply('{"success": true}')) as rude:
        assert clients(rude, read_timeout=5).put_file(file) == file.name
    for request in rude.requests:
        boundary = request.headers["Content-Type"].removeprefix("multipart/form-data; boundary=").encode()
        head, _, content = request.body.partition(b"\r\n\r\n")
        assert b'name="file"; filename="sources.\\"x\\".tar.gz"' in head
        assert content == file.read_bytes() + b"\r\n--" + boundary + b"--\r\n"
    assert len(rude.requests) == 2


def test_connections_are_kept_alive_but_not_for_what_must_not_be_repeated(clients: Clients) -> None:
    with serve(OK, OK, OK, SUBMITTED, SUBMITTED, OK) as rude:
        client = clients(rude)
        for _ in range(3):
            client.task.get_status(1)
        assert rude.connections == 1
        client.task.submit(TASK)
        client.task.submit(TASK)
        client.task.get_status(1)
        assert rude.connections == 3


def test_threads_share_a_client(clients: Clients) -> None:
    with serve() as rude, ThreadPoolExecutor(8) as pool:
        client = clients(rude, read_timeout=5)
        assert set(pool.map(client.task.get_status, range(1, 201))) == {"done"}
        assert {request.target.split("=")[1] for request in rude.requests} == {str(n) for n in range(1, 201)}
        assert rude.connections <= 8


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"log": {"x": {1}}}, "task_parameters.log.x is a set, which has no JSON form; nothing was sent."),
        ({"a": [1, float("nan")]}, "task_parameters.a[1] is nan, which has no JSON form; nothing was sent."),
        ({"a": {(1, 2): 3}}, "the key task_parameters.a.(1, 2) is a tuple, which has no JSON form; nothing was sent."),
    ],
)
def test_what_has_no_json_form_is_named_and_not_sent(clients: Clients, parameters: dict[str, Any], says: str) -> None:
    with serve() as rude:
        with pytest.raises(UsageError) as caught:
            clients(rude).task.submit(TASK | parameters)
        assert str(caught.value) == f"task/submit: {says}"
        assert rude.connections == 0


TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{"success": tr'
BAD_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\nhello\r\n"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (CLOSE, OutcomeUnknown, "closed the connection without a reply. The server may have acted: look before"),
        (RESET, OutcomeUnknown, "closed the connection without a reply."),
        (HANG, OutcomeUnknown, "took the request and did not answer in time."),
        (b"SSH-2.0-OpenSSH_9.6\r\n", OutcomeUnknown, "closed the connection without a reply."),
        (TRUNCATED, OutcomeUnknown, "broke off."),
        (BAD_CHUNKS, OutcomeUnknown, "broke off."),
        (reply(""), ServerError, "the reply is empty. Check that the URL"),
        (reply(HTML), ServerError, "the reply is not a PanDA envelope. The server says: Welcome nginx. Check that"),
        (reply(HTML, "404 Not Found"), ConfigError, "HTTP 404. The server says: Welcome nginx. Check that the URL"),
        (reply("plain HTTP to a TLS port", "400 Bad Request"), ConfigError, "its port and http or https are those"),
        (reply("", "302 Found", Location="https://x/login"), ConfigError, "go to https://x/login. Check that the URL"),
        (reply("", "413 Too Large"), InvalidArgument, "HTTP 413. Ask for less at once."),
        (reply("<p>bad gateway</p>", "502 Bad Gateway"), ServerError, "The server says: bad gateway. Try again later"),
        (reply("", "401 Unauthorized"), CredentialRefused, "Check the token"),
    ],
)
def test_each_bad_answer_is_one_clear_error(clients: Clients, answer: bytes, kind: type[PandaError], says: str) -> None:
    with serve(answer) as rude:
        with pytest.raises(kind) as caught:
            clients(rude, attempts=1).task.get_status(1)
        assert len(rude.requests) == 1
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert str(caught.value).startswith("task/get_status: ")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"http://localhost:{CLOSED_PORT}", "does not accept connections."),
        ("http://nowhere.invalid", "the name of nowhere.invalid cannot be resolved."),
        (f"http://{'x' * 70}.org", "is no host name."),
    ],
)
def test_an_unreachable_server_is_not_delivered(clients: Clients, url: str, says: str) -> None:
    with pytest.raises(NotDelivered) as caught:
        clients(url).task.submit(TASK)
    assert says in str(caught.value)
    assert "PANDA_URL_SSL" in str(caught.value)
    assert len(clients.slept) == 2


def test_a_dead_proxy_is_named(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{CLOSED_PORT}")
    with pytest.raises(NotDelivered, match=r"the proxy on the way to panda.test failed. Check HTTPS_PROXY"):
        clients("http://panda.test").task.get_status(1)


def test_the_environment_chooses_the_proxy(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert clients("http://panda.test:25080").task.get_status(1) == "done"
        assert proxy.requests[0].target == "http://panda.test:25080/api/v1/task/get_status?task_id=1"


IDEMPOTENT = {CLOSE: 3, HANG: 3, reply("", "503 Service Unavailable"): 3, reply("", "404 Not Found"): 1}


@pytest.mark.parametrize(("answer", "times"), IDEMPOTENT.items())
def test_what_may_be_repeated_is_repeated_by_family(clients: Clients, answer: bytes, times: int) -> None:
    for call in ("get_status", "kill"):
        with serve(answer) as rude:
            with pytest.raises(PandaError):
                getattr(clients(rude).task, call)(1)
            assert len(rude.requests) == times


@pytest.mark.parametrize(
    "answer",
    [
        CLOSE,
        RESET,
        HANG,
        TRUNCATED,
        reply("", "503 Service Unavailable"),
        reply('{"success": false, "message": "failed to register task", "data": 4}'),
    ],
)
def test_a_submission_that_may_have_arrived_is_never_repeated(clients: Clients, answer: bytes) -> None:
    with serve(answer) as rude:
        with pytest.raises((OutcomeUnknown, ServerError)):
            clients(rude).task.submit(TASK)
        assert len(rude.requests) == 1
    assert not clients.slept


def test_a_server_that_recovers_is_asked_again(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(CLOSE, reply("", "429 Too Many Requests", Retry_After="7"), OK) as rude:
        client = clients(rude)
        assert client.task.get_status(1) == "done"
    assert 0.5 <= clients.slept[0] <= 1.1
    assert clients.slept[1] == 7
    announced = [record.message for record in caplog.records if record.name.endswith("client.http.retry")]
    assert [text[:25] for text in announced] == ["Attempt 1 failed, the nex", "Attempt 2 failed, the nex"]
    assert client.config.token not in caplog.text


def test_a_long_retry_after_is_left_to_the_caller(clients: Clients) -> None:
    with serve(reply("", "503 Service Unavailable", Retry_After="86400")) as rude:
        with pytest.raises(ServerError) as caught:
            clients(rude, attempts=9).task.get_status(1)
        assert caught.value.retry_after == 86400
        assert rude.connections == 1
    assert clients.slept == []


def test_the_budget_ends_the_repetition(clients: Clients) -> None:
    with serve(reply("", "503 Service Unavailable", Retry_After="20")) as rude, pytest.raises(ServerError):
        clients(rude, attempts=9, retry_budget=0.1).task.get_status(1)
    assert clients.slept == []


def test_an_expired_token_is_not_sent(clients: Clients) -> None:
    with serve() as rude:
        with pytest.raises(CredentialExpired, match=r"^task/get_status: the token expired at .* UTC. Put a new one"):
            clients(rude, token=jwt(lifetime=-5)).task.get_status(1)
        assert rude.connections == 0


def test_a_refused_token_is_read_again_once_even_for_a_submission(clients: Clients, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first.token\n")
    expired = reply("ERROR : Token authentication failed. Invalid token. Signature has expired", "403 Forbidden")

    def refuse_while_somebody_renews() -> bytes:
        file.write_text("second.token\n")
        return expired

    with serve(refuse_while_somebody_renews, SUBMITTED, expired) as rude:
        client = clients(rude, token="", token_file=file)
        assert client.task.submit(TASK).task_id == 7
        with pytest.raises(CredentialExpired, match="Renew the token"):
            client.task.submit(TASK)
        sent = [request.headers["Authorization"] for request in rude.requests]
    assert sent == ["Bearer first.token", "Bearer second.token", "Bearer second.token"]


def test_is_alive_needs_no_credential_and_nothing_else_goes_without(clients: Clients, tmp_path: Path) -> None:
    with serve(reply('{"success": true}')) as rude:
        client = clients(rude, token="")
        client.system.is_alive()
        assert "Authorization" not in rude.requests[0].headers
        with pytest.raises(CredentialMissing, match=r"^task/get_status: no token is configured. Set PANDA_AUTH"):
            client.task.get_status(1)
        assert len(rude.requests) == 1


def test_netrc_adds_no_authorization(clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login bob password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serve(OK) as rude:
        client = clients(rude, token="the.token")
        client.task.get_status(1)
        clients(rude, token="").system.is_alive()
        headers = [request.headers.get("Authorization") for request in rude.requests]
    assert headers == ["Bearer the.token", None]


@pytest.mark.parametrize("answer", [CLOSE, reply("no", "403 Forbidden"), reply("Token authentication failed", "403 x")])
def test_no_error_and_no_log_shows_the_token(clients: Clients, answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(answer) as rude, pytest.raises(PandaError) as caught:
        clients(rude).task.get_status(1)
    token = clients.made[0].config.token
    error: BaseException | None = caught.value
    while error:
        assert token not in f"{error} {error!r} {vars(error)}"
        assert getattr(error, "request", None) is None
        error = error.__cause__ or error.__context__
    assert token not in caplog.text
    assert token not in repr(clients.made[0].config)


def test_cookies_are_not_kept(clients: Clients) -> None:
    with serve(reply('{"success": true, "data": "done"}', Set_Cookie="who=bob; Path=/")) as rude:
        client = clients(rude)
        client.task.get_status(1)
        client.task.get_status(1)
        assert "Cookie" not in rude.requests[1].headers


class TestTls:
    """Over TLS with a certificate authority of the test's own."""

    @pytest.fixture
    def rude(self, authority: Authority) -> Iterator[Rude]:
        with serve(context=tls(authority.host_file)) as rude:
            yield rude

    def test_the_configured_ca_wins_over_the_environment(
        self, clients: Clients, rude: Rude, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        wrong = Authority(tmp_path).ca_file
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(wrong))
        for ca in (authority.ca_file, authority.ca_directory):
            assert clients(rude, ca=ca).task.get_status(1) == "done"
        with pytest.raises(NotDelivered):
            clients(rude).task.get_status(1)

    def test_a_ca_bundle_that_is_gone_is_named(
        self, clients: Clients, rude: Rude, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nosuch.pem")
        with pytest.raises(ConfigError, match=r"a certificate file cannot be used: .*/nosuch\.pem"):
            clients(rude).task.get_status(1)

    def test_an_untrusted_server_gets_nothing(self, clients: Clients, rude: Rude) -> None:
        with pytest.raises(NotDelivered, match=r"the certificate of localhost:\d+ is not trusted \(.*Point X509_CERT"):
            clients(rude).task.get_status(1)
        assert not rude.requests

    def test_a_certificate_for_another_name_is_not_trusted(self, clients: Clients, authority: Authority) -> None:
        with (
            serve(context=tls(authority.host_file), host="127.0.0.2") as rude,
            pytest.raises(NotDelivered, match=r"is not trusted .*127\.0\.0\.2"),
        ):
            clients(rude, ca=authority.ca_file).task.get_status(1)

    def test_checking_can_be_turned_off_with_one_warning(
        self, clients: Clients, rude: Rude, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            with pytest.warns(Warning, match="Unverified HTTPS"):
                assert clients(rude, verify_host=False).task.get_status(1) == "done"
        warnings = [record for record in caplog.records if "nobody checks" in record.message]
        assert len(warnings) == 1

    def test_http_and_https_are_told_apart(self, clients: Clients, rude: Rude, authority: Authority) -> None:
        with pytest.raises(OutcomeUnknown, match="If this is a TLS port, use https://"):
            clients(rude.url.replace("https", "http"), attempts=1).task.get_status(1)
        with serve() as plain, pytest.raises(NotDelivered, match=r"does not speak TLS. Use its TLS port, or http://"):
            clients(plain.url.replace("http", "https"), ca=authority.ca_file).task.get_status(1)

    def test_a_proxy_identifies_its_owner(self, clients: Clients, authority: Authority) -> None:
        with serve(context=tls(authority.host_file, authority.ca_file)) as rude:
            client = clients(rude, auth="voms", proxy=authority.proxy("Bob Tester"), ca=authority.ca_directory)
            assert client.task.get_status(1) == "done"
            assert not {"Authorization", "Origin"} & rude.requests[0].headers.keys()

    def test_a_proxy_that_the_server_does_not_know_is_refused(
        self, clients: Clients, authority: Authority, tmp_path: Path
    ) -> None:
        stranger = Authority(tmp_path).proxy("Bob Tester")
        context = tls(authority.host_file, authority.ca_file)
        for version, kinds in (
            (ssl.TLSVersion.TLSv1_2, NotDelivered),
            # Here the refusal comes after the request, and may be lost when the connection is closed.
            (ssl.TLSVersion.TLSv1_3, (NotDelivered, OutcomeUnknown)),
        ):
            context.minimum_version = context.maximum_version = version
            with serve(context=context) as rude:
                with pytest.raises(kinds, match=r"refused the client certificate .*unknown ca|refuses the grid proxy"):
                    clients(rude, auth="voms", proxy=stranger, ca=authority.ca_file).task.get_status(1)
                assert not rude.requests

    def test_an_expired_or_missing_proxy_is_not_used(
        self, clients: Clients, rude: Rude, authority: Authority, tmp_path: Path
    ) -> None:
        with pytest.raises(CredentialExpired, match=r"expired at .* UTC. Renew it with voms-proxy-init."):
            clients(rude, auth="voms", proxy=authority.proxy("Bob", lifetime=-60), ca=authority.ca_file).task.kill(1)
        with pytest.raises(CredentialMissing, match=r"nosuch cannot be read .* Make one with voms-proxy-init"):
            clients(rude, auth="voms", proxy=tmp_path / "nosuch", ca=authority.ca_file).task.kill(1)
        assert rude.connections == 0


class TestCache:
    """Files of the cache."""

    def test_a_taken_name_counts_as_uploaded_if_it_holds_the_same(self, clients: Clients, tmp_path: Path) -> None:
        file = tmp_path / "jobO.1.tar.gz"
        file.write_bytes(b"x")
        taken = reply('{"success": false, "message": "ERROR: cannot overwrite file", "data": null}')
        other = [taken, reply("y"), taken, reply("nothing", "404 Not Found")]
        with serve(taken, reply("x"), *other, reply('{"success": false, "message": "ERROR: disk full"}')) as rude:
            assert clients(rude).put_file(file) == "jobO.1.tar.gz"
            for _ in range(2):
                with pytest.raises(Refused, match=r"cannot overwrite file. The cache holds another file called jobO"):
                    clients(rude).put_file(file)
            with pytest.raises(Refused, match="disk full"):
                clients(rude).put_file(file)

    def test_what_is_too_large_or_missing_is_not_sent(self, clients: Clients, tmp_path: Path) -> None:
        big = tmp_path / "jobO.big.tar.gz"
        with big.open("wb") as file:
            file.truncate(11 << 20)
        with serve() as rude:
            with pytest.raises(
                UsageError, match=r"has 11.0 MB; the cache takes 10 MB of such a file. Nothing was sent"
            ):
                clients(rude).put_file(big)
            with pytest.raises(UsageError, match="nosuch cannot be read"):
                clients(rude).put_file(tmp_path / "nosuch")
            assert rude.connections == 0

    def test_uploads_go_to_the_cache_and_calls_to_the_server(self, clients: Clients, tmp_path: Path) -> None:
        file = tmp_path / "jobO.1"
        file.write_bytes(b"x")
        with serve() as server, serve() as cache:
            client = clients(server, cache_url=f"{cache.url}/server/panda")
            client.put_file(file)
            client.task.get_status(1)
            assert client.cache_url == cache.url
            assert [len(server.requests), len(cache.requests)] == [1, 1]

    def test_a_download_is_complete_or_absent(self, clients: Clients, tmp_path: Path) -> None:
        content = os.urandom(100_000)
        cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n" + content[:5000]
        with serve(cut, reply(content, Content_Encoding="gzip")) as rude:
            client = clients(rude, token="", attempts=1, read_timeout=5)
            with pytest.raises(OutcomeUnknown, match=r"cache/a b.tgz: the reply of .* broke off"):
                client.download("a b.tgz", tmp_path)
            assert list(tmp_path.iterdir()) == []
            assert client.download("a b.tgz", tmp_path).read_bytes() == content
            assert rude.requests[1].target == "/cache/a%20b.tgz"
            assert "Authorization" not in rude.requests[1].headers

    def test_a_missing_file_is_not_found(self, clients: Clients, tmp_path: Path) -> None:
        with serve(reply(HTML, "404 Not Found")) as rude:
            with pytest.raises(NotFound, match=r"cache/x: there is no such file. Check the name"):
                clients(rude).download("x", tmp_path / "y")
            assert len(rude.requests) == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", "", "a\\..\\x", "."])
    def test_no_name_leads_out_of_the_directory(self, clients: Clients, tmp_path: Path, name: str) -> None:
        with serve() as rude:
            with pytest.raises(UsageError, match="is not the name of a file in the cache"):
                clients(rude).download(name, tmp_path)
            assert rude.connections == 0
