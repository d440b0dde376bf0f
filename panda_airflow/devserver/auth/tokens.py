"""The embedded server's token issuer: an OpenID provider without its web pages."""

from __future__ import annotations

import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from panda_airflow.devserver.auth.certificates import write_private

CLIENT_ID = "panda-devserver"
ISSUER = "http://localhost/iam/"
KEY_ID = "devserver"


class TokenIssuer:
    """Signs and checks tokens; its key is kept below the server's root.

    :param root: the server's root directory.
    """

    def __init__(self, root: Path) -> None:
        self._directory = root / "tls"
        self._expired_before = 0.0

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        path = self._directory / "issuer.key"
        if not path.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            write_private(path, _pem(rsa.generate_private_key(65537, 2048)))
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError(f"{path} is no RSA key; remove it.")
        return key

    def token(
        self, name: str, *, vo: str = "wlcg", production: bool = False, lifetime: float = 86400, **claims: Any
    ) -> str:
        """Issue a token.

        :param name: of the user, such as ``Bob Tester``.
        :param vo: virtual organisation whose group the user is in.
        :param production: the user may ask for the production role.
        :param lifetime: seconds; negative for a token that has expired.
        :param claims: to add or replace.
        """
        now = time.time()
        groups = [f"/{vo}", *([f"/{vo}/production"] if production else [])]
        standard = {
            "iss": ISSUER, "aud": CLIENT_ID, "sub": str(uuid5(NAMESPACE_URL, name)), "name": name.lower(),
            "preferred_username": name.lower().partition(" ")[0], "groups": groups,
            "iat": now, "exp": now + lifetime,
        }  # fmt: skip
        return jwt.encode(standard | claims, self._key, algorithm="RS256", headers={"kid": KEY_ID})

    def claims(self, token: str) -> dict[str, Any]:
        """Check a token and return what it says.

        :raises jwt.InvalidTokenError: it is malformed, foreign, tampered with or expired.
        """
        unverified = jwt.decode(token, options={"verify_signature": False})
        if CLIENT_ID not in (unverified.get("aud"), unverified.get("client_id"), unverified.get("sub")):
            raise jwt.InvalidTokenError("cannot extract client_id from token")
        key_id = jwt.get_unverified_header(token).get("kid")
        if key_id != KEY_ID:
            raise jwt.InvalidTokenError(f"JWK not found for kid={key_id}")
        options: Any = {"verify_aud": False, "verify_iat": False}
        try:
            claims = jwt.decode(token, self._key.public_key(), algorithms=["RS256"], issuer=ISSUER, options=options)
        except jwt.InvalidIssuerError as error:
            raise jwt.InvalidTokenError(f"failed to decode: {error}") from error
        if claims.get("iat", 0.0) < self._expired_before:
            raise jwt.ExpiredSignatureError("Signature has expired")
        return claims

    def expire_all(self) -> None:
        """End the life of every token issued so far."""
        self._expired_before = time.time()

    def key_set(self) -> dict[str, Any]:
        """Describe the public key, as a JWK set."""
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [key | {"use": "sig", "alg": "RS256", "kid": KEY_ID}]}


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
