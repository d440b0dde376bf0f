"""What every trigger does: wait by a plan, in threads for whatever blocks, yield one event, and heed a kill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from panda_airflow.client import PandaClient
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.steps.ended import is_wanted
from panda_airflow.waiting.driver import Plan, Request, adrive

HOLD = 30.0
"""Seconds after a deferral within which no event fires.

A deferral ends the step's process in the executor, of which the scheduler hears once in each of its loops. Where an
event has the step queued again before that, Airflow 3.3 takes the late "success" of its first half for the end of the
second, and fails it (``SchedulerJobRunner.process_executor_events``). The slowest deferral on two cores was heard of
after 4.8 s at load 7 and after 17 s at load 23; remote executors, and logs that are uploaded first, add to that. A
triggerer that is late itself shows how busy the machines are: then it is three times that delay, and ten times this
at most.
"""

SLOWEST_LOOK = 300.0
"""Seconds that one look may last, at all tasks of a list, repeated requests included."""

_kills: set[asyncio.Task[None]] = set()
"""Kills in progress; the event loop itself keeps only weak references to tasks."""


class PandaTrigger(BaseTrigger):
    """Looks until the wait is over, then yields exactly one event.

    Never raises for anything PanDA does: an exception would reach the worker without its type. The kwargs are
    stored unencrypted by Airflow, so they hold a connection ID and no secret.

    :param panda_conn_id: Airflow connection.
    :param plan: what to wait for.
    :param what: names it in messages.
    :param cancel_on_kill: end it when a person ends the Airflow task while it is deferred. A clear is left to the
        next try, which knows what it means.
    :param deferred: epoch seconds of the deferral; now, where the step makes the trigger.
    """

    def __init__(
        self, panda_conn_id: str, plan: Plan[Any], what: str, *, cancel_on_kill: bool, deferred: float | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self._plan = plan
        self.what = what
        self.cancel_on_kill = cancel_on_kill
        self.deferred = time.time() if deferred is None else deferred
        self._client: PandaClient | None = None

    @property
    def log(self) -> Any:
        """One logger for all triggers of a class, of which thousands may wait; each line finds its own task's log."""
        return self.logger()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, in threads for whatever blocks, and yield how the wait ended."""
        began = time.time()
        try:
            event = await self._wait()
            await asyncio.sleep(self._hold(began))
            yield TriggerEvent(event)
        finally:
            if self._client:
                await asyncio.to_thread(self._client.close)

    def _hold(self, began: float) -> float:
        """Seconds for which an event is kept back, until the scheduler has taken in the deferral.

        :param began: epoch seconds when the triggerer began with this trigger.
        """
        if self.task_instance is None:  # no scheduler: ``dag.test``
            return 0.0
        lag = began - self.deferred
        return max(0.0, self.deferred + min(max(HOLD, 3 * lag), 10 * HOLD) - time.time())

    async def _wait(self) -> Any:
        return await adrive(
            self._plan,
            lambda request: asyncio.to_thread(self._perform, request),
            sleep=asyncio.sleep,
            clock=time.time,
            log=self.log,
        )

    async def on_kill(self) -> None:
        """End what is waited for, unless the trigger has only been moved or the step was cleared, to run again.

        Airflow cancels this coroutine again about a second after it started, hence the shielded task.
        """
        if self.cancel_on_kill:
            kill = asyncio.create_task(self._kill_if_ended_by_person())
            _kills.add(kill)
            kill.add_done_callback(_kills.discard)
            await asyncio.shield(kill)

    async def _kill_if_ended_by_person(self) -> None:
        try:
            if await asyncio.to_thread(is_wanted, self.task_instance):
                self.log.info("The step has not ended; %s is left alone.", self.what)
                return
            self.log.warning("%s", await asyncio.to_thread(self._end))
        except Exception:  # a kill that fails must not fail silently, and nobody awaits this task
            self.log.exception("%s may still be running: killing it failed.", self.what)

    def _end(self) -> str:
        """End on the server what is waited for; return what became of it."""
        raise NotImplementedError

    def _connected(self) -> PandaClient:
        if self._client is None:
            self._client = PandaHook(self.panda_conn_id).client
        return self._client

    def _perform(self, request: Request) -> object:
        """Do what a step of the wait asks for."""
        raise NotImplementedError

    def _named(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        """Name this class and the arguments that make an equal trigger elsewhere."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "panda_conn_id": self.panda_conn_id,
            "cancel_on_kill": self.cancel_on_kill,
            "deferred": self.deferred,
            **kwargs,
        }


def backstop(deadline: float | None, poll_interval: float) -> timedelta | None:
    """When Airflow itself ends a deferral whose trigger missed its deadline: later than its slowest last look.

    :param deadline: of the wait, in epoch seconds.
    :param poll_interval: seconds between looks at first.
    """
    if deadline is None:
        return None
    return timedelta(seconds=max(0.0, deadline - time.time()) + 2 * poll_interval + SLOWEST_LOOK)
