"""Airflow retry policies: whether a step that failed is tried again, and when."""

from __future__ import annotations
