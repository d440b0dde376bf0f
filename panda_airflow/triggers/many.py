"""The trigger that waits for many PanDA tasks at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from panda_airflow.client import PandaError, WrongState
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.driver import Request
from panda_airflow.waiting.feed.joining import Waiter
from panda_airflow.waiting.many import ManyPlan
from panda_airflow.waiting.task_polls import perform_many


class PandaManyTasksTrigger(PandaTaskTrigger):
    """Waits for many tasks.

    :param panda_conn_id: Airflow connection.
    :param plan: a :class:`~panda_airflow.waiting.many.ManyPlan` as JSON primitives.
    :param cancel_on_kill: kill the PanDA tasks that are still waited for when a person ends the Airflow task.
    """

    def __init__(
        self,
        panda_conn_id: str,
        plan: dict[str, Any],
        *,
        cancel_on_kill: bool = False,
        deferred: float | None = None,
        **_: object,
    ) -> None:
        super().__init__(panda_conn_id, plan["each"], cancel_on_kill=cancel_on_kill, deferred=deferred)
        self._plan = self._joined = self.tasks = ManyPlan.from_json(plan)
        self._waiting = self.tasks.task_ids
        if len(self._waiting) > 1:
            self.what = f"The list of {len(self._waiting)} PanDA tasks"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return self._named(plan=self.tasks.to_json())

    def _asking(self, waiter: Waiter) -> Callable[[Request], Awaitable[object]]:
        async def ask(request: Request) -> object:
            self._waiting = request.task_ids or self._waiting
            return await waiter.perform(request)

        return ask

    def _kill(self) -> tuple[int, ...]:
        """Kill the tasks; return those that may not be registered yet, or all if the server is away."""
        answers = perform_many(self._connected(), Request(act="kill", task_ids=self._waiting))
        refused = {
            task_id: answer
            for task_id, answer in answers.items()
            if isinstance(answer, PandaError) and not isinstance(answer, WrongState)
        }
        if refused:
            first = next(iter(refused.values()))
            self.log.warning("Killing %s of %s: %s", len(refused), self.what, first)
        return tuple(refused)
