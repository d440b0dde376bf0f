"""Airflow hooks: connections to PanDA."""

from __future__ import annotations
