"""What went wrong on the network, as one sentence and one of two classes: not delivered, or outcome unknown."""

from __future__ import annotations

import http.client
import ipaddress
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from panda_airflow.client.auth.trust import is_open
from panda_airflow.client.errors import ConfigError, NotDelivered, OutcomeUnknown, PandaError, TransportError
from panda_airflow.client.http.connection import TEXT_LIMIT, Trip, new_session, read, trip

NetworkFailure = requests.RequestException | urllib3.exceptions.HTTPError | ValueError
"""What ``requests`` raises, and what escapes it from below, such as over a chunk of a negative size."""


@contextmanager
def failures(url: str, what: str, idle: float, limit: int) -> Iterator[Trip]:
    """Keep one request and its reply within limits, and turn what goes wrong into an error of this client.

    :param url: where the request goes.
    :param what: the endpoint, for the message.
    :param idle: seconds for the next bytes to come or to go; the whole may take twice as long, and a second more for
        each ``connection.SLOWEST`` bytes.
    :param limit: bytes that the reply may have.
    :raises TransportError: the network failed.
    :raises ServerError: the reply is too large.
    """
    with trip(idle, limit) as present:
        try:
            yield present
        except PandaError as error:
            error.endpoint = error.endpoint or what
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise explain(error, url, what, sent=present.sent) from error


def ask(
    method: str, url: str, data: dict[str, Any], timeout: tuple[float, float], *, verify: str | bool = True
) -> tuple[int, str]:
    """Ask about tokens: with TLS unless it is on this machine, and without following anybody elsewhere.

    :param data: of a form; holds secrets.
    :param timeout: to connect and for the next bytes, in seconds.
    :param verify: how to check the certificate.
    :return: HTTP status and body.
    :raises ConfigError: the URL is not https.
    :raises TransportError: there is no answer.
    :raises ServerError: the answer is too large.
    """
    if is_open(url):
        raise ConfigError(f"{url:.200} is not https: no secret of a token is sent there.", advice="Use https there.")
    how: dict[str, Any] = {"verify": verify, "auth": lambda request: request, "allow_redirects": False}
    with (
        new_session() as session,
        failures(url, "", timeout[1], TEXT_LIMIT),
        session.request(method, url, data=data, timeout=timeout, stream=True, **how) as reply,
    ):
        return reply.status_code, read(reply, TEXT_LIMIT).decode(errors="replace")


def addresses_of(host: str) -> list[str]:
    """Find the addresses behind a name; none if it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(item[4][0]) for item in found})


def choose_address(url: str) -> str:
    """Choose one of the machines behind a DNS alias by its address.

    :param url: scheme, host and port.
    :return: nothing where there is no choice, or where a proxy resolves the name.
    """
    if requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)):
        return ""
    addresses = addresses_of(urlsplit(url).hostname or "")
    return secrets.choice(addresses) if len(addresses) > 1 else ""


def own_name(address: str) -> str:
    """Ask for the name of an address. It is a claim: whoever answers such questions can claim any name.

    :return: nothing if it has none, or if the name does not lead back to the address.
    """
    name = socket.getfqdn(address)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name if address in addresses_of(name) else ""
    return ""


def explain(error: NetworkFailure, url: str, what: str = "", *, sent: bool) -> TransportError:
    """Say what went wrong and whether the server can have acted.

    Only what goes wrong before anything of the request is sent is *not delivered*, TLS handshake included: later a
    broken stream may look like a server that does not speak TLS.

    A connection that is reset or closed counts as *outcome unknown* even where it was reset because it had been
    idle for too long: nobody can tell the two apart from here.

    :param error: as raised while sending a request or reading its reply.
    :param url: where the request went.
    :param what: the endpoint, for the message.
    :param sent: the connection was complete, and the request begun.
    """
    if isinstance(error, requests.RequestException):
        error.request = None  # it holds the Authorization header, which must not travel with the traceback
    causes = list(_causes(error))
    says, advice = _story(causes, url, sent=sent)
    if sent:
        return OutcomeUnknown(says, endpoint=what, advice=f"{_LOOK_FIRST} {advice}".strip())
    return NotDelivered(says, endpoint=what, advice=advice or _CHECK_URL)


def _story(causes: list[BaseException], url: str, *, sent: bool) -> tuple[str, str]:
    """Say what happened and what to check."""
    host = urlsplit(url).netloc
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and not isinstance(tls, ssl.SSLEOFError):
        return _tls_story(tls, host, sent=sent)
    if sent:
        return _after_sending(causes, url)
    for kind, says, advice in _BEFORE_SENDING:
        if any(isinstance(cause, kind) for cause in causes):
            return says.format(host=host), advice
    return f"{host} closed the connection before it was complete.", _HINTS[urlsplit(url).scheme]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from the wrapper to the innermost reason, which the libraries keep in different places."""
    yield error
    inner = getattr(error, "reason", None)
    for cause in (inner, *error.args, error.__cause__):
        if isinstance(cause, BaseException):
            yield from _causes(cause)


