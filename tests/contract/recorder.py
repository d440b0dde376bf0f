"""A server that answers each call of a list with what is foreseen, and keeps the requests field by field."""

from __future__ import annotations

import email
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Fields = dict[str, Any]
HEADERS = ("accept", "authorization", "content-encoding", "content-type", "origin")


class Recorder(ThreadingHTTPServer):
    """Answers with status and body of the case that was begun last.

    :param answers: one list per case: an answer for each request, the last one for all further ones.
    """

    daemon_threads = True

    def __init__(self, answers: list[list[tuple[int, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.requests: list[list[Fields]] = [[] for _ in answers]
        self.case = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, request: Fields) -> tuple[int, str]:
        requests = self.requests[self.case]
        requests.append(request)
        answers = self.answers[self.case]
        return answers[min(len(requests), len(answers)) - 1]


@contextmanager
def recording(answers: list[list[tuple[int, str]]]) -> Iterator[Recorder]:
    with Recorder(answers) as server:
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
        if self.path.startswith("/begin/"):
            self.server.case = int(self.path.rpartition("/")[2])
            status, body = 200, ""
        else:
            status, body = self.server.answer(self._fields(content))
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _fields(self, content: bytes) -> Fields:
        where = urlsplit(self.path)
        fields: Fields = {"method": self.command, "path": where.path}
        fields |= {f"query {name}": value for name, value in parse_qs(where.query, keep_blank_values=True).items()}
        fields |= {f"header {name}": self.headers[name].split(";")[0] for name in HEADERS if name in self.headers}
        return fields | {f"body {name}": value for name, value in self._body(content).items()}

    def _body(self, content: bytes) -> Fields:
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/"):
            message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content, policy=policy.HTTP)
            return {
                str(part["Content-Disposition"].params["name"]): [part.get_filename(), part.get_content().decode()]
                for part in message.iter_parts()
            }
        zipped = content.startswith(b"\x1f\x8b")
        text = (gzip.decompress(content) if zipped else content).decode()
        form: Fields = dict(parse_qs(text))
        return ({"is zipped": True} if zipped else {}) | (json.loads(text) if text.startswith("{") else form)
