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
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from panda_airflow.client import errors
from panda_airflow.client.auth import Anonymous, Credential, credential_of
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.envelope import http_error, open_reply
from panda_airflow.client.files import CHUNK, Partial, Progress
from panda_airflow.client.models import Envelope
from panda_airflow.client.network import failures, pin
from panda_airflow.client.reread import stamp
from panda_airflow.client.retry import retrying
from panda_airflow.client.wire import Parts, parts_of

log = logging.getLogger(__name__)

R = TypeVar("R")
_THREADS = 32
_NO_FILE = "Check the name and that {} is the machine that it was uploaded to."


@lru_cache
def _warn_unverified(server: str) -> None:
    log.warning("PANDA_VERIFY_HOST is off: nobody checks that %s is the server it says it is", server)


class _Session(requests.Session):
    """Reads proxies and CA bundle from the environment once per machine; each time is a fifth of a short call."""

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[Any, Any] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        machine = "/".join(url.split("/", 3)[:3])
        key = machine, stream, verify, cert
        if key not in self._settings:
            self._settings[key] = super().merge_environment_settings(machine, proxies, stream, verify, cert)
        return self._settings[key]


def _new_session() -> requests.Session:
    session = _Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept": "application/json", "User-Agent": "panda-airflow"})
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_THREADS))
    return session


class Transport:
    """Sends requests for one configuration; may be used by several threads.

    :param config: where to and as whom.
    :param sleep: waits between two attempts, in seconds.
    :raises ConfigError: the configuration cannot work.
    """

    def __init__(self, config: ClientConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        config.validate()
        self._config = config
        self._server = config.server
        self._sleep = sleep
        self._credential = credential_of(config)
        self._session = _new_session()
        self._pinning = Lock()
        self._cache = ""
        if not config.verify_host:
            _warn_unverified(config.server)

    @property
    def cache_url(self) -> str:
        """The machine that keeps the files of this client, chosen at the first look; see ``real_load_balancer``."""
        with self._pinning:
            if not self._cache:
                cache = self._config.cache
                self._cache = cache if self._config.real_load_balancer else pin(cache)
            return self._cache

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
        self._session.close()

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
        url = f"{self.cache_url if endpoint.upload else self._server}{endpoint.url_path}"
        with self._session_for(endpoint) as session, failures(url, endpoint.path):
            reply = self._request(
                session,
                endpoint.method,
                url,
                params=parts.query,
                data=parts.body,
                headers=parts.headers,
                auth=credential,
                cert=credential.cert,
            )
        return open_reply(endpoint, reply.status_code, reply.content.decode(errors="replace"), reply.headers)

    def _request(self, session: requests.Session, method: str, url: str, **how: Any) -> requests.Response:
        """Send; a CA path that is given here wins over REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE."""
        config = self._config
        timeout = (config.connect_timeout, config.read_timeout)
        try:
            return session.request(method, url, verify=config.verify, timeout=timeout, allow_redirects=False, **how)
        except requests.RequestException:
            raise
        except OSError as error:
            raise errors.ConfigError(f"a certificate file cannot be used: {error}.", hopeless=False) from error

    @contextmanager
    def _session_for(self, endpoint: Endpoint) -> Iterator[requests.Session]:
        if endpoint.idempotent:
            yield self._session
        else:
            with _new_session() as fresh:
                yield fresh

    def _fetch(self, name: str, partial: Partial) -> None:
        what, url = f"cache/{name}", f"{self.cache_url}/cache/{quote(name)}"
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | partial.headers()
        with failures(url, what):
            reply = self._request(self._session, "GET", url, headers=headers, auth=Anonymous(), stream=True)
        with reply, failures(url, what):
            if reply.status_code == HTTPStatus.NOT_FOUND:
                raise errors.NotFound("there is no such file.", endpoint=what, advice=_NO_FILE.format(self.cache_url))
            if reply.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise http_error(what, reply.status_code, reply.text, reply.headers)
            partial.take(reply.status_code, reply.headers, reply.raw.stream(CHUNK, decode_content=False))