_CHECK_URL = "Check the server URL (PANDA_URL_SSL) and the network; nothing was sent."
_LOOK_FIRST = "The server may have acted: look before repeating."

_BEFORE_SENDING: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str], ...] = (
    (urllib3.exceptions.ProxyError, "the proxy on the way to {host} failed.", "Check HTTPS_PROXY and NO_PROXY."),
    (urllib3.exceptions.NameResolutionError, "the name of {host} cannot be resolved.", _CHECK_URL),
    (urllib3.exceptions.NewConnectionError, "{host} does not accept connections.", _CHECK_URL),
    ((urllib3.exceptions.TimeoutError, TimeoutError), "{host} did not answer in time.", _CHECK_URL),
    (requests.exceptions.InvalidURL, "{host} or its proxy is no host name.", _CHECK_URL),
    (urllib3.exceptions.LocationParseError, "{host} is no host name.", _CHECK_URL),
    (requests.exceptions.InvalidSchema, "the proxy on the way to {host} cannot be used.", "Check HTTPS_PROXY."),
    (requests.exceptions.InvalidHeader, "the VO or another header holds a line break.", "Check PANDA_AUTH_VO."),
)

_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")


def _tls_story(error: ssl.SSLError, host: str, *, sent: bool) -> tuple[str, str]:
    reason = (error.reason or "").upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {host} is not trusted ({error.verify_message.rstrip('.')}).",
            "Point X509_CERT_DIR to the CA that signed it, and use the host name that it was made for.",
        )
    said = reason.lower().replace("_", " ")
    if "ALERT" in reason and any(word in reason for word in _CERTIFICATE_ALERTS):
        return (
            f"{host} refused the client certificate ({said}).",
            "Renew the grid proxy (voms-proxy-init) and check that the server knows its CA.",
        )
    if sent:
        return f"the TLS connection to {host} broke ({said or error}).", ""
    if any(word in reason for word in _NOT_TLS):
        return f"{host} does not speak TLS.", "Use its TLS port, or http:// instead of https://."
    return f"no TLS connection to {host} ({said or error}).", "Check the certificates on both sides."


_HINTS = {
    "http": "If this is a TLS port, use https:// instead of http://.",
    "https": "If it always happens, this may not be a TLS port, or the server refuses the grid proxy this way.",
}


def _after_sending(causes: list[BaseException], url: str) -> tuple[str, str]:
    host = urlsplit(url).netloc

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if among(urllib3.exceptions.ReadTimeoutError, TimeoutError):
        return f"{host} took the request and did not answer in time.", ""
    if among(urllib3.exceptions.InvalidHeader, requests.exceptions.InvalidHeader):
        return f"{host} answered with headers that cannot be read.", ""
    broken = (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead, urllib3.exceptions.InvalidChunkLength)
    if among(*broken, requests.exceptions.ChunkedEncodingError, ValueError):
        return f"the reply of {host} broke off.", ""
    return f"{host} closed the connection without a reply.", _HINTS[urlsplit(url).scheme]
