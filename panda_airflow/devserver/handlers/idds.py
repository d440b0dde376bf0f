"""Server module ``idds``, as on a PanDA server that no iDDS stands behind."""

from __future__ import annotations

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, Identity

_NOT_CONFIGURED = "No section: 'rest'"


def relay_idds_command(
    backend: Backend,
    caller: Identity | None,
    command_name: str,
    args: str | None = None,
    kwargs: str | None = None,
    manager: bool = False,
    json_outputs: bool = False,
) -> Envelope:
    """Fail, as there is no iDDS to pass the command on to."""
    return Envelope(success=False, message=f"failed to execute command with {_NOT_CONFIGURED}")


def execute_idds_workflow_command(
    backend: Backend,
    caller: Identity | None,
    command_name: str,
    kwargs: str | None = None,
    json_outputs: bool = False,
) -> Envelope:
    """Fail, as there is no iDDS to pass the command on to."""
    return Envelope(success=False, message=f"server failed with {_NOT_CONFIGURED}")
