"""The trigger: waits for a PanDA task in the triggerer, where no worker is held."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from panda_airflow.client import NotOurs, PandaClient, PandaError, WrongState
from panda_airflow.client.auth.credentials import account_of
from panda_airflow.client.models import Mark
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.steps.kill.reaper import FAREWELL, Target, send_reaper
from panda_airflow.triggers.base import PandaTrigger
from panda_airflow.triggers.metrics import export
from panda_airflow.waiting.driver import Request, adrive
from panda_airflow.waiting.feed.joining import Waiter, join
from panda_airflow.waiting.many import ManyPlan
from panda_airflow.waiting.ownership import elsewhere, require
from panda_airflow.waiting.task import WaitPlan


class PandaTaskTrigger(PandaTrigger):
    """Waits for a task, together with all that wait by the same connection in the same triggerer.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.waiting.task.WaitPlan` as JSON primitives.
    :param cancel_on_kill: kill the PanDA task when a person ends the Airflow task while it is deferred. A clear is
        left to the next try, which knows what it means.
    """

    def __init__(
        self,
        panda_conn_id: str,
        plan: dict[str, Any],
        *,
        cancel_on_kill: bool = True,
        deferred: float | None = None,
        **_: object,
    ) -> None:
        self.plan = WaitPlan.from_json(plan)
        super().__init__(
            panda_conn_id,
            self.plan,
            f"PanDA task {self.plan.task_id}",
            cancel_on_kill=cancel_on_kill,
            deferred=deferred,
        )
        self._joined: WaitPlan | ManyPlan = self.plan
        self._standing: Mark | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return self._named(plan=self.plan.to_json())

    async def _wait(self) -> Any:
        name = self.panda_conn_id
        self.log.info("%s is waited for together with all others of the connection %s.", self.what, name)
        async with join(name, partial(_connect, name), self._joined, export) as waiter:
            return await adrive(self._plan, self._asking(waiter), sleep=waiter.rest, clock=time.time, log=self.log)

    def _asking(self, waiter: Waiter) -> Callable[[Request], Awaitable[object]]:
        return waiter.perform

    def _end(self) -> str:
        """Kill the task; leave to a process what the server refuses to kill before it is registered."""
        config, plan = self._connected().config, self.plan
        if (found := account_of(config)).differs_from(plan.account):
            return f"{elsewhere(self.what, plan.account, self.panda_conn_id, found)} It was left running."
        try:
            left = self._kill()
        except NotOurs as error:
            return str(error)
        if not left:
            return f"{self.what} was told to stop."
        until = (time.time() if self._standing else plan.since) + plan.patience
        target = Target(left, mark=self._standing, until=until, key=plan.key, account=plan.account)
        return send_reaper(config, target, FAREWELL)

    def _kill(self) -> tuple[int, ...]:
        """Kill the task; return it if that has to be tried again: not registered or retried yet, or out of reach.

        :raises NotOurs: it does not carry the key.
        """
        try:
            require(self._connected(), self.plan.task_id, self.plan.key)
            self._connected().task.kill(self.plan.task_id)
        except WrongState:
            if self.plan.mark or self.plan.retry:
                self._standing = self.plan.mark or self._mark()
                return (self.plan.task_id,)
            self.log.info("%s has ended already.", self.what)
        except NotOurs:
            raise
        except PandaError as error:
            self.log.warning("Killing %s: %s", self.what, error)
            return (self.plan.task_id,)
        return ()

    def _mark(self) -> Mark:
        return Mark.of(self._connected().task.get_detailed_info(self.plan.task_id))


def _connect(panda_conn_id: str) -> PandaClient:
    return PandaHook(panda_conn_id).client
