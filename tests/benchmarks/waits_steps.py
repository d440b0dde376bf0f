"""The trigger of steps that begin and end in the triggerer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.task import WaitPlan
from tests.benchmarks.waits_script import FIRST

INTERVAL = 5.0


class StepTrigger(BaseTrigger):
    """Waits by a trigger of this project, for the task whose place is the step's, and then ends the step itself."""

    def __init__(self, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"poll_interval": self.poll_interval}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        assert self.task_instance
        task_id = FIRST + self.task_instance.map_index
        plan = WaitPlan(task_id, time.time(), self.poll_interval, max_poll_interval=self.poll_interval)
        async for _ in PandaTaskTrigger("panda_default", plan.to_json()).run():
            yield TaskSuccessEvent()
