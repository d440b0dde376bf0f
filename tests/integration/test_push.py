"""A listener that never hears anything: waits go on by asking, and nothing of it remains."""

from __future__ import annotations

import asyncio
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client import ClientConfig, PandaClient
from panda_airflow.devserver.server import DevServer
from tests.support.rude_server import CLOSED_PORT
from tests.support.waits import PACE, outcomes, plan, submit, until, wait_for_all

NOT_STOMP = {
    "silent": None,
    "leaves": b"",
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n",
    "noise": bytes(range(256)) * 64,
    "refuses": b"ERROR\nmessage:Bad CONNECT\n\nno\x00",
    "cannot-subscribe": b"CONNECTED\nversion:1.2\n\n\x00ERROR\nmessage:no such topic\n\nno\x00",
}


@contextmanager
def stranger(says: bytes | None) -> Iterator[int]:
    """Listen on a port, say something, and hang up; or, for None, never say anything."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if says is None:
                over.wait()
            self.request.sendall(says or b"")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        over.set()
        server.shutdown()


def threads() -> list[str]:
    """Name the listener's threads, and those of its library."""
    return [item.name for item in threading.enumerate() if "panda-status-push" in item.name or "_loop" in item.name]


def one_life(tmp_path: Path, port: int, *, tls: bool = False, host: str = "127.0.0.1") -> None:
    """Wait for a task while a broker pushes nothing, until nothing is left of the wait."""

    async def life(server: DevServer) -> None:
        def connect() -> PandaClient:
            push: dict[str, Any] = {
                "push_url": f"stomp{'+ssl' * tls}://{host}:{port}",
                "push_destination": "/topic/status",
            }
            token = server.token()
            return PandaClient(
                ClientConfig(url=server.url, auth="oidc", vo="wlcg", token=token, connect_timeout=1.0, **push)
            )

        waits = asyncio.create_task(wait_for_all(connect, [plan(submit(server, "good", "sleep 1"))]))
        assert outcomes(await waits) == [("ended", "done")]
        await until(lambda: not threads())

    with DevServer(tmp_path, pace=PACE) as server:
        asyncio.run(life(server))


@pytest.mark.parametrize(("says", "tls"), [*((says, False) for says in NOT_STOMP), ("silent", True), ("http", True)])
def test_a_broker_that_is_none_costs_no_wait_and_leaves_no_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, says: str, *, tls: bool
) -> None:
    caplog.set_level("DEBUG", "panda_airflow")
    with stranger(NOT_STOMP[says]) as port:
        one_life(tmp_path, port, tls=tls)
    assert "No changes are pushed, since" in caplog.text
    assert "pushes changes" not in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "a..name-that-is-none"])
def test_where_nobody_listens_waits_ask(tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str) -> None:
    caplog.set_level("DEBUG", "panda_airflow")
    one_life(tmp_path, CLOSED_PORT, host=host)
    assert "No changes are pushed, since the broker cannot be reached" in caplog.text


def test_without_the_library_waits_ask_and_the_log_says_what_to_install(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stomp", None)
    one_life(tmp_path, CLOSED_PORT)
    assert "Install panda-airflow[stomp]" in caplog.text
