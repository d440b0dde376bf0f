"""Airflow sensors: steps that wait for PanDA."""

from __future__ import annotations
