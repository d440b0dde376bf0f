"""What Airflow is told about this provider."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from panda_airflow.client.config import ClientConfig


def get_provider_info() -> dict[str, Any]:
    """Describe hook, operators, sensors, triggers and the connection form."""
    room = "panda_airflow.{}".format
    return {
        "package-name": "panda-airflow",
        "name": "PanDA",
        "description": "Run PanDA work from Apache Airflow.",
        "integrations": [
            {"integration-name": "PanDA", "external-doc-url": "https://panda-wms.readthedocs.io", "tags": ["service"]}
        ],
        "hooks": [{"integration-name": "PanDA", "python-modules": [room("hooks.panda")]}],
        "operators": [
            {
                "integration-name": "PanDA",
                "python-modules": [
                    room(f"operators.{name}")
                    for name in ("task", "command", "job", "file", "secret", "workflow", "idds")
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "PanDA",
                "python-modules": [room(f"sensors.{name}") for name in ("task", "job", "idds", "server")],
            }
        ],
        "triggers": [
            {"integration-name": "PanDA", "python-modules": [room(f"triggers.{name}") for name in ("panda", "polling")]}
        ],
        "extra-links": [room("links.panda.PandaTaskLink")],
        "connection-types": [
            {
                "connection-type": "panda",
                "hook-class-name": room("hooks.panda.PandaHook"),
                "hook-name": "PanDA",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "schema"],
                    "relabeling": {"host": "Server", "password": "Token"},
                    "placeholders": {"host": "https://pandaserver.cern.ch", "port": "443"},
                },
                "conn-fields": connection_fields(),
            }
        ],
    }


def connection_fields() -> dict[str, Any]:
    """Make the form's fields from those of the client's configuration; host and password have their own places."""
    elsewhere = {"url", "url_ssl", "token"}
    return {
        item.name: {"label": item.metadata["label"], "description": item.metadata["help"], "schema": _schema(item)}
        for item in fields(ClientConfig)
        if item.name not in elsewhere
    }


def _schema(item: Field[Any]) -> dict[str, Any]:
    kind = {"bool": "boolean", "int": "integer", "float": "number"}.get(str(item.type), "string")
    default = item.default if kind != "string" else None
    return {"type": [kind, "null"], "default": default} | ({"format": "password"} if item.metadata["secret"] else {})
