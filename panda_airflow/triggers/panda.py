"""The trigger: waits for a PanDA task in the triggerer, where no worker is held."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from tenacity import Retrying, stop_after_attempt, wait_fixed

from panda_airflow.client import PandaError, WrongState
from panda_airflow.client.driver import Step, adrive
from panda_airflow.client.feed import Waiter, join
from panda_airflow.client.many import ManyPlan
from panda_airflow.client.models import Mark
from panda_airflow.client.reaper import FAREWELL, Target, send_reaper
from panda_airflow.client.waiting import WaitPlan
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.triggers.base import PandaTrigger
from panda_airflow.triggers.metrics import export

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States in which Airflow has no use for a task's result any more."""

_kills: set[asyncio.Task[None]] = set()
"""Kills in progress; the event loop itself keeps only weak references to tasks."""


class PandaTaskTrigger(PandaTrigger):
    """Waits for a task, together with all that wait by the same connection in the same triggerer.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.client.waiting.WaitPlan` as JSON primitives.
    :param cancel_on_kill: kill the PanDA task when a person ends the Airflow task while it is deferred. A clear is
        left to the next try, which knows what it means.
    """

    def __init__(self, panda_conn_id: str, plan: dict[str, Any], *, cancel_on_kill: bool = True) -> None:
        self.plan = WaitPlan.from_json(plan)
        super().__init__(panda_conn_id, self.plan)
        self._joined: WaitPlan | ManyPlan = self.plan
        self.what = f"PanDA task {self.plan.task_id}"
        self.cancel_on_kill = cancel_on_kill
        self._standing: Mark | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return self._named(plan=self.plan.to_json(), cancel_on_kill=self.cancel_on_kill)

    async def _wait(self) -> Any:
        conn_id = self.panda_conn_id
        self.log.info("%s is waited for together with all others of the connection %s.", self.what, conn_id)
        async with join(conn_id, lambda: PandaHook(conn_id).client, self._joined, export) as waiter:
            ask = partial(self._ask, waiter)
            return await adrive(self._plan, ask, sleep=waiter.rest, clock=time.time, log=self.log)

    async def _ask(self, waiter: Waiter, step: Step) -> object:
        return await waiter.perform(step)

    async def on_kill(self) -> None:
        """Kill the PanDA task, unless the trigger has only been moved or the step was cleared, to run again.

        Airflow cancels this coroutine again about a second after it started, hence the shielded task.
        """
        if self.cancel_on_kill:
            kill = asyncio.create_task(self._kill_if_ended_by_person())
            _kills.add(kill)
            kill.add_done_callback(_kills.discard)
            await asyncio.shield(kill)

    async def _kill_if_ended_by_person(self) -> None:
        try:
            # Airflow's own database may be busy just when many steps are ended at once.
            ask = Retrying(stop=stop_after_attempt(5), wait=wait_fixed(1), reraise=True)
            if await asyncio.to_thread(ask, self._is_still_wanted):
                self.log.info("The step has not ended; %s is left alone.", self.what)
                return
            self.log.warning("%s", await asyncio.to_thread(self._end))
        except Exception:  # a kill that fails must not fail silently, and nobody awaits this task
            self.log.exception("%s may still be running: killing it failed.", self.what)

    def _end(self) -> str:
        """Kill the task; leave to a process what the server refuses to kill before it is registered."""
        left = self._kill()
        if not left:
            return f"{self.what} was told to stop."
        until = (time.time() if self._standing else self.plan.since) + self.plan.patience
        return send_reaper(self._connected().config, Target(left, mark=self._standing, until=until), FAREWELL)

    def _is_still_wanted(self) -> bool:
        """Whether the Airflow task has not ended: the trigger moved, or a clear left the rest to the next try."""
        ti = self.task_instance
        if ti is None:
            return False
        states = RuntimeTaskInstance.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        )
        key = f"{ti.task_id}_{ti.map_index}" if ti.map_index >= 0 else ti.task_id
        return states.get(ti.run_id, {}).get(key, "removed") not in ENDED

    def _kill(self) -> tuple[int, ...]:
        """Kill the task; return it if that has to be tried again: not registered or retried yet, or out of reach."""
        try:
            self._connected().task.kill(self.plan.task_id)
        except WrongState:
            if self.plan.mark or self.plan.retry:
                info = self._connected().task.get_detailed_info(self.plan.task_id)
                self._standing = self.plan.mark or Mark.of(info)
                return (self.plan.task_id,)
            self.log.info("%s has ended already.", self.what)
        except PandaError as error:
            self.log.warning("Killing %s: %s", self.what, error)
            return (self.plan.task_id,)
        return ()
