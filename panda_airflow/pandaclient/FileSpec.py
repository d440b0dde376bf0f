"""The file specification, where programs that use the reference API look for it."""

from __future__ import annotations

from panda_airflow.client.jobs import FileSpec

__all__ = ["FileSpec"]
