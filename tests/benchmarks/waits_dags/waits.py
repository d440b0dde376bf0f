"""Steps that wait in the triggerer from beginning to end, so that thousands need no worker."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG, BaseOperator
from airflow.triggers.base import StartTriggerArgs

from tests.benchmarks.waits_steps import INTERVAL, StepTrigger


class Wait(BaseOperator):
    """Waits for a PanDA task, which one follows from its place."""

    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls=f"{StepTrigger.__module__}.{StepTrigger.__qualname__}",
        next_method="execute_complete",
        trigger_kwargs={"poll_interval": INTERVAL},
    )

    def __init__(self, *, place: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.place = place


with DAG("waits", schedule=None):
    Wait.partial(task_id="wait").expand(place=list(range(int(os.environ["WAITS"]))))
