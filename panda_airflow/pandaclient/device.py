"""Signing in with a browser: the device flow of OAuth, as panda-client does it and with the same ``.token`` file."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import AuthError, CredentialRefused
from panda_airflow.client.http.envelope import fit, plain_text
from panda_airflow.client.http.network import ask

_SCOPE = "openid profile email offline_access"
_WLCG = " wlcg wlcg.groups"
_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_WAITING = ("authorization_pending", "slow_down")


def sign_in(
    settings: ClientConfig, directory: Path, show: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> str:
    """Have a person sign in, and store what the identity provider answers.

    :param settings: the server, which knows the provider of the VO.
    :param directory: where ``.token`` is kept, for its owner only.
    :param show: tells the person where to go.
    :param sleep: waits between two looks, in seconds.
    :return: the ID token.
    :raises AuthError: nobody signed in in time, or the provider says no.
    :raises TransportError: the server or the provider does not answer.
    """
    client, provider = _provider(settings)
    scope = _SCOPE + (_WLCG if client.get("jwt_profile") == "wlcg" else "")
    wanted = {"client_id": client["client_id"], "scope": scope, "audience": client.get("audience", "")}
    promised = ("device_code", "verification_uri", "user_code")
    begun = _json("POST", provider["device_authorization_endpoint"], wanted, promised)
    where = begun.get("verification_uri_complete") or f"{begun['verification_uri']} with code {begun['user_code']}"
    show(fit(f"Please go to {where} and sign in. Waiting ..."))
    asked = {"client_id": client["client_id"], "client_secret": client.get("client_secret", "")}
    asked |= {"grant_type": _GRANT, "device_code": begun["device_code"]}
    reply = _poll(provider["token_endpoint"], asked, begun, sleep)
    _write(directory / ".token", reply)
    return str(reply["id_token"])


def _provider(settings: ClientConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    url = f"{settings.server}/auth/{settings.vo}_auth_config.json"
    client = _json("GET", url, {}, ("client_id", "oidc_config_url"), verify=settings.verify)
    endpoints = ("device_authorization_endpoint", "token_endpoint")
    return client, _json("GET", client["oidc_config_url"], {}, endpoints)


def _poll(url: str, asked: dict[str, str], begun: dict[str, Any], sleep: Callable[[float], None]) -> dict[str, Any]:
    interval, lifetime = _seconds(begun, "interval", 5, 60), _seconds(begun, "expires_in", 600, 3600)
    for _ in range(max(1, int(lifetime / max(interval, 1)))):
        sleep(interval)
        reply = _json("POST", url, asked, ())
        if "id_token" in reply:
            return reply
        if reply.get("error") not in _WAITING:
            raise CredentialRefused("nobody may sign in this way.", server_says=plain_text(str(reply)))
    raise AuthError("nobody signed in in time.", advice="Try again.")


def _seconds(begun: dict[str, Any], name: str, usual: float, most: float) -> float:
    """Read a time that the provider asks for; what is no time is the usual one."""
    value = begun.get(name, usual)
    return min(value, most) if isinstance(value, int | float) and 0 <= value < math.inf else usual


def _json(
    method: str, url: str, data: dict[str, str], wanted: tuple[str, ...], verify: str | bool = True
) -> dict[str, Any]:
    found = None
    status, body = ask(method, url, data, (10, 60), verify=verify)
    with suppress(ValueError, RecursionError):
        found = json.loads(body) if status < 300 or not wanted else None  # noqa: PLR2004 - the class of redirections
    if not isinstance(found, dict) or not all(name in found for name in wanted):
        raise AuthError(f"{url} does not say how to sign in.", advice="Check PANDA_AUTH_VO and the server URL.")
    return found


def _write(path: Path, reply: dict[str, Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".token.")
    with os.fdopen(handle, "w") as file:
        json.dump(reply, file)
    Path(temporary).replace(path)
