"""Links from Airflow's pages to the PanDA monitor."""

from __future__ import annotations
