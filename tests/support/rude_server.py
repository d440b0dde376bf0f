"""A server that answers with given bytes, or worse: what networks and strangers do to a client."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Answer = bytes | Callable[[], bytes | Iterator[bytes]]
CLOSE, RESET, HANG, BENEATH = b"close", b"reset", b"hang", b"beneath"
"""Answers that are none: close the connection, reset it, keep it open and say nothing, speak plainly beneath TLS."""

CLOSED_PORT = 1
"""Nobody listens here, and no test is given it by chance."""


def reply(body: str | bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP reply; ``Retry_After="1"`` becomes the header ``Retry-After``."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/plain", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


OK = reply('{"success": true, "message": "", "data": "done"}')


@dataclass(frozen=True)
class Request:
    """A request as it came over the wire; names of headers are as sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Rude:
    """What to answer, one item per request, the last one for ever; and what was seen."""

    answers: list[Answer]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def next_answer(self) -> bytes | Iterator[bytes]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer() if callable(answer) else answer


class _Handler(socketserver.StreamRequestHandler):
    def setup(self) -> None:
        context: ssl.SSLContext | None = self.server.context  # type: ignore[attr-defined]
        if context:
            self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        rude: Rude = self.server.rude  # type: ignore[attr-defined]
        rude.connections += 1
        while (request := self._read()) is not None:
            rude.requests.append(request)
            answer = rude.next_answer()
            if not isinstance(answer, bytes):
                self._drip(answer)
                return
            if answer == BENEATH:
                os.write(self.connection.fileno(), reply("go away", "400 Bad Request"))
                return
            if answer == HANG:
                rude.stopping.wait(10)
            if answer == RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if answer in (CLOSE, RESET, HANG):
                return
            self.wfile.write(answer)
            if not answer.startswith(b"HTTP/1.1") or b"Connection: close" in answer:
                return

    def _drip(self, pieces: Iterator[bytes]) -> None:
        with suppress(OSError):
            for piece in pieces:
                self.wfile.write(piece)

    def _read(self) -> Request | None:
        with suppress(OSError):
            if self.rfile.peek(1)[:1] == b"\x16":  # type: ignore[attr-defined]
                self.wfile.write(reply("this is not HTTP", "400 Bad Request"))
                return None
            first = self.rfile.readline().decode("latin-1").split()
            if len(first) != 3:
                return None
            lines = iter(lambda: self.rfile.readline().decode("latin-1").strip(), "")
            headers = dict(line.split(": ", 1) for line in lines)
            return Request(first[0], first[1], headers, self.rfile.read(int(headers.get("Content-Length", 0))))
        return None


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep handshakes that a test makes fail off the terminal."""


def tls(host_file: Path, ca_file: Path | None = None) -> ssl.SSLContext:
    """TLS as a PanDA server has it; with a CA, a client certificate that it signed is demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host_file)
    if ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca_file)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS
    return context


@contextmanager
def serve(*answers: Answer, context: ssl.SSLContext | None = None, host: str = "localhost") -> Iterator[Rude]:
    """Run a server on a free port of this machine, under one of its names."""
    rude = Rude(list(answers or (OK,)))
    with _Server((host, 0), _Handler) as server:
        server.rude = rude  # type: ignore[attr-defined]
        server.context = context
        rude.url = f"{'https' if context else 'http'}://{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield rude
        rude.stopping.set()
        server.shutdown()
        thread.join(5)
