"""A real HTTP server for tests, which keeps the last request and answers what it was told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Recorder(ThreadingHTTPServer):
    """Listens on a free port; ``request`` is method, target, headers and body of the last request.

    A path in ``gone`` is answered as by a server that does not have it.
    """

    daemon_threads = True
    answer: tuple[int, str] = (200, "")
    gone = ""
    request: tuple[str, str, dict[str, str], bytes] = ("", "", {}, b"")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Recorder]:
        """Serve from a thread of its own."""
        with cls() as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield server
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.request = (self.command, self.path, dict(self.headers), content)
        status, body = self.server.answer
        if self.path == self.server.gone:
            status, body = 403, f"ERROR : method {self.path.rpartition('/')[2]} is forbidden"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""
