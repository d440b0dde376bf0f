"""What every trigger does: wait by a plan, in threads for whatever blocks, and yield one event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from panda_airflow.client import PandaClient
from panda_airflow.client.driver import Plan, Step, adrive
from panda_airflow.hooks.panda import PandaHook


class PandaTrigger(BaseTrigger):
    """Looks until the wait is over, then yields exactly one event.

    Never raises for anything PanDA does: an exception would reach the worker without its type. The kwargs are
    stored unencrypted by Airflow, so they hold a connection ID and no secret.

    :param panda_conn_id: Airflow connection.
    :param plan: what to wait for.
    """

    def __init__(self, panda_conn_id: str, plan: Plan[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self._plan = plan
        self._client: PandaClient | None = None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, in threads for whatever blocks, and yield how the wait ended."""
        try:
            yield TriggerEvent(await self._wait())
        finally:
            if self._client:
                await asyncio.to_thread(self._client.close)

    async def _wait(self) -> Any:
        return await adrive(
            self._plan,
            lambda step: asyncio.to_thread(self._perform, step),
            sleep=asyncio.sleep,
            clock=time.time,
            log=self.log,
        )

    def _connected(self) -> PandaClient:
        if self._client is None:
            self._client = PandaHook(self.panda_conn_id).client
        return self._client

    def _perform(self, step: Step) -> object:
        """Do what a step of the wait asks for."""
        raise NotImplementedError

    def _named(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        """Name this class and the arguments that make an equal trigger elsewhere."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"panda_conn_id": self.panda_conn_id, **kwargs}
