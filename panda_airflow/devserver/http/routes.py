"""Which function serves which endpoint: the client's REGISTRY on one side, the handlers on the other."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from panda_airflow.client import api
from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.devserver import handlers

Handler = Callable[..., Envelope | str]
"""Takes backend, caller and the endpoint's arguments; the few methods without an envelope return text."""

_NO_EVENTS = "jobs here do not process single events"
_NO_NODES = "there are no worker nodes"

NOT_EMULATED: dict[str, str] = {
    "async_process": "there are no machines that carry requests out later",
    "data_carousel": "there are no tapes to stage from",
    "event/update_event_ranges": _NO_EVENTS,
    "event/update_single_event_range": _NO_EVENTS,
    "file_server/upload_event_picking_request": "there are no event indexes to pick from",
    "file_server/upload_workflow_request": "there is no workflow engine",
    "statistics/get_wn_metrics_by_queue": _NO_NODES,
    "statistics/get_wn_metrics_by_site": _NO_NODES,
}
"""Modules and single endpoints that the embedded server knows and does not serve, and why."""


def not_emulated(path: str) -> str | None:
    """Tell why an endpoint is not served; None if it is.

    :param path: ``module/method``.
    """
    return NOT_EMULATED.get(path) or NOT_EMULATED.get(path.partition("/")[0])


LEGACY = {
    "/server/panda/relay_idds_command": "idds/relay_idds_command",
    "/server/panda/execute_idds_workflow_command": "idds/execute_idds_workflow_command",
}
"""Endpoints that are served under an older path, too, with gzipped JSON and a bare list as reply."""


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
        forgotten = [path for path in REGISTRY if path not in found and not not_emulated(path)]
        if forgotten:
            raise LookupError(f"no handler for {', '.join(forgotten)}")
        return cls(found)

    def find(self, url_path: str) -> Endpoint | None:
        """Find the endpoint of ``/api/v1/<module>/<method>``, or of the few that ``/server/panda`` has, too."""
        if url_path in LEGACY:
            return replace(REGISTRY[LEGACY[url_path]], legacy=True)
        return REGISTRY.get(url_path.removeprefix("/api/v1/")) if url_path.startswith("/api/v1/") else None


def _handler(path: str) -> Handler | None:
    module, _, name = path.partition("/")
    if module not in {item.name for item in pkgutil.iter_modules(handlers.__path__)}:
        return None
    handler: Handler | None = getattr(importlib.import_module(f"{handlers.__name__}.{module}"), name, None)
    return handler
