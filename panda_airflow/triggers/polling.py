"""The trigger of waits for what is no task: jobs, a log, a request, the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from panda_airflow.client import PandaClient
from panda_airflow.client.driver import adrive
from panda_airflow.client.looks import LOOKS
from panda_airflow.client.polling import Finding, PollPlan
from panda_airflow.hooks.panda import PandaHook


class PandaPollTrigger(BaseTrigger):
    """Looks until the wait is over, then yields exactly one event; never raises for anything PanDA does.

    It ends nothing on the server when it is killed, as it only looks.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.client.polling.PollPlan` as JSON primitives, stored unencrypted by Airflow.
    """

    def __init__(self, panda_conn_id: str, plan: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.plan = PollPlan(**plan)
        self._client: PandaClient | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name this class and the arguments that make an equal trigger elsewhere."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "panda_conn_id": self.panda_conn_id,
            "plan": self.plan.to_json(),
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, in threads for whatever blocks, and yield how the wait ended."""
        try:
            event = await adrive(
                self.plan,
                lambda: asyncio.to_thread(self._look),
                lambda: asyncio.to_thread(self._look),
                sleep=asyncio.sleep,
                clock=time.time,
                log=self.log,
            )
            yield TriggerEvent(event)
        finally:
            if self._client:
                await asyncio.to_thread(self._client.close)

    def _look(self) -> Finding:
        if self._client is None:
            self._client = PandaHook(self.panda_conn_id).client
        return LOOKS[self.plan.look](self._client, **self.plan.arguments)
