"""Networks and servers that mean no good: what trickles, never ends, lies, or is sent on behalf of another."""

from __future__ import annotations

import gzip
import json
import logging
import random
import secrets
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client import (
    ClientConfig,
    ConfigError,
    NotDelivered,
    OutcomeUnknown,
    PandaClient,
    PandaError,
    Refused,
    ServerError,
)
from panda_airflow.client.http import connection, network
from panda_airflow.client.http import transport as transport_module
from panda_airflow.devserver.auth.certificates import Authority
from panda_airflow.waiting.poll_checks import look_at_recovery
from tests.support.clients import SUBMITTED, TASK, Clients
from tests.support.rude_server import BENEATH, CLOSE, HANG, OK, RESET, Rude, reply, serve, tls

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = 1 << 20


def drip(*beginning: bytes, piece: bytes = b" ", pause: float = 0.05) -> Any:
    """An answer that begins well and then goes on for ever, a piece at a time."""

    def answer() -> Iterator[bytes]:
        yield from beginning
        while True:
            yield piece
            time.sleep(pause)

    return answer


TRICKLES = {
    "status": drip(b"HTTP/1.1 200 O", piece=b"K"),
    "headers": drip(HEAD, piece=b"X-A: b\r\n", pause=0.1),
    "continue": drip(piece=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": drip(HEAD, b'Content-Length: 500\r\n\r\n{"success":'),
    "body without end": drip(HEAD, b'Connection: close\r\n\r\n{"success":'),
    "chunks": drip(HEAD, CHUNKED, piece=b"1\r\n \r\n"),
    "a chunk": drip(HEAD, CHUNKED + b"ffff\r\n"),
    "the size of a chunk": drip(HEAD, CHUNKED, piece=b"0"),
    "trailers": drip(HEAD, CHUNKED + b"0\r\n", piece=b"X-A: b\r\n"),
    "error page": drip(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n"),
}


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", TRICKLES.values(), ids=TRICKLES)
def test_what_trickles_ends_and_leaves_nothing_behind(
    clients: Clients, authority: Authority, answer: Any, secure: bool
) -> None:
    before = threading.enumerate()
    with serve(answer, context=tls(authority.host_file) if secure else None) as rude:
        client = clients(rude, attempts=1, read_timeout=0.2, ca=authority.ca_file)
        with pytest.raises(OutcomeUnknown, match=r"task/submit: .* did not answer in time\. The server may have"):
            client.task.submit(TASK)
    assert not [
        thread for thread in threading.enumerate() if thread not in before and "process_request" not in thread.name
    ]


def test_a_download_that_trickles_ends(clients: Clients, tmp_path: Path) -> None:
    trickle = drip(HEAD, b"Content-Length: 5000\r\n\r\n")
    with serve(trickle) as rude, pytest.raises(OutcomeUnknown, match="did not answer in time"):
        clients(rude, attempts=1).download("x", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_nobody_reads_ends(clients: Clients, tmp_path: Path) -> None:
    file = tmp_path / "sources.1.tar.gz"
    with file.open("wb") as stream:
        stream.truncate(30 << 20)
    with socket.create_server(("localhost", 0)) as deaf:
        client = clients(f"http://localhost:{deaf.getsockname()[1]}", attempts=1)
        with pytest.raises(OutcomeUnknown, match="did not answer in time"):
            client.put_file(file)


def test_what_goes_on_at_a_good_pace_is_not_cut(clients: Clients, tmp_path: Path) -> None:
    """A large file takes much longer than a reply may."""

    def steady() -> Iterator[bytes]:
        yield HEAD + b"Content-Length: 1000000\r\n\r\n"
        for _ in range(20):
            time.sleep(0.1)
            yield b"x" * 50_000

    with serve(steady) as rude:
        file = clients(rude, attempts=1).download("x", tmp_path)
    assert file.stat().st_size == 1_000_000


def endless(*beginning: bytes, piece: bytes) -> Any:
    return drip(*beginning, piece=piece, pause=0)


BOMB = gzip.compress(bytes(200 * SMALL))
TOO_LARGE = "the reply is larger than 1 MB. Ask for less at once."
LARGE: dict[str, tuple[Any, str]] = {
    "packed": (reply(BOMB, Content_Encoding="gzip"), TOO_LARGE),
    "declared": (HEAD + b"Content-Length: 9999999999999999999999\r\n\r\n{", TOO_LARGE),
    "declared twice": (HEAD + b"Content-Length: 99999999999999\r\nContent-Length: 99999999999999\r\n\r\n{", TOO_LARGE),
    "endless": (endless(HEAD, b"Connection: close\r\n\r\n", piece=b" " * 65536), TOO_LARGE),
    "chunks": (endless(HEAD, CHUNKED, piece=b"10000\r\n" + b" " * 65536 + b"\r\n"), TOO_LARGE),
    "continue": (endless(piece=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), TOO_LARGE),
    "trailers": (endless(HEAD, CHUNKED + b"0\r\n", piece=b"X: y\r\n" * 1000), TOO_LARGE),
    "packed twice": (reply(gzip.compress(BOMB), Content_Encoding="gzip, gzip"), "packed as 'gzip, gzip', which"),
    "packed otherwise": (reply(b"\x28\xb5\x2f\xfd", Content_Encoding="zstd"), "packed as 'zstd', which was not asked"),
    "not packed": (reply(b"{}", Content_Encoding="gzip"), "the reply cannot be unpacked"),
    "a chunk": (HEAD + CHUNKED + b"fffffffffffffff\r\n" + b" " * 3 * SMALL, TOO_LARGE),
    "cut": (reply(BOMB[:100], Content_Encoding="gzip"), "the packed reply is cut off"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "says"), LARGE.values(), ids=LARGE)
def test_no_reply_fills_the_memory(clients: Clients, monkeypatch: pytest.MonkeyPatch, answer: Any, says: str) -> None:
    monkeypatch.setattr(transport_module, "JSON_LIMIT", SMALL)
    with serve(answer) as rude:
        client = clients(rude, read_timeout=20, attempts=1)
        tracemalloc.start()
        try:
            with pytest.raises(PandaError) as caught:
                client.task.get_status(1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert type(caught.value) is ServerError
    assert says in str(caught.value)
    assert str(caught.value).startswith("task/get_status: ")
    assert peak < 12 * SMALL


def test_an_error_page_is_short(clients: Clients) -> None:
    page = endless(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", piece=b"<p>" * 9999)
    with serve(page) as rude, pytest.raises(ServerError, match="larger than 1 MB"):
        clients(rude, read_timeout=20, attempts=1).task.get_status(1)


def test_what_is_too_large_is_not_asked_for_again(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "JSON_LIMIT", SMALL)
    with serve(reply(BOMB, Content_Encoding="gzip")) as rude:
        with pytest.raises(ServerError):
            clients(rude).task.get_status(1)
        assert len(rude.requests) == 1


def test_a_packed_reply_is_read_and_an_endless_file_is_not(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = reply(gzip.compress(b'{"success": true, "data": "done"}'), Content_Encoding="gzip")
    monkeypatch.setattr(transport_module, "DOWNLOAD_LIMIT", SMALL)
    file = endless(HEAD, b"Connection: close\r\n\r\n", piece=b" " * 65536)
    with serve(packed, packed, file) as rude:
        client = clients(rude, read_timeout=20)
        assert [client.task.get_status(1) for _ in range(2)] == ["done", "done"]
        assert rude.connections == 1
        assert rude.requests[0].headers["Accept-Encoding"] == "gzip"
        with pytest.raises(ServerError, match=r"cache/x: the reply is larger than 1 MB"):
            client.download("x", tmp_path)
    assert list(tmp_path.iterdir()) == []


class TestDelivery:
    """Not delivered is only what went wrong before the connection was complete."""

    @pytest.mark.parametrize("answer", [BENEATH, CLOSE, RESET, HANG, b"\x15\x03\x03\x00\x02\x02\x28"])
    def test_a_stream_that_breaks_after_the_request_is_no_reason_to_repeat_it(
        self, clients: Clients, authority: Authority, answer: bytes
    ) -> None:
        with serve(answer, SUBMITTED, context=tls(authority.host_file)) as rude:
            with pytest.raises(OutcomeUnknown, match="The server may have acted: look before repeating"):
                clients(rude, ca=authority.ca_file).task.submit(TASK)
            assert len(rude.requests) == 1

    @pytest.mark.parametrize(
        "header",
        [
            b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"Content-Length: 5, 6\r\n\r\nhello",
            b"Content-Length: -5\r\nTransfer-Encoding: x\r\n\r\n",
            CHUNKED + b"-5\r\nhello\r\n",
            CHUNKED + b"fffffffffffffffff\r\nhello\r\n",
        ],
    )
    def test_odd_headers_of_a_reply_do_not_mean_that_nothing_was_sent(self, clients: Clients, header: bytes) -> None:
        with serve(HEAD + header, SUBMITTED) as rude:
            with pytest.raises((OutcomeUnknown, ServerError)):
                clients(rude).task.submit(TASK)
            assert len(rude.requests) == 1

    @pytest.mark.parametrize("end", ["close", "reset", "hang", "plain"])
    def test_a_handshake_that_fails_is_not_delivered(self, clients: Clients, authority: Authority, end: str) -> None:
        with socket.create_server(("localhost", 0)) as listener:
            ready = threading.Event()

            def meet() -> None:
                while not ready.is_set():
                    peer, _ = listener.accept()
                    peer.recv(2000)
                    if end == "plain":
                        peer.sendall(reply("go away", "400 Bad Request"))
                    if end == "hang":
                        ready.wait(5)
                    if end == "reset":
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    peer.close()

            threading.Thread(target=meet, daemon=True).start()
            client = clients(
                f"https://localhost:{listener.getsockname()[1]}", ca=authority.ca_file, connect_timeout=0.3, attempts=2
            )
            with pytest.raises(NotDelivered):
                client.task.submit(TASK)
            ready.set()
        assert len(clients.slept) == 1


class TestPinned:
    """Uploads go to one machine behind an alias, whose certificate must be that of the alias."""

    @pytest.fixture
    def rude(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rude]:
        with serve(OK, context=tls(authority.host_file), host="127.0.0.2") as rude:
            monkeypatch.setattr(network, "addresses_of", lambda _: ["127.0.0.2", "127.0.0.3"])
            monkeypatch.setattr(secrets, "choice", lambda _: "127.0.0.2")
            rude.url = rude.url.replace("127.0.0.2", "localhost")
            yield rude

    def claim(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(socket, "getfqdn", lambda _: name)

    def test_the_token_goes_to_the_address_under_the_name_of_the_alias(
        self, clients: Clients, rude: Rude, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.claim(monkeypatch, "localhost.localdomain")
        (tmp_path / "jobO.1").write_bytes(b"x")
        client = clients(rude, ca=authority.ca_file)
        client.put_file(tmp_path / "jobO.1")
        client.download("jobO.1", tmp_path / "copy")
        assert client.cache_url == rude.url.replace("localhost", "localhost.localdomain")
        probe, upload, download = rude.requests
        assert "Authorization" not in probe.headers
        assert upload.headers["Host"] == download.headers["Host"] == rude.url.removeprefix("https://")
        assert upload.target == "/api/v1/file_server/upload_cache_file"

    @pytest.mark.parametrize("name", ["evil.example", "127.0.0.2"])
    def test_whoever_claims_a_name_gets_nothing(
        self,
        clients: Clients,
        rude: Rude,
        authority: Authority,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        name: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.claim(monkeypatch, name)
        (tmp_path / "jobO.1").write_bytes(b"x")
        client = clients(rude, ca=authority.ca_file)
        client.put_file(tmp_path / "jobO.1")
        assert client.cache_url == rude.url
        assert "has no certificate of its own name: jobs are told the alias" in caplog.text
        assert {request.headers["Host"] for request in rude.requests} == {rude.url.removeprefix("https://")}

    def test_a_machine_without_the_certificate_of_the_alias_gets_nothing(
        self, clients: Clients, rude: Rude, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.claim(monkeypatch, "localhost.localdomain")
        (tmp_path / "jobO.1").write_bytes(b"x")
        client = clients(rude.url.replace("localhost", "alias.cern.ch"), ca=authority.ca_file, attempts=1)
        with pytest.raises(NotDelivered, match=r"the certificate of alias\.cern\.ch:\d+ is not trusted"):
            client.put_file(tmp_path / "jobO.1")
        assert not [request for request in rude.requests if "Authorization" in request.headers]

    def test_a_real_load_balancer_or_a_proxy_is_left_to_choose(
        self, clients: Clients, rude: Rude, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert clients(rude, real_load_balancer=True).cache_url == rude.url
        monkeypatch.setenv("https_proxy", "http://localhost:1")
        assert clients(rude).cache_url == rude.url
        assert not rude.requests


NASTY = "\ud800 \x00 \x1b[31m \x9b \r\n \x7f end"
"""What UTF-8, databases and terminals do not take."""


def test_no_text_of_the_server_can_break_a_log_or_a_database(clients: Clients) -> None:
    row = {"jediTaskID": 7, "taskName": NASTY, "errorDialog": NASTY, "splitRule": {NASTY: [NASTY]}}
    answer = json.dumps({"success": True, "message": NASTY, "data": row})
    with serve(reply(answer), reply(repr(json.loads(answer)))) as rude:
        client = clients(rude)
        for info in (client.task.get_detailed_info(7) for _ in range(2)):
            stored = json.dumps(info.raw, ensure_ascii=False)
            assert stored.encode() == stored.encode("utf-8", "replace")
            assert not any(character in f"{info}{stored}" for character in "\0\x1b\x9b\r\x7f")
            assert info.name == "\ufffd \ufffd \ufffd[31m \ufffd \n \ufffd end"


@pytest.mark.parametrize(
    "answer",
    [
        reply(json.dumps({"success": False, "message": NASTY})),
        reply(NASTY.encode("utf-8", "replace"), "500 Oops"),
        reply(b"\xff\x9b\x1b", "400 No"),
        reply("", "302 Found", Location="http://\x9b\x1b[31m/"),
        reply(NASTY.encode("utf-8", "replace")),
    ],
)
def test_no_error_holds_control_characters(clients: Clients, answer: bytes) -> None:
    with serve(answer) as rude, pytest.raises(PandaError) as caught:
        clients(rude, attempts=1).task.get_status(7)
    str(caught.value).encode()
    assert not any(character in str(caught.value) for character in "\0\x1b\x9b\r\x7f")


def test_a_log_in_the_cache_is_text_too(clients: Clients) -> None:
    with serve(reply(b"a\x1b[31m\0\nDone in the dry-run mode with True\ndone")) as rude:
        found = look_at_recovery(clients(rude), "x.log")
    assert found.value == {"log": ["a\ufffd[31m\ufffd", "Done in the dry-run mode with True"]}


TASK_INFO: dict[str, Any] = {"jediTaskID": 7, "status": "running"}
ODD: list[dict[str, Any]] = [
    {"jediTaskID": True},
    {"jediTaskID": 0},
    {"jediTaskID": -5},
    {"jediTaskID": 2**63},
    {"jediTaskID": None},
    {"jediTaskID": 8},
    {"status": ["running"]},
    {"attemptNr": "many"},
    {"attemptNr": 1.5},
    {"stateChangeTime": {"__datetime__": None}},
    {"stateChangeTime": {"__datetime__": "yesterday"}},
    {"stateChangeTime": "yesterday"},
    {"stateChangeTime": 5},
    {"stateChangeTime": {"__datetime__": "0001-01-01T00:00:00+14:00"}},
]


@pytest.mark.parametrize("field", ODD, ids=str)
def test_an_odd_answer_about_a_task_is_a_server_error(clients: Clients, field: dict[str, Any]) -> None:
    answer = reply(json.dumps({"success": True, "data": TASK_INFO | field}))
    says = r"task/get_detailed_info: the (reply has another shape|answer is about)"
    with serve(answer) as rude, pytest.raises(ServerError, match=says):
        clients(rude, attempts=1).task.get_detailed_info(7)


@pytest.mark.parametrize(
    "body",
    [
        '{"success": "false", "data": "done"}',
        '{"success": 1, "data": "done"}',
        '{"success": true, "data": ' + "[" * 200 + "]" * 200 + "}",
        '{"success": true, "data": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"success": true, "data": ' + "9" * 5000 + "}",
        '{"success": true, "data": ["done"]}',
        '{"success": true, "data": true}',
        '{"a":' * 50_000,
        "(" * 100_000,
        "{'success': True, 'data': {1, 2}}",
        "{'success': True, 'data': b'done'}",
    ],
    ids=lambda body: body[:40],
)
def test_an_odd_envelope_is_a_server_error(clients: Clients, body: str) -> None:
    with serve(reply(body)) as rude, pytest.raises(ServerError) as caught:
        clients(rude, attempts=1).task.get_status(7)
    assert type(caught.value) is ServerError
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("data", [True, 0, -5, 7.5, "7", [7], None, 2**63, 8])
def test_a_submission_without_its_id_is_a_server_error(clients: Clients, data: Any) -> None:
    body = json.dumps({"success": True, "message": "succeeded. new jediTaskID=7", "data": data})
    with serve(reply(body)) as rude:
        with pytest.raises(ServerError, match=r"task/submit: |accepted without a task ID"):
            clients(rude).task.submit(TASK)
        assert len(rude.requests) == 1


def test_one_odd_row_hides_no_others(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    good = {"jediTaskID": 5, "status": "done", "reqID": 5}
    rows = {"a": good, "b": good | {"reqID": [1]}, "c": good | {"jediTaskID": -1}, "d": "x", "e": None}
    jobs = [{"PandaID": 1, "jobStatus": "running"}, {"PandaID": "x"}, None]
    states = [{"status": "running", "command": None}, {"status": 5.5}, "finished"]
    answers = [reply(json.dumps({"success": True, "data": data})) for data in (rows, [*rows.values()], jobs, states)]
    with serve(*answers) as rude:
        client = clients(rude)
        assert [row.task_id for row in client.task.get_tasks_modified_since("2026-01-01").values()] == [5]
        assert [info.task_id for info in client.task.get_tasks_detailed_info_since()] == [5, 5]
        found = client.job.get_description([1, 2, 3])
        assert [job and job.status for job in found] == ["running", "", None]
        assert [state.status for state in client.job.get_status([1, 2, 3])] == ["running", "", ""]
    assert "4 rows of the answer cannot be read as TaskRow, such as: reqID: expected a whole number" in caplog.text


def test_a_list_of_odd_rows_is_a_server_error(clients: Clients) -> None:
    answer = reply(json.dumps({"success": True, "data": {"a": {"jediTaskID": "x"}}}))
    with serve(answer) as rude, pytest.raises(ServerError, match="jediTaskID: expected a whole number, got 'x'"):
        clients(rude, attempts=1).task.get_tasks_modified_since("2026-01-01")


def test_a_token_in_the_open_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for url in ("http://panda.example:25080", "http://panda.example:25080", "http://localhost:1", "http://127.0.0.5:1"):
        PandaClient(ClientConfig(url=url, auth="oidc", vo="wlcg", token="a.b.c")).close()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["the token goes to http://panda.example:25080 without TLS: everybody on the way can read it"]


def test_limits_are_in_order() -> None:
    assert connection.TEXT_LIMIT < connection.JSON_LIMIT < connection.DOWNLOAD_LIMIT


SEEDS = [
    OK,
    reply(gzip.compress(b'{"success": true}'), Content_Encoding="gzip"),
    HEAD + CHUNKED + b"11\r\n" + b'{"success": true}' + b"\r\n0\r\n\r\n",
    reply("", "302 Found", Location="http://[x/"),
    reply("no", "503 X", Retry_After="Fri, 01 Jan 2100 00:00:00 GMT", Set_Cookie="a=b; Expires=x; Domain=[;"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
]
BITS = (
    b"\r\n|\n|\0|: |Content-Length: 9|Content-Length: -1\r\n|Transfer-Encoding: chunked\r\n|Content-Encoding: gzip\r\n|"
    b"999|HTTP/0.9|HTTP/1.1 |\xff\xfe|Location: //[\r\n|Set-Cookie: =;;\r\n|Connection: close\r\n|\r\n\r\n|-"
).split(b"|")


def mangled(dice: random.Random) -> bytes:
    """A reply, a few places of which are not what they were."""
    data = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randint(0, 4)):
        at = dice.randrange(len(data))
        data[at : at + dice.choice([0, 1, 9])] = dice.choice([*BITS, b"", bytes([dice.randrange(256)])])
    return bytes(data)


def test_no_mangled_reply_is_anything_but_an_answer_or_an_error(clients: Clients) -> None:
    dice = random.Random(1)  # noqa: S311 - it only mangles
    with serve(lambda: iter([mangled(dice)])) as rude:
        client = clients(rude, attempts=1, read_timeout=2)
        for _ in range(300):
            with suppress(OutcomeUnknown, ServerError, ConfigError, Refused):
                client.task.submit(TASK)
