"""Where an OIDC token comes from: given literally, from a file, or from the directory that panda-client keeps."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from panda_airflow.client import errors
from panda_airflow.client.auth.reread import JUST_NOW, reread, stamp
from panda_airflow.client.auth.trust import is_foreign
from panda_airflow.client.http.envelope import plain_text
from panda_airflow.client.http.network import ask

log = logging.getLogger(__name__)

REFRESH_MARGIN = 300
"""A token with fewer seconds than this to live is refreshed, as panda-client does."""

LONGEST_LOCK = 60.0
"""Seconds to wait while another process refreshes the token."""

GET_A_TOKEN = "Run pbook (panda-client) with PANDA_AUTH=oidc and sign in once to get a new token."  # noqa: S105


@lru_cache(maxsize=16)
def claims_of(token: str) -> dict[str, Any]:
    """Read what a JWT claims; the signature is the server's business.

    :return: nothing of what is no JWT.
    """
    with suppress(ValueError, IndexError, binascii.Error):
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims if isinstance(claims, dict) else {}
    return {}


def expiry(token: str) -> float | None:
    """Read from a JWT when it expires, in seconds since the epoch.

    :return: nothing if the token does not say, or is no JWT.
    """
    with suppress(ValueError, KeyError, TypeError):
        return float(claims_of(token)["exp"])
    return None


def owner(token: str) -> str:
    """Name the person of a JWT, the same in every token that is issued to her.

    The server goes by the claim ``name``, whatever its capitals, so that this comes first.

    :return: nothing if the token does not say, or is no JWT.
    """
    claims = claims_of(token)
    return str(claims.get("name") or "").strip().title() or str(claims.get("sub") or "")


def token_digest(token: str) -> str:
    """Name a token in a log without showing it."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


def refuse_expired(token: str, advice: str) -> None:
    """Stop before sending a token that the server would refuse.

    :raises CredentialExpired: its time has passed.
    """
    ends = expiry(token)
    if ends is not None and ends <= time.time():
        when = datetime.fromtimestamp(ends, UTC)
        raise errors.CredentialExpired(f"the token expired at {when:%Y-%m-%d %H:%M:%S} UTC.", advice=advice)


def refuse_foreign(path: Path) -> None:
    """Stop before using a credential that somebody else may have put there.

    :raises CredentialRefused: another user owns it, in a directory that all users share.
    """
    if is_foreign(path):
        raise errors.CredentialRefused(
            f"{path} belongs to another user, in a directory that all users share: it is not used.",
            advice="Remove it, or name your own file elsewhere.",
            hopeless=True,
        )


class TokenSource(Protocol):
    """Where a token comes from."""

    def token(self) -> str:
        """Give the token to send now.

        :raises CredentialMissing: there is none.
        :raises CredentialExpired: there is one that cannot be used any more.
        """

    def renew(self) -> bool:
        """After a refusal, look for a newer token; say whether there is one."""

    def peek(self) -> str:
        """Give the token as it is, also one that has expired.

        :raises CredentialMissing: there is none.
        """


@dataclass(frozen=True)
class LiteralToken:
    """A token that was given as it is and can only be replaced by whoever gave it.

    :param text: the token.
    """

    text: str = field(repr=False)

    def token(self) -> str:
        """Give the token unless it has expired."""
        refuse_expired(self.text, "Put a new one into PANDA_AUTH_ID_TOKEN or the connection.")
        return self.text

    def renew(self) -> bool:
        """Say no: there is nowhere to look."""
        return False

    def peek(self) -> str:
        """Give the token."""
        return self.text


@dataclass
class TokenFile:
    """A file that somebody else keeps up to date; it is read for every request.

    :param path: the file holds the token and nothing else.
    """

    path: Path
    _last: str = field(default="", repr=False)

    def token(self) -> str:
        """Read the token."""
        self._last = reread(self._read)
        refuse_expired(self._last, f"Whatever writes {self.path} has to write a new one.")
        return self._last

    def renew(self) -> bool:
        """Whether the file changed since it was last read; one that was written just now may be incomplete."""
        written = stamp(self.path)
        if written and time.time() - written[0] / 1e9 > JUST_NOW:
            return self._read() != self._last
        with suppress(errors.CredentialRefused):
            reread(self._changed)
            return True
        return False

    def _changed(self) -> None:
        if self._read() == self._last:
            raise errors.CredentialRefused("the token has not changed.")

    def peek(self) -> str:
        """Read the token."""
        return self._read()

    def _read(self) -> str:
        refuse_foreign(self.path)
        try:
            token = self.path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.CredentialMissing(
                f"the token file {self.path} cannot be read ({error}).",
                advice="Check OIDC_AUTH_TOKEN_FILE.",
                hopeless=False,
            ) from error
        if not token:
            raise errors.CredentialMissing(
                f"the token file {self.path} is empty.", advice="Check what writes it.", hopeless=False
            )
        return token


