"""A real HTTP server for tests, which keeps the last request and answers what it was told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Request = tuple[str, str, dict[str, str], bytes]
"""Method, target, headers and body."""


class Recorder(ThreadingHTTPServer):
    """Listens on a free port; ``request`` is the last request.

    A path in ``gone`` is answered as by a server that does not have it.
    """

    daemon_threads = True
    answer: tuple[int, str] = (200, "")
    gone = ""
    request: Request = ("", "", {}, b"")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reply(self, request: Request) -> tuple[int, str]:
        """Tell status and body of the answer to a request."""
        self.request = request
        target = request[1]
        if target == self.gone:
            return 403, f"ERROR : method {target.rpartition('/')[2]} is forbidden"
        return self.answer

    @classmethod
    @contextmanager
    def running(cls, *arguments: Any) -> Iterator[Self]:
        """Serve from a thread of its own."""
        with cls(*arguments) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = self.server.reply((self.command, self.path, dict(self.headers), content))
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""
