"""Tokens for tests: shaped like those of an identity provider, signed by nobody."""

from __future__ import annotations

import base64
import json
import time


def jwt(lifetime: float = 3600, name: str = "Bob Tester") -> str:
    """Make a token that expires some seconds from now."""
    claims = {"name": name, "exp": int(time.time() + lifetime)}
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "bm9ib2R5"])
