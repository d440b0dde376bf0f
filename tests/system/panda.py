"""An embedded PanDA server under observation: it can be ambushed at any moment of a request, and keeps books."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from panda_airflow.client.status import classify
from panda_airflow.demo.services import free_port
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer
from panda_airflow.waiting.ownership import stamp_of
from tests.system.airflow import Run

PACE = Pace(registration=1.5, cycle=0.25, command=0.5, slots=4)

Act = Callable[[psutil.Process], object]
"""Receives the process that sent a request."""

Moment = Literal["arrives", "acted", "answered"]
"""When the request has arrived, when the server has acted and not answered, and when the answer is out."""


@dataclass
class Ambush:
    """Something that happens once, to the first request that matches.

    :param endpoint: ``module/method``.
    :param moment: see :data:`Moment`.
    :param word: must be in the body of the request, such as a task name.
    :param act: what happens.
    """

    endpoint: str
    moment: Moment
    word: str
    act: Act

    def __post_init__(self) -> None:
        self.sprung = threading.Event()

    def claim(self, path: str, body: str) -> bool:
        """Whether this request is the one; no other is after that."""
        if self.sprung.is_set() or not path.endswith(f"/{self.endpoint}") or self.word not in body:
            return False
        self.sprung.set()
        return True


class Moments:
    """An ASGI application around the server's, where ambushes wait."""

    def __init__(self, app: ASGIApp, ambushes: list[Ambush]) -> None:
        self._app = app
        self._ambushes = ambushes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with whatever waits for it."""
        if not self._ambushes:
            await self._app(scope, receive, send)
            return
        body, replay = await _read(receive)
        waiting = [ambush for ambush in self._ambushes if ambush.claim(scope["path"], body)]
        senders = [_sender(scope) for _ in waiting]
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        async def spring(moment: Moment) -> None:
            for ambush, sender in zip(waiting, senders, strict=True):
                if ambush.moment == moment:
                    await run_in_threadpool(ambush.act, sender)

        await spring("arrives")
        await self._app(scope, replay, keep)
        await spring("acted")
        for message in answer:
            await send(message)
        await spring("answered")


async def _read(receive: Receive) -> tuple[str, Receive]:
    """Read the body of a request, and make it readable again."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    raw = b"".join(message.get("body", b"") for message in messages)
    waiting = list(messages)

    async def replay() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode(errors="replace"), replay


def _sender(scope: Scope) -> psutil.Process:
    """Find the process that sent a request."""
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr[:2] == tuple(scope["client"]) and connection.pid:
            return psutil.Process(connection.pid)
    raise LookupError(f"nobody is at {scope['client']}")


def kill_process(process: psutil.Process) -> None:
    """SIGKILL the process of a task; its supervisor notices."""
    os.kill(process.pid, signal.SIGKILL)


def kill_worker(process: psutil.Process) -> None:
    """SIGKILL the process of a task and its supervisor first, so that nobody notices."""
    os.kill(process.ppid(), signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)


class Hold:
    """Holds a request until it is released, or for a minute."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._released = threading.Event()

    def __call__(self, _sender: psutil.Process) -> None:
        self.reached.set()
        self._released.wait(60)

    def release(self) -> None:
        self._released.set()


class ObservedServer(DevServer):
    """An embedded server with ambushes."""

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(root, **options)
        self.ambushes: list[Ambush] = []

    def _app(self) -> ASGIApp:
        return Moments(super()._app(), self.ambushes)


@dataclass(frozen=True)
class Entry:
    """What became of one submission."""

    task_id: int
    name: str
    status: str
    attempt: int
    jobs_finished: int

    @property
    def is_done_once(self) -> bool:
        """Whether the work was done, and no part of it twice."""
        return (self.status, self.attempt, self.jobs_finished) == ("done", 0, 1)

    @property
    def is_over(self) -> bool:
        return classify(self.status).is_final


class Panda:
    """A server on fixed ports, that can go down and come back, with the identity by which Airflow uses it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ports = {"http_port": free_port(), "https_port": free_port()}
        self._token_file = root.parent / "token"
        self.start()
        self.renew_token()

    def start(self) -> None:
        """Come up, where it went down."""
        self.server = ObservedServer(self.root, pace=PACE, **self._ports)
        self.server.start()
        self.is_up = True

    def stop(self) -> None:
        """Go down; the jobs that run are lost."""
        self.server.stop()
        self.is_up = False

    def calm(self) -> None:
        """End all trouble."""
        if not self.is_up:
            self.start()
        self.server.ambushes.clear()
        self.server.faults.clear()
        self.server.backend.pace = PACE
        self.renew_token()

    def renew_token(self) -> None:
        """Renew the token where Airflow's connection finds it."""
        new = self._token_file.with_suffix(".new")
        new.write_text(self.server.token())
        new.chmod(0o600)
        new.replace(self._token_file)

    def connection(self) -> dict[str, Any]:
        """Describe the server to Airflow."""
        extra = {
            "auth": "oidc",
            "vo": "wlcg",
            "token_file": str(self._token_file),
            "ca": str(self.server.ca_file),
            "real_load_balancer": True,
            "monitor_url": self.server.url,
            "attempts": 3,
            "retry_budget": 10,
        }
        return {"conn_type": "panda", "host": self.server.url_ssl, "extra": extra}

    def ambush(self, run: Run, moment: Moment, act: Act) -> Ambush:
        """Lay an ambush for the submission of a DAG run."""
        ambush = Ambush("task/submit", moment, run.run_id, act)
        self.server.ambushes.append(ambush)
        return ambush

    def book(self, *runs: Run) -> list[Entry]:
        """List all that was ever accepted, for DAG runs if given, in the order of submission."""
        sql = (
            "SELECT s.jediTaskID, s.taskName, COALESCE(t.status, s.status) AS status, s.params, "
            "COALESCE(t.attemptNr, 0) AS attemptNr, (SELECT COUNT(*) FROM jobs j "
            "WHERE j.jediTaskID = s.jediTaskID AND j.jobStatus = 'finished') AS finished "
            "FROM submissions s LEFT JOIN tasks t USING (jediTaskID) ORDER BY s.jediTaskID"
        )
        wanted = {(run.dag_id, run.run_id) for run in runs}
        rows = self.server.backend.store.rows(sql)
        mine = [row for row in rows if origin_of(row.pop("params")) in wanted or not wanted]
        return [Entry(*row.values()) for row in mine]

    def settle(self, *runs: Run, seconds: float = 90.0) -> list[str]:
        """Wait until nothing runs, for DAG runs or at all, or long enough; return the statuses as :meth:`book` does."""
        ends = time.monotonic() + seconds
        while not all(entry.is_over for entry in self.book(*runs)) and time.monotonic() < ends:
            time.sleep(0.25)
        return [entry.status for entry in self.book(*runs)]


def origin_of(parameters: str) -> tuple[str, str]:
    """Tell which DAG run submitted a task."""
    stamp = stamp_of(json.loads(parameters))
    return str(stamp.get("dag_id")), str(stamp.get("run_id"))
