"""Sensors for many tasks."""

from __future__ import annotations

from typing import Any

from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from tests.airflow.conftest import Panda, task


def sense(task_ids: Any, **more: Any) -> PandaWaitTaskStatusSensor:
    return PandaWaitTaskStatusSensor(
        task_id="sense", jedi_task_id=task_ids, **({"poke_interval": 0.1, "timeout": 30} | more)
    )


def ended(panda: Panda, *commands: str) -> list[int]:
    """Submit a task for each command and wait for their ends."""
    ids = [panda.client.task.submit(task(command, name=f"user.bob.{n}")).task_id for n, command in enumerate(commands)]
    for task_id in ids:
        panda.wait(task_id)
    return ids
