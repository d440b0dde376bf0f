"""Who is calling: credentials as objects that are looked at before sending and sign each attempt."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import requests
from requests.auth import AuthBase

from panda_airflow.client import errors
from panda_airflow.client.auth.reread import reread
from panda_airflow.client.auth.tokens import LiteralToken, TokenDirectory, TokenFile, TokenSource, owner, refuse_foreign
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.stored import Account


class Credential(Protocol):
    """What the transport asks of a credential; it is also the ``auth`` of each request."""

    @property
    def cert(self) -> str | None:
        """Path of the client certificate, if there is one."""

    def check(self) -> None:
        """Look at the credential before anything is sent.

        :raises AuthError: it is missing, unreadable or has expired.
        """

    def renew(self) -> bool:
        """After a refusal, look for something newer; say whether there is any."""

    def user(self) -> str:
        """Name the owner, the same after each renewal; empty if that cannot be told now."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign one attempt."""


class Anonymous(AuthBase):
    """Nobody in particular; being an ``auth`` at all keeps a .netrc from adding an Authorization header."""

    cert: str | None = None

    def check(self) -> None:
        """Find nothing wrong."""

    def renew(self) -> bool:
        """Find nothing newer."""
        return False

    def user(self) -> str:
        """Name nobody."""
        return ""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Leave the request as it is."""
        return request


class OidcToken(Anonymous):
    """A bearer token, sent together with the VO in the header ``Origin``, without which it is refused.

    :param source: gives the token for each attempt.
    :param vo: virtual organisation.
    :param production: ask for the production role.
    """

    def __init__(self, source: TokenSource, vo: str, *, production: bool = False) -> None:
        self._source = source
        asked = vo.endswith((".production", ":production"))
        self._origin = f"{vo}.production" if production and not asked else vo

    def check(self) -> None:
        """Make sure that there is a token and that it has not expired."""
        self._token()

    def renew(self) -> bool:
        """Look for a newer token."""
        return self._source.renew()

    def user(self) -> str:
        """Name the owner of the token; one that is being renewed just now has none."""
        try:
            return owner(self._source.peek())
        except errors.CredentialMissing:
            return ""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the two headers."""
        request.headers["Authorization"] = f"Bearer {self._token()}"
        request.headers["Origin"] = self._origin
        return request

    def _token(self) -> str:
        token = self._source.token()
        if not re.fullmatch(r"[!-~]+", token):
            raise errors.CredentialMissing("the token is empty or holds blanks.", advice="Check where it comes from.")
        return token


class X509Proxy(Anonymous):
    """A grid proxy: certificate, key and chain in one PEM file.

    :param path: the file; it is looked at for every request, since it is renewed in place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cert = str(path)

    def check(self) -> None:
        """Make sure that the proxy is there, complete, and that no certificate in it has expired."""
        refuse_foreign(self._path)
        ends = reread(self._read)
        if ends <= datetime.now(UTC):
            raise errors.CredentialExpired(
                f"the grid proxy {self._path} expired at {ends:%Y-%m-%d %H:%M:%S} UTC.",
                advice="Renew it with voms-proxy-init.",
            )

    def _read(self) -> datetime:
        """Tell when the first certificate expires.

        :raises CredentialMissing: this is no proxy, at least for the moment.
        """
        from cryptography import x509  # noqa: PLC0415 - half of the time to import this package, and tokens need none

        try:
            pem = self._path.read_bytes()
            chain = x509.load_pem_x509_certificates(pem)
        except OSError as error:
            raise errors.CredentialMissing(
                f"the grid proxy {self._path} cannot be read ({error.strerror}).",
                advice="Make one with voms-proxy-init, or name it in X509_USER_PROXY.",
                hopeless=False,
            ) from error
        except ValueError as error:
            raise errors.CredentialMissing(
                f"{self._path} is not a grid proxy in PEM form.",
                advice="Make one with voms-proxy-init.",
                hopeless=False,
            ) from error
        if not re.search(rb"-----END [A-Z ]*PRIVATE KEY-----", pem):
            raise errors.CredentialMissing(
                f"the grid proxy {self._path} holds no key.", advice="Make one with voms-proxy-init.", hopeless=False
            )
        return min(certificate.not_valid_after_utc for certificate in chain)

    def user(self) -> str:
        """Name the subject of the certificate behind the proxy, or behind a proxy of a proxy."""
        from cryptography import x509  # noqa: PLC0415 - as above

        try:
            subject = x509.load_pem_x509_certificates(self._path.read_bytes())[0].subject
        except (OSError, ValueError):
            return ""
        return _PROXIES.sub("", "".join(f"/{part.rfc4514_string()}" for part in subject.rdns))


_PROXIES = re.compile(r"(/CN=(proxy|limited proxy|\d+))+$")
"""What each delegation adds to a subject."""


class NoToken:
    """The source where no way to get a token was configured."""

    def token(self) -> str:
        """Say what to set."""
        raise errors.CredentialMissing(
            "no token is configured.",
            advice="Set PANDA_AUTH_ID_TOKEN, OIDC_AUTH_TOKEN_FILE or PANDA_CONFIG_ROOT, or fill in the connection.",
        )

    def renew(self) -> bool:
        """Find nothing newer."""
        return False

    def peek(self) -> str:
        """Give none."""
        return ""


def account_of(config: ClientConfig) -> Account:
    """Tell whom which server takes the caller for; reads the credential."""
    return Account(server_of(config), credential_of(config).user())


def server_of(config: ClientConfig) -> str:
    """Name the server, the same however its address is written."""
    server = config.server
    return server.removesuffix(":443" if server.startswith("https:") else ":80")


def credential_of(config: ClientConfig) -> Credential:
    """Choose the credential that a configuration asks for; nothing is read yet."""
    if config.auth != "oidc":
        return X509Proxy(config.proxy_path)
    return OidcToken(_source(config), config.vo, production=config.production)


def _source(config: ClientConfig) -> TokenSource:
    if config.token:
        return LiteralToken(config.token.strip())
    if config.token_file:
        return TokenFile(config.token_file)
    if config.config_root:
        return TokenDirectory(
            config.config_root,
            f"{config.server}/auth/{config.vo}_auth_config.json",
            config.verify,
            (config.connect_timeout, config.read_timeout),
        )
    return NoToken()
