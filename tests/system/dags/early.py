"""Steps whose triggers fire at once: the worst case of an event that comes before the scheduler expects it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.waiting.many import ManyPlan

WAITS, SUBMISSIONS = 180, 20

PARAMETERS = runpy.run_path(str(Path(__file__).with_name("steps.py")))["PARAMETERS"]


class BlindSensor(PandaWaitTaskStatusSensor):
    """Defers whatever there is to see."""

    def _seen_to_end(self, plan: ManyPlan) -> Any:
        return None


with DAG("early", schedule=None, params={"task_id": 1, "command": "true"}, max_active_tasks=200) as early:
    BlindSensor.partial(task_id="wait", deferrable=True, retries=0, poke_interval=1.0).expand(
        jedi_task_id=["{{ params.task_id }}"] * WAITS
    )
    PandaSubmitTaskOperator.partial(task_id="submit", deferrable=True, retries=0, poll_interval=1.0).expand(
        task_parameters=[PARAMETERS] * SUBMISSIONS
    )
