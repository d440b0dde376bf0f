"""What went wrong on the network, as one sentence and one of two classes: not delivered, or outcome unknown."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests
import urllib3

from panda_airflow.client.errors import NotDelivered, OutcomeUnknown, TransportError

NetworkFailure = requests.RequestException | urllib3.exceptions.HTTPError
"""What ``requests`` raises, and what escapes it from below."""

_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")


@contextmanager
def failures(url: str, what: str) -> Iterator[None]:
    """Turn what the network raises into a :class:`TransportError`.

    :param url: where the request goes.
    :param what: the endpoint, for the message.
    """
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise explain(error, url, what) from error


def pin(url: str) -> str:
    """Choose one of the machines behind a DNS alias; a name with one address, or none, stays as it is.

    :param url: scheme, host and port.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, parts.port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return url
    addresses = sorted({item[4][0] for item in found})
    name = socket.getfqdn(str(secrets.choice(addresses))) if len(addresses) > 1 else host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return url.replace(host, name, 1)
    return url


def explain(error: NetworkFailure, url: str, what: str = "") -> TransportError:
    """Say what went wrong and whether the server can have acted.

    A connection that is reset or closed counts as *outcome unknown* even where it was reset because it had been
    idle for too long: nobody can tell the two apart from here.

    :param error: as raised while sending a request or reading its reply.
    :param url: where the request went.
    :param what: the endpoint, for the message.
    """
    if isinstance(error, requests.RequestException):
        error.request = None  # it holds the Authorization header, which must not travel with the traceback
    host = urlsplit(url).netloc
    causes = list(_causes(error))
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and not isinstance(tls, ssl.SSLEOFError):
        return _tls_failure(tls, host, what)
    for kind, says, advice in _NOT_DELIVERED:
        if any(isinstance(cause, kind) for cause in causes):
            return NotDelivered(says.format(host=host), endpoint=what, advice=advice)
    return _outcome_unknown(causes, url, what)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from the wrapper to the innermost reason, which the libraries keep in different places."""
    yield error
    inner = getattr(error, "reason", None)
    for cause in (inner, *error.args, error.__cause__):
        if isinstance(cause, BaseException):
            yield from _causes(cause)


_CHECK_URL = "Check the server URL (PANDA_URL_SSL) and the network; nothing was sent."

_NOT_DELIVERED: tuple[tuple[type[BaseException], str, str], ...] = (
    (urllib3.exceptions.ProxyError, "the proxy on the way to {host} failed.", "Check HTTPS_PROXY and NO_PROXY."),
    (urllib3.exceptions.NameResolutionError, "the name of {host} cannot be resolved.", _CHECK_URL),
    (urllib3.exceptions.NewConnectionError, "{host} does not accept connections.", _CHECK_URL),
    (urllib3.exceptions.ConnectTimeoutError, "{host} did not answer in time.", _CHECK_URL),
    (requests.exceptions.InvalidURL, "{host} or its proxy is no host name.", _CHECK_URL),
    (urllib3.exceptions.LocationParseError, "{host} is no host name.", _CHECK_URL),
    (requests.exceptions.InvalidSchema, "the proxy on the way to {host} cannot be used.", "Check HTTPS_PROXY."),
    (requests.exceptions.InvalidHeader, "the VO or another header holds a line break.", "Check PANDA_AUTH_VO."),
)


def _tls_failure(error: ssl.SSLError, host: str, what: str) -> TransportError:
    reason = (error.reason or "").upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        says = f"the certificate of {host} is not trusted ({error.verify_message.rstrip('.')})."
        advice = "Point X509_CERT_DIR to the CA that signed it, and use the host name that it was made for."
    elif any(word in reason for word in _NOT_TLS):
        says, advice = f"{host} does not speak TLS.", "Use its TLS port, or http:// instead of https://."
    elif "ALERT" in reason and any(word in reason for word in _CERTIFICATE_ALERTS):
        says = f"{host} refused the client certificate ({reason.lower().replace('_', ' ')})."
        advice = "Renew the grid proxy (voms-proxy-init) and check that the server knows its CA."
    elif "ALERT" in reason or "PEM" in reason or "KEY" in reason:
        says = f"no TLS connection to {host} ({reason.lower().replace('_', ' ')})."
        advice = "Check the certificates on both sides."
    else:
        says = f"the TLS connection to {host} broke ({reason.lower().replace('_', ' ') or error})."
        return OutcomeUnknown(says, endpoint=what, advice=_LOOK_FIRST)
    return NotDelivered(says, endpoint=what, advice=advice)


_LOOK_FIRST = "The server may have acted: look before repeating."


_HINTS = {
    "http": " If this is a TLS port, use https:// instead of http://.",
    "https": " If it always happens, this may not be a TLS port, or the server refuses the grid proxy this way.",
}


def _outcome_unknown(causes: list[BaseException], url: str, what: str) -> TransportError:
    host, advice = urlsplit(url).netloc, _LOOK_FIRST
    kinds = (urllib3.exceptions.ReadTimeoutError, TimeoutError)
    if any(isinstance(cause, kinds) for cause in causes):
        says = f"{host} took the request and did not answer in time."
    elif any(isinstance(cause, urllib3.exceptions.IncompleteRead | requests.exceptions.ChunkedEncodingError)
             for cause in causes):  # fmt: skip
        says = f"the reply of {host} broke off."
    else:
        says = f"{host} closed the connection without a reply."
        advice += _HINTS[urlsplit(url).scheme]
    return OutcomeUnknown(says, endpoint=what, advice=advice)
