"""What Airflow is told about this provider."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from panda_airflow.client.config import ClientConfig

_ours = "panda_airflow.{}".format


def get_provider_info() -> dict[str, Any]:
    """Describe hook, operators, sensors, triggers and the connection form."""
    return {
        "package-name": "panda-airflow",
        "name": "PanDA",
        "description": "Run PanDA work from Apache Airflow.",
        "integrations": [
            {"integration-name": "PanDA", "external-doc-url": "https://panda-wms.readthedocs.io", "tags": ["service"]}
        ],
        "hooks": [{"integration-name": "PanDA", "python-modules": [_ours("hooks.panda")]}],
        "operators": [
            {
                "integration-name": "PanDA",
                "python-modules": [
                    _ours(f"operators.{name}")
                    for name in ("task", "retry", "command", "job", "file", "secret", "workflow", "idds")
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "PanDA",
                "python-modules": [_ours(f"sensors.{name}") for name in ("task", "job", "idds", "server")],
            }
        ],
        "triggers": [
            {
                "integration-name": "PanDA",
                "python-modules": [_ours(f"triggers.{name}") for name in ("events", "many", "panda", "polling")],
            }
        ],
        "asset-uris": [
            {
                "schemes": ["panda"],
                "handler": _ours("steps.assets.sanitize_uri"),
                "to_openlineage_converter": _ours("steps.lineage.asset_to_openlineage"),
            }
        ],
        "extra-links": [_ours("links.panda.PandaTaskLink")],
        "connection-types": [_connection_type()],
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "panda",
        "hook-class-name": _ours("hooks.panda.PandaHook"),
        "hook-name": "PanDA",
        "ui-field-behaviour": {
            "hidden-fields": ["login", "schema"],
            "relabeling": {"host": "Server", "password": "Token"},
            "placeholders": {"host": "https://pandaserver.cern.ch", "port": "443"},
        },
        "conn-fields": connection_fields(),
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
