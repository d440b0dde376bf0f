"""The demo: an embedded PanDA server and a real Airflow run an example DAG on this machine."""

from __future__ import annotations