@dataclass(frozen=True)
class TokenDirectory:
    """The ``.token`` file of panda-client's device flow, refreshed here and shared with it.

    :param directory: ``PANDA_CONFIG_ROOT``.
    :param auth_config_url: where the server says which identity provider its VO uses.
    :param verify: how to check the server's certificate; the provider's is checked with what the system trusts.
    :param timeout: time limits to connect and to read, in seconds.
    """

    directory: Path
    auth_config_url: str
    verify: str | bool = True
    timeout: tuple[float, float] = (10, 60)

    @property
    def path(self) -> Path:
        """The file itself: the JSON reply of the identity provider."""
        return self.directory / ".token"

    def token(self) -> str:
        """Give the stored token, refreshed if it is about to expire."""
        token = str(reread(self._read)["id_token"])
        left = (expiry(token) or 0) - time.time()
        if left > REFRESH_MARGIN:
            return token
        try:
            return self._refresh(token)
        except errors.PandaError as error:
            if left <= 0:
                raise
            log.warning("The token %s is still valid but was not refreshed: %s", token_digest(token), error)
            return token

    def peek(self) -> str:
        """Read the token, and refresh nothing."""
        return str(self._read()["id_token"])

    def renew(self) -> bool:
        """Refresh the token even if it looks valid: a fresh one also carries the groups of today."""
        token = str(self._read()["id_token"])
        try:
            return self._refresh(token) != token
        except errors.PandaError as error:
            log.warning("The token %s was refused and not refreshed: %s", token_digest(token), error)
            return False

    def _read(self) -> dict[str, Any]:
        refuse_foreign(self.path)
        try:
            stored: dict[str, Any] = json.loads(self.path.read_text())
            stored["id_token"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise errors.CredentialMissing(
                f"{self.path} holds no token ({error!r}).", advice=GET_A_TOKEN, hopeless=False
            ) from None
        return stored

    def _refresh(self, stale: str) -> str:
        try:
            with self._locked():
                return self._refresh_alone(stale)
        except OSError as error:
            raise errors.ConfigError(
                f"{self.directory} cannot be written to, so the token grows old: {error}."
            ) from error

    def _refresh_alone(self, stale: str) -> str:
        stored = self._read()
        if stored["id_token"] == stale:
            stored |= self._ask_provider(stored)
            self._write(stored)
            log.info("Refreshed the token in %s, it is %s now", self.path, token_digest(stored["id_token"]))
        return str(stored["id_token"])

    def _ask_provider(self, stored: dict[str, Any]) -> dict[str, Any]:
        if not stored.get("refresh_token"):
            raise errors.CredentialExpired(f"the token in {self.path} cannot be refreshed.", advice=GET_A_TOKEN)
        config = self._json("GET", self.auth_config_url, verify=self.verify)
        secrets = {"client_id": config.get("client_id"), "client_secret": config.get("client_secret")}
        provider = self._json("GET", str(config.get("oidc_config_url")))
        return self._json(
            "POST",
            str(provider.get("token_endpoint")),
            data=secrets | {"grant_type": "refresh_token", "refresh_token": stored["refresh_token"]},
            wanted="id_token",
        )

    def _json(
        self, method: str, url: str, *, data: dict[str, Any] | None = None, wanted: str = "", verify: str | bool = True
    ) -> dict[str, Any]:
        status, body = ask(method, url, data or {}, self.timeout, verify=verify)
        with suppress(ValueError, RecursionError):
            found = json.loads(body)
            if status == HTTPStatus.OK and isinstance(found, dict) and wanted in {"", *found}:
                return found
        kind = errors.ServerError if status >= 500 else errors.CredentialExpired  # noqa: PLR2004
        raise kind(
            f"the token in {self.path} cannot be refreshed: {url:.200} answered HTTP {status}.",
            server_says="" if wanted and status == HTTPStatus.OK else plain_text(body),
            advice=GET_A_TOKEN,
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from spending the same refresh token.

        :raises NotDelivered: another one has been at it for too long.
        """
        handle = os.open(self.directory / ".token.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._lock(handle)
            yield
        finally:
            os.close(handle)

    def _lock(self, handle: int) -> None:
        ends = time.monotonic() + LONGEST_LOCK
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.monotonic() > ends:
                raise errors.NotDelivered(
                    f"another process has been refreshing the token in {self.path} for {LONGEST_LOCK:.0f} s.",
                    advice=f"Try again; if it stays so, look who has locked {self.directory / '.token.lock'}.",
                )
            time.sleep(0.05)

    def _write(self, stored: dict[str, Any]) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=".token.")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(stored, file)
            Path(temporary).replace(self.path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
