"""Answers every GET over TLS with the status of a task, and does nothing else; run as a program.

Argument: a PEM file with the host's certificate and key. Prints the port and serves until standard input ends. So
little happens here that what is measured is the client's time, and as a real PanDA server it answers chunked text.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
from threading import Thread

from tests.benchmarks.contender import STATUS

BODY = f'{{"success": true, "message": "", "data": "{STATUS}"}}'
ANSWER = (
    "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nServer: Apache\r\nContent-Type: text/plain\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
).encode()


class Server(socketserver.ThreadingTCPServer):
    """Keeps each connection open for as long as the client does.

    :param host_file: certificate and key.
    """

    daemon_threads = True

    def __init__(self, host_file: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(host_file)


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Answer at each empty line, which is where a request without a body ends."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as Apache does
        with self.server.context.wrap_socket(self.request, server_side=True) as connection:
            for line in connection.makefile("rb"):
                if line == b"\r\n":
                    connection.sendall(ANSWER)


def main(host_file: str) -> None:
    """Serve."""
    with Server(host_file) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
