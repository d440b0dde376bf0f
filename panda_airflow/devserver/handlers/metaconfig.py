"""Server module ``metaconfig``."""

from __future__ import annotations

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.jedi.refiner import DEFAULT_SITE

_SITES = {DEFAULT_SITE: {"sitename": DEFAULT_SITE, "type": "unified", "cloud": "LOCAL", "status": "online"}}
_RESOURCE_TYPES = [
    ("Undefined", 1, None, None, None),
    ("SCORE", 1, 1, 0, 2000),
    ("MCORE", 2, None, 0, 2000),
    ("SCORE_HIMEM", 1, 1, 2001, None),
    ("MCORE_HIMEM", 2, None, 2001, None),
]
_BOUNDS = ("resource_name", "mincore", "maxcore", "minrampercore", "maxrampercore")


def get_banned_users(backend: Backend, caller: Identity | None) -> Envelope:
    """List the users who are refused."""
    return Envelope(success=True, data=dict.fromkeys(sorted(backend.banned), False))


def get_site_specs(backend: Backend, caller: Identity | None, type: str = "analysis") -> Envelope:
    """Describe the one site there is, in few words."""
    return Envelope(success=True, data={name: site for name, site in _SITES.items() if type in ("all", site["type"])})


def get_resource_types(backend: Backend, caller: Identity | None) -> Envelope:
    """List the classes of jobs by cores and memory."""
    return Envelope(success=True, data=[dict(zip(_BOUNDS, row, strict=True)) for row in _RESOURCE_TYPES])
