"""Sessions whose requests end: none takes for ever, however slowly it trickles, and no endless reply is read.

A time limit for each read alone never ends a reply that comes byte by byte, so the connection looks at the clock before
each read and write, in the thread that makes the request.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from panda_airflow.client.errors import ServerError

_MEGABYTE = 1 << 20
JSON_LIMIT = 128 * _MEGABYTE
"""Largest reply of a server method, in bytes, also once it is unpacked."""
DOWNLOAD_LIMIT = 2048 * _MEGABYTE
"""Largest file that is downloaded, in bytes; the cache takes 768 MB."""
TEXT_LIMIT = _MEGABYTE
"""Largest error page, and largest reply of an identity provider, in bytes."""

SLOWEST = 100_000
"""A request may take a second longer for each so many bytes that it moves."""

_THREADS = 32


class Trip:
    """One request on its way.

    Once it is connected it may take twice the time limit of a single read, and a second more for each ``SLOWEST``
    bytes.

    :param idle: seconds for the next bytes to come or to go.
    :param limit: bytes that may come, their headers included.
    """

    def __init__(self, idle: float, limit: int) -> None:
        self.sent = False
        self.limit = limit
        self._idle = idle
        self._moved = self._received = 0
        self.start()

    def start(self) -> None:
        """Count from now."""
        self._ends = time.monotonic() + 2 * self._idle

    def allow(self, sock: socket.socket) -> None:
        """Let the next read or write take what time is left.

        :raises TimeoutError: there is none.
        """
        left = self._ends + self._moved / SLOWEST - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole of it takes too long")
        sock.settimeout(min(self._idle, left))

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Write, piece by piece as the other side takes it."""
        rest = memoryview(data)
        while rest:
            self.allow(sock)
            number = sock.send(rest)
            self._moved += number
            rest = rest[number:]

    def receive(self, number: int) -> None:
        """Count what came.

        :raises ServerError: it is too much.
        """
        self._moved += number
        self._received += number
        if self._received > self.limit + _MEGABYTE:  # headers and the edges of chunks
            raise too_large(self.limit)


_trip: ContextVar[Trip] = ContextVar("trip")


@contextmanager
def trip(idle: float, limit: int) -> Iterator[Trip]:
    """Make a request of :func:`new_session` and read its reply within this."""
    token = _trip.set(Trip(idle, limit))
    try:
        yield _trip.get()
    finally:
        _trip.reset(token)


def too_large(limit: int) -> ServerError:
    """Say that a reply is larger than it may be; to ask again is useless."""
    return ServerError(
        f"the reply is larger than {limit // _MEGABYTE} MB.", advice="Ask for less at once.", hopeless=True
    )


class _Reader(io.RawIOBase):
    """What comes through a socket, within the limits of the trip."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._trip = _trip.get()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._trip.allow(self._sock)
        number: int | None = self._raw.readinto(buffer)
        self._trip.receive(number or 0)
        return number

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock))


class _Http(HTTPConnection):
    response_class = _Response
    _connecting = False

    def connect(self) -> None:
        self._connecting = True
        try:
            super().connect()
        finally:
            self._connecting = False
        _trip.get().start()

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        present = _trip.get()
        present.sent |= not self._connecting  # what a proxy is told on the way is not the request
        present.send(self.sock, data)


class _Https(_Http, HTTPSConnection):
    pass


_CONNECTIONS: dict[type, type] = {HTTPConnection: _Http, HTTPSConnection: _Https}


class _Adapter(HTTPAdapter):
    """Opens connections that keep limits, also by way of a proxy.

    :param name: of the machine, where its address is in the URL: the certificate is checked with the name.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        super().__init__(pool_maxsize=_THREADS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._name:
            kwargs["server_hostname"] = self._name
        super().init_poolmanager(*args, **kwargs)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _CONNECTIONS.get(pool.ConnectionCls, pool.ConnectionCls)
        return pool


class _Session(requests.Session):
    """Reads proxies and CA bundle from the environment once per machine; each time is a fifth of a short call.

    It follows no redirection and does not even read where it goes, which may be no URL.
    """

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[Any, Any] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        machine = "/".join(url.split("/", 3)[:3])
        key = machine, stream, verify, cert
        if key not in self._settings:
            self._settings[key] = super().merge_environment_settings(machine, proxies, stream, verify, cert)
        return self._settings[key]

    def get_redirect_target(self, resp: Any) -> None:  # noqa: ARG002 - as the base class has it
        return None


def new_session(url: str = "", name: str | None = None) -> requests.Session:
    """Make a session that keeps no cookies and follows the limits of the :func:`trip`.

    :param url: of a machine that is reached by its address.
    :param name: that the certificate of this machine is checked with.
    """
    session = _Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "panda-airflow"})
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter())
    if url:
        session.mount(url, _Adapter(name))
    return session


def read(reply: requests.Response, limit: int) -> bytes:
    """Read a reply to its end and unpack it.

    :param limit: bytes that it may have.
    :raises ServerError: it has more, or is packed in another way than was asked for.
    """
    _trip.get().limit = limit
    if (reply.raw.length_remaining or 0) > limit:
        raise too_large(limit)
    packed = b"".join(reply.raw.stream(_MEGABYTE, decode_content=False))  # read() makes room for what a chunk promises
    encoding = reply.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return packed
    if encoding != "gzip":
        raise ServerError(f"the reply is packed as {encoding!r:.40}, which was not asked for.")
    return _unpacked(packed, limit)


def _unpacked(packed: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(31)  # gzip only
    try:
        found = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise ServerError(f"the reply cannot be unpacked ({error}).") from error
    if len(found) > limit:
        raise too_large(limit)
    if packed and not unpacker.eof:
        raise ServerError("the packed reply is cut off.")
    return found
