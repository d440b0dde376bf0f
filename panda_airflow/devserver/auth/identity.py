"""Who is calling: bearer tokens of the server's own issuer, or the client certificate of the connection.

An expired or foreign token is refused on every method, even those that need no identity; no credential at all is
an anonymous caller. Like a real server, this one can remember its decision on a token for a while
(:attr:`AccessPolicy.decision_lifetime`), and then goes on accepting a token that has expired meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import jwt
from cryptography import x509

from panda_airflow.devserver.auth.certificates import PRODUCTION_UNIT, distinguished_name
from panda_airflow.devserver.auth.tokens import TokenIssuer
from panda_airflow.devserver.backend import Identity

_NO_ORIGIN = """Token decode failure. 'NoneType' object has no attribute 'replace' Traceback (most recent call last):
  File "panda_request.py", line 36, in decode_token
    vo_role = vo.replace(":", ".")
              ^^^^^^^^^^
AttributeError: 'NoneType' object has no attribute 'replace'
"""
_NOISE = re.compile(
    r"/(?:DC|O|OU|C|L)=[^/]+|/CN=(?:\d+|proxy|limited proxy|Robot:[^/]+|nickname:[^/]+)(?=/|$)| \d+|_\d+|[()']"
)


class Forbidden(Exception):
    """The caller is refused whatever is called.

    :param message: the server's words, after ``ERROR :``.
    """


@dataclass(frozen=True)
class AccessPolicy:
    """Whom the server lets in.

    :param vos: virtual organisations it knows.
    :param banned: names it refuses.
    :param production_dns: parts of certificate subjects that carry the production role.
    :param decision_lifetime: seconds for which the decision on a token is remembered; 600 on a real server, where
        an expired token therefore works for up to ten minutes more.
    """

    vos: tuple[str, ...] = ("wlcg", "atlas")
    banned: frozenset[str] = frozenset({"Mallory Banned"})
    production_dns: tuple[str, ...] = (f"/OU={PRODUCTION_UNIT}/",)
    decision_lifetime: float = 0.0


def clean_name(dn: str) -> str:
    """Reduce a distinguished name to the person's name, by which owners are compared.

    :param dn: ``/O=panda-airflow/CN=Bob Tester/CN=123`` or ``Bob Tester/CN=nickname:bob``.
    """
    names = [part for part in _NOISE.sub("", dn).split("/CN=") if part]
    return names[-1] if names else dn


@dataclass
class Gate:
    """Decides who a request comes from.

    :param issuer: checks tokens.
    :param policy: whom to let in.
    """

    issuer: TokenIssuer
    policy: AccessPolicy
    _decisions: dict[tuple[str, str | None], tuple[float, Identity | Forbidden]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def identify(self, headers: Mapping[str, str], certificate: bytes | None) -> Identity | None:
        """Name the caller; None is anonymous.

        :param headers: of the request, by lower-case name.
        :param certificate: of the client, DER, as the TLS layer verified it.
        :raises Forbidden: the token is refused or the user is banned.
        """
        caller = self._by_certificate(certificate) if certificate else None
        scheme, _, token = headers.get("authorization", "").strip().partition(" ")
        if scheme and token.strip():
            by_token = self._by_token(token.split()[0], headers.get("origin"))
            caller = caller or by_token
        if caller and caller.name in self.policy.banned:
            raise Forbidden(f"{caller.name} is banned")
        return caller

    def _by_certificate(self, certificate: bytes) -> Identity:
        dn = distinguished_name(x509.load_der_x509_certificate(certificate).subject)
        return Identity(dn, clean_name(dn), any(part in dn for part in self.policy.production_dns))

    def _by_token(self, token: str, origin: str | None) -> Identity:
        now = time.monotonic()
        with self._lock:
            decided, decision = self._decisions.get((token, origin), (now, None))
        if decision is None or now - decided >= self.policy.decision_lifetime:
            decision = self._decide(token, origin)
            self._remember(token, origin, decision)
        if isinstance(decision, Forbidden):
            raise Forbidden(*decision.args)
        return decision

    def _remember(self, token: str, origin: str | None, decision: Identity | Forbidden) -> None:
        if self.policy.decision_lifetime > 0:
            with self._lock:
                self._decisions[token, origin] = time.monotonic(), decision

    def _decide(self, token: str, origin: str | None) -> Identity | Forbidden:
        if origin is None:
            return _refused(_NO_ORIGIN)
        try:
            claims = self.issuer.claims(token)
        except jwt.InvalidTokenError as error:
            return _refused(f"Invalid token. {error}")
        vo, role = _vo_and_role(origin)
        if vo not in self.policy.vos:
            return _refused(f"Unknown vo : {vo}")
        group = f"{vo}/{role}" if role else vo
        if not {group, f"/{group}"} & set(claims.get("groups", ())):
            return _refused(f"Not a member of the {group} group")
        return _person(claims, vo, role)


def _refused(reason: str) -> Forbidden:
    return Forbidden(f"Token authentication failed. {reason}")


def _vo_and_role(origin: str) -> tuple[str, str]:
    """Split ``wlcg:production`` or ``wlcg.production``; a VO may itself begin with ``vo.``."""
    if ":" in origin or origin.startswith("vo."):
        vo, _, role = origin.partition(":")
        return vo, role
    vo, dot, role = origin.rpartition(".")
    return (vo, role) if dot else (origin, "")


def _person(claims: Mapping[str, Any], vo: str, role: str) -> Identity:
    dn = str(claims["sub"])
    if "name" in claims:
        nickname = claims.get("preferred_username")
        dn = " ".join(word.capitalize() for word in str(claims["name"]).split())
        dn += f"/CN=nickname:{nickname}" if nickname else ""
    return Identity(dn, clean_name(dn), role == "production", f"/{vo}/Role={role}" if role else "")
