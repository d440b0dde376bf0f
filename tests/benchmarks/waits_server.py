"""Tells over HTTPS of tasks that end by a script, in answers as long as PanDA's, and counts; run as a program.

Argument: a PEM file with the host's certificate and key. Prints the port; from then on each line of standard input
is answered by one line, the number of requests of each kind since the script began. A line is a :class:`Script` that
begins, the number of tasks that end at once, or ``count``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.benchmarks.waits_script import FIRST, Script

EXCHANGES = Path(__file__).parents[1] / "data" / "exchanges"
USER = "Bob Tester"
BACK_DATED = timedelta(hours=1)
"""How far JEDI turns back the modification time of a task that runs."""


def recorded(method: str, note: str) -> Any:
    """Read what a real server has answered."""
    exchanges = json.loads((EXCHANGES / f"task_{method}.json").read_text())["exchanges"]
    return json.loads(next(one["response"]["body"] for one in exchanges if one["note"] == note))["data"]


ROW = next(iter(recorded("get_tasks_modified_since", "own tasks").values()))
DETAILS = recorded("get_detailed_info", "running")


def utc(moment: float) -> datetime:
    """Turn epoch seconds into the server's naive UTC."""
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)


class Tasks:
    """The tasks of a script, as the server answers about them."""

    def __init__(self, script: Script) -> None:
        self._created = utc(script.began) - timedelta(days=1)
        self._idle = utc(script.began) - BACK_DATED
        self._ends = script.ends()
        self._to_end = sorted(self._ends, key=self._ends.__getitem__, reverse=True)
        self._never = iter(sorted(set(script.task_ids) - self._ends.keys()))
        self._rows = {task_id: self._row(task_id) for task_id in script.task_ids}
        self._ended: list[tuple[datetime, int]] = []

    def end(self, number: int) -> None:
        """End some more tasks at once, beside those of the script."""
        for task_id in islice(self._never, number):
            self._end(task_id, time.time())

    def answer(self, method: str, query: dict[str, str]) -> str:
        """Answer a request."""
        while self._to_end and self._ends[self._to_end[-1]] <= time.time():
            task_id = self._to_end.pop()
            self._end(task_id, self._ends[task_id])
        return getattr(self, f"_{method}")(**query)  # type: ignore[no-any-return]

    def _end(self, task_id: int, moment: float) -> None:
        self._ends[task_id] = moment
        self._ended.append((utc(moment), task_id))
        self._rows[task_id] = self._row(task_id, utc(moment))

    def _get_status(self, task_id: str) -> str:
        return json.dumps(self._state(int(task_id))["status"])

    def _get_detailed_info(self, task_id: str) -> str:
        more = {"userName": USER, "stateChangeTime": None, "prodSourceLabel": "user"}
        return json.dumps(DETAILS | more | self._state(int(task_id)))

    def _get_tasks_modified_since(
        self, since: str, min_task_id: str = "0", dn: str = USER, prod_source_label: str = "user", full: str = ""
    ) -> str:
        first = max(int(min_task_id) + 1, FIRST)
        if (dn, prod_source_label, full.lower() in ("", "false")) != (USER, "user", True):
            return "{}"
        return "{" + ", ".join(self._modified(datetime.fromisoformat(since), first)) + "}"

    def _modified(self, since: datetime, first: int) -> Iterable[str]:
        if since <= self._idle:
            return islice(self._rows.values(), first - FIRST, None)
        changed = self._ended[bisect_left(self._ended, (since, 0)) :]
        return (self._rows[task_id] for _, task_id in changed if task_id >= first)

    def _state(self, task_id: int) -> dict[str, Any]:
        state: dict[str, Any] = json.loads("{" + self._rows[task_id] + "}")[str(task_id)]
        return state

    def _row(self, task_id: int, ended: datetime | None = None) -> str:
        row = ROW | {
            "jediTaskID": task_id,
            "reqID": task_id,
            "taskName": f"user.bob.sample.{task_id}",
            "status": "running" if ended is None else "failed" if task_id % 10 == 0 else "done",
            "modificationTime": _json_time(ended or self._idle),
            "creationDate": _json_time(self._created),
        }
        return f'"{task_id}": {json.dumps(row)}'


def _json_time(moment: datetime) -> dict[str, str]:
    return {"__datetime__": moment.isoformat()}


class Book:
    """The tasks of the moment and the requests about them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self._tasks = Tasks(Script(1, time.time(), 1.0))

    def obey(self, command: str) -> None:
        """Do what a line of standard input asks for."""
        if command.startswith("{"):
            self._tasks = Tasks(Script.from_line(command))
            self.requests.clear()
        elif command.isdigit():
            self._tasks.end(int(command))

    def answer(self, target: str) -> bytes:
        """Answer a GET, as a real PanDA server does in chunked text."""
        parts = urlsplit(target)
        method = parts.path.rpartition("/")[2]
        self.requests[method] += 1
        data = self._tasks.answer(method, dict(parse_qsl(parts.query)))
        body = f'{{"success": true, "message": "", "data": {data}}}'.encode()
        head = "HTTP/1.1 200 OK\r\nServer: Apache\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        return b"%s%x\r\n%s\r\n0\r\n\r\n" % (head.encode(), len(body), body)


class Connection(asyncio.Protocol):
    """One connection, kept open for as long as the client does."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer at each empty line, which is where a request without a body ends."""
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(self._book.answer(head.split(b" ", 2)[1].decode()))


async def serve(host_file: str) -> None:
    """Serve until standard input ends."""
    book = Book()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host_file)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(book), "127.0.0.1", 0, ssl=context, backlog=1000)
    say(server.sockets[0].getsockname()[1])
    while command := await asyncio.to_thread(sys.stdin.readline):
        book.obey(command.strip())
        say(json.dumps(book.requests))


def say(what: object) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
