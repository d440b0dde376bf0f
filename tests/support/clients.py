"""Clients that do not really wait between attempts, and what they submit."""

from __future__ import annotations

from typing import Any

from panda_airflow.client import (
    ClientConfig,
    PandaClient,
)
from tests.support.rude_server import Rude, reply
from tests.support.tokens import jwt

TASK = {
    "taskName": "user.bob.x",
    "vo": "wlcg",
    "prodSourceLabel": "user",
    "processingType": "panda",
    "taskType": "anal",
    "architecture": None,
    "transUses": None,
    "transHome": None,
}


SUBMITTED = reply('{"success": true, "message": "succeeded. new jediTaskID=7", "data": 7}')


class Clients:
    """Makes clients that do not really wait between attempts, and remembers how long they would have."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.made: list[PandaClient] = []

    def __call__(self, rude: Rude | str, **settings: Any) -> PandaClient:
        url = rude if isinstance(rude, str) else rude.url
        given: dict[str, Any] = {
            "auth": "oidc",
            "vo": "wlcg",
            "token": jwt(),
            "read_timeout": 0.3,
            "attempts": 3,
        } | settings
        self.made.append(PandaClient(ClientConfig(url_ssl=url, **given), sleep=self.slept.append))
        return self.made[-1]
