"""Server module ``creds``: everybody's own secrets; credentials are kept for nobody."""

from __future__ import annotations

import json

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.storage.store import DatabaseDown

_DATABASE_DOWN = "database error"
_REGISTERED = "in DOMA_PANDAMETA.USERS.GRIDPREF"
_FILE = "___file___:"


def set_user_secrets(
    backend: Backend, caller: Identity | None, key: str | None = None, value: str | None = None
) -> Envelope:
    """Keep a secret of the caller, or forget one, or all."""
    owner = caller.name if caller else ""
    try:
        if key is None:
            backend.store.run("DELETE FROM secrets WHERE owner = ?", owner)
        elif value is None:
            _forget(backend, owner, key)
        else:
            _keep(backend, owner, key, value)
    except DatabaseDown:
        return Envelope(success=False, message=_DATABASE_DOWN)
    return Envelope(success=True, message="OK")


def _keep(backend: Backend, owner: str, key: str, value: str) -> None:
    backend.store.run(
        "INSERT INTO secrets VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", owner, key, value
    )


def _forget(backend: Backend, owner: str, key: str) -> None:
    """Forget a secret; one that holds a file is found without its prefix, too."""
    sql = "DELETE FROM secrets WHERE owner = ? AND key = ?"
    if not backend.store.run(sql, owner, key):
        backend.store.run(sql, owner, _FILE + key)


def get_user_secrets(backend: Backend, caller: Identity | None, keys: list[str] | None = None) -> Envelope:
    """Tell the caller's secrets, as JSON text inside the JSON reply."""
    wanted = ",".join(keys or [])
    try:
        rows = backend.store.rows("SELECT * FROM secrets WHERE owner = ? ORDER BY rowid", caller.name if caller else "")
    except DatabaseDown:
        return Envelope(success=False, message=_DATABASE_DOWN, data={})
    found = {row["key"]: row["value"] for row in rows if not wanted or row["key"] in wanted.split(",")}
    return Envelope(success=True, data=json.dumps(found))


def get_key_pair(backend: Backend, caller: Identity | None, public_key_name: str, private_key_name: str) -> Envelope:
    """Refuse, as nobody is registered for key pairs."""
    return Envelope(success=False, message=f"Failed since '{_name(caller)}' not authorized with 'k' {_REGISTERED}")


def get_proxy(backend: Backend, caller: Identity | None, role: str | None = None, dn: str | None = None) -> Envelope:
    """Refuse, as nobody is registered for proxies."""
    return _not_registered(caller, "proxy")


def get_access_token(
    backend: Backend, caller: Identity | None, client_name: str, token_key: str | None = None
) -> Envelope:
    """Refuse, as nobody is registered for tokens."""
    return _not_registered(caller, "access token")


def get_token_key(backend: Backend, caller: Identity | None, client_name: str) -> Envelope:
    """Refuse, as nobody is registered for token keys."""
    return Envelope(success=False, message=f"Denied since '{_name(caller)}' not authorized with 't' {_REGISTERED}")


def _not_registered(caller: Identity | None, what: str) -> Envelope:
    message = f"failed: '{_name(caller)}' not in authorized users with 'p' {_REGISTERED} to get {what}"
    return Envelope(success=False, message=message)


def _name(caller: Identity | None) -> str:
    return caller.name if caller else ""
