"""Airflow triggers: waits that hold no worker."""

from __future__ import annotations
