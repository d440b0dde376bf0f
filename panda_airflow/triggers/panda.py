"""The trigger: waits for a PanDA task in the triggerer, where no worker is held."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from panda_airflow.client import NotFound, PandaError, PermissionDenied
from panda_airflow.client.models import TaskInfo
from panda_airflow.client.waiting import WaitPlan
from panda_airflow.triggers.base import PandaTrigger

KILL_RETRY_INTERVAL = 15.0
"""Seconds between attempts to kill a task that is not registered yet."""

_kills: set[asyncio.Task[None]] = set()
"""Kills in progress; the event loop itself keeps only weak references to tasks."""


class PandaTaskTrigger(PandaTrigger):
    """Waits for a task.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.client.waiting.WaitPlan` as JSON primitives.
    :param cancel_on_kill: kill the PanDA task when a person ends the Airflow task while it is deferred.
    """

    def __init__(self, panda_conn_id: str, plan: dict[str, Any], *, cancel_on_kill: bool = True) -> None:
        self.plan = WaitPlan.from_json(plan)
        super().__init__(panda_conn_id, self.plan)
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return self._named(plan=self.plan.to_json(), cancel_on_kill=self.cancel_on_kill)

    async def on_kill(self) -> None:
        """Kill the PanDA task, unless the trigger has only been moved to another triggerer.

        Airflow cancels this coroutine again about a second after it started, hence the shielded task.
        """
        if self.cancel_on_kill:
            kill = asyncio.create_task(self._kill_if_ended_by_person())
            _kills.add(kill)
            kill.add_done_callback(_kills.discard)
            await asyncio.shield(kill)

    async def _kill_if_ended_by_person(self) -> None:
        try:
            if await asyncio.to_thread(self._is_still_deferred):
                self.log.info("The trigger moved elsewhere; PanDA task %s is left alone.", self.plan.task_id)
                return
            await self._kill_once_registered()
            self.log.warning("PanDA task %s was told to stop.", self.plan.task_id)
        except Exception:  # a kill that fails must not fail silently, and nobody awaits this task
            self.log.exception("PanDA task %s may still be running: killing it failed.", self.plan.task_id)

    async def _kill_once_registered(self) -> None:
        """Kill the task; a kill is refused while the task is not registered yet, so insist."""
        while True:
            try:
                await asyncio.to_thread(self._kill)
            except (PermissionDenied, NotFound):
                if time.time() > self.plan.since + self.plan.patience:
                    raise
                await asyncio.sleep(KILL_RETRY_INTERVAL)
            else:
                return

    def _is_still_deferred(self) -> bool:
        ti = self.task_instance
        if ti is None:
            return False
        states = RuntimeTaskInstance.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        )
        key = f"{ti.task_id}_{ti.map_index}" if ti.map_index >= 0 else ti.task_id
        return bool(states.get(ti.run_id, {}).get(key) == "deferred")

    def _look(self) -> TaskInfo:
        return self._connected().task.get_detailed_info(self.plan.task_id)

    def _kill(self) -> None:
        try:
            self._connected().task.kill(self.plan.task_id)
        except PandaError as error:
            self.log.warning("Killing PanDA task %s: %s", self.plan.task_id, error)
            raise
