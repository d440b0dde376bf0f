"""Airflow operators: steps that act on PanDA tasks."""

from __future__ import annotations
