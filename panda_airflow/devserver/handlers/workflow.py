"""Server module ``workflow``: workflows are numbered and kept; nothing carries them out."""

from __future__ import annotations

import json

from panda_airflow.client.models import Envelope, Json
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.storage.store import DatabaseDown


def submit_workflow_raw_request(backend: Backend, caller: Identity | None, params: dict[str, Json] | str) -> Envelope:
    """Keep a workflow whose description is a file."""
    try:
        definition = json.loads(params) if isinstance(params, str) else params
    except ValueError as error:
        return Envelope(success=False, message=f"Failed to parse params: {params} {error}")
    return _keep(backend, caller, "user", definition) or Envelope(False, "Failed to submit raw workflow request")


def submit_workflow(backend: Backend, caller: Identity | None, workflow_definition: dict[str, Json]) -> Envelope:
    """Keep a workflow that is described in PanDA's own terms."""
    label = "managed" if caller and caller.production else "user"
    return _keep(backend, caller, label, workflow_definition) or Envelope(False, "Failed to submit workflow")


def _keep(backend: Backend, caller: Identity | None, label: str, definition: Json) -> Envelope | None:
    row = {"userName": caller.name if caller else "", "prodSourceLabel": label, "creationTime": backend.clock()}
    try:
        number = backend.store.insert("workflows", **row, definition=json.dumps(definition))
    except DatabaseDown:
        return None
    return Envelope(success=True, data={"workflow_id": number})
