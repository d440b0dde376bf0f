"""Which function serves which endpoint: the client's REGISTRY on one side, the handlers on the other."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from panda_airflow.client import api
from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.devserver import handlers

Handler = Callable[..., Envelope | str]
"""Takes backend, caller and the endpoint's arguments; the few methods without an envelope return text."""

NOT_EMULATED: dict[str, str] = {
    "file_server/upload_event_picking_request": "there are no event indexes to pick from",
    "file_server/upload_workflow_request": "there is no workflow engine",
    "task/enable_jumbo_jobs": "panda-server 1.0.4 fails here, too",
}
"""Endpoints that the embedded server knows and does not serve, and why."""


@dataclass(frozen=True)
class Routes:
    """The route table.

    :param handlers: by endpoint path.
    """

    handlers: dict[str, Handler]

    @classmethod
    def load(cls) -> Routes:
        """Match every endpoint with its handler.

        :raises LookupError: an endpoint has no handler and no line in :data:`NOT_EMULATED`.
        """
        for module in pkgutil.iter_modules(api.__path__):
            importlib.import_module(f"{api.__name__}.{module.name}")
        found = {path: handler for path in REGISTRY if (handler := _handler(path))}
        if forgotten := REGISTRY.keys() - found.keys() - NOT_EMULATED.keys():
            raise LookupError(f"no handler for {', '.join(sorted(forgotten))}")
        return cls(found)

    def find(self, url_path: str) -> Endpoint | None:
        """Find the endpoint of ``/api/v1/<module>/<method>``."""
        return REGISTRY.get(url_path.removeprefix("/api/v1/")) if url_path.startswith("/api/v1/") else None


def _handler(path: str) -> Handler | None:
    module, _, name = path.partition("/")
    if module not in {item.name for item in pkgutil.iter_modules(handlers.__path__)}:
        return None
    handler: Handler | None = getattr(importlib.import_module(f"{handlers.__name__}.{module}"), name, None)
    return handler
