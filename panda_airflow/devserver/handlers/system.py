"""Server module ``system``."""

from __future__ import annotations

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, Identity


def is_alive(backend: Backend, caller: Identity | None) -> Envelope:
    """Answer, whatever the state of the database."""
    return Envelope(success=True)


def get_attributes(backend: Backend, caller: Identity | None) -> Envelope:
    """Show what is known of the caller; the rest of the environment, tokens included, is left out."""
    environment = {"SSL_CLIENT_S_DN": caller.dn if caller else ""} | _credentials(caller)
    lines = "\n".join(f"{name} : {value}" for name, value in sorted(environment.items()))
    message = f"===== param =====\n\n\n====== env ======\n{lines}\n"
    return Envelope(True, message, {"parameters": {}, "environment": environment})


def get_voms_attributes(backend: Backend, caller: Identity | None) -> Envelope:
    """List the credential attributes of the caller."""
    attributes = _credentials(caller)
    return Envelope(True, "\n".join(f"{name} : {value}" for name, value in sorted(attributes.items())), attributes)


def get_user_attributes(backend: Backend, caller: Identity | None) -> Envelope:
    """Describe the caller; there is no Rucio to look an e-mail address up in."""
    who = caller or Identity("", "")
    roles = [who.role] if who.role else []
    message = (
        f"User DN (raw): {who.dn}\nUser DN (bare): {who.dn}\nUser DN (clean): {who.name}\nEmail address: None\n"
        f"FQANs: {roles}\nProduction user: {who.production}\nProduction working groups: []\n"
        "Primary production working group: None\n"
    )
    data = {
        "user_dn_raw": who.dn, "user_dn_clean": who.name, "fqans": roles, "is_production_user": who.production,
        "production_working_groups": [], "primary_working_group": None,
    }  # fmt: skip
    return Envelope(True, message, data)


def _credentials(caller: Identity | None) -> dict[str, str]:
    valid = "notbefore=0 notafter=2147483647 delegation=0 nist-loa=0"
    attributes = {
        "GRST_CRED_AURI_0": "dns:localhost",
        "GRST_CRED_VALID_0": valid,
        "GRST_CRED_AURI_1": "ip:127.0.0.1",
        "GRST_CRED_VALID_1": valid,
    }
    return attributes | ({"GRST_CRED_AUTH_TOKEN_0": f"VOMS {caller.role}"} if caller and caller.role else {})
