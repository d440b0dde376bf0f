"""The trigger: waits for a PanDA task in the triggerer, where no worker is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent

from panda_airflow.client import NotFound, PandaClient, PandaError, PermissionDenied
from panda_airflow.client.driver import adrive
from panda_airflow.client.models import TaskInfo
from panda_airflow.client.waiting import WaitPlan
from panda_airflow.hooks.panda import PandaHook

KILL_RETRY_INTERVAL = 15.0
"""Seconds between attempts to kill a task that is not registered yet."""

_kills: set[asyncio.Task[None]] = set()
"""Kills in progress; the event loop itself keeps only weak references to tasks."""


class PandaTaskTrigger(BaseTrigger):
    """Looks at a task until its wait is over, then yields exactly one event.

    Never raises for anything PanDA does: an exception would reach the worker without its type. The kwargs are
    stored unencrypted by Airflow, so they hold a connection ID and no secret.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.client.waiting.WaitPlan` as JSON primitives.
    :param cancel_on_kill: kill the PanDA task when a person ends the Airflow task while it is deferred.
    """

    def __init__(self, panda_conn_id: str, plan: dict[str, Any], *, cancel_on_kill: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.plan = WaitPlan.from_json(plan)
        self.cancel_on_kill = cancel_on_kill
        self._client: PandaClient | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name this class and the arguments that make an equal trigger elsewhere."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "panda_conn_id": self.panda_conn_id,
            "plan": self.plan.to_json(),
            "cancel_on_kill": self.cancel_on_kill,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, in threads for whatever blocks, and yield how the wait ended."""
        try:
            event = await adrive(
                self.plan,
                lambda: asyncio.to_thread(self._look),
                lambda: asyncio.to_thread(self._kill),
                sleep=asyncio.sleep,
                clock=time.time,
                log=self.log,
            )
            yield TriggerEvent(event)
        finally:
            if self._client:
                await asyncio.to_thread(self._client.close)

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

    def _connected(self) -> PandaClient:
        if self._client is None:
            self._client = PandaHook(self.panda_conn_id).client
        return self._client

    def _look(self) -> TaskInfo:
        return self._connected().task.get_detailed_info(self.plan.task_id)

    def _kill(self) -> None:
        try:
            self._connected().task.kill(self.plan.task_id)
        except PandaError as error:
            self.log.warning("Killing PanDA task %s: %s", self.plan.task_id, error)
            raise
