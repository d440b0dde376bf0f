"""Sockets, TLS and the two uvicorn servers that share one application."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from panda_airflow.client.errors import ConfigError
from panda_airflow.devserver.auth.certificates import Authority

HOST = "127.0.0.1"


class Listener(Thread):
    """Serves an application on one socket in a thread of its own.

    :param app: the application.
    :param bound: where to listen.
    :param tls: None for plain HTTP.
    """

    def __init__(self, app: ASGIApp, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(name=f"panda-devserver-{'https' if tls else 'http'}", daemon=True)
        self._socket = bound
        self.address: tuple[str, int] = bound.getsockname()
        self.ready = Event()
        config = uvicorn.Config(
            app, http=PeerProtocol, loop="asyncio", ws="none", lifespan="off", log_config=None,
            log_level="warning", access_log=False, timeout_keep_alive=600, timeout_graceful_shutdown=3,
            server_header=False, headers=[("Server", "panda-airflow")],
        )  # fmt: skip
        config.load()
        config.ssl = tls
        self._server = _Server(config, self.ready)

    def run(self) -> None:
        """Serve until stopped."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ask the thread to close all connections and end."""
        self._server.should_exit = True


def start_listening(listeners: Sequence[Listener], timeout: float) -> None:
    """Start to serve.

    :param timeout: seconds until all must answer.
    :raises ConfigError: they do not.
    """
    for listener in listeners:
        listener.start()
    if not all(listener.ready.wait(timeout) for listener in listeners):
        raise ConfigError(f"the embedded server did not start within {timeout:g} s.")


def stop_listening(listeners: Sequence[Listener], timeout: float = 10.0) -> None:
    """Close all connections and end the threads.

    :param timeout: seconds for each to end.
    """
    for listener in listeners:
        listener.stop()
    for listener in listeners:
        listener.join(timeout)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A polite TLS farewell waits for clients that only keep their connection alive.
        for connection in list(self.server_state.connections):
            cycle: RequestResponseCycle | None = getattr(connection, "cycle", None)
            if isinstance(connection, H11Protocol) and (cycle is None or cycle.response_complete):
                connection.transport.abort()
        await super().shutdown(sockets)


class PeerProtocol(H11Protocol):
    """HTTP/1.1 that hands the client's certificate and the connection itself to the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember who is at the other end."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        extra = {"transport": transport, "client_certificate": tls.getpeercert(binary_form=True) if tls else None}
        app: Any = self.app

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, **extra}, receive, send)

        self.app = with_peer


def bind(port: int) -> socket.socket:
    """Listen on a port of this machine.

    :param port: 0 takes a free one.
    :raises ConfigError: the port is taken or forbidden.
    """
    # asyncio sends small writes at once only where the protocol is named.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
        bound.listen()
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        advice = "Choose another port, or 0 for a free one."
        raise ConfigError(f"cannot listen on {HOST}:{port}: {reason}.", advice=advice) from error
    return bound


def server_tls(authority: Authority) -> ssl.SSLContext:
    """Make the TLS side of the server: clients may show a certificate or a proxy of the authority, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.host_file)
    context.load_verify_locations(authority.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    return context
