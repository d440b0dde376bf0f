"""The example DAG that runs after tasks on PanDA, asking more often than an author would."""

from __future__ import annotations

import runpy
from pathlib import Path

from airflow.sdk import DAG

_module = runpy.run_path(str(Path(__file__).parents[3] / "dags_examples" / "after_production.py"))
_module["SIMULATION"].watchers[0].trigger.poll_interval = 1.0

after_production: DAG = _module["after_production"]()
