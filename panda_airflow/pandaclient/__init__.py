"""A drop-in for the reference API: ``from panda_airflow.pandaclient import Client``."""

from __future__ import annotations
