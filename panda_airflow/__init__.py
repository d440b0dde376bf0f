"""PanDA for Apache Airflow: client, hook, operators, sensors, triggers and an embedded PanDA server."""

from __future__ import annotations

__version__ = "0.1.0"
