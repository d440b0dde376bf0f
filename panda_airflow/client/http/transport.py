"""Carrying calls to the server: one kept-alive session per client, each attempt signed, errors made clear.

One ``requests.Session`` serves all threads of a client. It is never changed after it was made (cookies are
refused, everything that varies is passed with the request) and the connection pools below it are thread-safe.
A request that must not be repeated gets a connection of its own: the server may close an idle one at the very
moment it is used again, and then nobody knows whether the request was read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests

from panda_airflow.client import errors
from panda_airflow.client.auth.credentials import Anonymous, Credential, credential_of
from panda_airflow.client.auth.reread import stamp
from panda_airflow.client.auth.trust import is_open
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.files import CHUNK, Partial, Progress
from panda_airflow.client.http.connection import DOWNLOAD_LIMIT, JSON_LIMIT, TEXT_LIMIT, Trip, new_session, read
from panda_airflow.client.http.encoding import Parts, parts_of
from panda_airflow.client.http.envelope import http_error, open_reply
from panda_airflow.client.http.network import choose_address, failures, own_name
from panda_airflow.client.http.retry import retrying
from panda_airflow.client.models import Envelope

log = logging.getLogger(__name__)

R = TypeVar("R")
_NO_FILE = "Check the name and that {} is the machine that it was uploaded to."


@lru_cache
def _warn_unverified(server: str) -> None:
    log.warning("PANDA_VERIFY_HOST is off: nobody checks that %s is the server it says it is", server)


@lru_cache
def _warn_open(server: str) -> None:
    log.warning("the token goes to %s without TLS: everybody on the way can read it", server)


class _Machine:
    """A server, or one machine behind its alias.

    :param url: as configured, whose name the certificate must have.
    :param address: of the machine, if one was chosen.
    """

    def __init__(self, url: str, address: str = "") -> None:
        self.url = url
        self.shown = url
        """The URL for people and jobs."""
        self.pinned = bool(address)
        self.reached = _with_host(url, address) if address else url
        """The URL that is connected to."""
        self.headers = {"Host": urlsplit(url).netloc} if address else {}
        self.session = self.new_session()

    def new_session(self) -> requests.Session:
        """Make a session that connects to it."""
        return new_session(self.reached, urlsplit(self.url).hostname) if self.pinned else new_session()


def _with_host(url: str, host: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


@contextmanager
def _session_for(endpoint: Endpoint, machine: _Machine) -> Iterator[requests.Session]:
    if endpoint.idempotent:
        yield machine.session
    else:
        with machine.new_session() as fresh:
            yield fresh


class Transport:
    """Sends requests for one configuration; may be used by several threads.

    :param config: where to and as whom.
    :param sleep: waits between two attempts, in seconds.
    :raises ConfigError: the configuration cannot work.
    """

    def __init__(self, config: ClientConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        config.validate()
        self._config = config
        self._sleep = sleep
        self._credential = credential_of(config)
        self._server = _Machine(config.server)
        self._pinning = Lock()
        self._pinned: _Machine | None = None
        if not config.verify_host:
            _warn_unverified(config.server)
        for url in {config.server, config.cache} if config.auth == "oidc" else ():
            if is_open(url):
                _warn_open(url)

    @property
    def cache_url(self) -> str:
        """The machine that keeps the files of this client, chosen at the first look; see ``real_load_balancer``."""
        return self._cache.shown

    @property
    def _cache(self) -> _Machine:
        with self._pinning:
            if not self._pinned:
                self._pinned = self._choose_cache()
            return self._pinned

    def _choose_cache(self) -> _Machine:
        """Choose one machine behind an alias, since each keeps its own files.

        The token goes to its address, and only if its certificate is that of the alias. Jobs are told its own name if
        the certificate is that of this name, too: anybody may claim a name for an address.
        """
        url = self._config.cache
        address = "" if self._config.real_load_balancer else choose_address(url)
        if not address:
            return self._server if url == self._config.server else _Machine(url)
        cache, name = _Machine(url, address), own_name(address)
        if name and self._has_name(_with_host(url, name), address):
            cache.shown = _with_host(url, name)
        else:
            log.warning("%s at %s has no certificate of its own name: jobs are told the alias", url, address)
        return cache

    def _has_name(self, url: str, address: str) -> bool:
        """Whether the machine at an address is the one of this URL."""
        machine = _Machine(url, address)
        try:
            with machine.session as session, self._failures(url, "the name of the cache", TEXT_LIMIT):
                self._request(session, "GET", machine.reached, headers=machine.headers, auth=Anonymous()).close()
        except (errors.TransportError, errors.ServerError):
            return False
        return True

    def send(self, endpoint: Endpoint, arguments: Arguments, progress: Progress | None = None) -> Envelope:
        """Send one call, again where that is harmless, and return the accepted envelope.

        :param progress: hears how much of an uploaded file is on its way; from the start for each attempt.
        :raises UsageError: the arguments have no form on the wire; nothing was sent.
        :raises PandaError: as :mod:`panda_airflow.client.errors` groups them.
        """
        parts = parts_of(endpoint, arguments, progress)
        file = self._config.credential_file
        before = stamp(file)
        try:
            return self._repeat(lambda: self._signed(endpoint, parts), idempotent=endpoint.idempotent)
        except errors.AuthError as error:
            error.endpoint = endpoint.path
            error.file = (str(file), before) if file else None
            raise

    def download(self, name: str, file: Path, progress: Progress | None = None) -> None:
        """Copy ``/cache/<name>`` into a file, which appears only when it is complete; nobody has to sign.

        Where the connection breaks, the next attempt goes on at that byte if the server can.

        :param name: path below ``/cache/``.
        :param progress: hears how far it is.
        :raises NotFound: this machine does not keep such a file.
        """
        with Partial(file, progress) as partial:
            self._repeat(lambda: self._fetch(name, partial), idempotent=True)
            partial.complete()

    def close(self) -> None:
        """Close the connections."""
        self._server.session.close()
        if self._pinned:
            self._pinned.session.close()

    def _repeat(self, attempt: Callable[[], R], *, idempotent: bool) -> R:
        config = self._config
        loop = retrying(idempotent=idempotent, attempts=config.attempts, budget=config.retry_budget, sleep=self._sleep)
        return loop(attempt)

    def _signed(self, endpoint: Endpoint, parts: Parts) -> Envelope:
        credential = self._credential if endpoint.identity else self._credential_if_usable()
        credential.check()
        try:
            return self._once(endpoint, parts, credential)
        except (errors.CredentialExpired, errors.CredentialRefused):
            if not credential.renew():
                raise
            return self._once(endpoint, parts, credential)

    def _credential_if_usable(self) -> Credential:
        try:
            self._credential.check()
        except (errors.AuthError, errors.TransportError):
            return Anonymous()
        return self._credential

    def _once(self, endpoint: Endpoint, parts: Parts, credential: Credential) -> Envelope:
        machine = self._cache if endpoint.upload else self._server
        how: dict[str, Any] = {"params": parts.query, "data": parts.body, "auth": credential, "cert": credential.cert}
        how["headers"] = parts.headers | machine.headers
        url = f"{machine.reached}{endpoint.url_path}"
        with (
            _session_for(endpoint, machine) as session,
            self._failures(machine.url, endpoint.path, JSON_LIMIT),
            self._request(session, endpoint.method, url, **how) as reply,
        ):
            limit = JSON_LIMIT if reply.status_code == HTTPStatus.OK else TEXT_LIMIT
            body = read(reply, limit).decode(errors="replace")
        return open_reply(endpoint, reply.status_code, body, reply.headers)

    def _request(self, session: requests.Session, method: str, url: str, **how: Any) -> requests.Response:
        """Send; a CA path that is given here wins over REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE."""
        config = self._config
        how |= {"timeout": (config.connect_timeout, config.read_timeout), "allow_redirects": False, "stream": True}
        try:
            return session.request(method, url, verify=config.verify, **how)
        except requests.RequestException:
            raise
        except OSError as error:
            raise errors.ConfigError(f"a certificate file cannot be used: {error}.", hopeless=False) from error

    def _failures(self, url: str, what: str, limit: int) -> AbstractContextManager[Trip]:
        return failures(url, what, self._config.read_timeout, limit)

    def _fetch(self, name: str, partial: Partial) -> None:
        what, cache = f"cache/{name}", self._cache
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | partial.headers() | cache.headers
        url = f"{cache.reached}/cache/{quote(name)}"
        with (
            self._failures(cache.url, what, DOWNLOAD_LIMIT),
            self._request(cache.session, "GET", url, headers=headers, auth=Anonymous()) as reply,
        ):
            if reply.status_code == HTTPStatus.NOT_FOUND:
                raise errors.NotFound("there is no such file.", endpoint=what, advice=_NO_FILE.format(cache.shown))
            if reply.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                page = read(reply, TEXT_LIMIT).decode(errors="replace")
                raise http_error(what, reply.status_code, page, reply.headers)
            partial.take(reply.status_code, reply.headers, reply.raw.stream(CHUNK, decode_content=False))
